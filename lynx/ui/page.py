"""The page: which handler an event calls. Handlers are thin, the engine works, the views draw."""

from functools import partial
from typing import Any

import gradio as gr

from lynx.compat import on_zero_gpu
from lynx.ui.ask import Ask
from lynx.ui.chat_panel import ChatPanel
from lynx.ui.endpoint_fields import check
from lynx.ui.engine import Engine
from lynx.ui.evidence_panel import EvidencePanel
from lynx.ui.example_panel import ExamplePanel
from lynx.ui.examples import ExampleClip
from lynx.ui.layout import OTHER_FILE, Layout
from lynx.ui.media_panel import MediaPanel
from lynx.ui.model_panel import ModelPanel
from lynx.ui.reload_panel import ReloadPanel
from lynx.ui.tab_memory import RECALL
from lynx.ui.types import Setup
from lynx.ui.visitors import App, Visitors, workspace

MODEL = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
"""Events that use a model, or load one: they wait for one another, and nothing else waits for them."""
EXPLAIN = {"concurrency_id": "explain", "concurrency_limit": 4, "api_visibility": "private"}
"""Events that look into an answer that was given: others are answered between two passes of the model."""
ASIDE = {"show_progress": "hidden", "api_visibility": "private"}
"""Events that read files: as many at once as the queue lets through."""
LIGHT = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Events that are done at once."""
DOWNLOAD = "() => setTimeout(() => document.querySelector('#download').click(), 150)"
"""Saves the file that has just been written."""


ANOTHER_CLIP = """(...clip) => {
    const now = JSON.stringify(clip, (key, value) => value?.path ?? value);
    const study = document.querySelector("#study");
    if (now !== window.lynxClip) study?.classList.add("leaving");
    window.lynxClip = now;
    clearTimeout(window.lynxLeaving); // that of an earlier change
    // nothing stays hidden for good
    window.lynxLeaving = setTimeout(() => study?.classList.remove("leaving"), 5000);
}"""
"""Hides the evidence in the browser as soon as the clip is another; `EvidencePanel.on_clip` follows, then:"""
NO_EXAMPLE = "() => window.lynxNoExample?.()"
"""Takes the mark from the example that was chosen: a file of the visitor's own takes its place."""
SAME_CLIP = "() => { document.querySelector('#study')?.classList.remove('leaving'); }"


