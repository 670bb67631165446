"""Fast motion: n x n frames around every moment, side by side in one picture.

Where the video shows one frame, this shows k = n * n of them, evenly spaced in time over the same stretch,
row by row, each made n times smaller. The frames are found by their timestamps; whether the recording really
holds them is checked, and said where it does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lynx.errors import DataError, MediaError
from lynx.media.container import probe
from lynx.modalities.base import MAX_SIDE, Modality, check_ranges, recording_of
from lynx.modalities.video import EXPECTED, Video, VideoRendering
from lynx.types import Frames, MediaSource, Recording

SAME = 12
"""Maximum difference of a pixel, of 255, between two encodings of the same frame."""
SLACK = 1.02
"""Factor by which a frame rate may be lower than asked, since rates are averages."""

WHOLE = (0.0, float("inf"))
"""The seconds that are looked at where no part of a recording is asked for."""


@dataclass(frozen=True)
class HighFpsRendering:
    """How many frames share a picture, and the longest side of a picture in pixels."""

    tile: int = 2
    """Frames a side: 2 is the method's 2 x 2, four times the frame rate of the video."""
    max_side: int = 768

    def __post_init__(self) -> None:
        if not 2 <= self.tile <= 8:
            raise DataError(f"tile={self.tile} frames a side; from 2 to 8 are possible.")
        check_ranges(self, max_side=(1, MAX_SIDE))
        if self.max_side < self.tile:
            raise DataError(f"max_side={self.max_side} pixels cannot hold {self.tile} frames a side.")


def fast_times(times: Tensor, k: int, duration: float, part: tuple[float, float] = WHOLE) -> Tensor:
    """The moments of k frames around each of `times` (T,) seconds, spread over its stretch: (T, k) float64.

    A stretch is as long as the moments lie apart, for a single one the whole `duration` or the whole `part`,
    the seconds that are looked at; no moment lies outside of it.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    spacing = (float(times.diff().median()) if len(times) > 1 else 0.0) or min(duration, part[1] - part[0])
    offsets = (torch.arange(k, dtype=torch.float64) + 0.5 - k / 2) * (spacing / k)
    return (times[:, None] + offsets).clamp(*part)


def tile_frames(frames: Tensor, n: int) -> Tensor:
    """Frames (F, C, H, W) uint8, n * n to a picture, row by row: (ceil(F / n^2), C, n (H // n), n (W // n)).

    Each is the mean of the pixels it covers; where the last picture has too few frames it is black.
    """
    count, channels, height, width = frames.shape
    h, w = max(1, height // n), max(1, width // n)
    small = torch.cat([F.adaptive_avg_pool2d(frame[None].float(), (h, w)) for frame in frames])
    small = torch.cat([small, small.new_zeros(-count % (n * n), channels, h, w)]).round().to(torch.uint8)
    cells = small.view(-1, n, n, channels, h, w)  # (pictures, row, column, C, h, w)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, n * h, n * w)


def find_repeats(frames: Tensor) -> Tensor:
    """Which frames (F, C, H, W) uint8 look as the one before them does: (F - 1,) bool."""
    pairs = zip(frames[:-1], frames[1:], strict=True)
    same = [int((one.short() - other.short()).abs().max()) <= SAME for one, other in pairs]
    return torch.tensor(same, dtype=torch.bool)


class HighFps(Modality):
    """The frames that the video's own frame rate leaves out."""

    name = "high_fps"
    label = "fast motion"
    color = (219, 39, 119)
    takes = "video"
    suffixes = Video.suffixes
    example_questions = ("Which shape flashes?",)
    Rendering = HighFpsRendering

    def duration(self, source: MediaSource) -> float:
        """Seconds of the whole recording. Raises MediaError when it has no picture track."""
        return Video().duration(source)

    def render(self, source: MediaSource, times: Tensor) -> Frames:
        """One picture (3, H, W) uint8 of n x n frames a moment of `times` (T,) seconds.

        Raises MediaError when the recording has no more frames than the video alone shows, or repeats them.
        """
        (frames,) = self.parts(source, times, len(times))
        return frames

    def parts(self, source: MediaSource, times: Tensor, size: int) -> Iterator[Frames]:
        """The same pictures, `size` at a time; whether frames repeat is known with the last of them."""
        n = self.rendering.tile
        times = torch.as_tensor(times, dtype=torch.float64)
        sight, duration = Video(VideoRendering(self.rendering.max_side)), self.duration(source)
        part = source.part if isinstance(source, Recording) else None
        fast = fast_times(times, n * n, duration, part or WHOLE)  # (T, k)
        notes = self._check_rate(source, fast)
        same: list[Tensor] = []
        before = torch.empty(0)
        for moments, shown in zip(fast.split(size), times.split(size), strict=True):
            order = moments.flatten().argsort(stable=True)
            seen = sight.render(source, moments.flatten()[order])
            frames = seen.pixels[order.argsort()]
            notes = tuple(dict.fromkeys((*notes, *seen.notes)))
            same.append(find_repeats(torch.cat([before, frames]) if len(before) else frames))
            before = frames[-1:]
            if len(torch.cat(same)) == fast.numel() - 1:
                notes += self._check_repeats(torch.cat(same), n * n)
            yield Frames(tile_frames(frames, n), shown, duration, notes=notes)

    def _check_rate(self, source: MediaSource, moments: Tensor) -> tuple[str, ...]:
        """Raises MediaError when the rate is no higher than the video's; says when it is too low."""
        k = moments.shape[1]
        wanted = 1 / float(moments.diff(dim=1).median())
        if isinstance(source, Frames):
            rate = 1 / float(source.times.diff().median()) if len(source) > 1 else 0.0
        else:
            track = probe(recording_of(source, EXPECTED)).video
            rate = track.fps if track else 0.0
        if rate * SLACK < wanted / k * 2:
            raise MediaError(
                f"The recording has {rate:.3g} frames a second, of which the video shows {wanted / k:.3g}: "
                f"it holds no faster motion. Give one of {wanted:.3g} frames a second or more."
            )
        if rate * SLACK < wanted:
            return (f"{rate:.3g} frames a second, not {wanted:.3g}: some are shown more than once",)
        return ()

    @staticmethod
    def _check_repeats(same: Tensor, k: int) -> tuple[str, ...]:
        """same: `find_repeats` of all frames, k a picture.

        Raises MediaError when only whole pictures differ; says if most repeat.
        """
        between = np.arange(1, len(same) + 1) % k == 0  # from one picture to the next
        within = same[~between]
        if within.all() and (~same).sum() >= max(2, between.sum() / 2):
            raise MediaError(
                "The recording repeats its frames: nothing ever moves faster than the video alone shows. "
                "Its frame rate was raised without new pictures; give the original."
            )
        if same.all():
            return ("nothing moves in this recording, at any frame rate",)
        if (share := float(within.float().mean())) > 0.5:
            return (f"{share:.0%} of the fast frames show no change: little moves, or frames are repeated",)
        return ()
