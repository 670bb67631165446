"""The plain data that crosses rooms: recordings, pseudo-frames, streams of tokens, prompts. No models."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lynx.errors import BackboneError, MediaError

VIDEO = "video"
"""The sense every backbone has: its own frames, which need no adapter."""

EPSILON = 1e-6  # seconds; a frame whose time equals the one asked for is displayed


@dataclass(frozen=True)
class Track:
    """A track of a file, taken or left: `index` in the container, and why it was taken or left."""

    index: int
    type: str  # video, audio, subtitle, data or attachment
    codec: str
    default: bool
    taken: bool
    why: str = ""


@dataclass(frozen=True)
class VideoTrack:
    """A picture track as it is displayed: size in pixels after rotation and with square pixels."""

    width: int
    height: int
    fps: float
    codec: str
    rotation: int  # degrees counter-clockwise that the stored picture is turned by
    index: int = 0  # in the container
    mirrored: bool = False
    sample_aspect: str = "1:1"  # of a stored pixel, width to height
    hdr: str | None = None  # transfer function of high dynamic range: PQ or HLG
    interlaced: bool = False
    duration: float = 0.0  # seconds from time zero of the recording to the track's end
    notes: tuple[str, ...] = ()  # what is assumed of its pictures


@dataclass(frozen=True)
class AudioTrack:
    """A sound track as stored, that can be decoded."""

    sample_rate: int
    channels: int
    codec: str
    index: int = 0  # in the container
    layout: str = "mono"
    default: bool = False
    duration: float = 0.0  # seconds from time zero of the recording to the track's end


@dataclass(frozen=True)
class MediaInfo:
    """Tracks and duration of a recording: of its picture, or of its sound where there is no picture."""

    path: Path
    duration: float  # seconds
    video: VideoTrack | None
    audio: tuple[AudioTrack, ...]  # all that can be decoded
    tracks: tuple[Track, ...] = ()  # all
    sound: AudioTrack | None = None  # the one that is heard unless another is asked for
    picture_notes: tuple[str, ...] = ()  # for the user: what of its pictures is left out or was assumed
    sound_notes: tuple[str, ...] = ()  # the same of its sound
    length_notes: tuple[str, ...] = ()  # that the two differ in length

    @property
    def notes(self) -> tuple[str, ...]:
        """All notes."""
        return (*self.sound_notes, *self.length_notes, *self.picture_notes)


@dataclass(frozen=True)
class Recording:
    """A file or folder, with what belongs to the recording and not to the model that hears or sees it."""

    path: Path  # a str is made one
    track: int | None = None  # index in the container of the sound track that is heard; None: the default one
    fps: float | None = None  # of a folder of pictures or maps, whose names are numbers of frames
    unit: float | None = None  # meters of one step of integer depth maps
    up: str | None = None  # axis of a mesh that points up: x, y, z, -x, -y or -z
    lasts: float | None = None  # seconds over which pictures or maps without a clock are spread
    part: tuple[float, float] | None = None  # seconds that are looked at, where that is not all of it

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @classmethod
    def of(cls, source: "FileSource") -> "Recording":
        """A path as a recording; "clip.mkv#2" is track 2 of clip.mkv, unless there is a file of that name."""
        if isinstance(source, Recording):
            return source
        name, mark, number = str(source).rpartition("#")
        if mark and number.isdecimal() and not os.path.exists(source) and os.path.isfile(name):
            return cls(Path(name), track=int(number))
        return cls(Path(source))


@dataclass(frozen=True)
class Frames:
    """Pictures and their moments: pixels (T, 3, H, W) uint8, times (T,) float64 seconds, ascending.

    For pseudo-frames a time is the middle of the window shown. `duration`: the whole recording's, in seconds.
    """

    pixels: Tensor
    times: Tensor
    duration: float
    labels: tuple[str, ...] = ()  # kind of each picture, where there are several
    notes: tuple[str, ...] = ()  # notes for the user

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3 or self.pixels.dtype != torch.uint8:
            raise MediaError(
                f"Frames need pixels (T, 3, H, W) uint8, not {tuple(self.pixels.shape)} {self.pixels.dtype}."
            )
        if self.times.shape != self.pixels.shape[:1]:
            raise MediaError(f"{len(self.pixels)} frames need as many times, not {tuple(self.times.shape)}.")

    def __len__(self) -> int:
        return len(self.pixels)

    def at(self, times: Tensor) -> "Frames":
        """The frame displayed at each time (n,): the last that began before it; before all, the first."""
        times = torch.as_tensor(times, dtype=torch.float64)
        index = torch.searchsorted(self.times.double(), times + EPSILON, right=True) - 1
        return Frames(self.pixels[index.clamp(min=0)], times, self.duration)


@dataclass(frozen=True)
class Waveform:
    """Sound: samples (n,) float32 mono in [-1, 1] at sample_rate Hz; sample 0 is time 0 of the recording."""

    samples: Tensor
    sample_rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate


def sample_times(duration: float, n: int) -> Tensor:
    """The middles of n equal parts of a recording: (n,) float64 seconds."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) * (duration / n)


