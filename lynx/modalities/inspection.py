"""What a chat would see and hear of a recording, without a model: `lynx.inspect` and `lynx inspect`.

The pictures come from the senses themselves, in their default rendering, so that what is drawn and noted
here is what is drawn and noted in a chat. Only the frames of a video are not made smaller first.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lynx.errors import MediaError
from lynx.media.audio import iter_audio
from lynx.media.container import probe
from lynx.media.depth import open_depth
from lynx.media.maps import MAPS
from lynx.media.mesh import MESHES
from lynx.media.video import read_frames, read_levels, shown_at
from lynx.media.writer import write_png
from lynx.modalities.audio import Audio, AudioRendering
from lynx.modalities.depth import Depth
from lynx.modalities.video import Video
from lynx.types import (
    AudioTrack,
    DepthClip,
    FileSource,
    Frames,
    MediaInfo,
    MediaSource,
    Recording,
    Track,
    VideoTrack,
    sample_times,
)

MAX_MOMENTS = 1024
"""Maximum moments of a recording that are looked at."""
MAX_PICTURE_BYTES = 2**29
"""Maximum bytes of a video's pictures, which are made smaller beyond it: 20 of 3840 x 2160 pixels."""
SAMPLES_AT_ONCE = 2**18
"""Maximum samples whose level is taken at once, which limits memory."""
FLOOR_DBFS = -120.0
"""Lowest level that is reported; silence has it."""
SPECKLES = 0.1
"""Percent of a depth map's returns, at the near and at the far end, that are left out of its range."""
NO_VIDEO = (".npy", *MESHES)
"""Endings of files that are depth and never have a picture track."""


@dataclass(frozen=True)
class DepthFacts:
    """Depth as it was read: unit is in meters a step, range_m the nearest and farthest return drawn."""

    maps: int
    unit: float | None
    unit_from: str | None
    up: str | None
    range_m: tuple[float, float] | None
    holes: float | None


