"""What happens on each click: handlers are thin, the engine works, the views draw."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import gradio as gr
import spaces

from lynx import compat
from lynx.errors import LynxError, MediaError
from lynx.ui import views
from lynx.ui.engine import Engine, seconds_needed, seconds_to_compare, sentence
from lynx.ui.examples import Example, adapter_folders, pick
from lynx.ui.layout import OTHER_FILE, OWN_TRACK, Layout
from lynx.ui.state import Chat, Turn
from lynx.ui.study import Study
from lynx.ui.uploads import Uploads, further_views
from lynx.ui.values import AUDIO, DEPTH, VIEW, Clip, Reply, Request, Setup, check

MODEL = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
ASIDE = {"show_progress": "hidden", "api_visibility": "private"}
LIGHT = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
Update = dict[Any, Any]
Given = TypeVar("Given")
LenientBlocks = compat.accept_fewer_inputs(gr.Blocks)


def build(engine: Engine, setup: Setup, backbones: list[str], examples: list[Example]) -> gr.Blocks:
    """The page with its events and its endpoint, ready to launch."""
    with LenientBlocks(title="lynx", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        Page(Layout(setup, backbones, examples), engine, blocks)
    return blocks


class Page:
    """The handlers of a layout. Those that touch the model wait for one another; the others never wait."""

    def __init__(self, ui: Layout, engine: Engine, blocks: gr.Blocks) -> None:
        self.ui, self.engine, self.local = ui, engine, adapter_folders()
        self.uploads = Uploads()
        self.generate = spaces.GPU(duration=seconds_needed)(engine.answer)
        self.compare = spaces.GPU(duration=seconds_to_compare)(engine.compare)
        self.state_comes_back = not compat.on_zero_gpu()
        # an answer's evidence stays in the process that gave it, which on ZeroGPU is another one
        ui.hide.visible = ui.make_film.visible = self.state_comes_back
        self.study = Study(ui, engine, self._request)
        self._wire_media(blocks)
        self._wire_conversation()
        self.study.wire(self.media, **MODEL)

    def _wire_media(self, blocks: gr.Blocks) -> None:
        ui = self.ui
        self.media = [ui.video, ui.sound, ui.audio, ui.depth_files, ui.view_files, ui.offsets]
        self.media += [ui.senses, ui.chat]
        offered = [ui.adapters, ui.offers]
        loaded = [ui.chat, ui.senses, ui.versus, ui.notice, ui.hint, ui.model, *offered]
        loaded += [ui.suggestions, *ui.places.values()]
        looked = [ui.seen_box, ui.seen, ui.budget, ui.notice, ui.map, ui.distances]
        opened = blocks.load(self.on_load, ui.chat, loaded, **MODEL)
        opened.then(self.on_loaded, self.media, looked, **MODEL)  # who was quick has a clip there already
        wanted = [ui.backbone, ui.precision, ui.adapters, ui.chat]
        ui.load.click(self.on_setup, wanted, loaded, **MODEL).success(
            self.on_loaded, self.media, looked, **MODEL
        )
        choosing = [ui.backbone.change, ui.adapters.input]
        gr.on(
            choosing, self.on_choose, [ui.backbone, ui.adapters], offered, trigger_mode="always_last", **MODEL
        )
        planned, choices = [*choosing, ui.precision.change], [ui.backbone, ui.precision, ui.adapters]
        gr.on(planned, self.on_plan, choices, ui.forecast, trigger_mode="always_last", **ASIDE)
        changes = [ui.video.change, ui.audio.change, ui.sound.change, ui.depth_files.change]
        changes += [ui.view_files.change, ui.offsets.submit, ui.offsets.blur, ui.senses.input]
        gr.on(changes, self.on_media, self.media, looked, trigger_mode="always_last", **MODEL)
        ui.sound.change(lambda source: gr.update(visible=source == OTHER_FILE), ui.sound, ui.audio, **LIGHT)
        # once, when they change: Gradio looks at every file of such a place each time that it is read
        ui.depth.change(lambda files: tuple(map(str, files or ())), ui.depth, ui.depth_files, **ASIDE)
        ui.views.change(self.on_views, ui.views, [ui.view_files, ui.offsets], **ASIDE)
        if ui.examples:
            beside = [ui.sound, ui.audio, ui.depth, ui.views, ui.offsets, ui.suggestions, ui.notice]
            ui.shelf.click(lambda index: str(ui.examples[index].clip), ui.shelf, ui.video, **LIGHT)
            ui.shelf.click(self.on_example, [ui.shelf, ui.chat], beside, **LIGHT)

    def _wire_conversation(self) -> None:
        ui = self.ui
        asking = [ui.question, *self.media]
        told = [ui.chat, ui.window, ui.question, ui.send, ui.halt, ui.notice, ui.versus_view]
        told += [ui.evidence, ui.word, ui.shares, ui.rests_on, ui.hidden, ui.film, ui.film_notes]
        quiet = MODEL | {"show_progress": "hidden"}
        asked = gr.on([ui.send.click, ui.question.submit], self.on_ask, asking, told, **quiet)
        picked = ui.suggestions.click(lambda sample: sample[0], ui.suggestions, ui.question, **LIGHT)
        tried = picked.then(self.on_ask, asking, told, **quiet)
        again = ui.again.click(self.on_retry, self.media, told, **quiet)
        ui.halt.click(self.on_stop, ui.chat, None, **LIGHT)
        # first the answer is left, then the page is cleared: else a piece on its way would be put back
        clearing = [ui.clear.click, ui.window.clear]
        left = gr.on(clearing, lambda: None, cancels=[asked, tried, again], **LIGHT)
        left.then(self.on_clear, ui.chat, told, **LIGHT)
        ui.versus.click(self.on_compare, asking, [ui.versus_view, ui.notice], **MODEL)
        ui.word.input(self.on_word, [ui.word, ui.chat], [ui.shares, ui.rests_on], **LIGHT)
        ui.hide.click(self.on_hide, self.media, [ui.hidden, ui.notice], **MODEL)
        public = MODEL | {"api_visibility": "public"}
        ui.endpoint.click(self.ask, ui.given, ui.answer, api_name="ask", **public)

    # --- the model and the media ---------------------------------------------------------------

    def on_load(self, chat: Chat) -> Update:
        """A visitor arrives: give the conversation a key, and say what the model can sense."""
        setup, left_out = self.engine.readable(self.ui.setup)
        update = self._set_up(replace(chat, key=chat.key or uuid4().hex), setup)
        if left_out and not update[self.ui.notice]:
            told = " ".join(sentence(LynxError(reason)) for reason in left_out)
            update[self.ui.notice] = views.notice(told)
        return update

    def on_setup(self, backbone: str, precision: str, adapters: list[str], chat: Chat) -> Update:
        """Load another model; when that fails the one before stays."""
        update = self._set_up(chat, Setup((backbone or "").strip(), precision, tuple(adapters or ())))
        if update[self.ui.chat] != chat:
            update[self.ui.suggestions] = gr.update(visible=False)  # they were about the senses before
        return update

    def _set_up(self, chat: Chat, setup: Setup) -> Update:
        ui = self.ui
        try:
            senses = tuple(self.engine.senses(setup).values())
        except LynxError as error:
            offered = self.on_choose(setup.backbone, list(setup.adapters))
            return {ui.chat: chat, ui.notice: views.notice(sentence(error)), **offered}
        chat = replace(chat, setup=setup, senses=senses)
        choices = [(sense.label, sense.name) for sense in senses]
        places = {place: gr.update(visible=kind in chat.places) for kind, place in ui.places.items()}
        return {
            ui.chat: chat,
            ui.senses: gr.update(choices=choices, value=[sense.name for sense in senses]),
            ui.versus: gr.update(value=views.leave_out(senses), interactive=len(senses) > 1),
            ui.notice: "",
            ui.hint: views.hint(setup),
            ui.model: gr.update(label=views.model_line(setup, senses)),
            **places,
            **self.on_choose(setup.backbone, list(setup.adapters)),
        }

    def on_choose(self, backbone: str | None, adapters: list[str] | None) -> Update:
        """Say which adapters fit a backbone before it is loaded; those that do not cannot be chosen."""
        ui, chosen = self.ui, adapters or []
        offers = self.engine.offers((backbone or "").strip(), (*chosen, *self.local))
        fitting = [offer.source for offer in offers if not offer.reason]
        return {
            ui.adapters: gr.update(choices=fitting, value=[name for name in chosen if name in fitting]),
            ui.offers: views.offers(offers),
        }

    def on_plan(self, backbone: str | None, precision: str, adapters: list[str] | None) -> str:
        """Say what a model would need of this machine before it is loaded."""
        try:
            return views.forecast(
                self.engine.forecast(Setup((backbone or "").strip(), precision, tuple(adapters or ())))
            )
        except LynxError as error:
            return views.notice(sentence(error))

    def on_example(self, index: int, chat: Chat) -> Update:
        """Put what belongs to an example's clip where the model has senses for it; waits for the model."""
        ui, example = self.ui, self.ui.examples[index]
        try:
            senses = self.engine.senses(chat.setup).values()
        except LynxError as error:
            return {ui.notice: views.notice(sentence(error))}
        found: dict[str, list[Path]] = {}
        for sense in senses:
            if sense.modality in example.media:
                found.setdefault(sense.takes, []).append(example.media[sense.modality])
        sound, *_ = found.get(AUDIO, [example.clip])
        questions = pick(example.questions, {sense.modality for sense in senses})
        return {
            ui.sound: OWN_TRACK if sound == example.clip else OTHER_FILE,
            ui.audio: None if sound == example.clip else str(sound),
            ui.depth: [self.uploads.packed(found[DEPTH][0])] if DEPTH in found else None,
            ui.views: list(dict.fromkeys(map(str, found[VIEW]))) if VIEW in found else None,
            ui.offsets: "",
            ui.suggestions: gr.update(samples=[[each] for each in questions], visible=bool(questions)),
        }

    def on_views(self, files: list[str] | None) -> Update:
        """Ask when further views begin, as soon as there are any."""
        ui, files = self.ui, files or []
        offsets = gr.update(visible=True) if files else gr.update(visible=False, value="")
        return {ui.view_files: tuple(map(str, files)), ui.offsets: offsets}

    def on_media(self, *media: Any) -> Update:
        """Show what the model will see of the clip."""
        ui, senses = self.ui, media[-1].senses
        hidden = {ui.seen_box: gr.update(visible=False), ui.seen: None, ui.budget: "", **self.study.no_map()}
        try:
            request = self._request("", *media)
            if not request.clip.paths:
                return hidden | {ui.notice: ""}
            view = self.engine.look(request, encode=self.state_comes_back)
        except LynxError as error:
            return hidden | {ui.notice: views.notice(sentence(error))}
        return {
            ui.seen_box: gr.update(visible=bool(view.frames or view.notes)),
            ui.seen: views.seen(view, senses),
            ui.budget: views.budget(view, media[-1].words),
            ui.notice: "",
            **self.study.no_map(),
        }

    def on_loaded(self, *media: Any) -> Update:
        """Show the clip as the model sees it now; what loading it said stays where this says nothing."""
        update = self.on_media(*media)
        return {part: value for part, value in update.items() if part is not self.ui.notice or value}

    def _request(
        self,
        question: str,
        video: str | None,
        sound: str,
        audio: str | None,
        depth: tuple[str, ...],
        further: tuple[str, ...],
        offsets: str,
        senses: list[str],
        chat: Chat,
    ) -> Request:
        """What is asked, about what lies in the places that are shown. Raises MediaError for bad uploads."""
        on = {sense.takes for sense in chat.senses if sense.name in senses}

        def given(kind: str, gather: Callable[[], Given], nothing: Given) -> Given:
            try:
                return gather() if kind in chat.places else nothing
            except MediaError:
                if kind in on:
                    raise
                return nothing  # what no sense that is on reads is no hindrance

        clip = Clip(
            video,
            given(AUDIO, lambda: audio if sound == OTHER_FILE else None, None),
            given(DEPTH, lambda: self.uploads.depth(depth), None),
            given(VIEW, lambda: further_views(further, offsets), ()),
        )
        return Request(chat.key, chat.setup, clip, tuple(senses), chat.about(clip), question.strip())

    # --- the conversation ----------------------------------------------------------------------

    def on_ask(self, question: str, *media: Any) -> Iterator[Update]:
        """Stream an answer into the conversation; an error leaves all as it was, the question included."""
        ui, chat = self.ui, media[-1]
        try:
            if not question.strip():
                raise LynxError("Type a question first.")
            request = self._request(question, *media)
            check(request.clip)
            turn = Turn(request.question, "", chat.setup, request.clip)
            yield {
                ui.window: views.messages((*chat.turns, replace(turn, answer="…"))),
                **{ui.question: "", ui.notice: "", ui.versus_view: "", ui.hidden: ""},
                **self.study.no_film(),
                **self._answering(True),
            }
            yield from self._stream(request, turn, chat)
        except LynxError as error:
            yield {
                ui.window: views.messages(chat.turns),
                **{ui.question: question, ui.notice: views.notice(sentence(error))},
                **self._answering(False),
            }

    def _stream(self, request: Request, turn: Turn, chat: Chat) -> Iterator[Update]:
        """The pieces of an answer as they come, then the answer with its chips and its evidence."""
        self.engine.start(chat.key)
        pieces = self.generate(request)
        for piece in pieces:
            if isinstance(piece, Reply):
                yield self._told(chat, turn, piece)
                return
            turn = replace(turn, answer=turn.answer + piece)
            yield {self.ui.window: views.messages((*chat.turns, turn))}
            if self.engine.stopped(chat.key) and not self.state_comes_back:
                pieces.close()  # the other process cannot hear `stop`
                yield self._told(chat, turn, Reply(turn.answer, {}))
                return

    def _told(self, chat: Chat, turn: Turn, reply: Reply) -> Update:
        """Everything that changes when an answer is complete."""
        ui, stopped = self.ui, self.engine.stopped(chat.key)
        turn = replace(turn, answer=reply.answer, chips=views.chips(reply, chat.words, stopped))
        chat = replace(chat, turns=(*chat.turns, turn), findings=reply.findings)
        choices = views.word_choices(reply.findings)
        index = choices[0][1] if choices else None
        return {
            **{
                ui.chat: chat,
                ui.window: views.messages(chat.turns),
                ui.evidence: gr.update(visible=bool(choices)),
            },
            **{ui.word: gr.update(choices=choices, value=index), **self.on_word(index, chat)},
            **self._answering(False),
        }

    def _answering(self, busy: bool) -> Update:
        return {self.ui.send: gr.update(visible=not busy), self.ui.halt: gr.update(visible=busy)}

    def on_retry(self, *media: Any) -> Iterator[Update]:
        """Ask the last question again, with the senses that are on now; when that fails its answer stays."""
        ui, chat = self.ui, media[-1]
        if not chat.turns:
            yield {ui.notice: views.notice("There is no question to ask again yet.")}
            return
        for update in self.on_ask(chat.turns[-1].question, *media[:-1], replace(chat, turns=chat.turns[:-1])):
            if update.get(ui.notice):
                update |= {ui.window: views.messages(chat.turns), ui.question: ""}
            yield update

    def on_stop(self, chat: Chat) -> None:
        """End the answer; what was said stays."""
        self.engine.stop(chat.key)

    def on_clear(self, chat: Chat) -> Update:
        """Forget the conversation, an answer that is being given included; the clip stays on the desk."""
        ui = self.ui
        return {
            ui.chat: replace(chat, turns=(), findings=None),
            **{ui.window: [], ui.notice: "", ui.versus_view: "", ui.hidden: ""},
            **self.study.no_film(),
            ui.evidence: gr.update(visible=False),
            **self._answering(False),
        }

    def on_compare(self, question: str, *media: Any) -> Update:
        """The question in the box, or the last one, answered again without each added sense."""
        ui, chat = self.ui, media[-1]
        try:
            result = self.compare(self._request(question, *media))
        except LynxError as error:
            return {ui.versus_view: "", ui.notice: views.notice(sentence(error))}
        shown = views.comparison(result.question, result.answer, result.without, chat.words)
        return {ui.versus_view: shown, ui.notice: ""}

    def on_word(self, index: int | None, chat: Chat) -> Update:
        """Evidence for one word of the last answer."""
        ui, found = self.ui, chat.findings
        if found is None or index is None:
            return {ui.shares: "", ui.rests_on: None, ui.hidden: ""}
        return {
            ui.shares: views.shares(found, index, chat.words),
            ui.rests_on: views.rests_on(found, index, chat.senses),
        }

    def on_hide(self, *media: Any) -> Update:
        """How much less likely the last answer becomes when a sense is hidden."""
        ui = self.ui
        try:
            drops = self.engine.hide(self._request("", *media))
        except LynxError as error:
            return {ui.hidden: "", ui.notice: views.notice(sentence(error))}
        return {ui.hidden: views.hidden(drops, media[-1].words), ui.notice: ""}

    def ask(
        self,
        video: str | None,
        audio: str | None,
        question: str,
        senses: list[str] | None,
        depth: list[str] | None = None,
        views: list[str] | None = None,
        offsets: str | None = None,
    ) -> str:
        """Answer one question about a video, a sound file, depth, further views, or several of them.

        senses: names such as ["video", "audio"]; all that the clip has where none are given. A sense that is
        named and cannot be used is an error.
        depth: PNGs with their text files, a .zip of them, a .npy stack, a video, a mesh or a point cloud.
        views: further clips. offsets: when each begins, in seconds of the video, such as "0, 0.4".
        """
        key, setup = uuid4().hex, self.engine.readable(self.ui.setup)[0]
        try:
            clip = Clip(video, audio, self.uploads.depth(depth or ()), further_views(views or (), offsets))
            request = Request(key, setup, clip, (), question=question.strip(), strict=bool(senses))
            request = replace(request, senses=self.engine.usable(request, senses))
            *_, reply = self.generate(request)
        except LynxError as error:
            raise gr.Error(sentence(error), print_exception=False) from error
        finally:
            self.engine.forget(key)
        return reply.answer
