"""Recordings as arrays with times. The one module that touches PyAV; `mp4` writes.

Unusual here: every frame is found by its container timestamp, never by an index or a frame rate, and by
seeking, so that sixteen frames of a ten-minute clip do not decode it all. Time zero is the container's own
start, as in a player. Only real recording formats are opened: no playlists, no pictures, nothing that makes
FFmpeg open other files.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import EOFError as AvEndOfFile
from av.error import FFmpegError, InvalidDataError
from torch import Tensor

from lynx.errors import MediaError
from lynx.memo import of_file
from lynx.mp4 import write_video as write_video

logger = logging.getLogger(__name__)

FORMATS = "mov,matroska,avi,mpegts,mpeg,ogg,flac,wav,w64,mp3,aac,gif,flv,asf,aiff,caf,amr"
HEADER_KNOWS_DURATION = ("mov", "matroska")  # elsewhere the duration may be a guess from the bit rate
MAX_SIDE = 8192  # pixels
MAX_SECONDS = 2 * 3600.0  # of sound: 0.5 GB at 16 kHz
LAST_PACKET = 1.0  # seconds by which a sound may pass that, as the last packet is filled up
MOST_CHANNELS = 64  # that FFmpeg's resampler takes
PREROLL = 0.2  # seconds; what a decoder needs of the sound before a moment to give that moment right
EPSILON = 1e-6  # seconds; a frame whose time equals the one asked for is displayed


@dataclass(frozen=True)
class VideoTrack:
    """A picture track as it is displayed: size in pixels after rotation, degrees counter-clockwise."""

    width: int
    height: int
    fps: float
    codec: str
    rotation: int


@dataclass(frozen=True)
class AudioTrack:
    """A sound track as stored."""

    sample_rate: int
    channels: int
    codec: str


@dataclass(frozen=True)
class MediaInfo:
    """What a recording holds; duration in seconds."""

    path: Path
    duration: float
    video: VideoTrack | None
    audio: tuple[AudioTrack, ...]


@dataclass(frozen=True)
class Frames:
    """Pictures and their moments: pixels (T, 3, H, W) uint8, times (T,) float64 seconds, ascending.

    For pseudo-frames a time is the middle of the window shown. `duration`: the whole recording's, in seconds.
    """

    pixels: Tensor
    times: Tensor
    duration: float
    labels: tuple[str, ...] = ()  # what each picture is, where they are of several kinds
    notes: tuple[str, ...] = ()  # what a person has to be told about them

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


@contextmanager
def _open(path: str | Path) -> Iterator[InputContainer]:
    """The opened recording; whatever FFmpeg cannot do inside the block is one sentence to the user."""
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"There is no file {str(path)!r}; give the path of a video or sound file.")
    if path.stat().st_size == 0:
        raise MediaError(f"{path.name!r} is empty (0 bytes); give a video or sound file.")
    try:
        with av.open(str(path), options={"format_whitelist": FORMATS}) as container:
            yield container
    except (FFmpegError, ValueError, IndexError) as error:
        raise MediaError(
            f"{path.name!r} cannot be read as video or sound: it is damaged, cut off or of another kind."
        ) from error


def _video_streams(container: InputContainer) -> list[av.VideoStream]:
    """Picture tracks, without the cover pictures that music files carry."""
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _start(container: InputContainer) -> float:
    """Seconds on the container's clock at which a player shows 0:00."""
    return (container.start_time or 0) / av.time_base


def _last_moment(container: InputContainer, start_from: float) -> float:
    """Where the packets really end, in seconds; reads (does not decode) from `start_from` on."""
    container.seek(round((start_from + _start(container)) * av.time_base))
    end = 0.0
    try:
        for packet in container.demux():
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except (InvalidDataError, AvEndOfFile):
        pass  # what could be read until here is the answer
    return end - _start(container)


