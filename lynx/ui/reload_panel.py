"""A page that is loaded again: handlers that bring the conversation, the clip and the settings back."""

from pathlib import Path
from typing import Any

import gradio as gr

from lynx.errors import LynxError
from lynx.ui import views
from lynx.ui.layout import OTHER_FILE, PRECISIONS, Layout, Update
from lynx.ui.media_panel import MediaPanel
from lynx.ui.model_panel import ModelPanel
from lynx.ui.remembered import Kept, KeptVisitors, new_secret, read_record, record_of
from lynx.ui.types import Chat, Setup
from lynx.ui.visitors import Visitors

GONE = "The clip is no longer on this server: give it again to go on asking about it."


class ReloadPanel:
    """Its handlers. visitors: who learns that a visitor has come back."""

    def __init__(self, ui: Layout, model: ModelPanel, media: MediaPanel, visitors: Visitors) -> None:
        self.ui, self.model, self.media, self.visitors = ui, model, media, visitors
        self.kept = KeptVisitors()

    def on_load(self, chat: Chat, text: Any, request: gr.Request | None = None) -> Update:
        """A visitor arrives, for the first time or again. text: the tab's own record, from anybody."""
        record = read_record(text)
        known = self.kept.find(record.secret) if record else None
        if known is not None:
            if session := getattr(request, "session_hash", None):
                self.visitors.returned(session, known.chat.key)
            return self._set_up(known.chat, known.chat.setup, request)
        fresh = Chat(chat.key, chat.setup, secret=new_secret(), turns=record.turns if record else ())
        if record is None or not self._offered(record.setup):
            return self.model.on_load(fresh, request)
        return self._set_up(fresh, record.setup, request)

    def _set_up(self, chat: Chat, setup: Setup, request: gr.Request | None) -> Update:
        """Load the model that was there; where that fails, the one that a page begins with."""
        ui = self.ui
        if not chat.key:
            chat = self.model.named(chat, request)
        update = self.model.set_up(chat, setup, chat.before)
        if update[ui.notice]:
            return self.model.on_load(chat, request) | {ui.notice: update[ui.notice]}
        return update

    def _offered(self, setup: Setup) -> bool:
        """Whether a setup that a browser names may be loaded here."""
        policy = self.model.models.policy
        try:
            policy.backbone(setup.backbone)
            for source in setup.adapters:
                policy.folder(source)
        except LynxError:
            return False
        return setup.precision in PRECISIONS

    def on_restore(self, chat: Chat) -> Update:
        """Show what was kept of the visitor, once the model is there."""
        ui, known = self.ui, self.kept.find(chat.secret)
        if not chat.turns and known is None:
            return {ui.chatbot: gr.skip()}
        update = {ui.chatbot: views.messages(chat.turns)}
        update |= {ui.backbone: chat.setup.backbone, ui.precision: chat.setup.precision}
        given = dict(zip(self.media.inputs, known.media, strict=False)) if known else {}
        if not given or not self._there(given):
            return update | ({ui.notice: views.notice(GONE)} if chat.turns else {})
        files = {ui.depth: ui.depth_files, ui.views: ui.view_files}
        update |= {box: list(given[state]) or None for box, state in files.items()} | given
        update[ui.audio] = gr.update(value=given[ui.audio], visible=given[ui.sound] == OTHER_FILE)
        update[ui.offsets] = gr.update(value=given[ui.offsets], visible=bool(given[ui.view_files]))
        tracks = self.media.on_sound(given[ui.video], given[ui.sound], given[ui.audio])
        heard = given[ui.heard]
        update[ui.track] = tracks[ui.track] | ({"value": heard} if heard is not None else {})
        return update

    def _there(self, given: Update) -> bool:
        """Whether there is a clip, and all of its files are still kept."""
        ui = self.ui
        one = [given[box] for box in (ui.video, ui.audio) if given[box]]
        paths = [*one, *given[ui.depth_files], *given[ui.view_files]]
        return all(Path(path).exists() for path in paths) and bool(paths)

    def on_remember(self, *media: Any) -> str:
        """Keep what there is now, for a reload; returns what the tab remembers."""
        *values, chat = media
        if not chat.secret:  # the page has not loaded yet
            return ""
        self.kept.keep(Kept(chat, tuple(values)))
        return record_of(chat)
