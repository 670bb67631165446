"""What can be made of a clip and its last answer below the chat: a map of its tokens, and a film."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import spaces

from lynx.errors import LynxError
from lynx.ui import views
from lynx.ui.engine import Engine, seconds_needed, sentence
from lynx.ui.layout import Layout
from lynx.ui.values import Request

Update = dict[Any, Any]


class Study:
    """The handlers. `request` makes a Request of a question and the values of the media's components."""

    def __init__(self, ui: Layout, engine: Engine, request: Callable[..., Request]) -> None:
        self.ui, self.engine, self.request = ui, engine, request
        self.atlas = spaces.GPU(duration=seconds_needed)(engine.atlas)
        self._films = tempfile.TemporaryDirectory(prefix="lynx-", ignore_cleanup_errors=True)

    def wire(self, media: list[Any], **options: Any) -> None:
        """Connect them; options: of events that touch the model."""
        ui = self.ui
        drawing = [ui.interface.select, ui.draw_map.click]
        gr.on(drawing, self.on_map, media, [ui.map, ui.distances, ui.notice], **options)
        ui.make_film.click(self.on_film, [ui.word, *media], [ui.film, ui.film_notes, ui.notice], **options)

    def no_map(self) -> Update:
        """The map was of another clip."""
        return {self.ui.map: gr.update(value=None, visible=False), self.ui.distances: ""}

    def no_film(self) -> Update:
        """The film was of another answer."""
        return {self.ui.film: gr.update(value=None, visible=False), self.ui.film_notes: ""}

    def on_map(self, *media: Any) -> Update:
        """Draw where the tokens of the clip's senses lie, and measure it."""
        from lynx.visualization import interface_chart as chart

        ui = self.ui
        try:
            atlas = self.atlas(self.request("", *media))
            picture = gr.update(value=chart.draw(atlas), visible=True)
        except LynxError as error:
            return self.no_map() | {ui.distances: views.notice(sentence(error))}
        return {ui.map: picture, ui.distances: views.distances(atlas), ui.notice: ""}

    def on_film(self, index: int | None, *media: Any) -> Update:
        """Write what the chosen word rests on as a film."""
        ui, key = self.ui, media[-1].key
        try:
            place = Path(self._films.name, f"{key}.mp4")  # the next one takes its place
            film = self.engine.film(self.request("", *media), index - 1 if index else None, place)
        except LynxError as error:
            return self.no_film() | {ui.notice: views.notice(sentence(error))}
        shown = gr.update(value=str(film.path), visible=True)
        return {ui.film: shown, ui.film_notes: views.film_notes(film), ui.notice: ""}
