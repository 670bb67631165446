"""Data between the page and its engine: plain, picklable, and on the CPU."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lynx.errors import LynxError, MediaError
from lynx.evidence.methods import ATTRIBUTION
from lynx.modalities.multi_view import View
from lynx.modalities.video import Video
from lynx.types import VIDEO, FileSource, MediaSource, Moments, Recording, seconds_of

if TYPE_CHECKING:
    from lynx.evidence.record import Record
    from lynx.types import Frames, Message

EMBEDDED = "lynx-tiny"
MAX_NEW_TOKENS = 128
"""Maximum tokens of an answer where nothing else is asked for."""
HOTTEST = 2
"""The highest temperature: answers are noise by then."""
DEFAULT = " (default)"
"""How the label of a file's default sound track ends."""
AUDIO, DEPTH, VIEW = "audio", "depth", "view"  # what a `Modality` can take beside a video


@dataclass(frozen=True)
class Setup:
    """Which model: a backbone, its precision, and its adapters (folders or Hub ids)."""

    backbone: str = EMBEDDED
    precision: str = "auto"
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sense:
    """A sense of a loaded model."""

    name: str  # its adapter's
    label: str  # for people
    modality: str
    takes: str  # the kind of file that it reads


PICTURE = Sense(VIDEO, Video.label, VIDEO, Video.takes)  # which every model has


@dataclass(frozen=True)
class AdapterOption:
    """An adapter that could be added; `reason` says why it cannot, and is empty where it fits.

    about: what it was trained on and how good it is, in a line.
    """

    source: str
    modality: str = ""
    revision: str = ""
    reason: str = ""
    about: str = ""


@dataclass(frozen=True)
class Clip:
    """One recording: a file or folder for each kind that senses take.

    audio: the video's own sound where it is None. views: further clips, each with the second of the video at
    which it begins. moments: what of it is looked at. track: index of the sound track that is heard, None for
    the default one. unit: meters of one step of depth; up: the axis of a mesh that points up.
    """

    video: str | None = None
    audio: str | None = None
    depth: str | None = None
    views: tuple[tuple[str, float], ...] = ()
    moments: Moments = Moments()
    track: int | None = None
    unit: float | None = None
    up: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """All files that were given."""
        given = (self.video, self.audio, self.depth, *(path for path, _ in self.views))
        return tuple(path for path in given if path)

    @property
    def files(self) -> str:
        """Their names, for people."""
        return " + ".join(Path(path).name for path in self.paths)

    @property
    def title(self) -> str:
        """The same, with the part that is looked at."""
        if self.moments.whole:
            return self.files
        end = "the end" if self.moments.end is None else f"{self.moments.end:g} s"
        return f"{self.files}, {self.moments.start:g} s to {end}"

    def names(self, takes: str) -> str | None:
        """Names of the files that a sense reads which takes this kind; None where there are none."""
        given = {VIDEO: [self.video], AUDIO: [self.audio or self.video], DEPTH: [self.depth]}
        paths = given.get(takes, [path for path, _ in self.views])
        return " + ".join(Path(path).name for path in paths if path) or None

    def source(self, takes: str) -> MediaSource | None:
        """The source of a sense that takes this kind of file; None where it was not given."""
        named: dict[str, View] = {}
        for path, offset in self.views:
            name, count = Path(path).stem, 1
            while name in named:  # files of one name are counted
                count += 1
                name = f"{Path(path).stem} {count}"
            named[name] = View(path, offset)
        sound: FileSource | None = self.audio or self.video
        if sound and self.track is not None:
            sound = Recording(Path(sound), track=self.track)
        depth: FileSource | None = self.depth
        if depth and (self.unit or self.up):
            depth = Recording(Path(depth), unit=self.unit, up=self.up)
        return {VIDEO: self.video, AUDIO: sound, DEPTH: depth, VIEW: named or None}.get(takes)

    def check(self) -> None:
        """Raises: MediaError: there is no file, or one without the track that it was given for."""
        from lynx.media.container import probe

        if not self.paths:
            raise MediaError("Give a video or another recording first, or pick an example.")
        if self.video and probe(self.video).video is None:
            name = Path(self.video).name
            raise MediaError(f"{name!r} has no picture track; give it as a sound file instead.")
        if self.audio and not probe(self.audio).audio:
            raise MediaError(f"{Path(self.audio).name!r} has no audio track; give another sound file.")
        sound = self.audio or self.video
        if self.track is not None and sound and self.track not in (tracks := sound_tracks(sound)):
            there = ", ".join(tracks.values()) or "none"
            raise MediaError(f"{Path(sound).name!r} has no sound track {self.track}; it has {there}.")


