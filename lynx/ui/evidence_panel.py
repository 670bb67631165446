"""What the answer rests on: handlers of the chosen word, the check, the film, and the interface map."""

from collections.abc import Callable
from typing import Any

import gradio as gr
import spaces

from lynx.errors import LynxError
from lynx.ui import views
from lynx.ui.engine import Engine, seconds_needed, sentence
from lynx.ui.layout import Layout
from lynx.ui.types import Chat, Request

Update = dict[Any, Any]


def no_map(ui: Layout) -> Update:
    """The map was of another clip."""
    return {ui.map: gr.update(value=None, visible=False), ui.distances: ""}


def no_film(ui: Layout) -> Update:
    """The film was of another answer."""
    return {ui.film: gr.update(value=None, visible=False), ui.film_notes: ""}


def on_word(ui: Layout, index: int | None, chat: Chat) -> Update:
    """Evidence for one word of the last answer; 0 is the whole answer."""
    found = chat.evidence
    if found is None or index is None:
        return {ui.shares: "", ui.rests_on: None, ui.hidden: ""}
    return {
        ui.shares: views.shares(found, index, chat.labels),
        ui.rests_on: views.rests_on(found, index, chat.senses),
    }


class EvidencePanel:
    """Its handlers. request: makes a Request of a question and the values of the media's components."""

    def __init__(self, ui: Layout, engine: Engine, request: Callable[..., Request]) -> None:
        self.ui, self.engine, self.request = ui, engine, request
        self.interface_map = spaces.GPU(duration=seconds_needed)(engine.interface_map)

    def on_word(self, index: int | None, chat: Chat) -> Update:
        """Show the evidence for another word."""
        return on_word(self.ui, index, chat)

    def on_hide(self, *media: Any) -> Update:
        """How much less likely the last answer becomes when a sense is hidden."""
        ui = self.ui
        try:
            drops = self.engine.hide(self.request("", *media))
        except LynxError as error:
            return {ui.hidden: "", ui.notice: views.notice(sentence(error))}
        return {ui.hidden: views.hidden(drops, media[-1].labels), ui.notice: ""}

    def on_map(self, *media: Any) -> Update:
        """Draw where the tokens of the clip's senses lie, and measure it."""
        from lynx.visualization.interface_chart import draw

        ui = self.ui
        try:
            found = self.interface_map(self.request("", *media))
            picture = draw(found)
        except LynxError as error:
            return no_map(ui) | {ui.distances: views.notice(sentence(error))}
        return {
            ui.map: gr.update(value=picture, visible=True),
            ui.distances: views.distances(found),
            ui.notice: "",
        }

    def on_film(self, index: int | None, *media: Any) -> Update:
        """Write what the chosen word rests on as a film."""
        ui = self.ui
        try:
            film = self.engine.film(self.request("", *media), index - 1 if index else None)
        except LynxError as error:
            return no_film(ui) | {ui.notice: views.notice(sentence(error))}
        shown = gr.update(value=str(film.path), visible=True)
        return {ui.film: shown, ui.film_notes: views.film_notes(film), ui.notice: ""}