@dataclass(frozen=True)
class Moments:
    """Which moments of a clip are looked at: the middles of equal parts of what lies from `start` to `end`.

    Raises MediaError and BackboneError for values that are no such choice.
    """

    frames: int | None = None  # their number; None: by `fps`, else the model's own
    fps: float | None = None  # as many a second
    max_frames: int | None = None  # maximum number, where `frames` does not say it
    start: float = 0.0  # seconds of the recording
    end: float | None = None  # seconds of the recording; None: its end

    def __post_init__(self) -> None:
        for name in ("frames", "max_frames"):
            count = getattr(self, name)
            if count is not None and not (isinstance(count, int | np.integer) and count >= 1):
                raise BackboneError(f"{name} is {count}: expected a whole number of moments, 1 or more")
        if self.fps is not None and not (is_number(self.fps) and self.fps > 0):
            raise BackboneError(f"fps is {self.fps!r}: expected frames a second, above 0")
        if self.frames is not None and self.fps is not None:
            raise BackboneError(f"frames={self.frames} and fps={self.fps:g} both say how many: give one")
        if self.frames is not None and self.max_frames is not None:
            raise BackboneError("max_frames limits what fps gives: frames already says how many, give one")
        if not (is_number(self.start) and self.start >= 0):
            raise MediaError(f"start is {self.start}: expected seconds of the recording, 0 or more")
        if self.end is not None and not (is_number(self.end) and self.end > self.start):
            raise MediaError(f"end is {self.end}: expected seconds after start, which is {self.start:g}")

    @property
    def whole(self) -> bool:
        """Whether all of a recording is looked at, however long it is."""
        return self.start == 0 and self.end is None

    def part(self, duration: float) -> tuple[float, float]:
        """First and last second of what is looked at in a recording that lasts `duration` seconds.

        Raises MediaError when the recording ends before it.
        """
        if self.start >= duration and not self.whole:
            raise MediaError(f"start is {self.start:g} s, but the recording lasts {duration:.2f} s")
        return float(self.start), float(duration if self.end is None else min(self.end, duration))

    def count(self, duration: float, default: int) -> int:
        """How many are asked for: by `frames`, else by `fps`, else `default`; at most `max_frames`."""
        start, end = self.part(duration)
        wanted = max(1, round(self.fps * (end - start))) if self.fps else self.frames or default
        return min(wanted, self.max_frames or wanted)

    def times(self, duration: float, n: int) -> Tensor:
        """The middles of n equal parts of it: (n,) float64 seconds. Raises MediaError as `part` does."""
        start, end = self.part(duration)
        return sample_times(end - start, n) + start


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and math.isfinite(value)


CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)
"""Seconds, with minutes and hours before them."""


def seconds_of(text: str) -> float:
    """Seconds as people write them: 12.5, 1:30 or 1:02:03.5. Raises MediaError for anything else."""
    found = CLOCK.fullmatch(text.strip())
    if found is None or (found[2] and float(found[3]) >= 60) or (found[1] and int(found[2]) >= 60):
        raise MediaError(f"{text!r} is no time: give seconds such as 12.5, or minutes and seconds as 1:30")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor of any precision, row by row: what digests are made of."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True, eq=False)
class DepthClip:
    """Depth maps of a clip, measured when they are asked for."""

    count: int  # of maps
    measure: Callable[[Sequence[int]], np.ndarray]  # indices -> (n, H, W) float32 meters, 0 = no return
    times: np.ndarray | None = None  # (count,) ascending seconds, None where the maps have no clock
    duration: float | None = None  # seconds
    intrinsics: np.ndarray | None = None  # (3, 3) pixels
    poses: np.ndarray | None = None  # (count, 4, 4), not finite where the camera was lost
    notes: tuple[str, ...] = ()  # what had to be assumed
    background: bool = False  # whether no return is empty background, as around a mesh, not a hole
    unit: float | None = None  # meters of one step of what is stored; None where it is unknown
    unit_from: str = ""  # who says so
    up: str | None = None  # axis of a mesh that points up, as in Recording.up
    orbit: bool = False  # whether the maps are views around a shape, of which each moment gets the next
    size: tuple[int, int] | None = None  # height and width of the maps, where known before one is measured

    @classmethod
    def of(cls, meters: np.ndarray, **known: Any) -> "DepthClip":
        """Maps in memory: (T, H, W) meters, with what is known of `times`, `duration`, `intrinsics`, `poses`.

        Raises MediaError when there is no map, or not one time and pose for each.
        """
        if meters.ndim != 3 or not meters.size:
            raise MediaError(f"Depth needs maps (T, H, W) in meters, not {meters.shape}.")
        for name in ("times", "poses"):
            if known.get(name) is not None and len(known[name]) != len(meters):
                raise MediaError(f"{len(meters)} depth maps need as many {name}, not {len(known[name])}.")
        return cls(len(meters), lambda indices: valid_depth(meters[list(indices)]), **known)


