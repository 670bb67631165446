"""The evidence: which answer and word are looked at, what is computed for them, and the files made of it.

What is shown is always drawn from what is chosen at that moment: a result that comes late joins the answer
that it is of, wherever the visitor has gone meanwhile.
"""

from collections.abc import Callable
from typing import Any

import gradio as gr
import spaces

from lynx.errors import LynxError
from lynx.ui import views
from lynx.ui.engine import Engine, seconds_needed, seconds_to_explain
from lynx.ui.layout import Layout, Update
from lynx.ui.types import WHOLE, Chat, Chosen, Clip, EvidenceView, Request, Setup

Problem = tuple[EvidenceView, str] | None
"""Why something could not be computed, and for which answer."""
COMPUTING = "Computing what it rests on …"


class EvidencePanel:
    """Its handlers. request: makes a Request of a question and the values of the media's components."""

    def __init__(self, ui: Layout, engine: Engine, request: Callable[..., Request]) -> None:
        self.ui, self.engine, self.request = ui, engine, request
        self.explain = spaces.GPU(duration=seconds_to_explain)(engine.explain)
        self.film = spaces.GPU(duration=seconds_to_explain)(engine.film)
        self.interface_map = spaces.GPU(duration=seconds_needed)(engine.interface_map)

    def show(
        self, chat: Chat, shown: EvidenceView | None, loading: str = "", problem: Problem = None
    ) -> Update:
        """Show what an answer rests on, or that there is none to show."""
        ui, choices = self.ui, views.answer_choices(chat.turns)
        at = next((i for i, turn in enumerate(chat.turns) if shown and turn.evidence is shown), None)
        several = len(choices) > (at is not None)  # one may be of a clip before
        return {
            ui.shown: shown,
            ui.chosen: shown.first if shown else WHOLE,
            ui.evidence_view: views.evidence(shown, loading, _said(problem, shown)),
            ui.evidence: gr.update(visible=shown is not None),
            ui.which: gr.update(choices=choices, value=at, visible=several),
            ui.nothing: "" if shown else views.nothing_shown(choices),
            **ui.no_film(),
        }

    def on_answered(
        self, chat: Chat, shown: EvidenceView | None, on_desk: tuple[Setup, Clip] | None,
        problem: Problem = None,
    ) -> Update:
        """Show the new answer's evidence, unless the clip was changed while it was given."""
        last, turn = chat.turns[-1] if chat.turns else None, chat.find(shown)
        changed = last is not None and on_desk not in (None, (last.setup, last.clip))
        gone = turn is None or (turn is last and changed)
        update = self.show(chat, None if gone else shown, problem=problem)
        if last is not None and last.evidence is None and turn is None and not changed:
            said = views.nothing_of(last.answer, views.answer_choices(chat.turns))
            update[self.ui.nothing] = said
        return update

    def on_clip(self, *given: Any) -> Update:
        """Take the evidence away as soon as the clip or the model is another, or show what is of that one.

        The page hides it at once, before this is called: see `Page`.
        """
        *media, before = given
        ui, chat = self.ui, media[-1]
        try:
            request = self.request("", *media)
            on_desk = (request.setup, request.clip)
        except LynxError:  # which others say
            on_desk = (chat.setup, Clip())
        if on_desk == before:
            return {ui.on_desk: on_desk}
        return {ui.on_desk: on_desk, **self.show(chat, chat.latest(*on_desk))}

    def on_which(self, index: Any, chat: Chat) -> Update:
        """Show the evidence of another answer of the conversation; of one that is there no more, none."""
        there = isinstance(index, int) and 0 <= index < len(chat.turns)
        return self.show(chat, chat.turns[index].evidence if there else None)

    def on_message(self, chat: Chat, event: gr.SelectData) -> Update:
        """The same for an answer that was clicked."""
        index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
        at = views.turn_of_message(chat.turns, index)
        if at is None or chat.turns[at].evidence is None:
            return {self.ui.chosen: gr.skip()}
        return self.on_which(at, chat)

    def on_choice(self, event: gr.EventData) -> Chosen:
        """Remember which word and which method are looked at."""
        return event.word, event.method

    def on_wanted(self, shown: EvidenceView | None, event: gr.EventData) -> None:
        """Remember what has to be computed of the answer that is shown now: it may wait for its turn."""
        if shown is not None:
            shown.wanted.append((event.word, event.method))

    def on_explain(self, shown: EvidenceView | None) -> Problem:
        """Compute what is wanted of the answer that is shown, once; nothing of one that is shown no more."""
        if shown is None or (chosen := shown.next_wanted()) is None:
            return None
        try:
            shown.join(self.explain(shown.given, chosen))
        except LynxError as error:
            return shown, views.sentence(error)
        return None

    def on_explained(self, shown: EvidenceView | None, problem: Problem) -> str:
        """Show what is known by now of the answer that is shown now."""
        return views.evidence(shown, problem=_said(problem, shown))

    def on_export(self, kind: str, shown: EvidenceView | None, chosen: Chosen) -> Update:
        """Write what is known of the answer, or the picture of what is shown, as a file to download."""
        ui = self.ui
        try:
            if shown is None:
                raise LynxError("There is no answer yet whose evidence could be saved.")
            path = self.engine.export(shown, chosen, kind)
        except LynxError as error:
            return {ui.download: gr.skip(), ui.film_notes: views.notice(error)}
        return {ui.download: gr.update(value=str(path)), ui.film_notes: ""}

    def on_film(self, shown: EvidenceView | None, chosen: Chosen) -> Update:
        """Write what the chosen word rests on, by the chosen method, as a film."""
        ui = self.ui
        try:
            if shown is None:
                raise LynxError("There is no answer to film yet.")
            film = self.film(shown.given, chosen)
        except LynxError as error:
            return ui.no_film() | {ui.film_notes: views.notice(error)}
        made = gr.update(value=str(film.path), visible=True)
        return {ui.film: made, ui.film_notes: views.film_notes(film, chosen[1])}

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


def _said(problem: Problem, shown: EvidenceView | None) -> str:
    """The problem, if it is that of the answer that is shown."""
    return problem[1] if problem and problem[0] is shown else ""
