"""The evidence: handlers of the chosen word, the check, the film, and the interface map."""

from collections.abc import Callable
from typing import Any

import gradio as gr
import spaces

from lynx.errors import LynxError
from lynx.ui import views
from lynx.ui.engine import Engine, seconds_needed
from lynx.ui.layout import Layout, Update
from lynx.ui.types import Chat, Request


class EvidencePanel:
    """Its handlers. request: makes a Request of a question and the values of the media's components."""

    def __init__(self, ui: Layout, engine: Engine, request: Callable[..., Request]) -> None:
        self.ui, self.engine, self.request = ui, engine, request
        self.interface_map = spaces.GPU(duration=seconds_needed)(engine.interface_map)

    def on_word(self, index: int | None, chat: Chat) -> Update:
        """Show the evidence for one word of the last answer; 0 is the whole answer."""
        ui, found = self.ui, chat.evidence
        if found is None or index is None:
            return {ui.shares: "", ui.rests_on: None, ui.hidden: ""}
        picture = views.rests_on(found, index, chat.senses)
        return {ui.shares: views.shares(found, index, chat.labels), ui.rests_on: picture}

    def on_hide(self, *media: Any) -> Update:
        """Show how much less likely the last answer becomes when a sense is hidden."""
        ui = self.ui
        try:
            drops = self.engine.hide(self.request("", *media))
        except LynxError as error:
            return {ui.hidden: "", ui.notice: views.notice(error)}
        return {ui.hidden: views.hidden(drops, media[-1].labels), ui.notice: ""}

    def on_map(self, *media: Any) -> Update:
        """Draw where the tokens of the clip's senses lie, and measure it."""
        from lynx.visualization.interface_chart import draw

        ui = self.ui
        try:
            found = self.interface_map(self.request("", *media))
            shown = gr.update(value=draw(found), visible=True)
        except LynxError as error:
            return ui.no_map() | {ui.distances: views.notice(error)}
        return {ui.map: shown, ui.distances: views.distances(found), ui.notice: ""}

    def on_film(self, index: int | None, *media: Any) -> Update:
        """Write what the chosen word rests on as a film."""
        ui = self.ui
        try:
            film = self.engine.film(self.request("", *media), index - 1 if index else None)
        except LynxError as error:
            return ui.no_film() | {ui.notice: views.notice(error)}
        shown = gr.update(value=str(film.path), visible=True)
        return {ui.film: shown, ui.film_notes: views.film_notes(film), ui.notice: ""}