def moments_of(
    start: str | None, end: str | None, fps: str | float | None, max_frames: str | float | None
) -> Moments:
    """What is looked at, from the fields of a page or a request; empty ones are as if not given.

    Raises: LynxError: one of them is no time or number.
    """
    begin, until = (seconds_of(text) if (text or "").strip() else None for text in (start, end))
    rate, most = _number(fps, "Frames a second"), _number(max_frames, "Most frames")
    whole: Any = int(most) if most is not None and most == int(most) else most
    return Moments(None, rate, whole, begin or 0.0, until)


def answer_settings(max_new_tokens: str | None, temperature: str | None) -> tuple[int, float]:
    """The length of an answer and its temperature, from the fields of a page; empty ones are as usual.

    Raises: LynxError: one of them is no such number.
    """
    most = _number(max_new_tokens, "Most tokens of an answer") or MAX_NEW_TOKENS
    if most != int(most):
        raise LynxError(f"Most tokens of an answer: {max_new_tokens!r} is no whole number.")
    text = (temperature or "").strip()
    try:
        heat = float(text or 0)
    except ValueError:
        heat = -1.0
    if not 0 <= heat <= HOTTEST:
        raise LynxError(f"Temperature: {text!r} is no number from 0 to {HOTTEST}; leave it empty for 0.")
    return int(most), heat


def _number(given: str | float | None, name: str) -> float | None:
    if given is None or not (text := str(given).strip()):
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise MediaError(f"{name}: {text!r} is no number above 0; leave it empty to let the model choose.")
    return value


def depth_settings(unit: str | None, up: str | None) -> tuple[float | None, str | None]:
    """The unit and the axis that points up, from the fields of a page or a request.

    Raises: MediaError: there is no such unit or axis.
    """
    from lynx.media.side_files import parse_unit, parse_up

    return parse_unit(unit) if unit else None, parse_up(up) if up else None


def sound_tracks(path: str) -> dict[int, str]:
    """The sound tracks of a file that can be decoded, by index: "#2 aac stereo (default)".

    Raises: MediaError: it cannot be read.
    """
    from lynx.media.container import probe

    info = probe(path)
    usual = {1: "mono", 2: "stereo"}  # which some files leave unnamed
    return {
        track.index: f"#{track.index} {track.codec} {usual.get(track.channels, track.layout)}"
        + DEFAULT * (track == info.sound)
        for track in info.audio
    }


@dataclass(frozen=True)
class Request:
    """One question: everything an answer depends on."""

    conversation: str
    setup: Setup
    clip: Clip
    senses: tuple[str, ...]
    history: tuple[tuple[str, str], ...] = ()  # (question, answer)
    question: str = ""
    strict: bool = False  # whether it is an error, and no note, that a sense finds nothing in the video
    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0  # 0 is greedy

    @property
    def messages(self) -> "list[Message]":
        """The conversation, which ends in the question."""
        said: list[Message] = []
        for question, answer in self.history:
            said.append({"role": "user", "content": question})
            said.append({"role": "assistant", "content": answer})
        return [*said, {"role": "user", "content": self.question.strip()}]


@dataclass(frozen=True)
class Preview:
    """What the model looks at: small (pseudo-)frames of each sense, and their tokens."""

    frames: "Mapping[str, Frames]" = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    context: int = 0
    notes: tuple[str, ...] = ()
    part: tuple[float, float] | None = None  # seconds of the recording, where not all of it is looked at


Chosen = tuple[int | None, str]
"""What is looked at of an answer: the index of a word, None for all of it, and the name of a method."""
WHOLE: Chosen = (None, ATTRIBUTION)


@dataclass(frozen=True)
class GivenAnswer:
    """An answer as its model gave it: enough to look into it again, in any process.

    request: its question, with the senses that were used. ids: its tokens. weights: digests of the adapters.
    """

    request: Request
    ids: tuple[int, ...]
    weights: tuple[bytes, ...]


