"""The examples: handlers that fill the page with one, and load the model that it needs."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import gradio as gr

from lynx.ui import views
from lynx.ui.examples import ExampleClip, suggested_questions
from lynx.ui.layout import OTHER_FILE, OWN_TRACK, Layout, Update
from lynx.ui.model_panel import ModelPanel
from lynx.ui.types import AUDIO, DEPTH, EMBEDDED, VIEW, Chat, Setup
from lynx.ui.uploads import Uploads


@dataclass(frozen=True)
class Picked:
    """The example that was chosen last. waits: its clip is read when another model is loaded.

    depth, views: files of it. key: tells two choices of one example apart.
    """

    index: int
    waits: bool
    depth: tuple[str, ...]
    views: tuple[str, ...]
    key: str = field(default_factory=lambda: uuid4().hex)


class ExamplePanel:
    """Its handlers."""

    def __init__(self, ui: Layout, model: ModelPanel, uploads: Uploads) -> None:
        self.ui, self.model, self.uploads = ui, model, uploads

    def on_choose(self, chat: Chat, event: gr.EventData) -> Update:
        """An example was chosen in the gallery."""
        return self.on_example(event.index, chat)

    def on_example(self, index: int, chat: Chat) -> Update:
        """Fill the places that the model has senses for with an example's files.

        Where it needs another model, that is loaded next, and only then the clip is looked at.
        """
        ui, example = self.ui, self.ui.examples[index]
        setup = self.setup_for(example, chat)
        change = setup != chat.setup
        # Nothing here waits for a model: as long as none is there, its adapters say what it will sense.
        senses = chat.senses if chat.key and not change else self.model.models.expected_senses(setup)
        found: dict[str, list[Path]] = {}
        for sense in senses:
            if sense.modality in example.media:
                found.setdefault(sense.takes, []).append(example.media[sense.modality])
        own = [example.clip] if example.clip is not None else []
        sound = next(iter(found.get(AUDIO, own)), None)
        beside = None if sound in own else sound
        depth = [self.uploads.as_one_file(found[DEPTH][0])] if DEPTH in found else []
        around = list(dict.fromkeys(map(str, found.get(VIEW, ()))))
        questions = suggested_questions(example.questions, {sense.modality for sense in senses})
        named = [sense.name for sense in senses]
        choices = views.sense_choices(senses)
        return {
            ui.picked: Picked(index, change, tuple(map(str, depth)), tuple(around)),
            **({} if change else self._read(tuple(map(str, depth)), tuple(around))),
            ui.senses: gr.update(choices=choices, value=named) if change else gr.skip(),
            ui.video: str(example.clip) if own else None,
            ui.sound: OWN_TRACK if beside is None else OTHER_FILE,
            ui.audio: gr.update(value=beside and str(beside), visible=beside is not None),
            ui.depth: depth or None,
            ui.views: around or None,
            ui.offsets: gr.update(visible=bool(around), value=""),
            **{field: "" for field in (ui.start, ui.end, ui.unit, ui.up)},
            ui.notice: "",
            ui.suggestions: gr.update(samples=[[each] for each in questions], visible=bool(questions)),
        }

    def setup_for(self, example: ExampleClip, chat: Chat) -> Setup:
        """The model for an example: the one in use, with the example's adapter in place of that for the same
        sense; afterwards, for another example, the one before. A backbone that was chosen stays."""
        if example.adapter is None or chat.setup.backbone != EMBEDDED:
            return chat.before or chat.setup
        offered = [source for source in self.model.offered if Path(source).name == example.adapter]
        if not offered or offered[0] in chat.setup.adapters:
            return chat.setup
        return replace(
            chat.setup, adapters=self.model.models.one_a_sense((*chat.setup.adapters, offered[0]))
        )

    def on_picked(self, picked: Picked | None, chat: Chat) -> Update:
        """Load the model that the example needs which was chosen last, and let its clip be read."""
        if picked is None:
            return {self.ui.example: gr.skip()}
        setup = self.setup_for(self.ui.examples[picked.index], chat)
        if setup == chat.setup:
            return self._read(picked.depth, picked.views) if picked.waits else {self.ui.example: gr.skip()}
        before = None if setup == chat.before else chat.before or chat.setup
        return self.model.set_up(chat, setup, before) | self._read(picked.depth, picked.views)

    def _read(self, depth: tuple[str, ...], views: tuple[str, ...]) -> Update:
        """Let the page read the clip: what these change calls the handlers of a clip."""
        ui = self.ui
        return {ui.example: uuid4().hex, ui.depth_files: depth, ui.view_files: views}