def _duration(container: InputContainer) -> float:
    """Seconds. A header that promises more than the file holds is an error; a silent one is replaced."""
    name = Path(container.name).name
    if container.duration is None or container.duration <= 0:
        duration = _last_moment(container, 0.0)
    else:
        duration = container.duration / av.time_base
        if container.format.name.startswith(HEADER_KNOWS_DURATION):
            end = _last_moment(container, duration)
            if end < duration - max(1.0, 0.02 * duration):
                raise MediaError(
                    f"{name!r} is cut off: it should last {duration:.1f} s but its data ends early."
                )
    if duration <= 0:
        raise MediaError(f"{name!r} holds no moment of video or sound.")
    return duration


@of_file
def probe(path: str | Path) -> MediaInfo:
    """What the file holds. Raises MediaError if it is missing, empty, cut off, no media or without tracks."""
    with _open(path) as container:
        videos, audios = _video_streams(container), list(container.streams.audio)
        if not videos and not audios:
            raise MediaError(f"{Path(path).name!r} has neither a picture nor a sound track.")
        duration = _duration(container)
        audio = tuple(AudioTrack(s.rate, c.channels, c.name) for s in audios if (c := s.codec_context))
        return MediaInfo(Path(path), duration, _video_track(container, videos[0]) if videos else None, audio)


def _video_track(container: InputContainer, stream: av.VideoStream) -> VideoTrack:
    """A picture track; the rotation is a property of its frames, so one is decoded."""
    container.seek(0)
    if (first := next(_decode(container, stream), None)) is None:
        raise MediaError(f"{Path(container.name).name!r} has a picture track without a picture.")
    rotation = round(first.rotation)
    width, height = stream.codec_context.width, stream.codec_context.height
    if max(width, height) > MAX_SIDE:
        raise MediaError(
            f"{Path(container.name).name!r} is {width}x{height}; sides of up to {MAX_SIDE} pixels are read."
        )
    if rotation % 180:
        width, height = height, width
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return VideoTrack(width, height, rate, stream.codec_context.name, rotation)


def _decode(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> Iterator[Any]:
    """Decoded frames from the current position on; single damaged packets are skipped and said in the log.

    Raises MediaError when nothing can be decoded.
    """
    good = broken = 0
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame | av.AudioFrame)  # the stream is one of these two
                good += 1
                frame.pts = frame.dts if frame.pts is None else frame.pts  # in AVI there may be no others
                if frame.pts is not None:
                    yield frame
        except InvalidDataError:
            broken += 1
    name = Path(container.name).name
    if not good and broken:
        raise MediaError(f"No {stream.type} of {name!r} can be decoded: the file is damaged.")
    if broken:
        logger.warning("%s: %d damaged %s packets were skipped.", name, broken, stream.type)


# --- pictures -------------------------------------------------------------------------------------


def read_frames(path: str | Path, times: Tensor | Sequence[float], max_side: int | None = None) -> Frames:
    """The frames displayed at `times` (T,) ascending seconds, upright, no side longer than max_side.

    A moment after the last frame shows the last frame, as a player does.
    Raises MediaError if the file cannot be read, has no picture track, or `times` do not ascend from >= 0.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    pixels, durations = zip(*_displayed(path, times, lambda frame: _picture(frame, max_side)), strict=True)
    return Frames(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), times, durations[0])


def show_frames(
    path: str | Path, times: Tensor | Sequence[float], max_side: int | None = None
) -> Iterator[np.ndarray]:
    """The same pictures, (H, W, 3) uint8, one after another: of a long clip one is held at a time."""
    times = torch.as_tensor(times, dtype=torch.float64)
    return (pixels for pixels, _ in _displayed(path, times, lambda frame: _picture(frame, max_side)))


def read_levels(path: str | Path, times: Tensor | Sequence[float]) -> np.ndarray:
    """16-bit grey (T, H, W) uint16, or else RGB (T, H, W, 3) uint8, at `times`; raises as `read_frames`."""
    times = torch.as_tensor(times, dtype=torch.float64)
    return np.stack([levels for levels, _ in _displayed(path, times, _levels)])


def _displayed(
    path: str | Path, times: Tensor, convert: Callable[[Any], np.ndarray]
) -> Iterator[tuple[np.ndarray, float]]:
    """What `convert` makes of the frame at each moment, with the recording's seconds."""
    known = times.ndim == 1 and len(times) and times.isfinite().all()
    if not known or times[0] < 0 or (times.diff() < 0).any():
        raise MediaError(f"Frames are read at ascending moments in seconds from 0, not at {times.tolist()}.")
    info = probe(path)
    if info.video is None:
        raise MediaError(f"{info.path.name!r} has no picture track; give it as sound instead.")
    with _open(path) as container:
        stream = _video_streams(container)[0]
        stream.thread_type = "AUTO"
        playhead = _Playhead(container, stream)
        for time in times.tolist():
            yield convert(playhead.show(time)), info.duration