@dataclass(frozen=True, eq=False)
class EvidenceView:
    """What an answer rests on, on the CPU; whoever shows the answer holds the same object.

    given: the answer that it is of. record: see `lynx.evidence.record`; what is computed later joins it.
    frames: small pictures of each sense. part: seconds of the recording, where not all was looked at.
    wanted: what is to be computed, in the order in which it was asked for. key: tells equal answers apart.
    """

    given: GivenAnswer
    record: "Record"
    frames: "Mapping[str, Frames]"
    part: tuple[float, float] | None = None
    wanted: list[Chosen] = field(default_factory=list)
    key: str = field(default_factory=lambda: uuid4().hex)

    @property
    def first(self) -> Chosen:
        """What is looked at first: the whole answer, or its only word."""
        return (0, ATTRIBUTION) if len(self.record["words"]) == 1 else WHOLE

    def known(self, chosen: Chosen) -> bool:
        """Whether this was computed already."""
        return any((each["word"], each["method"]) == chosen for each in self.record["attributions"])

    def next_wanted(self) -> Chosen | None:
        """What is computed next; it is wanted no more."""
        while self.wanted:
            with suppress(IndexError):  # another thread took the last one
                if not self.known(chosen := self.wanted.pop(0)):
                    return chosen
        return None

    def join(self, found: "Record") -> None:
        """Add what was computed, one of a record's "attributions", once.

        Raises: LynxError where it is of other moments, as when memory ran out in between.
        """
        chosen = (found["word"], found["method"])
        for sense, moments in found["values"].items():
            if len(moments) != len(self.record["senses"][sense]["times"]):
                raise LynxError("the clip is looked at in another way than for this answer: ask again")
        if not self.known(chosen):
            self.record["attributions"].append(found)


@dataclass(frozen=True)
class Reply:
    """An answer: the senses used with their frames and seconds, notes, and what it rests on.

    part: seconds of the recording, where not all of it was looked at. of_clip: those of the notes that are
    about the clip, which its preview says too.
    """

    answer: str
    used: Mapping[str, tuple[int, float]]
    notes: tuple[str, ...] = ()
    evidence: EvidenceView | None = None
    part: tuple[float, float] | None = None
    of_clip: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatTurn:
    """A question and its answer as shown, with the model and the clip they were about.

    used, part: see `Reply`. labels: of the model's senses, for people. stopped: whether the visitor ended it.
    """

    question: str
    answer: str
    setup: Setup
    clip: Clip
    chips: str = ""
    notes: tuple[str, ...] = ()
    evidence: EvidenceView | None = None
    used: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    part: tuple[float, float] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    stopped: bool = False


@dataclass(frozen=True)
class Chat:
    """One conversation: what a visitor's page remembers between clicks.

    key: its name in the engine, empty until the page has loaded. before: the setup whose place an example
    that needs another adapter has taken. secret: by which its visitor comes back to it after a reload.
    """

    key: str
    setup: Setup
    senses: tuple[Sense, ...] = (PICTURE,)
    turns: tuple[ChatTurn, ...] = ()
    before: Setup | None = None
    secret: str = ""

    def ticked(self, boxes: Sequence[str]) -> tuple[str, ...]:
        """The names of the model's senses that are ticked, in the model's order.

        All of them where a page sends a box of the model before: it has not heard yet that another was
        loaded, and then all are ticked.
        """
        names = tuple(sense.name for sense in self.senses)
        return tuple(name for name in names if name in boxes) if set(boxes) <= set(names) else names

    @property
    def labels(self) -> dict[str, str]:
        """The senses' words for people, by name."""
        return {sense.name: sense.label for sense in self.senses}

    @property
    def places(self) -> set[str]:
        """The kinds of files that its senses take."""
        return {sense.takes for sense in self.senses}

    def about(self, clip: Clip) -> tuple[tuple[str, str], ...]:
        """The latest questions and answers that were about this clip, with this model."""
        return tuple((turn.question, turn.answer) for turn in self.turns[self.begin(self.setup, clip) :])

    def begin(self, setup: Setup, clip: Clip) -> int:
        """Where the latest turns begin that were about this clip, with this model."""
        at = len(self.turns)
        while at and (self.turns[at - 1].setup, self.turns[at - 1].clip) == (setup, clip):
            at -= 1
        return at

    def find(self, evidence: EvidenceView | None) -> ChatTurn | None:
        """The turn that this evidence is of, if the conversation still has it."""
        return next((turn for turn in self.turns if evidence and turn.evidence is evidence), None)

    def latest(self, setup: Setup, clip: Clip) -> EvidenceView | None:
        """What the latest answer about this clip, with this model, rests on."""
        for turn in reversed(self.turns):
            if (turn.setup, turn.clip) == (setup, clip):
                return turn.evidence
        return None
