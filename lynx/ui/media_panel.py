"""The clip and what belongs to it: handlers of uploads and the preview of what the model sees."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import gradio as gr

from lynx.errors import LynxError, MediaError
from lynx.ui import views
from lynx.ui.engine import Engine
from lynx.ui.layout import OTHER_FILE, Layout, Update
from lynx.ui.types import (
    AUDIO,
    DEFAULT,
    DEPTH,
    VIEW,
    Chat,
    Clip,
    Request,
    answer_settings,
    depth_settings,
    moments_of,
    sound_tracks,
)
from lynx.ui.uploads import Uploads, further_views


class MediaPanel:
    """Its handlers. encode: whether a preview makes the first question's tokens, see `Engine.preview`."""

    def __init__(self, ui: Layout, engine: Engine, encode: bool) -> None:
        self.ui, self.engine, self.encode = ui, engine, encode
        self.uploads = Uploads()
        self.inputs = [ui.video, ui.sound, ui.audio, ui.depth_files, ui.view_files, ui.offsets]
        self.inputs += [ui.start, ui.end, ui.fps, ui.max_frames, ui.heard, ui.unit, ui.up]
        self.inputs += [ui.max_new_tokens, ui.temperature]
        self.inputs += [ui.senses, ui.chat]  # in the order of the arguments of `request`

    def on_views(self, files: list[str] | None) -> Update:
        """Ask when further views begin, as soon as there are any."""
        offsets = gr.update(visible=True) if files else gr.update(visible=False, value="")
        return {self.ui.view_files: tuple(map(str, files or ())), self.ui.offsets: offsets}

    def on_sound(self, video: str | None, sound: str, audio: str | None) -> Update:
        """Let the sound track be chosen where a file has several; its default one is heard until then."""
        tracks = self._tracks(video, sound, audio)
        choices = [(label, index) for index, label in tracks.items()]
        default = next((index for index, label in tracks.items() if label.endswith(DEFAULT)), None)
        chooser = gr.update(choices=choices, value=default, visible=len(tracks) > 1)
        return {self.ui.track: chooser, self.ui.heard: default}

    def _tracks(self, video: str | None, sound: str, audio: str | None) -> dict[int, str]:
        """The sound tracks of the file that is heard; none where it cannot be read, which others say."""
        file = audio if sound == OTHER_FILE else video
        try:
            return sound_tracks(file) if file else {}
        except MediaError:
            return {}

    def on_read(self, *media: Any) -> Update:
        """Open the clip, while others use the model; what cannot be opened is said and goes no further."""
        try:
            request = self.request("", *media)
            if request.clip.paths:
                self.engine.read(request)
        except LynxError as error:
            return {**self._nothing_seen(media[-1]), self.ui.notice: views.notice(error)}
        return {self.ui.opened: uuid4().hex, self.ui.notice: ""}

    def _nothing_seen(self, chat: Chat) -> Update:
        ui = self.ui
        nothing: Update = {ui.seen: None, ui.budget: "", ui.clip_notes: ""}
        nothing[ui.senses] = gr.update(choices=views.sense_choices(chat.senses))
        return {ui.seen_box: gr.update(visible=False), **nothing, **ui.no_map()}

    def on_media(self, *media: Any) -> Update:
        """Show what the model will see of the clip.

        An earlier notice stays: it may be on what was typed while this waited for the model.
        """
        ui, chat = self.ui, media[-1]
        try:
            request = self.request("", *media)
            if not request.clip.paths:
                return self._nothing_seen(chat)
            preview = self.engine.preview(request, self.encode)
        except LynxError as error:
            return {**self._nothing_seen(chat), ui.notice: views.notice(error)}
        lacking = [name for name in request.senses if name not in preview.frames]
        return {
            ui.senses: gr.update(choices=views.sense_choices(chat.senses, lacking)),
            ui.seen_box: gr.update(visible=bool(preview.frames)),
            ui.seen: views.seen(preview, chat.senses),
            ui.budget: views.budget(preview, chat.labels),
            ui.clip_notes: views.clip_notes(preview),
            **ui.no_map(),
        }

    def request(
        self, question: str, video: str | None, sound: str, audio: str | None, depth: tuple[str, ...],
        further: tuple[str, ...], offsets: str, start: str, end: str, fps: str,
        max_frames: str, track: int | None, unit: str | None, up: str | None, max_new_tokens: str,
        temperature: str, senses: list[str], chat: Chat,
    ) -> Request:
        """A request: the question and the values of all visible inputs. Raises LynxError for bad ones."""
        ticked = chat.ticked(senses)
        on = {sense.takes for sense in chat.senses if sense.name in ticked}

        def given(kind: str, gather: Callable[[], Any], nothing: Any = None) -> Any:
            try:
                return gather() if kind in chat.places else nothing
            except MediaError:
                if kind in on:
                    raise
                return nothing  # files that no active sense reads are ignored

        own_sound = audio if sound == OTHER_FILE and AUDIO in chat.places else None
        recording = given(DEPTH, lambda: self.uploads.depth(depth, chat.key))
        around = given(VIEW, lambda: further_views(further, offsets), ())
        moments = moments_of(start, end, fps, max_frames)
        tracks = self._tracks(video, sound, audio)
        if DEFAULT in tracks.get(track, DEFAULT):  # or of the file that was there before
            track = None
        known = given(DEPTH, lambda: depth_settings(unit, up), (None, None))
        clip = Clip(video, own_sound, recording, around, moments, track, *known)
        drawn = answer_settings(max_new_tokens, temperature)
        return Request(
            chat.key, chat.setup, clip, ticked, chat.about(clip), (question or "").strip(), False, *drawn
        )