def build(engine: Engine, setup: Setup, backbones: list[str], examples: list[ExampleClip]) -> gr.Blocks:
    """The page with its events and its endpoint, ready to launch."""
    workspace()  # before the components, which remember where their files go
    with App(title="lynx", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        page = Page(Layout(setup, backbones, examples, engine.models.policy), engine, blocks)
        blocks.attend(page.visitors, engine.models.policy, dict.fromkeys(("ask", "stream"), check))
    return blocks


def _one(name: str) -> dict[str, Any]:
    """`EXPLAIN` for events that take long: one of its kind at a time."""
    return EXPLAIN | {"concurrency_id": name, "concurrency_limit": 1}


class Page:
    """A layout with its events, and the endpoint."""

    def __init__(self, ui: Layout, engine: Engine, blocks: gr.Blocks) -> None:
        self.ui, self.engine = ui, engine
        in_process = not on_zero_gpu()
        self.model = ModelPanel(ui, engine)
        self.media = MediaPanel(ui, engine, encode=in_process)
        self.examples = ExamplePanel(ui, self.model, self.media.uploads)
        self.evidence = EvidencePanel(ui, engine, self.media.request)
        self.evidence_shown = [ui.shown, ui.chosen, ui.on_desk, ui.evidence, ui.evidence_view, ui.which]
        self.evidence_shown += [ui.nothing, ui.problem, ui.film, ui.film_notes]
        self.chat = ChatPanel(ui, engine, self.evidence, in_process)
        self.visitors = Visitors(self._forget)
        self.reload = ReloadPanel(ui, self.model, self.media, self.visitors)
        answer, explain = self.chat.generate, self.chat.generate_and_explain
        self.endpoint = Ask(engine, ui.setup, self.media.uploads, answer, explain, self._forget)
        self._wire_media(blocks)
        self._wire_conversation()
        self._wire_evidence()

    def _wire_media(self, blocks: gr.Blocks) -> None:
        ui, model, media = self.ui, self.model, self.media
        options = [ui.adapters, ui.offers]
        loaded = [ui.chat, ui.senses, ui.compare, ui.notice, ui.hint, ui.model, *options]
        loaded += [ui.several, *ui.places.values(), ui.sound_place, ui.depth_settings]
        previewed = [ui.seen_box, ui.seen, ui.budget, ui.clip_notes, ui.notice, ui.map, ui.distances]
        previewed.append(ui.senses)
        # boxes that are ticked meanwhile are not in its way
        preview = MODEL | {"show_progress_on": [ui.seen, ui.budget, ui.clip_notes]}
        desk = [*media.inputs, ui.on_desk]
        opened = blocks.load(self.reload.on_load, [ui.chat, ui.record], loaded, js=RECALL, **MODEL)
        kept = [box for box in media.inputs if box is not ui.chat]
        kept += [ui.chatbot, ui.backbone, ui.precision, ui.depth, ui.views, ui.track, ui.notice]
        restored = opened.then(self.reload.on_restore, ui.chat, kept, **ASIDE)
        # a quick visitor may have given a clip by now
        restored.then(media.on_media, media.inputs, previewed, **preview)
        restored.then(self.evidence.on_clip, desk, self.evidence_shown, **ASIDE)
        self._remember_after(restored)
        chosen = [ui.backbone, ui.precision, ui.adapters]
        changed = ui.load.click(model.on_setup, [*chosen, ui.chat], [*loaded, ui.suggestions], **MODEL)
        changed.success(media.on_media, media.inputs, previewed, **preview)
        self._remember_after(changed)
        changed.success(self.evidence.on_clip, desk, self.evidence_shown, **ASIDE)
        # while a model is being loaded another one can be chosen
        aside = ASIDE | {"trigger_mode": "always_last"}
        choosing = [ui.backbone.change, ui.adapters.input, ui.several.input]
        gr.on(choosing, model.on_choose, [ui.backbone, ui.adapters, ui.several], options, **aside)
        gr.on([*choosing, ui.precision.change], model.on_plan, chosen, ui.forecast, **aside)

        # Only what a person does, and what a handler says through a State: Gradio fires `change` of a file
        # anew whenever the page is drawn again, so that two handlers of it would call one another for ever.
        files = [ui.video.upload, ui.video.clear, ui.video.stop_recording, ui.sound.input]
        files += [ui.audio.upload, ui.audio.clear, ui.audio.stop_recording]
        own = [*files]
        files += [ui.example.change]
        fields = [ui.offsets, ui.start, ui.end, ui.fps, ui.max_frames]
        drawn = [ui.max_new_tokens, ui.temperature]
        typed = [event for field in (*fields, *drawn) for event in (field.submit, field.blur)]
        typed += [ui.unit.input, ui.up.input]
        changes = [*files, *typed, ui.senses.input]
        changes += [state.change for state in (ui.depth_files, ui.view_files, ui.heard)]
        clip = [ui.video, ui.sound, ui.audio, ui.depth, ui.views, *fields, ui.track, ui.unit, ui.up]
        deep, around = ([box.upload, box.clear, box.delete] for box in (ui.depth, ui.views))
        # before the others, since the page waits for the server to take one event before the next begins
        gr.on([*files, *typed, *deep, *around, ui.track.input], None, clip, None, js=ANOTHER_CLIP, **LIGHT)
        emptied = gr.on(changes, self.evidence.on_clip, desk, self.evidence_shown, **aside)
        emptied.then(None, js=SAME_CLIP)
        self._remember_after(emptied)
        # a file that takes long to open, or hangs, is not waited for by those who use the model
        gr.on(changes, media.on_read, media.inputs, [ui.opened, *previewed], **aside)
        ui.opened.change(media.on_media, media.inputs, previewed, trigger_mode="always_last", **preview)
        ui.sound.change(lambda source: gr.update(visible=source == OTHER_FILE), ui.sound, ui.audio, **LIGHT)
        gr.on(files, media.on_sound, [ui.video, ui.sound, ui.audio], [ui.track, ui.heard], **ASIDE)
        ui.track.input(lambda index: index, ui.track, ui.heard, **ASIDE)
        # Gradio checks every file of such a component each time it is read: other events read the States
        gr.on(deep, lambda files: tuple(map(str, files or ())), ui.depth, ui.depth_files, **ASIDE)
        gr.on(around, media.on_views, ui.views, [ui.view_files, ui.offsets], **ASIDE)
        if ui.examples:
            beside = [ui.example, ui.picked, ui.senses, ui.video, ui.sound, ui.audio, ui.depth]
            beside += [ui.depth_files, ui.views, ui.view_files, ui.offsets, ui.suggestions, ui.notice]
            beside += [ui.start, ui.end, ui.unit, ui.up]
            # Gradio's other modes would drop a second choice, or take the first one's for it
            each = ASIDE | {"trigger_mode": "multiple"}
            ui.gallery.choose(self.examples.on_choose, ui.chat, beside, **each)
            read = [ui.example, ui.depth_files, ui.view_files]
            quiet = MODEL | {"show_progress": "hidden"}
            ui.picked.change(self.examples.on_picked, [ui.picked, ui.chat], [*loaded, *read], **quiet)
            gr.on(own, None, js=NO_EXAMPLE, **LIGHT)

    def _wire_conversation(self) -> None:
        ui, chat, evidence, media = self.ui, self.chat, self.evidence, self.media.inputs
        asking = [ui.question, *media]
        answered = [ui.chat, ui.chatbot, ui.question, ui.notice, ui.comparison, ui.editing, ui.edit_bar]
        answered += self.evidence_shown
        quiet = MODEL | {"show_progress": "minimal", "show_progress_on": ui.notice}  # the place in the queue
        sending = [ui.editing, *asking]
        asked = gr.on([ui.send.click, ui.question.submit], chat.on_send, sending, answered, **quiet)
        picked = ui.suggestions.select(chat.on_suggestion, None, ui.question, **LIGHT)
        tried = picked.then(chat.on_send, sending, answered, **quiet)
        again = ui.retry.click(chat.on_retry, media, answered, **quiet)
        found = [ui.chat, ui.shown, ui.on_desk, ui.problem]
        for event in (asked, tried, again):
            shown = event.then(evidence.on_answered, found, self.evidence_shown, **LIGHT)
            self._remember_after(shown)
        edited = [ui.editing, ui.edit_bar, ui.question]
        ui.edit_bar.edit(chat.on_edit, [ui.chat, ui.on_desk], edited, **LIGHT)
        ui.edit_bar.leave(chat.on_leave, None, edited, **LIGHT)
        ui.stop.click(chat.on_stop, ui.chat, None, **LIGHT)
        # the answer is canceled first: else a piece on its way would fill the cleared page again
        left = gr.on([ui.clear.click, ui.chatbot.clear], lambda: None, cancels=[asked, tried, again], **LIGHT)
        cleared = left.then(chat.on_clear, ui.chat, answered, **LIGHT)
        self._remember_after(cleared)
        for kind, button in ui.saves.items():
            saved = button.click(partial(chat.on_save, kind), ui.chat, [ui.saved, ui.notice], **ASIDE)
            saved.success(None, js=DOWNLOAD.replace("#download", "#saved"))
        ui.compare.click(chat.on_compare, asking, [ui.comparison, ui.notice], **_one("compare"))

        drawing = [ui.interface.select, ui.draw_map.click]
        gr.on(drawing, evidence.on_map, media, [ui.map, ui.distances, ui.notice], **_one("map"))
        public = MODEL | {"api_visibility": "public"}
        ui.endpoint.click(self.endpoint.ask, ui.given, ui.answer, api_name="ask", **public)
        ui.endpoint.click(self.endpoint.stream, ui.given, ui.answer, api_name="stream", **public)

    def _wire_evidence(self) -> None:
        ui, evidence = self.ui, self.evidence
        ui.which.input(evidence.on_which, [ui.which, ui.chat], self.evidence_shown, **LIGHT)
        ui.chatbot.select(evidence.on_message, ui.chat, self.evidence_shown, **LIGHT)
        each = LIGHT | {"trigger_mode": "multiple"}  # "always_last" would come with the first one's data
        ui.evidence_view.choose(evidence.on_choice, None, ui.chosen, **each)
        wanted = ui.evidence_view.compute(evidence.on_wanted, ui.shown, None, **each)
        explained = wanted.then(evidence.on_explain, ui.shown, ui.problem, show_progress="hidden", **EXPLAIN)
        explained.then(evidence.on_explained, [ui.shown, ui.problem], ui.evidence_view, **LIGHT)
        for kind, button in ui.exports.items():
            write = partial(evidence.on_export, kind)
            saved = button.click(write, [ui.shown, ui.chosen], [ui.download, ui.film_notes], **ASIDE)
            saved.success(None, js=DOWNLOAD)
        filmed = [ui.film, ui.film_notes]
        ui.make_film.click(evidence.on_film, [ui.shown, ui.chosen], filmed, **_one("film"))

    def _remember_after(self, event: Any) -> None:
        event.then(self.reload.on_remember, self.media.inputs, self.ui.memory, **LIGHT)

    def _forget(self, conversation: str) -> None:
        """Delete what a conversation, or a request, has left."""
        self.engine.forget(conversation)
        self.media.uploads.forget(conversation)
        self.reload.kept.forget(conversation)
