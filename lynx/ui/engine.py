"""The app's hands on the library: models and sessions kept between clicks, answers as plain data. No Gradio.

Everything that goes in and out can be pickled and sits on the CPU, because on a ZeroGPU Space an answer is
made in another process whose state does not come back. Where it does come back, sessions keep their encoded
media and their KV cache from turn to turn.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import lynx
from lynx.errors import BackboneError, LynxError, MediaError
from lynx.modalities.base import Source
from lynx.types import VIDEO
from lynx.ui.findings import findings, thumbnails
from lynx.ui.rule import ANY_FOLDER, AdapterRule
from lynx.ui.values import (
    AUDIO,
    DEPTH,
    EMBEDDED,
    VIEW,
    Clip,
    Offer,
    Reply,
    Request,
    Sense,
    Setup,
    Sight,
    check,
)

if TYPE_CHECKING:

    from lynx.model import Lynx
    from lynx.session import Comparison, Session
    from lynx.types import Frames
    from lynx.visualization.film import Film
    from lynx.visualization.interface_map import InterfaceMap

Result = TypeVar("Result")

SESSIONS_KEPT = 4
EMBEDDED_MODELS_KEPT = 4  # with different adapters; of real ones, which fill a machine, one
COMMIT_SHOWN = 8  # digits
MAX_NEW_TOKENS = 128
SECONDS_A_TOKEN, SECONDS_A_FRAME, SECONDS_TO_START = (
    0.1,
    0.2,
    10,
)  # of a large model, for the ZeroGPU scheduler


class Engine:
    """Models by setup and sessions by conversation, the last few of each.

    rule: which adapters may be named; every way to one goes through it.
    """

    def __init__(self, max_new_tokens: int = MAX_NEW_TOKENS, rule: AdapterRule = ANY_FOLDER) -> None:
        self.max_new_tokens, self.rule = max_new_tokens, rule
        self._models: OrderedDict[Setup, Lynx] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, Setup, Clip], Session] = OrderedDict()
        self._stopped: set[str] = set()
        self._loading = threading.Lock()

    def model(self, setup: Setup) -> "Lynx":
        """The loaded model; it takes the place of older ones, which load again when they are asked for.

        Raises LynxError when it cannot be loaded.
        """
        with self._loading:
            if setup not in self._models:
                adapters = self._adapter_folders(setup)
                self._make_room(setup)
                self._models[setup] = self._guarded(
                    lambda: lynx.load(setup.backbone, adapters, setup.precision)
                )
            self._models.move_to_end(setup)
            return self._models[setup]

    def _adapter_folders(self, setup: Setup) -> list[Path]:
        """Where the adapters lie; those of the Hub are fetched. Raises: AdapterError: not to be had.

        Folders, not names, are what is loaded: a Hub id must not be read as a folder of the same name.
        """
        from lynx.adapters.format import fetch_adapter

        folders = [self.rule.folder(source) for source in setup.adapters]  # before anything is fetched
        return [
            folder or fetch_adapter(source).folder
            for source, folder in zip(setup.adapters, folders, strict=True)
        ]

    def _make_room(self, setup: Setup) -> None:
        """Let go of models, and of the sessions that hold them, before another one is loaded."""
        embedded = setup.backbone == EMBEDDED
        alike = [other for other in self._models if (other.backbone == EMBEDDED) == embedded]
        for other in alike[: max(0, len(alike) + 1 - (EMBEDDED_MODELS_KEPT if embedded else 1))]:
            del self._models[other]
            for key in [key for key in self._sessions if key[1] == other]:
                del self._sessions[key]

    def offers(self, backbone: str, sources: Sequence[str]) -> tuple[Offer, ...]:
        """What each adapter is and whether it fits; of one on the Hub only its description is fetched."""
        from lynx.adapters.sharing import describe, describe_hub, mismatch

        models = list(self._models.items())
        loaded = next((model.backbone for setup, model in models if setup.backbone == backbone), backbone)
        found = []
        for source in dict.fromkeys(sources):
            try:
                folder = self.rule.folder(source)
                adapter, revision = describe(folder) if folder else describe_hub(source)
                offer = Offer(source, adapter.modality, revision or "", mismatch(adapter, loaded))
            except LynxError as error:
                offer = Offer(source, reason=str(error))
            found.append(offer)
        return tuple(found)

    def readable(self, setup: Setup) -> tuple[Setup, tuple[str, ...]]:
        """The setup without adapters whose folders are broken, and of each of those why.

        One broken folder is no reason to have no model at all. What does not fit the backbone, or has to be
        fetched first, stays: whoever asked for it is told when it is loaded.
        """
        from lynx.adapters.sharing import describe

        if setup in self._models:
            return setup, ()
        kept, reasons = [], []
        for source in setup.adapters:
            try:
                if folder := self.rule.folder(source):
                    describe(folder)
                kept.append(source)
            except LynxError as error:
                reasons.append(f"The adapter {source!r} was left out: {error}")
        return replace(setup, adapters=tuple(kept)), tuple(reasons)

    def forecast(self, setup: Setup) -> str:
        """What a conversation would need of this machine, in a sentence, before anything of it is loaded.

        Raises LynxError when there is no such backbone, or it cannot be had in that precision here.
        """
        from lynx.backbones.estimate import estimate

        senses = [Path(source.partition("@")[0]).name for source in setup.adapters]
        told = estimate(setup.backbone, senses=senses, precision=setup.precision).sentence
        models = list(self._models.items())
        commits = (model.backbone.revision for other, model in models if other.backbone == setup.backbone)
        commit = next(filter(None, commits), None)
        return f"{told}; loaded is its commit {commit[:COMMIT_SHOWN]}" if commit else told

    def senses(self, setup: Setup) -> dict[str, Sense]:
        """The senses of a model by name; where two have one word for people, it stands with their names."""
        model = self.model(setup)
        found = {name: model.modality(name) for name in (VIDEO, *model.adapters)}
        labels = [modality.label for modality in found.values()]
        return {
            name: Sense(
                name,
                modality.label if labels.count(modality.label) == 1 else f"{modality.label} ({name})",
                modality.name,
                modality.takes,
            )
            for name, modality in found.items()
        }

    def look(self, request: Request, encode: bool) -> Sight:
        """What the model will see; with `encode` its tokens are ready when the first question comes."""
        session, notes = self._session(request)
        frames, missing = self._frames(session, request, encode)
        small = {sense: thumbnails(pictures) for sense, pictures in frames.items()}
        tokens = {sense: session.plan.tokens[sense] for sense in frames}
        drawn = [note for pictures in frames.values() for note in pictures.notes]
        idle = [
            f"{sense.label} is switched off, though a file was given for it"
            for sense in self.senses(request.setup).values()
            if sense.name not in request.senses
            and request.clip.source(sense.takes) not in (None, request.clip.video)
        ]
        told = (*notes, *missing, *idle, *session.plan.notes, *drawn)
        return Sight(small, tokens, session.plan.context, tuple(dict.fromkeys(told)))

    def answer(self, request: Request) -> Iterator[str | Reply]:
        """The answer's pieces, then the whole Reply. Raises LynxError; the session stays as it was."""
        session, notes = self._session(request)
        notes += self._frames(session, request)[1]
        pieces = session.stream(request.question, max_new_tokens=self.max_new_tokens)
        for piece in self._guarded_pieces(pieces):
            yield piece
            if request.conversation in self._stopped:
                session.stop()
        yield Reply(
            session.history[-1]["content"], dict(session.used), (*notes, *session.notes), findings(session)
        )

    def compare(self, request: Request) -> "Comparison":
        """A question, or the last one of the history, answered again without each added sense that is on.

        Raises LynxError.
        """
        session, _ = self._session(request)
        self._frames(session, request)
        question = request.question.strip() or None
        return self._guarded(lambda: session.compare(question, max_new_tokens=self.max_new_tokens))

    def hide(self, request: Request) -> dict[str, float]:
        """How much the log-probability of the last answer falls when each sense it used is hidden."""
        session, _ = self._session(request)
        if not session.used:
            raise LynxError("There is no answer about this clip to check yet.")
        return self._guarded(lambda: {sense: session.occlusion(sense) for sense in session.used})

    def atlas(self, request: Request) -> "InterfaceMap":
        """Where the tokens of the clip's senses lie among words and other videos. Raises LynxError."""
        from lynx.evaluation.interface import measure_interface

        session, _ = self._session(request)
        self._frames(session, request)
        return self._guarded(lambda: measure_interface(session))

    def film(self, request: Request, word: int | None, path: Path) -> "Film":
        """Write what a word of the last answer rests on as an mp4; None: the whole. Raises LynxError."""
        from lynx.visualization.film import write_film

        session, _ = self._session(request)
        if session.evidence is None:
            raise LynxError("There is no answer about this clip to film yet.")
        return write_film(session, path, word)

    def usable(self, request: Request, wanted: list[str] | None) -> tuple[str, ...]:
        """The senses asked for, or all that the clip has. Raises LynxError for one that it has not."""
        model = self.model(request.setup)
        known = self.senses(request.setup)
        unknown = sorted(set(wanted or ()) - set(known))
        if unknown:
            raise LynxError(f"There is no sense {', '.join(unknown)} here; loaded are {', '.join(known)}.")
        takes, clip = {sense.takes for sense in known.values()}, request.clip
        given = {AUDIO: clip.audio, DEPTH: clip.depth, VIEW: clip.views}
        unread = [kind for kind, files in given.items() if files and kind not in takes]
        if unread and wanted is None:
            raise LynxError(f"No sense here takes {unread[0]}; loaded are {', '.join(known)}.")
        request = replace(request, senses=tuple(known if wanted is None else wanted))
        media, notes = self._media(model, request)
        missing = [sense for sense in wanted or () if sense not in media]
        if missing:
            raise MediaError(notes[0] if notes else f"Nothing was given for {', '.join(missing)}.")
        return tuple(sense for sense in request.senses if sense in media)

    def forget(self, conversation: str) -> None:
        """Let go of a conversation's sessions."""
        for key in [key for key in self._sessions if key[0] == conversation]:
            del self._sessions[key]

    def start(self, conversation: str) -> None:
        """Forget an earlier Stop."""
        self._stopped.discard(conversation)

    def stop(self, conversation: str) -> None:
        """End the answer this conversation is being given, at its next token."""
        self._stopped.add(conversation)
        for key, session in list(self._sessions.items()):
            if key[0] == conversation:
                session.stop()

    def stopped(self, conversation: str) -> bool:
        """Whether `stop` was called since `start`."""
        return conversation in self._stopped

    def _session(self, request: Request) -> "tuple[Session, list[str]]":
        """The session of this conversation about this clip, switched as asked, and notes on its media."""
        model = self.model(request.setup)
        media, notes = self._media(model, request)
        on = [sense for sense in request.senses if sense in media]
        key = (request.conversation, request.setup, request.clip)
        session = self._sessions.get(key)
        if session is None or session.model is not model or not set(on) <= set(session.media):
            session = self._sessions[key] = self._open(model, media, on)
            while len(self._sessions) > SESSIONS_KEPT:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(key)
        session.senses = {sense: sense in on for sense in session.media}
        session.history = [
            {"role": role, "content": text}
            for turn in request.history
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return session, notes

    def _open(self, model: "Lynx", media: dict[str, Source], on: list[str]) -> "Session":
        """A session about these media; a bad file of a sense that is off is no hindrance."""
        try:
            return self._guarded(lambda: model.chat(**media))
        except MediaError:
            if len(on) == len(media):
                raise
            return self._guarded(lambda: model.chat(**{sense: media[sense] for sense in on}))

    def _media(self, model: "Lynx", request: Request) -> tuple[dict[str, Source], list[str]]:
        """What each sense reads, on or off. A track the video lacks is a note, a bad file an error."""
        check(request.clip)
        clip, media, notes = request.clip, {}, []
        for sense in self.senses(request.setup).values():
            source = clip.source(sense.takes)
            if source is not None and sense.takes == AUDIO and lacks_sound(source):
                if sense.name in request.senses:
                    notes.append(f"{Path(source).name!r} has no audio track, so there is no {sense.label}.")
            elif source is not None:
                media[sense.name] = source
        if not media:
            raise MediaError(
                f"No sense of this model reads {clip.files!r}: load an adapter, or give a video."
            )
        return media, notes

    def _frames(
        self, session: "Session", request: Request, encode: bool = True
    ) -> "tuple[dict[str, Frames], list[str]]":
        """What each sense that is on looks at, and notes.

        One that finds nothing in the video, such as fast motion in four frames a second, is switched off,
        which is a note; with a file that was given for itself it is an error.
        """
        frames, notes = {}, []
        for sense in [sense for sense, on in session.senses.items() if on]:
            try:
                frames[sense] = self._draw(session, sense, encode)
            except MediaError as error:
                if request.strict or sense == VIDEO or session.media[sense] != request.clip.video:
                    raise
                notes.append(f"There is no {self.senses(request.setup)[sense].label}: {error}")
        session.senses = {sense: sense in frames for sense in session.media}
        if encode:  # once more: little memory may have cost half of the moments meanwhile
            streams = self._guarded(session.encode)
            frames = {sense: streams[sense].frames for sense in frames}
        return frames, notes

    def _draw(self, session: "Session", sense: str, encode: bool) -> "Frames":
        """The (pseudo-)frames of one sense, encoded or not."""
        if not encode:
            return session.model.modality(sense).render(session.media[sense], session.plan.times)
        session.senses = {each: each == sense for each in session.media}
        return self._guarded(session.encode)[sense].frames

    def _guarded(self, call: Callable[[], Result]) -> Result:
        """What `call` returns; too little memory is an error to the user like any other."""
        import torch

        try:
            return call()
        except torch.OutOfMemoryError as error:
            raise BackboneError(
                "The model ran out of memory; use a smaller backbone, int8 or nf4, or a shorter conversation."
            ) from error

    def _guarded_pieces(self, pieces: Iterator[str]) -> Iterator[str]:
        while (piece := self._guarded(lambda: next(pieces, None))) is not None:
            yield piece


def lacks_sound(path: str) -> bool:
    """Whether a video file has no audio track. Raises MediaError when it is not readable."""
    from lynx.media.container import probe

    return not probe(path).audio


def seconds_needed(request: Request) -> int:
    """How long an answer may take on a GPU, estimated before anything is read, for ZeroGPU's scheduler."""
    frames = 16 * len(request.senses)
    return round(SECONDS_TO_START + frames * SECONDS_A_FRAME + MAX_NEW_TOKENS * SECONDS_A_TOKEN)


def seconds_to_compare(request: Request) -> int:
    """The same for an answer with all senses and one without each added one."""
    return (1 + sum(sense != VIDEO for sense in request.senses)) * seconds_needed(request)


def sentence(error: LynxError) -> str:
    """An error as one sentence for people."""
    text = " ".join(str(error).split())
    return text[:1].upper() + text[1:].rstrip(".") + "."
