"""Pictures at moments: the frame that is displayed at each, upright, found by its timestamp.

Which frame that is the `playhead` finds.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from lynx.errors import MediaError
from lynx.media.container import MAX_SIDE, open_recording, probe, video_streams
from lynx.media.playhead import Playhead
from lynx.media.rare_codecs import codecs_of, in_worker_if_rare, is_rare
from lynx.types import FileSource, Frames

AT_ONCE = 16
"""Pictures that a worker gives at a time."""


@in_worker_if_rare(probe)
def read_frames(source: FileSource, times: Tensor | Sequence[float], max_side: int | None = None) -> Frames:
    """The frames displayed at `times` (T,) ascending seconds, upright, no side longer than max_side.

    A moment after the last frame shows the last frame, as a player does.
    Raises MediaError if the file cannot be read, has no picture track, or `times` do not ascend from >= 0.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    pixels, durations = zip(*_displayed(source, times, lambda frame: _picture(frame, max_side)), strict=True)
    return Frames(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), times, durations[0])


def iter_frames(
    source: FileSource, times: Tensor | Sequence[float], max_side: int | None = None
) -> Iterator[np.ndarray]:
    """The same pictures, (H, W, 3) uint8, one after another: only one is in memory at a time."""
    if is_rare(codecs_of(probe(source))):
        parts = torch.as_tensor(times, dtype=torch.float64).split(AT_ONCE)
        return (picture for part in parts for picture in _pictures(source, part, max_side))
    return (pixels for pixels, _ in _displayed(source, times, lambda frame: _picture(frame, max_side)))


@in_worker_if_rare(probe)
def read_levels(source: FileSource, times: Tensor | Sequence[float]) -> np.ndarray:
    """16-bit gray (T, H, W) uint16, or else RGB (T, H, W, 3) uint8, at `times`; raises as `read_frames`."""
    return np.stack([levels for levels, _ in _displayed(source, times, _levels)])


def _displayed(
    source: FileSource, times: Tensor | Sequence[float], convert: Callable[[Any], np.ndarray]
) -> Iterator[tuple[np.ndarray, float]]:
    """`convert` of the frame at each moment, with the recording's duration in seconds."""
    times = torch.as_tensor(times, dtype=torch.float64)
    known = times.ndim == 1 and len(times) and times.isfinite().all()
    if not known or times[0] < 0 or (times.diff() < 0).any():
        raise MediaError(f"Frames are read at ascending moments in seconds from 0, not at {times.tolist()}.")
    info = probe(source)
    if info.video is None:
        raise MediaError(f"{info.path.name!r} has no picture track; give it as sound instead.")
    with open_recording(info.path) as container:
        stream = video_streams(container)[0]
        stream.thread_type = "AUTO"
        playhead = Playhead(container, stream)
        for time in times.tolist():
            yield convert(playhead.show(time)), info.duration


def _pictures(source: FileSource, times: Tensor, max_side: int | None) -> np.ndarray:
    """(T, H, W, 3) uint8 pictures of a few moments."""
    return read_frames(source, times, max_side).pixels.permute(0, 2, 3, 1).numpy()


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