@dataclass(frozen=True)
class Inspection:
    """What a chat would see and hear of a recording.

    times: (T,) seconds asked for; shown_at: (T,) seconds at which the frames displayed there begin;
    level_dbfs: (T,) of the sound around each; frames: the pictures of each sense, by its name.
    """

    file: str
    kind: str  # video, audio, depth or mesh
    duration: float  # seconds
    tracks: tuple[Track, ...]
    times: tuple[float, ...]
    video: VideoTrack | None = None
    shown_at: tuple[float, ...] = ()
    audio: AudioTrack | None = None
    level_dbfs: tuple[float, ...] = ()
    depth: DepthFacts | None = None
    notes: tuple[str, ...] = ()
    frames: Mapping[str, Frames] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """What `lynx inspect --json` prints: plain values, a sense that is not there is None."""
        video = audio = depth = None
        if (picture := self.video) is not None:
            video = {
                "width": picture.width, "height": picture.height, "rotation": picture.rotation,
                "mirrored": picture.mirrored, "sample_aspect": picture.sample_aspect,
                "rate": float(picture.fps), "hdr": picture.hdr, "interlaced": picture.interlaced,
                "duration": float(picture.duration or self.duration),
                "times": self.times, "shown_at": self.shown_at,
            }  # fmt: skip
        if (sound := self.audio) is not None:
            audio = {
                "sample_rate": sound.sample_rate, "channels": sound.channels, "layout": sound.layout,
                "duration": float(sound.duration or self.duration), "level_dbfs": self.level_dbfs,
            }  # fmt: skip
        if self.depth is not None:
            depth = _plain(asdict(self.depth)) | {"unit": _plain(self.depth.unit, 9)}
        told = {"file": self.file, "kind": self.kind, "duration": float(self.duration)}
        told |= {"tracks": list(map(asdict, self.tracks)), "video": video, "audio": audio}
        return {**_plain(told), "depth": depth, "notes": list(self.notes)}

    def write(self, folder: Path) -> list[Path]:
        """Write every picture as a PNG, video_00.png, audio_00.png, ...; returns the files.

        Raises MediaError when one cannot be written.
        """
        written = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for sense, frames in self.frames.items():
                for number, picture in enumerate(frames.pixels):
                    written.append(folder / f"{sense}_{number:02d}.png")
                    write_png(written[-1], picture)
        except OSError as error:
            place = repr(str(folder))
            raise MediaError(f"The pictures cannot be written to {place}: {error.strerror}.") from error
        return written

    def __str__(self) -> str:
        """The same for people, a line a fact."""
        rows = [("tracks", _track_line(track)) for track in self.tracks]
        rows.append(("moments", "  ".join(map(clock, self.times))))
        if (video := self.video) is not None:
            turned = f", turned by {video.rotation} degrees" if video.rotation else ""
            mirrored, interlaced = ", mirrored" * video.mirrored, ", interlaced" * video.interlaced
            aspect = "" if video.sample_aspect == "1:1" else f", pixels of {video.sample_aspect}"
            hdr = f", {video.hdr}" if video.hdr else ""
            rate = f"{video.fps:.6g} frame{'s' * (video.fps != 1)} a second"
            size = f"{video.width} x {video.height} pixels, {rate}"
            rows.append(("picture", f"{size}{turned}{mirrored}{aspect}{interlaced}{hdr}"))
            rows.append(("shown at", "  ".join(map(clock, self.shown_at))))
        if (audio := self.audio) is not None:
            length = clock(audio.duration or self.duration)
            rows.append(("sound", f"{audio.sample_rate} Hz, {audio.layout}, {length}"))
            rows.append(("dBFS", "  ".join(f"{level:.1f}" for level in self.level_dbfs)))
        if (depth := self.depth) is not None:
            parts = [f"{depth.maps} {'views' if self.kind == 'mesh' else 'maps'}"]
            if depth.unit:
                parts.append(f"a step is {depth.unit:g} m ({depth.unit_from})")
            if depth.up:
                parts.append(f"{depth.up} is up")
            if depth.range_m:
                parts.append(f"{depth.range_m[0]:.3g} to {depth.range_m[1]:.3g} m")
            if depth.holes is not None:
                parts.append(f"{100 * depth.holes:.3g} % without a return")
            rows.append(("depth", ", ".join(parts)))
        rows += [("notes", note) for note in self.notes]
        lines, last = [f"{self.file}: {self.kind}, {clock(self.duration)}"], ""
        for name, text in rows:
            lines.append(f"  {'' if name == last else name:<8}  {text}")
            last = name
        return "\n".join(lines)


def inspect(
    source: FileSource,
    frames: int = 8,
    start: float | None = None,
    end: float | None = None,
    *,
    as_depth: bool = False,
) -> Inspection:
    """What a chat with `frames` moments of a recording, or of what lies between two seconds of it, would see.

    as_depth: read a video as depth, too, where nothing in the file says that it is.
    Raises MediaError when it is no recording, or has no such part.
    """
    recording, depth = Recording.of(source), _MeasuredDepth()
    info, duration, has_depth = _open(recording, depth, as_depth)
    times, spacing = _moments(recording.path.name, duration, frames, start, end)
    drawn: dict[str, Frames] = {}
    found: dict[str, Any] = {}
    notes: list[str] = []
    if info is not None and info.video is not None:
        drawn["video"] = _pictures(recording, info.video, times, notes)
        found |= {"video": info.video, "shown_at": tuple(shown_at(recording, times))}
    if info is not None and (track := info.sound) is not None:
        with _noted_beside(drawn, "sound", notes):
            level_dbfs = tuple(levels(recording, times, spacing))
            drawn["audio"] = Audio().render(recording, times)
            found |= {"audio": track, "level_dbfs": level_dbfs}
    if has_depth:
        with _noted_beside(drawn, "depth", notes):
            drawn["depth"] = depth.render(recording, times)
            found["depth"] = depth.facts()
    if info is not None:
        kind = "audio" if info.video is None else "video"
    else:
        kind = "mesh" if depth.clip is not None and depth.clip.background else "depth"
    return Inspection(
        str(recording.path),
        kind,
        duration,
        info.tracks if info else (),
        tuple(times.tolist()),
        notes=tuple(dict.fromkeys((*(info.notes if info else ()), *notes_of(drawn.values()), *notes))),
        frames=drawn,
        **found,
    )


