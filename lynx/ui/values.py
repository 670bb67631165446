"""What goes between the page and its engine: plain data that can be pickled and sits on the CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lynx.errors import MediaError
from lynx.modalities.base import Source
from lynx.modalities.multi_view import View
from lynx.modalities.video import Video
from lynx.types import VIDEO

if TYPE_CHECKING:
    from torch import Tensor

    from lynx.types import Frames

EMBEDDED = "lynx-tiny"
AUDIO, DEPTH, VIEW = "audio", "depth", "view"
"""The kinds of files that there is a place for: what a `Modality` can take."""


@dataclass(frozen=True)
class Setup:
    """Which model: a backbone, its precision, and its adapters (folders or Hub ids)."""

    backbone: str = EMBEDDED
    precision: str = "auto"
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sense:
    """What a loaded model can sense."""

    name: str  # its adapter's
    label: str  # to people
    modality: str
    takes: str  # the kind of file that it reads


PICTURE = Sense(VIDEO, Video.label, VIDEO, Video.takes)
"""What every model has, before anything is known of its adapters."""


@dataclass(frozen=True)
class Clip:
    """Which recording: one file, or folder, for each kind that senses take.

    The sound is the video's own where there is no `audio`. views: further clips, each with the second of the
    video at which it begins.
    """

    video: str | None = None
    audio: str | None = None
    depth: str | None = None
    views: tuple[tuple[str, float], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All that was given."""
        given = (self.video, self.audio, self.depth, *(path for path, _ in self.views))
        return tuple(path for path in given if path)

    @property
    def files(self) -> str:
        """Their names, for people."""
        return " + ".join(Path(path).name for path in self.paths)

    def source(self, takes: str) -> Source | None:
        """What a sense reads that takes this kind of file; None where it was not given."""
        if takes == VIEW:
            return named_views(self.views) or None
        return {VIDEO: self.video, AUDIO: self.audio or self.video, DEPTH: self.depth}.get(takes)


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
class Sight:
    """What the model looks at: the (pseudo-)frames of each sense, small, and what they cost."""

    frames: "Mapping[str, Frames]" = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    context: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What each word of an answer rests on. Index 0 is the whole answer, then word by word."""

    words: tuple[str, ...]
    shares: tuple[Mapping[str, float], ...]
    curves: "tuple[Mapping[str, tuple[Tensor, Tensor]], ...]"
    maps: "tuple[Mapping[str, Tensor], ...]"
    frames: "Mapping[str, Frames]"


@dataclass(frozen=True)
class Reply:
    """An answer: the senses used with their frames and seconds, notes, and what it rests on."""

    answer: str
    used: Mapping[str, tuple[int, float]]
    notes: tuple[str, ...] = ()
    findings: Findings | None = None


@dataclass(frozen=True)
class Offer:
    """An adapter that could be added, and why it cannot: an empty reason means that it fits."""

    source: str
    modality: str = ""
    revision: str = ""
    reason: str = ""


def named_views(views: Sequence[tuple[str, float]]) -> dict[str, View]:
    """Further clips by the names of their files; where two are called the same they are counted."""
    named: dict[str, View] = {}
    for path, offset in views:
        name, count = Path(path).stem, 1
        while name in named:
            count += 1
            name = f"{Path(path).stem} {count}"
        named[name] = View(path, offset)
    return named


def check(clip: Clip) -> None:
    """Raises MediaError when a file of the clip cannot be used for what it was given for."""
    from lynx.media.container import probe

    if not clip.paths:
        raise MediaError("Give a video or another recording first, or pick an example.")
    if clip.video and probe(clip.video).video is None:
        raise MediaError(f"{Path(clip.video).name!r} has no picture track; give it as a sound file instead.")
    if clip.audio and not probe(clip.audio).audio:
        raise MediaError(f"{Path(clip.audio).name!r} has no audio track; give another sound file.")
