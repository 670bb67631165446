"""The conversation: handlers that ask, retry, stop, clear, and compare without each sense."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import gradio as gr
import spaces

from lynx.errors import LynxError, writing
from lynx.ui import views
from lynx.ui.engine import (
    Engine,
    seconds_needed,
    seconds_to_answer_and_explain,
)
from lynx.ui.evidence_panel import COMPUTING, EvidencePanel, Problem
from lynx.ui.layout import Layout, Update
from lynx.ui.transcript import transcript_json
from lynx.ui.transcript_page import transcript_page
from lynx.ui.types import Chat, ChatTurn, Clip, EvidenceView, Reply, Setup


class ChatPanel:
    """Its handlers. media: the values of `MediaPanel.inputs`.

    in_process: whether answers are made in this process, unlike on ZeroGPU.
    """

    def __init__(self, ui: Layout, engine: Engine, evidence: EvidencePanel, in_process: bool) -> None:
        self.ui, self.engine, self.evidence, self.request = ui, engine, evidence, evidence.request
        self.in_process = in_process
        self.generate = spaces.GPU(duration=seconds_needed)(engine.answer)
        duration = seconds_to_answer_and_explain
        self.generate_and_explain = spaces.GPU(duration=duration)(engine.answer_and_explain)
        self.answer_without = spaces.GPU(duration=seconds_needed)(engine.answer_without)

    def on_ask(self, question: str, *media: Any) -> Iterator[Update]:
        """Stream an answer into the conversation; an error leaves all as it was, the question included."""
        ui, chat = self.ui, media[-1]
        try:
            if not (question or "").strip():
                raise LynxError("Type a question first.")
            request = self.request(question, *media)
            request.clip.check()
            turn = ChatTurn(request.question, "", chat.setup, request.clip, views.ANSWERING)
            begun = views.messages((*chat.turns, replace(turn, answer="…")))
            yield {ui.chatbot: begun, ui.question: "", ui.notice: "", ui.comparison: ""}
            with self.engine.sessions.answering(chat.key) as stop:
                pieces = self.generate(request) if self.in_process else self.generate_and_explain(request)
                for piece in pieces:
                    if isinstance(piece, Reply):
                        yield self._complete(chat, turn, piece, stop.is_set())
                        yield {ui.problem: self._explain(piece.evidence, pieces)}
                        return
                    turn = replace(turn, answer=turn.answer + piece)
                    yield {ui.chatbot: views.messages((*chat.turns, turn))}
                    if stop.is_set() and not self.in_process:
                        pieces.close()  # the other process cannot see `stop`
                        yield self._complete(chat, turn, Reply(turn.answer, {}), True)
                        return
        except LynxError as error:
            before = {ui.chatbot: views.messages(chat.turns), ui.question: question}
            yield {**before, ui.notice: views.notice(error)}

    def _complete(self, chat: Chat, turn: ChatTurn, reply: Reply, stopped: bool) -> Update:
        """What changes when an answer is complete; `EvidencePanel.on_answered` shows its evidence."""
        ui = self.ui
        last = chat.turns[-1] if chat.turns else None
        told = last.notes if last and (last.setup, last.clip) == (turn.setup, turn.clip) else ()
        new = replace(reply, notes=tuple(note for note in reply.notes if note not in told))
        chips = views.chips(new, chat.labels, stopped)
        found = {"notes": reply.notes, "evidence": reply.evidence, "used": reply.used, "part": reply.part}
        turn = replace(turn, answer=reply.answer, chips=chips, labels=chat.labels, stopped=stopped, **found)
        chat = replace(chat, turns=(*chat.turns, turn))
        # in one call with the answer, as on ZeroGPU, follows what it rests on
        evidence = {ui.shown: reply.evidence} if self.in_process else self.evidence.show(
            chat, reply.evidence, COMPUTING
        )
        return {ui.chat: chat, ui.chatbot: views.messages(chat.turns), **evidence}

    @staticmethod
    def _explain(view: EvidenceView | None, pieces: Iterator[Any]) -> Problem:
        """Let what the answer rests on join it, where one call gives both, as on ZeroGPU."""
        if view is not None:
            try:
                for found in pieces:
                    view.join(found)
            except LynxError as error:  # the answer stays
                return view, views.sentence(error)
        return None

    def on_suggestion(self, event: gr.SelectData) -> str:
        """Put a question to try into the box: the one that was read, others may be offered by now."""
        return str(event.value[0])

    def on_edit(self, chat: Chat, on_desk: tuple[Setup, Clip] | None, event: gr.EventData) -> Update:
        """Put an earlier question into the box; what follows it goes when it is asked."""
        ui, turn = self.ui, event.turn
        if not isinstance(turn, int) or not 0 <= turn < len(chat.turns):
            return {ui.editing: None, ui.edit_bar: ""}
        about = on_desk or (chat.setup, chat.turns[-1].clip)
        here = turn >= chat.begin(*about)
        told = views.editing_told(turn + 1, len(chat.turns), here)
        return {ui.editing: turn if here else None, ui.edit_bar: told, ui.question: chat.turns[turn].question}

    def on_leave(self) -> Update:
        """Edit nothing; the conversation stays as it is."""
        return {self.ui.editing: None, self.ui.edit_bar: "", self.ui.question: ""}

    def on_send(self, editing: int | None, question: str, *media: Any) -> Iterator[Update]:
        """Ask what is in the box, in place of the question that is edited and all that follows it.

        Of a conversation about another clip nothing is replaced. When it fails all stays.
        """
        ui, chat = self.ui, media[-1]
        with suppress(LynxError):  # which `on_ask` says
            if editing is not None and not chat.begin(chat.setup, self.request("", *media).clip) <= editing:
                editing = None
        before = chat if editing is None else replace(chat, turns=chat.turns[:editing])
        for update in self.on_ask(question, *media[:-1], before):
            if update.get(ui.notice):
                update |= {ui.chatbot: views.messages(chat.turns)}
            elif ui.chat in update:
                update |= {ui.editing: None, ui.edit_bar: ""}
            yield update

    def on_retry(self, *media: Any) -> Iterator[Update]:
        """Ask the last question again, with the senses that are on now; when that fails its answer stays."""
        ui, chat = self.ui, media[-1]
        if not chat.turns:
            yield {ui.notice: views.notice("There is no question to ask again yet.")}
            return
        for update in self.on_ask(chat.turns[-1].question, *media[:-1], replace(chat, turns=chat.turns[:-1])):
            if update.get(ui.notice):
                update |= {ui.chatbot: views.messages(chat.turns), ui.question: ""}
            yield update

    def on_stop(self, chat: Chat) -> None:
        """End the answer; what was said stays."""
        self.engine.sessions.stop(chat.key)

    def on_clear(self, chat: Chat) -> Update:
        """Forget the conversation, an answer that is being given included; the clip stays."""
        ui, chat = self.ui, replace(chat, turns=())
        empty = {ui.chatbot: [], ui.notice: "", ui.comparison: "", ui.editing: None, ui.edit_bar: ""}
        return {ui.chat: chat, **empty, **self.evidence.show(chat, None)}

    def on_save(self, kind: str, chat: Chat) -> Update:
        """Write the conversation as "html" or "json", to be downloaded."""
        ui = self.ui
        try:
            if not chat.turns:
                raise LynxError("There is no conversation to save yet.")
            path = self.engine.downloads.path(chat.key, f"conversation.{kind}")
            text = transcript_page(chat.turns) if kind == "html" else transcript_json(chat.turns)
            with writing(path, LynxError):
                path.write_text(text, encoding="utf-8")
        except LynxError as error:
            return {ui.saved: gr.skip(), ui.notice: views.notice(error)}
        return {ui.saved: gr.update(value=str(path)), ui.notice: ""}

    def on_compare(self, question: str, *media: Any) -> Iterator[Update]:
        """Answer the question in the box, or the last one, again without each added sense.

        Each answer is asked for by itself and shown as it comes: on ZeroGPU all together would take longer
        than what a visitor is granted, and elsewhere others are answered between two of them.
        """
        ui, chat = self.ui, media[-1]
        try:
            request = self.request(question, *media)
            senses = self.engine.to_leave_out(request)
            asked = request.question or request.history[-1][0]
            answers: dict[str | None, str | None] = dict.fromkeys((None, *senses))
            for left in answers:
                answers[left] = self.answer_without(request, left)
                yield {ui.comparison: views.comparison(asked, answers, chat.labels), ui.notice: ""}
        except LynxError as error:
            yield {ui.comparison: "", ui.notice: views.notice(error)}