def notes_of(drawn: Iterable[Frames]) -> tuple[str, ...]:
    """What had to be assumed or left out in what the senses have drawn; each note once."""
    return tuple(dict.fromkeys(note for frames in drawn for note in frames.notes))


def _open(recording: Recording, depth: Depth, as_depth: bool) -> tuple[MediaInfo | None, float, bool]:
    """A recording's tracks if it has any, its seconds, and whether it is depth.

    Raises MediaError when it has neither tracks nor depth.
    """
    path, ending, info = recording.path, recording.path.suffix.lower(), None
    if not path.exists():
        raise MediaError(f"There is no file {str(path)!r}; give the path of a recording.")
    if path.is_dir() or ending not in NO_VIDEO:
        try:
            info = probe(recording)
        except MediaError:
            if path.is_file() and ending in Audio.suffixes:  # nothing else is named like this
                raise
    if info is not None and path.is_file():
        is_depth = as_depth or (info.video is not None and read_levels(recording, [0.0]).ndim == 3)
        return info, info.duration, is_depth
    pictures = set(Video.files(path)) if info is not None else set()
    try:
        files = depth.files(path)
        if path.is_dir() and not files:
            what = "no pictures, depth maps or mesh"
            raise MediaError(f"{str(path)!r} holds {what}; give its files, or a folder of such.")
        seconds = depth.duration(recording)
        if pictures & {file for file in files if file.suffix.lower() in MAPS}:
            open_depth(recording).measure([0])  # raises unless they have 16 bits, as maps have
    except MediaError:
        if info is None or as_depth:
            raise
        return info, info.duration, False
    info = None if pictures <= set(files) else info  # the maps are no pictures beside themselves
    return info, info.duration if info else seconds, True


@contextmanager
def _noted_beside(drawn: Mapping[str, Frames], label: str, notes: list[str]) -> Iterator[None]:
    """A sense that cannot be drawn is noted beside others, and is an error where there are none."""
    try:
        yield
    except MediaError as error:
        if not drawn:
            raise
        notes.append(f"there is no {label}: {str(error).rstrip('.')}")


def _moments(
    name: str, duration: float, frames: int, start: float | None, end: float | None
) -> tuple[Tensor, float]:
    """The middles (frames,) of equal parts of what lies between two seconds, and the seconds of a part."""
    if not 1 <= frames <= MAX_MOMENTS:
        raise MediaError(f"{frames} moments are asked for; 1 to {MAX_MOMENTS} are looked at.")
    begin, stop = start or 0.0, duration if end is None else min(end, duration)
    if not 0 <= begin < stop:
        asked = f"from {begin:g} s" if end is None else f"from {begin:g} to {end:g} s"
        raise MediaError(f"{name!r} lasts {duration:.2f} s: there is no part of it {asked}.")
    return begin + sample_times(stop - begin, frames), (stop - begin) / frames


def _pictures(recording: Recording, track: VideoTrack, times: Tensor, notes: list[str]) -> Frames:
    """The frames of a video as displayed, smaller only where so many of them would fill the memory."""
    share = math.sqrt(MAX_PICTURE_BYTES / (3 * track.width * track.height * len(times)))
    if share >= 1:
        return read_frames(recording, times)
    frames = read_frames(recording, times, max(1, int(max(track.width, track.height) * share)))
    height, width = frames.pixels.shape[-2:]
    notes.append(f"the pictures are drawn {width} x {height}: {len(times)} larger ones would fill the memory")
    return frames


