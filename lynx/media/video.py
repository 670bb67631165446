"""Pictures at moments: the frame that is displayed at each, upright, found by its timestamp.

Unusual here: every frame is found by its container timestamp, never by an index or a frame rate, and by
seeking, so that sixteen frames of a ten-minute clip do not decode it all. Time zero is the container's own
start, as in a player.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor

from lynx.errors import MediaError
from lynx.media.container import MAX_SIDE, decode, open_recording, probe, start_of, video_streams
from lynx.types import EPSILON, Frames


def read_frames(path: str | Path, times: Tensor | Sequence[float], max_side: int | None = None) -> Frames:
    """The frames displayed at `times` (T,) ascending seconds, upright, no side longer than max_side.

    A moment after the last frame shows the last frame, as a player does.
    Raises MediaError if the file cannot be read, has no picture track, or `times` do not ascend from >= 0.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    pixels, durations = zip(*_displayed(path, times, lambda frame: _picture(frame, max_side)), strict=True)
    return Frames(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), times, durations[0])


def iter_frames(
    path: str | Path, times: Tensor | Sequence[float], max_side: int | None = None
) -> Iterator[np.ndarray]:
    """The same pictures, (H, W, 3) uint8, one after another: only one is in memory at a time."""
    return (pixels for pixels, _ in _displayed(path, times, lambda frame: _picture(frame, max_side)))


def read_levels(path: str | Path, times: Tensor | Sequence[float]) -> np.ndarray:
    """16-bit gray (T, H, W) uint16, or else RGB (T, H, W, 3) uint8, at `times`; raises as `read_frames`."""
    return np.stack([levels for levels, _ in _displayed(path, times, _levels)])


def _displayed(
    path: str | Path, times: Tensor | Sequence[float], convert: Callable[[Any], np.ndarray]
) -> Iterator[tuple[np.ndarray, float]]:
    """`convert` of the frame at each moment, with the recording's duration in seconds."""
    times = torch.as_tensor(times, dtype=torch.float64)
    known = times.ndim == 1 and len(times) and times.isfinite().all()
    if not known or times[0] < 0 or (times.diff() < 0).any():
        raise MediaError(f"Frames are read at ascending moments in seconds from 0, not at {times.tolist()}.")
    info = probe(path)
    if info.video is None:
        raise MediaError(f"{info.path.name!r} has no picture track; give it as sound instead.")
    with open_recording(path) as container:
        stream = video_streams(container)[0]
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
        moment = time + start_of(self.container) + EPSILON
        if self.shown is None or moment - self.shown.time > self.longest_run:
            self._seek(moment)
        while self.ahead is not None and self.ahead.time <= moment:
            self.shown, self.ahead = self.ahead, next(self.frames, None)
        if self.shown is None:  # the track begins after this moment: its first frame stands in
            self.shown = self.ahead
        if self.shown is None:
            name = Path(self.container.name).name
            raise MediaError(f"{name!r} has no picture at {time:.2f} s: it is cut off.")
        return self.shown

    def _seek(self, moment: float) -> None:
        """Go to the last key frame before the moment; some containers need a second, earlier try."""
        for back in (0.0, 3.0, 30.0, moment):
            target = max(0.0, moment - back)
            self.container.seek(int(target / float(self.stream.time_base or 1)), stream=self.stream)
            self.frames = decode(self.container, self.stream)
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
    """(H, W) uint16 of a 16-bit gray track, else (H, W, 3) uint8; upright."""
    if not frame.format.name.startswith("gray16"):
        return _picture(frame, None)
    return np.rot90(frame.reformat(format="gray16le").to_ndarray(), round(frame.rotation / 90) % 4)
