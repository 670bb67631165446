"""Data between the page and its engine: plain, picklable, and on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lynx.errors import MediaError
from lynx.modalities.multi_view import View
from lynx.modalities.video import Video
from lynx.types import VIDEO, MediaSource

if TYPE_CHECKING:
    from torch import Tensor

    from lynx.types import Frames
    from lynx.visualization.drawing import Curve

EMBEDDED = "lynx-tiny"
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
    """An adapter that could be added; `reason` says why it cannot, and is empty where it fits."""

    source: str
    modality: str = ""
    revision: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Clip:
    """One recording: a file or folder for each kind that senses take.

    audio: the video's own sound where it is None. views: further clips, each with the second of the video at
    which it begins.
    """

    video: str | None = None
    audio: str | None = None
    depth: str | None = None
    views: tuple[tuple[str, float], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All files that were given."""
        given = (self.video, self.audio, self.depth, *(path for path, _ in self.views))
        return tuple(path for path in given if path)

    @property
    def files(self) -> str:
        """Their names, for people."""
        return " + ".join(Path(path).name for path in self.paths)

    def source(self, takes: str) -> MediaSource | None:
        """The source of a sense that takes this kind of file; None where it was not given."""
        named: dict[str, View] = {}
        for path, offset in self.views:
            name, count = Path(path).stem, 1
            while name in named:  # files of one name are counted
                count += 1
                name = f"{Path(path).stem} {count}"
            named[name] = View(path, offset)
        given = {VIDEO: self.video, AUDIO: self.audio or self.video, DEPTH: self.depth, VIEW: named or None}
        return given.get(takes)

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


@dataclass(frozen=True)
class Preview:
    """What the model looks at: small (pseudo-)frames of each sense, and their tokens."""

    frames: "Mapping[str, Frames]" = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    context: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvidenceView:
    """What an answer rests on: at index 0 of each tuple the whole of it, then word by word."""

    words: tuple[str, ...]
    shares: tuple[Mapping[str, float], ...]
    curves: "tuple[Mapping[str, Curve], ...]"
    maps: "tuple[Mapping[str, Tensor], ...]"
    frames: "Mapping[str, Frames]"


@dataclass(frozen=True)
class Reply:
    """An answer: the senses used with their frames and seconds, notes, and what it rests on."""

    answer: str
    used: Mapping[str, tuple[int, float]]
    notes: tuple[str, ...] = ()
    evidence: EvidenceView | None = None


@dataclass(frozen=True)
class ChatTurn:
    """A question and its answer as shown, with the model and the clip they were about."""

    question: str
    answer: str
    setup: Setup
    clip: Clip
    chips: str = ""


@dataclass(frozen=True)
class Chat:
    """One conversation: what a visitor's page remembers between clicks.

    key: its name in the engine, empty until the page has loaded. evidence: that of the last answer.
    """

    key: str
    setup: Setup
    senses: tuple[Sense, ...] = (PICTURE,)
    turns: tuple[ChatTurn, ...] = ()
    evidence: EvidenceView | None = None

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
        kept: list[tuple[str, str]] = []
        for turn in reversed(self.turns):
            if (turn.setup, turn.clip) != (self.setup, clip):
                break
            kept.append((turn.question, turn.answer))
        return tuple(reversed(kept))