class _Playhead:
    """Walks a picture track forwards and answers which frame is on the screen at a moment.

    Seeks when the next moment lies further ahead than any key frame has lain behind a moment so far; so
    neither a file full of key frames nor one with a single key frame is decoded more than about twice.
    """

    def __init__(self, container: InputContainer, stream: av.VideoStream) -> None:
        self.container, self.stream = container, stream
        self.frames: Iterator[av.VideoFrame] = iter(())
        self.shown: av.VideoFrame | None = None
        self.ahead: av.VideoFrame | None = None  # decoded, but not yet on the screen
        self.longest_run = 0.0  # seconds from a key frame to the moment it was sought for

    def show(self, time: float) -> av.VideoFrame:
        """The frame displayed at `time` seconds; times ascend from call to call."""
        moment = time + _start(self.container) + EPSILON
        if self.shown is None or moment - self.shown.time > self.longest_run:
            self._seek(moment)
        while self.ahead is not None and self.ahead.time <= moment:
            self.shown, self.ahead = self.ahead, next(self.frames, None)
        if self.shown is None:  # the track begins after this moment: its first frame stands in
            self.shown = self.ahead
        if self.shown is None:
            raise MediaError(
                f"{Path(self.container.name).name!r} has no picture at {time:.2f} s: it is cut off."
            )
        return self.shown

    def _seek(self, moment: float) -> None:
        """Go to the last key frame before the moment; some containers need a second, earlier try."""
        for back in (0.0, 3.0, 30.0, moment):
            target = max(0.0, moment - back)
            self.container.seek(int(target / float(self.stream.time_base or 1)), stream=self.stream)
            self.frames = _decode(self.container, self.stream)
            self.shown, self.ahead = None, next(self.frames, None)
            if target == 0.0 or (self.ahead is not None and self.ahead.time <= moment):
                break
        if self.ahead is not None:
            self.longest_run = max(self.longest_run, moment - self.ahead.time)


