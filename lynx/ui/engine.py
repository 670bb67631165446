"""The app's use of the library: previews, answers, evidence, maps and films. No Gradio.

Everything that goes in and out can be pickled and sits on the CPU, because on a ZeroGPU Space an answer is
made in another process, whose state is lost. Elsewhere, sessions keep their encoded media and their KV cache
from turn to turn.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lynx.errors import LynxError, MediaError
from lynx.streams.budget import same_file
from lynx.types import VIDEO
from lynx.ui.adapter_policy import ANY_FOLDER, AdapterPolicy
from lynx.ui.models import ModelCache
from lynx.ui.sessions import SessionCache
from lynx.ui.types import AUDIO, DEPTH, VIEW, EvidenceView, Preview, Reply, Request

if TYPE_CHECKING:
    from lynx.session import Comparison, Session
    from lynx.visualization.film import Film
    from lynx.visualization.interface_map import InterfaceMap

MAX_NEW_TOKENS = 128
THUMBNAIL_PIXELS = 320 * 180  # of a picture in the page
SECONDS_A_TOKEN, SECONDS_A_FRAME, SECONDS_TO_START = 0.1, 0.2, 10
"""Times of a large model, for the ZeroGPU scheduler."""


class Engine:
    """Answers requests with the models and sessions that it keeps. policy: which adapters may be named."""

    def __init__(self, max_new_tokens: int = MAX_NEW_TOKENS, policy: AdapterPolicy = ANY_FOLDER) -> None:
        self.max_new_tokens = max_new_tokens
        self.models = ModelCache(policy)
        self._films = tempfile.TemporaryDirectory(prefix="lynx-", ignore_cleanup_errors=True)
        self.sessions = SessionCache(self.models, lambda gone: self._film(gone).unlink(missing_ok=True))

    def _film(self, conversation: str) -> Path:
        """The one film of a conversation, deleted with its sessions: the page has copied it by then."""
        return Path(self._films.name, f"{conversation}.mp4")

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
        session, notes = self.sessions.open(request)
        notes += self.sessions.frames(session, request)[1]
        for piece in session.stream(request.question, max_new_tokens=self.max_new_tokens):
            yield piece
            if self.sessions.stopped(request.conversation):  # before the session had begun to answer
                session.stop()
        said = session.history[-1]["content"]
        part = part_looked_at(session)
        yield Reply(said, dict(session.used), (*notes, *session.notes), evidence_view(session), part)

    def compare(self, request: Request) -> "Comparison":
        """Answer a question, or the history's last, again without each added sense. Raises LynxError."""
        session, _ = self.sessions.open(request)
        self.sessions.frames(session, request)
        return session.compare(request.question.strip() or None, max_new_tokens=self.max_new_tokens)

    def hide(self, request: Request) -> dict[str, float]:
        """How much the log-probability of the last answer falls when each sense it used is hidden."""
        session, _ = self.sessions.open(request)
        if not session.used:
            raise LynxError("There is no answer about this clip to check yet.")
        return {sense: session.occlusion(sense) for sense in session.used}

    def interface_map(self, request: Request) -> "InterfaceMap":
        """Where the tokens of the clip's senses lie among words and other videos. Raises LynxError."""
        from lynx.backbones.memory import explain_out_of_memory
        from lynx.evaluation.interface import measure_interface

        session, _ = self.sessions.open(request)
        self.sessions.frames(session, request)
        with explain_out_of_memory():
            return measure_interface(session)

    def film(self, request: Request, word: int | None) -> "Film":
        """Write what a word of the last answer rests on as an mp4; None: the whole. Raises LynxError."""
        from lynx.visualization.film import write_film

        session, _ = self.sessions.open(request)
        if session.evidence is None:
            raise LynxError("There is no answer about this clip to film yet.")
        return write_film(session, self._film(request.conversation), word)

    def usable(self, request: Request, wanted: list[str] | None) -> tuple[str, ...]:
        """The senses asked for, or all that the clip has. Raises LynxError for one that it has not."""
        senses = self.models.senses(request.setup)
        known = [sense.name for sense in senses]
        unknown = sorted(set(wanted or ()) - set(known))
        if unknown:
            raise LynxError(f"There is no sense {', '.join(unknown)} here; loaded are {', '.join(known)}.")
        takes, clip = {sense.takes for sense in senses}, request.clip
        given = {AUDIO: clip.audio, DEPTH: clip.depth, VIEW: clip.views}
        unread = [kind for kind, files in given.items() if files and kind not in takes]
        if unread and wanted is None:
            raise LynxError(f"No sense here takes {unread[0]}; loaded are {', '.join(known)}.")
        request = replace(request, senses=tuple(known if wanted is None else wanted))
        media, notes = self.sessions.media(request)
        missing = [sense for sense in wanted or () if sense not in media]
        if missing:
            raise MediaError(notes[0] if notes else f"Nothing was given for {', '.join(missing)}.")
        return tuple(sense for sense in request.senses if sense in media)


def part_looked_at(session: "Session") -> tuple[float, float] | None:
    """The seconds of the recording that are looked at; None where that is all of it."""
    return None if session.plan.whole else (session.plan.start, session.plan.end)


def evidence_view(session: "Session") -> EvidenceView | None:
    """The session's evidence as small plain data, for the whole answer and each word."""
    from lynx.media.thumbnails import thumbnails
    from lynx.visualization.drawing import curve_of

    evidence = session.evidence
    if evidence is None or not evidence.words:
        return None
    choices: list[int | None] = [None, *range(len(evidence.words))]
    found = [evidence.attribution(word, "attention") for word in choices]
    return EvidenceView(
        tuple(word for word, _ in evidence.words),
        tuple(each.totals for each in found),
        tuple({name: curve_of(each, name) for name in evidence.streams} for each in found),
        tuple({name: each.frame_maps(name) for name in evidence.streams} for each in found),
        {name: thumbnails(stream.frames, THUMBNAIL_PIXELS) for name, stream in evidence.streams.items()},
    )


def seconds_needed(request: Request) -> int:
    """Maximum seconds of an answer on a GPU, for ZeroGPU's scheduler."""
    frames = 16 * len(request.senses)
    return round(SECONDS_TO_START + frames * SECONDS_A_FRAME + MAX_NEW_TOKENS * SECONDS_A_TOKEN)


def seconds_to_compare(request: Request) -> int:
    """The same for an answer with all senses and one without each added one."""
    return (1 + sum(sense != VIDEO for sense in request.senses)) * seconds_needed(request)