def levels(recording: Recording, times: Tensor, spacing: float) -> list[float]:
    """Level of the sound around each moment (T,): dB, 0 is a full-scale sine; FLOOR_DBFS is silence.

    The root mean square of mono as it is heard, over `spacing` seconds with the moment in their middle.
    """
    rate = AudioRendering().sample_rate
    begin, length = float(times[0]) - spacing / 2, spacing * rate  # seconds; samples of a part
    power = np.zeros(len(times))  # sum of the squares of each part
    heard, end = 0, begin + spacing * len(times)
    for first, samples in iter_audio(recording, rate, start=max(0.0, begin), end=end):
        rest = samples
        while len(rest):
            # `first` is the second of the first sample of all
            place = round((first - begin) * rate) + heard
            part = math.floor(place / length)
            count = max(1, math.ceil((part + 1) * length) - place)  # up to where the next part begins
            piece = rest[: min(count, SAMPLES_AT_ONCE)].astype(np.float64)
            if 0 <= part < len(times):
                square = float(piece @ piece)
                power[part] += square if math.isfinite(square) else (piece[np.isfinite(piece)] ** 2).sum()
            heard, rest = heard + len(piece), rest[len(piece) :]
    decibels = 10 * np.log10(np.maximum(2 * power / length, 1e-20))
    return [max(FLOOR_DBFS, round(level, 2)) for level in decibels.tolist()]


class _MeasuredDepth(Depth):
    """Depth in its default rendering; records the range and the holes of the maps that it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.clip: DepthClip | None = None  # the last that was opened
        self._maps: dict[int, tuple[float, float, float]] = {}  # nearest, farthest, share of no return

    def _open(self, source: MediaSource, views: int) -> DepthClip:
        clip = self.clip = super()._open(source, views)

        def measure(indices: Sequence[int]) -> np.ndarray:
            maps = clip.measure(indices)
            for index, meters in zip(indices, maps, strict=True):  # (H, W)
                near, far, returned = math.nan, math.nan, meters[meters > 0]
                if returned.size:
                    near, far = np.percentile(returned, [SPECKLES, 100 - SPECKLES], method="nearest")
                self._maps[index] = float(near), float(far), 1 - returned.size / meters.size
            return maps

        return replace(clip, measure=measure)

    def facts(self) -> DepthFacts:
        """The range and holes of the maps drawn so far."""
        assert self.clip is not None and self._maps
        nearest, farthest, missing = np.array(list(self._maps.values())).T
        holes = None if self.clip.background else float(missing.mean())  # around a mesh there is nothing
        extent = float(np.nanmin(nearest)), float(np.nanmax(farthest))
        return DepthFacts(
            self.clip.count, self.clip.unit, self.clip.unit_from or None, self.clip.up, extent, holes
        )


def clock(seconds: float) -> str:
    """A moment as a player writes it, with a tenth: 1:02.5."""
    minutes, rest = divmod(round(abs(seconds), 1), 60)
    return f"{'-' if seconds < -0.05 else ''}{minutes:.0f}:{rest:04.1f}"


def _plain(value: Any, digits: int = 6) -> Any:
    """The value as JSON holds it: floats rounded, None for what is not finite, lists for tuples."""
    if isinstance(value, dict):
        return {key: _plain(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, digits) for each in value]
    if isinstance(value, float):
        return round(float(value), digits) if math.isfinite(value) else None
    return value


def _track_line(track: Track) -> str:
    default, taken = " (default)" if track.default else "", "" if track.taken else ", not taken"
    why = f": {track.why}" if track.why else ""
    return f"#{track.index} {track.type} {track.codec or 'of an unknown codec'}{default}{taken}{why}"