def fit(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """(width, height) in which a picture of that size is read: its longer side at most `max_side` pixels."""
    scale = min(1.0, (max_side or MAX_SIDE) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _picture(frame: av.VideoFrame, max_side: int | None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright."""
    width, height = fit(frame.width, frame.height, max_side)
    smaller = "AREA" if (width, height) != (frame.width, frame.height) else None
    rgb = frame.reformat(width, height, "rgb24", interpolation=smaller).to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4))


def _levels(frame: av.VideoFrame) -> np.ndarray:
    """(H, W) uint16 of a 16-bit grey track, else (H, W, 3) uint8; upright."""
    if not frame.format.name.startswith("gray16"):
        return _picture(frame, None)
    return np.rot90(frame.reformat(format="gray16le").to_ndarray(), round(frame.rotation / 90) % 4)


# --- sound ----------------------------------------------------------------------------------------


def read_audio(
    path: str | Path, sample_rate: int, track: int = 0, window: tuple[float, float] = (0.0, math.inf)
) -> Waveform:
    """One sound track as mono at sample_rate Hz from the recording's time zero on (silence until it begins).

    window: only what lies between these seconds; sample 0 is then the first of them.
    Raises MediaError when the file cannot be read, has no such track, or spans more than MAX_SECONDS.
    """
    (start, end), parts = window, list(hear(path, sample_rate, track, *window))
    begin = parts[-1][0] if parts else 0.0
    sound = np.concatenate([np.zeros(0, np.float32), *(samples for _, samples in parts)])
    sound = sound[round((start - begin) * sample_rate) :]
    return Waveform(torch.from_numpy(sound[: round(min(end - start, 1e9) * sample_rate)]), sample_rate)


def hear(
    path: str | Path, sample_rate: int, track: int = 0, start: float = 0.0, end: float = math.inf
) -> Iterator[tuple[float, np.ndarray]]:
    """The same, a few samples (n,) at a time, with the second at which the first began: `start` or before.

    That second may move: where silence before `start` is left out, what came earlier moves up to it.
    """
    info = probe(path)
    name, count = info.path.name, len(info.audio)
    if not count:
        raise MediaError(f"{name!r} has no audio track; give a separate sound file or switch sound off.")
    if not 0 <= track < count:
        raise MediaError(f"{name!r} has {count} audio tracks (0..{count - 1}), no track {track}.")
    if info.audio[track].channels > MOST_CHANNELS:
        raise MediaError(
            f"Track {track} of {name!r} has {info.audio[track].channels} channels; sound of up to "
            f"{MOST_CHANNELS} is read: mix it down first."
        )
    if min(end, info.duration) - start > MAX_SECONDS + LAST_PACKET:
        raise MediaError(
            f"{name!r} lasts {info.duration / 3600:.1f} h; "
            f"sound of up to {MAX_SECONDS / 3600:.0f} h is read: cut it."
        )
    with _open(path) as container:
        yield from _samples(container, container.streams.audio[track], sample_rate, start, end)


def _samples(
    container: InputContainer, stream: av.AudioStream, sample_rate: int, start: float, end: float
) -> Iterator[tuple[float, np.ndarray]]:
    """(n,) float32 at a time, the mean of the channels; a gap in the timestamps is a silence."""
    resampler = av.AudioResampler(format="flt", rate=sample_rate)
    offset, found = _start(container), False
    clock = begin = lead = max(0.0, start - PREROLL)  # seconds; the sound so far is from `begin` to `clock`
    if begin:
        container.seek(round((begin + offset) * av.time_base))
    for frame in _decode(container, stream):
        time, length = frame.time - offset, frame.samples / frame.sample_rate
        if time >= end:
            break
        if time < clock == begin and begin:  # the first packet found is an earlier one
            clock = begin = time
        _check_span(container, max(time, clock) + length - start)
        gap = time - clock
        if gap > (0.001 if clock == begin else 0.1):
            unasked = max(0.0, min(time, lead) - clock)  # of the silence; it may be of hours, and is left out
            begin += unasked
            yield begin, np.zeros(round((gap - unasked) * sample_rate), np.float32)
            clock += gap
        clock += length
        yield from ((begin, _mono(out)) for out in resampler.resample(frame))
        found = True
    if not found and not begin:
        raise MediaError(f"The audio track of {Path(container.name).name!r} holds no sound.")
    yield from ((begin, _mono(out)) for out in resampler.resample(None))


def _check_span(container: InputContainer, seconds: float) -> None:
    """Raises MediaError when so much sound, with its gaps, is too much; the header may have said less."""
    if seconds > MAX_SECONDS + LAST_PACKET:
        raise MediaError(
            f"The sound of {Path(container.name).name!r} spans {seconds / 3600:.1f} h or more by its "
            f"timestamps, gaps included; sound of up to {MAX_SECONDS / 3600:.0f} h is read: "
            "cut it, or encode it anew without the gaps."
        )


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """The mean of the channels of packed samples: (n,) float32 in [-1, 1].

    Packed, because PyAV miscounts the planes of eight and more channels and reads past the last of them.
    """
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(1).clip(-1, 1)