def valid_depth(meters: np.ndarray) -> np.ndarray:
    """float32 meters, with 0 for values that are not distances."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(meters) & (meters > 0), meters, 0).astype(np.float32)


FileSource = str | Path | Recording
"""A file or folder: by its path, "clip.mkv#2" for its sound track 2, or with what is known of it."""

MediaSource = FileSource | Frames | Waveform | DepthClip | Mapping[str, Any]
"""Source of a sense: a file or folder, or media in memory; several clips are a mapping from their names."""

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}; the first user message has the media."""

PLACEMENTS = ("continue", "parallel", "share")
"""Which positions the tokens of a sense get: behind all before them; right behind the video, as if alone; or,
in a family with positions in time and space, at the video's own moments. It travels with the adapter."""


@dataclass(frozen=True)
class TokenLayout:
    """Frame and cell of each token of an encoded stream; -1 marks a token of no frame, such as a newline."""

    frame: Tensor  # (n,) int; the first one where a token stands for several
    cell: Tensor  # (n, 2) int, row and column
    grid: tuple[int, int]  # rows, columns
    frames_a_token: int = 1  # consecutive frames that a token stands for
    last_alone: bool = False  # whether last frames that are too few stand for their own second alone

    @classmethod
    def of(
        cls, steps: int, grid: tuple[int, int], frames_a_token: int = 1, last_alone: bool = False
    ) -> "TokenLayout":
        """Tokens that go over rows and columns (row by row), step by step."""
        axes = (torch.arange(size) for size in (steps, *grid))
        step, row, col = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
        return cls(step * frames_a_token, torch.stack([row, col], dim=1), grid, frames_a_token, last_alone)

    def seconds(self, times: Tensor) -> Tensor:
        """The second (n,) that each token stands for; times: (T,) of the frames. NaN where there is none."""
        times, more = times.double(), torch.arange(1, self.frames_a_token)
        # The last token's missing frames are where the next ones would be, or where the last one is.
        spacing = 0 if self.last_alone else (times[-1] - times[0]) / max(1, len(times) - 1)
        padded = torch.cat([times, times[-1] + spacing * more])
        middle = padded.unfold(0, self.frames_a_token, 1).mean(dim=1)  # (T,)
        return torch.where(self.frame < 0, torch.nan, middle[self.frame.clamp(min=0)])


@dataclass(frozen=True)
class Stream:
    """The tokens of one sense in one clip, with the second and the grid cell each of them stands for.

    A token is a row of R numbers: D, which the LLM reads as if it were a word, and in a family whose LLM is
    given more (Qwen3-VL) D for each of its first layers behind them.
    """

    sense: str
    tokens: Tensor  # (n, R)
    times: Tensor  # (n,) seconds, NaN for a newline
    cells: Tensor  # (n, 2) int, -1 for a newline
    grid: tuple[int, int]
    frames: Any  # Frames: the uint8 (pseudo-)frames as the model sees them
    placement: str = "continue"  # one of PLACEMENTS
    type_embedding: Tensor | None = None  # (D,), added to the first D of each of them before the LLM
    duration: float | None = None  # seconds of the whole recording; None where that is not known

    @property
    def embeds(self) -> Tensor:
        """(n, R) what the LLM gets: the tokens, marked by the sense's type embedding if it has one."""
        mark = self.type_embedding
        if mark is None:
            return self.tokens
        return self.tokens + F.pad(mark.to(self.tokens), (0, self.tokens.shape[1] - len(mark)))

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens and the frames."""
        return sum(x.nbytes for x in (self.tokens, self.times, self.cells, self.frames.pixels))

    @property
    def steps(self) -> int:
        """Number of moments that have tokens."""
        return int((~self.times.isnan()).sum()) // math.prod(self.grid)

    @property
    def spacing(self) -> float:
        """Seconds from one step to the next; 1 where there is one step."""
        moments = self.times[~self.times.isnan()][:: math.prod(self.grid)]
        return float((moments[-1] - moments[0]) / (len(moments) - 1)) if len(moments) > 1 else 1.0


@dataclass(frozen=True)
class Prompt:
    """One prompt, ready for the LLM, which takes it as `Backbone.inputs` says.

    `spans` says where each sense's tokens stand (in a single prompt).
    """

    input_ids: Tensor  # (B, S)
    inputs_embeds: Tensor  # (B, S, R): words, and the senses' tokens
    attention_mask: Tensor  # (B, S)
    position_ids: Tensor  # (B, S), or (3, B, S) in a family with positions in time and space
    spans: dict[str, Tensor] = field(default_factory=dict)  # (n,) int each
