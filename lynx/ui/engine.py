"""The app's use of the library: previews, answers, evidence, maps and films. No Gradio.

Everything that goes in and out can be pickled and sits on the CPU, because on a ZeroGPU Space an answer is
made in another process, whose state is lost. Elsewhere, sessions keep their encoded media and their KV cache
from turn to turn, and the last answers keep what explains them. An answer that is gone is made again from its
clip and its tokens.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lynx.config import LIMITS, short_repr
from lynx.errors import LynxError, MediaError
from lynx.streams.budget import same_file
from lynx.types import VIDEO
from lynx.ui.background import aside
from lynx.ui.host_policy import LOCAL, HostPolicy
from lynx.ui.kept_answers import Downloads, KeptAnswers
from lynx.ui.models import ModelCache
from lynx.ui.sessions import SessionCache
from lynx.ui.types import (
    AUDIO,
    DEPTH,
    VIEW,
    Chosen,
    EvidenceView,
    GivenAnswer,
    Preview,
    Reply,
    Request,
)

if TYPE_CHECKING:
    from lynx.evidence.evidence import Evidence
    from lynx.evidence.record import Record
    from lynx.session import Session
    from lynx.visualization.film import Film
    from lynx.visualization.interface_map import InterfaceMap

THUMBNAIL_PIXELS = 320 * 180  # of a picture in the page
CLOSING = 10.0
"""Seconds that a pass of a model is waited for when the app ends."""
SECONDS_A_TOKEN, SECONDS_A_FRAME, SECONDS_TO_START = 0.1, 0.2, 10
"""Times of a large model, for the ZeroGPU scheduler."""
LEAST_TEMPERATURE = 1e-3
VALUES_AT_ONCE = 100_000
"""Maximum values of attention that come with an answer; those of more words come when one is chosen."""


class Engine:
    """Answers requests with the models and sessions that it keeps. policy: what may be named.

    max_new_tokens: of every answer; None: as its request says.
    """

    def __init__(self, max_new_tokens: int | None = None, policy: HostPolicy = LOCAL) -> None:
        self.max_new_tokens = max_new_tokens
        self.models = ModelCache(policy)
        self.downloads, self.answers = Downloads(), KeptAnswers()
        self.models.on_evicted.append(self.answers.forget_model)
        self.sessions = SessionCache(self.models, self._forget)
        self._closing = threading.Event()

    def close(self) -> None:
        """End what is being computed and let no model begin again: the app is about to end.

        A thread that is inside a pass of a model when Python ends would abort the process.
        """
        self._closing.set()
        self.sessions.stop_all()
        for model in self.models.kept():
            model.lock.acquire(timeout=CLOSING)

    def forget(self, conversation: str) -> None:
        """Drop all that is kept of a conversation, its files included: its visitor has left."""
        self.sessions.forget(conversation)
        self._forget(conversation)

    def _forget(self, conversation: str) -> None:
        self.downloads.forget(conversation)
        self.answers.forget(conversation)

    def read(self, request: Request) -> None:
        """Open what the senses that are on will read, which may take long; no session is touched.

        Raises LynxError for what `preview` cannot open.
        """
        model, (media, _) = self.models.get(request.setup), self.sessions.media(request)
        for sense in request.senses:
            if sense in media:
                model.modality(sense).duration(media[sense])

    def preview(self, request: Request, encode: bool) -> Preview:
        """What the model will see; with `encode` its tokens are ready when the first question comes."""
        from lynx.media.thumbnails import thumbnails
        from lynx.modalities.inspection import notes_of

        session, notes = self.sessions.open(request)
        frames, missing = self.sessions.frames(session, request, encode)
        clip = request.clip
        idle = [
            f"{sense.label} is switched off, though a file was given for it"
            for sense in self.models.senses(request.setup)
            if sense.name not in request.senses and (source := clip.source(sense.takes)) is not None
            if not same_file(source, clip.video)
        ]
        shown = {sense: thumbnails(pictures, THUMBNAIL_PIXELS) for sense, pictures in frames.items()}
        tokens = {sense: session.plan.tokens[sense] for sense in frames}
        seen = notes_of(frames.values())  # as `lynx inspect` says
        notes = tuple(dict.fromkeys((*notes, *missing, *idle, *session.plan.notes, *seen)))
        return Preview(shown, tokens, session.plan.context, notes, part_looked_at(session))

    def answer(self, request: Request) -> Iterator[str | Reply]:
        """The answer's pieces, then the whole Reply. Raises LynxError; the session stays as it was."""
        from lynx.modalities.inspection import notes_of

        session, notes = self.sessions.open(request)
        frames, missing = self.sessions.frames(session, request)
        notes = (*notes, *missing)
        of_clip = (*notes, *session.plan.notes, *notes_of(frames.values()))
        for piece in session.stream(request.question, **self._options(request)):
            yield piece
            if self.sessions.stopped(request.conversation):  # before the session had begun to answer
                session.stop()
        said = session.history[-1]["content"]
        part = part_looked_at(session)
        view = self._evidence(session, request)
        yield Reply(said, dict(session.used), (*notes, *session.notes), view, part, of_clip)

    def answer_and_explain(self, request: Request) -> "Iterator[str | Reply | Record]":
        """The same, then what the whole answer rests on: all in one process, as ZeroGPU wants it."""
        reply = None
        for piece in self.answer(request):
            reply = piece
            yield piece
        if isinstance(reply, Reply) and (view := reply.evidence) is not None:
            yield self.explain(view.given, view.first)

    def _options(self, request: Request) -> dict[str, Any]:
        """How an answer is generated. Raises: LynxError: longer than a hosted app's may be."""
        most, asked = LIMITS.max_answer_tokens, request.max_new_tokens
        if self.models.policy.hosted and asked > most:
            said = LIMITS.say("max_answer_tokens")
            raise LynxError(f"{asked:,} tokens are too many for an answer: at most {said} are given here")
        # below this all but the most probable token have no probability left, and float32 overflows
        temperature = request.temperature if request.temperature > LEAST_TEMPERATURE else 0.0
        return {"max_new_tokens": self.max_new_tokens or asked, "temperature": float(temperature)}

    def _evidence(self, session: "Session", request: Request) -> EvidenceView | None:
        """What the session's last answer rests on, as far as it was recorded with it."""
        from lynx.evidence.methods import ATTENTION
        from lynx.evidence.record import evidence_record
        from lynx.media.thumbnails import thumbnails

        evidence = session.evidence
        if evidence is None or evidence.answered is None or not evidence.words or not evidence.streams:
            return None
        answered = evidence.answered
        asked = replace(request, senses=tuple(session.used))
        given = GivenAnswer(asked, tuple(answered.ids.tolist()), answered.origin)
        self.answers.keep(given, evidence)
        size = sum(len(stream.times) for stream in evidence.streams.values())
        words = range(len(evidence.words)) if size * len(evidence.words) <= VALUES_AT_ONCE else ()
        found = [(word, evidence.attribution(word, ATTENTION)) for word in (None, *words)]
        senses = self.models.senses(request.setup)
        labels = {sense.name: sense.label for sense in senses}
        streams = evidence.streams.items()
        frames = {name: thumbnails(stream.frames, THUMBNAIL_PIXELS) for name, stream in streams}
        part = part_looked_at(session)
        sources = {sense.name: request.clip.names(sense.takes) for sense in senses}
        record = evidence_record(evidence, labels, found, part=part, files=sources)
        return EvidenceView(given, record, frames, part)

    def explain(
        self, given: GivenAnswer, chosen: Chosen, progress: Callable[[int, int], None] | None = None
    ) -> "Record":
        """What a word of an answer rests on, one of a record's "attributions". Raises LynxError.

        Between its passes others are answered. progress: called with how many are done, and of how many.
        Of "hiding" the senses' totals alone: a map of it takes hundreds of passes, too long to wait for.
        """
        from lynx.evidence.attribution import Attribution
        from lynx.evidence.methods import HIDING, METHODS
        from lynx.evidence.record import attribution_record

        def report(done: int, of: int) -> None:
            if self._closing.is_set():
                raise LynxError("the app is about to end")
            if progress is not None:
                progress(done, of)

        word, method = chosen
        evidence = self.answers.get(given) or self._again(given)[0]
        if method != HIDING:
            return attribution_record(evidence, word, evidence.attribution(word, method, report))
        totals = {}
        for sense in evidence.streams:
            totals[sense] = evidence.hidden(word, sense)
            report(len(totals), len(evidence.streams))
        found = Attribution(HIDING, METHODS[HIDING].unit, {}, evidence.streams, totals)
        return attribution_record(evidence, word, found)

    def _again(self, given: GivenAnswer) -> "tuple[Evidence, Session]":
        """An answer's evidence from its clip and its tokens, and a session of its own that it is the last of.

        The conversation's session is left alone: it may be answering meanwhile.
        """
        from lynx.evidence.attention import replayed_attention
        from lynx.evidence.evidence import answer_evidence
        from lynx.evidence.replay import Answered

        request, model = given.request, self.models.get(given.request.setup)
        session = self.sessions.alone(request)
        if gone := [sense for sense in request.senses if sense not in session.media]:
            raise MediaError(f"there is nothing to read {', '.join(gone)} from any more: ask again")
        evidence = self.answers.get(given)
        if evidence is None:
            streams = session.encode() if request.senses else {}
            messages = request.messages
            with model.lock, model.using(*streams), torch.no_grad():
                prompt = model.backbone.compose(messages, list(streams.values()))
            ids = torch.tensor(given.ids, device=prompt.input_ids.device)
            answered = Answered(model, messages, streams, ids, given.weights)
            count, none = len(ids), torch.zeros(len(ids), 0)  # the record has its probabilities already
            rows = torch.zeros(count, prompt.input_ids.shape[1] + count - 1)  # recorded below
            likely = (torch.zeros(count), none.long(), none)
            evidence = answer_evidence(prompt, answered, rows, None, likely)
            with answered.replay() as replay:
                layers = range(len(model.backbone.text_attention_modules()))
                attention = replayed_attention(replay, evidence.attention, evidence.steps, layers)
            evidence = replace(evidence, attention=attention)
            self.answers.keep(given, evidence)
        said = {"role": "assistant", "content": "".join(evidence.tokens).strip()}
        session.evidence, session.history = evidence, [*request.messages, said]
        return evidence, session

    def to_leave_out(self, request: Request) -> tuple[str, ...]:
        """The senses that a comparison leaves out, one at a time: those beside the video that the clip has.

        Raises: LynxError where there is none, or no question.
        """
        if not request.question.strip() and not request.history:
            raise LynxError("there is no question to compare yet")
        session = self.sessions.alone(request)
        found = tuple(sense for sense in self.sessions.frames(session, request, False)[0] if sense != VIDEO)
        if not found:
            raise LynxError("no sense beside the video is on: switch one on to see what its absence changes")
        return found

    def answer_without(self, request: Request, left: str | None = None) -> str:
        """The answer to the question, or to the history's last, without a sense; None: with all.

        The conversation's session is left alone, and the encoded clip is kept by the model. Raises LynxError.
        """
        if not request.question.strip():
            *history, (question, _) = request.history
            request = replace(request, question=question, history=tuple(history))
        session = self.sessions.alone(request)
        self.sessions.frames(session, request)
        if left is not None:
            session.senses[left] = False
        session.history = request.messages[:-1]
        return session.ask(request.question, **self._options(request))

    def interface_map(self, request: Request) -> "InterfaceMap":
        """Where the tokens of the clip's senses lie among words and other videos. Raises LynxError."""
        from lynx.backbones.memory import explain_out_of_memory
        from lynx.evaluation.interface import measure_interface

        session = self.sessions.alone(request)
        self.sessions.frames(session, request)
        with explain_out_of_memory():
            return measure_interface(session)

    def film(self, given: GivenAnswer, chosen: Chosen) -> "Film":
        """Write what a word of an answer rests on as an mp4; None: the whole. Raises LynxError.

        By the chosen method where it has a map of each moment, else by attribution.
        """
        from lynx.evidence.methods import ATTRIBUTION, HIDING
        from lynx.visualization.film import write_film

        _, session = self._again(given)
        word, method = chosen
        path = self.downloads.path(given.request.conversation, "answer.mp4")
        shown = ATTRIBUTION if method == HIDING else method
        return aside(write_film, session, path, word, method=shown)

    def export(self, view: EvidenceView, chosen: Chosen, kind: str) -> Path:
        """Write all that is known of an answer as "json" or "csv", or what is shown as "png".

        Raises: LynxError where that is still being computed.
        """
        from lynx.visualization.export import write_record

        path = self.downloads.path(view.given.request.conversation, f"evidence.{kind}")
        word, method = chosen
        if not view.known(chosen):
            raise LynxError("this is still being computed: wait until it is shown")
        shown = {"words": [word], "method": method} if kind == "png" else {}
        write_record(view.record, path, view.frames, **shown)
        return path

    def usable(
        self, request: Request, wanted: list[str] | None, adapters: list[str] | None = None
    ) -> tuple[str, ...]:
        """The senses asked for, or all that the clip has. Raises LynxError for one that it has not.

        adapters: those that may be on, by their names; None: all that are loaded.
        """
        senses = self.models.senses(request.setup)
        if adapters is not None:
            loaded = [sense.name for sense in senses if sense.name != VIDEO]
            if unknown := sorted(set(adapters) - set(loaded)):
                there = ", ".join(loaded) or "none"
                raise LynxError(f"There is no adapter {_named(unknown)} here; loaded are {there}.")
            senses = tuple(sense for sense in senses if sense.name in (VIDEO, *adapters))
        known = [sense.name for sense in senses]
        if unknown := sorted(set(wanted or ()) - set(known)):
            which = "loaded" if adapters is None else "chosen"
            raise LynxError(f"There is no sense {_named(unknown)} here; {which} are {', '.join(known)}.")
        takes, clip = {sense.takes for sense in senses}, request.clip
        given = {AUDIO: clip.audio, DEPTH: clip.depth, VIEW: clip.views}
        unread = [kind for kind, files in given.items() if files and kind not in takes]
        if unread and wanted is None:
            raise LynxError(f"No sense here takes {unread[0]}; loaded are {', '.join(known)}.")
        request = replace(request, senses=tuple(known if wanted is None else dict.fromkeys(wanted)))
        media, notes = self.sessions.media(request)
        missing = [sense for sense in wanted or () if sense not in media]
        if missing:
            raise MediaError(notes[0] if notes else f"Nothing was given for {', '.join(missing)}.")
        return tuple(sense for sense in request.senses if sense in media)


def _named(names: Sequence[str]) -> str:
    """The first few names that a stranger sent, for a message."""
    return ", ".join(name if name.isidentifier() else short_repr(name) for name in names[:3])[:100]


def part_looked_at(session: "Session") -> tuple[float, float] | None:
    """The seconds of the recording that are looked at; None where that is all of it."""
    return None if session.plan.whole else (session.plan.start, session.plan.end)


def seconds_needed(request: Request, *_: object) -> int:
    """Maximum seconds of an answer on a GPU, for ZeroGPU's scheduler."""
    frames = 16 * len(request.senses)
    return round(SECONDS_TO_START + frames * SECONDS_A_FRAME + request.max_new_tokens * SECONDS_A_TOKEN)


def seconds_to_answer_and_explain(request: Request) -> int:
    """The same for an answer and what the whole of it rests on."""
    return 2 * seconds_needed(request)


def seconds_to_explain(given: GivenAnswer, *_: object) -> int:
    """The same for what a word of an answer rests on, in a process that has only its tokens."""
    return seconds_needed(given.request)
