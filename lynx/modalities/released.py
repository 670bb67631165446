"""Sound and depth as the method's released code draws them, for adapters that were trained with it.

A rendering asks for them by `{"style": "released"}`. What that code does to the picture is done here, also
where lynx has reasons to draw otherwise (docs/modalities.md). What it does before is not: files are read,
mixed down and resampled, and depth maps are chosen, as everywhere in lynx.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lynx.errors import DataError
from lynx.modalities.audio import Audio, Heard
from lynx.modalities.base import check_ranges
from lynx.modalities.depth import Depth, DepthRendering, closeness
from lynx.types import Frames, MediaSource

LEAST_POWER = 1e-6
"""Added to the power of a band before its logarithm is taken."""
TURBO_TERMS = (
    (0.13572138, 0.09140261, 0.10667330),
    (4.61539260, 2.19418839, 12.64194608),
    (-42.66032258, 4.84296658, -60.58204836),
    (132.13108234, -14.18503333, 110.36276771),
    (-152.94239396, 4.27729857, -89.90310912),
    (59.28637943, 2.82956604, 27.34824973),
)
"""Red, green and blue of the turbo color map as a polynomial (R. Du, Google, 2019), up to 32 levels of 255
off its table. A row is a power of x, from 0 (far) to 1 (near)."""


@dataclass(frozen=True)
class ReleasedAudioRendering:
    """How the released code draws sound in tuning and evaluation.

    Its alignment draws the first 8 s as one picture instead: {"n_fft": 1024, "hop_s": 0.016,
    "seconds_per_frame": 8.0, "columns": null}.
    """

    sample_rate: int = 16000
    n_mels: int = 128
    n_fft: int = 400
    """Samples of a window."""
    hop_s: float = 0.01
    seconds_per_frame: float = 2.0
    stride_s: float = 0.5
    """Picture i begins at i * stride_s seconds, whenever its frame is; at one frame a second it was 1."""
    columns: int | None = 204
    """Width of a picture: cut, or filled up with the logarithm 0, which is a bright edge; None: as it is."""

    def __post_init__(self) -> None:
        check_ranges(self, sample_rate=(1000, 384_000), n_mels=(1, 1024), n_fft=(2, 65_536), hop_s=(0, 60))
        check_ranges(self, seconds_per_frame=(0.001, 7200), stride_s=(0, 7200), columns=(1, 2**16))
        if min(self.hop, self.stride) < 1:
            raise DataError(f"hop_s={self.hop_s} and stride_s={self.stride_s} must be a sample at least.")
        if self.n_fft // 2 >= self.length:
            raise DataError(f"{self.seconds_per_frame} s are too short for windows of n_fft={self.n_fft}.")

    @property
    def length(self) -> int:
        """Samples of a picture."""
        return round(self.seconds_per_frame * self.sample_rate)

    @property
    def stride(self) -> int:
        """Samples from the beginning of a picture to that of the next."""
        return round(self.stride_s * self.sample_rate)

    @property
    def hop(self) -> int:
        """Samples from one column to the next."""
        return round(self.hop_s * self.sample_rate)


@lru_cache(maxsize=8)
def floored_mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangles of peak 1 whose corners are whole frequency bins, rounded down: (F, n_fft / 2 + 1) float32.

    A corner that falls on the one before it moves up by a bin. Where three fall together nothing is left: the
    band is empty.
    """
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    hertz = 700 * (10 ** (torch.linspace(0, top, n_mels + 2) / 2595) - 1)
    bins = ((n_fft + 1) * hertz / sample_rate).floor().clamp(0, n_fft // 2)
    left, center, right = (bins[i : i + n_mels, None] for i in range(3))
    center = center + (center == left)
    right = right + (right == center)
    at = torch.arange(n_fft // 2 + 1)
    rising, falling = (at - left) / (center - left), (right - at) / (right - center)
    return torch.where(at < center, rising, falling).clamp(min=0).masked_fill(right <= left, 0)


def stretched_mel(samples: Tensor, rendering: ReleasedAudioRendering) -> Tensor:
    """Log-mel pictures (T, F, columns) uint8 of sound (T, n): low frequencies at the top, time to the right.

    Each is stretched by its own minimum and maximum and rounded down: how loud it was is lost. The mean and
    deviation by which the released code normalizes before that cancel out.
    """
    r = rendering
    window = torch.hann_window(r.n_fft)
    found = torch.stft(samples.float(), r.n_fft, r.hop, window=window, return_complex=True)  # edges mirrored
    power = found.real.square() + found.imag.square()  # (T, n_fft / 2 + 1, columns)
    level = (floored_mel_filters(r.sample_rate, r.n_fft, r.n_mels) @ power + LEAST_POWER).log()
    if r.columns is not None:
        level = F.pad(level[..., : r.columns], (0, max(0, r.columns - level.shape[-1])))
    level = level - level.amin((1, 2), keepdim=True)
    return (level / level.amax((1, 2), keepdim=True).clamp(min=1e-6) * 255).to(torch.uint8)


class ReleasedAudio(Audio, style="released"):
    """Sound as the released code draws it: windows by their number, each stretched by itself."""

    Rendering = ReleasedAudioRendering

    @classmethod
    def picture_bytes(cls, frames: int, seconds: float) -> int:
        """Bytes of the pictures, each as large as any."""
        r = ReleasedAudioRendering()
        return 3 * frames * r.n_mels * (r.columns or 0)

    def blank(self, frames: Frames) -> Tensor:
        """The picture (1, 3, H, W) uint8 of silence: black, with a bright edge."""
        return self._pictures(torch.zeros(1, self.rendering.length))

    def parts(self, source: MediaSource, times: Tensor, size: int) -> Iterator[Frames]:
        """Pictures of the first windows, as many as `times`; their moments are the windows' own middles.

        The samples that they show are read at once.
        """
        r = self.rendering
        heard = Heard(source, r.sample_rate)
        begin = heard.part[0] if heard.part else 0.0
        reach = r.length / 2 / r.sample_rate
        middles = begin + reach + torch.arange(len(times), dtype=torch.float64) * (r.stride / r.sample_rate)
        heard.cut(middles, reach, 1 / r.sample_rate)
        samples = torch.cat([torch.empty(0), *heard.listen()])
        shown = (len(times) - 1) * r.stride + r.length
        windows = F.pad(samples[:shown], (0, max(0, shown - len(samples)))).unfold(0, r.length, r.stride)
        duration = heard.lasts or len(samples) / r.sample_rate
        end, notes = begin + shown / r.sample_rate, heard.notes(middles)
        if end < duration - r.stride_s:
            told = f"{len(times)} windows begun every {r.stride_s:g} s end at {end:.1f} s"
            notes += (f"{told}: the rest is not heard, in the style of the released code",)
        for first in range(0, len(times), size):
            part = slice(first, first + size)
            whole = part.stop >= len(times)
            yield Frames(
                self._pictures(windows[part]), middles[part], duration, notes=notes if whole else ()
            )

    def _pictures(self, samples: Tensor) -> Tensor:
        return stretched_mel(samples, self.rendering)[:, None].expand(-1, 3, -1, -1).contiguous()


@dataclass(frozen=True)
class ReleasedDepthRendering(DepthRendering):
    """How the released code draws depth; larger maps than `max_side` are made smaller first, which it does
    not do."""

    show: str = "both"
    scale: str = "linear"
    max_side: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale != "linear":
            raise DataError(f"scale={self.scale!r} is none of the released code's, which is linear.")


@lru_cache(maxsize=1)
def polynomial_turbo() -> np.ndarray:
    """The released code's turbo color map, from far to near: (256, 3) uint8."""
    x = np.linspace(0, 1, 256)[:, None]
    colors = (x ** np.arange(6)) @ np.array(TURBO_TERMS)
    return np.rint(colors.clip(0, 1) * 255).astype(np.uint8)


def forward_normals(depth: np.ndarray, camera: np.ndarray, near: float, far: float) -> np.ndarray:
    """Unit vectors (H, W, 3) float32 of a map (H, W), in the camera's coordinates and *away* from it.

    From each pixel to its right and its lower neighbor; the last row and column repeat the ones before. Zero
    where one of the three did not return. Depth is clipped to near and far. camera: (3, 3) pixels, scaled so
    that its principal point lies in the middle.
    """
    if min(depth.shape) < 2:
        return np.zeros((*depth.shape, 3), np.float32)
    scale = np.array(depth.shape[::-1]) / np.maximum(1, 2 * camera[:2, 2] + 1)
    (fx, fy), (cx, cy) = camera[[0, 1], [0, 1]] * scale, camera[:2, 2] * scale
    z = np.where(depth > 0, np.clip(depth, near, far), np.nan).astype(np.float32)
    v, u = np.indices(depth.shape, dtype=np.float32)
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1).astype(np.float32)  # (H, W, 3)
    right, down = points[:-1, 1:] - points[:-1, :-1], points[1:, :-1] - points[:-1, :-1]
    normals = np.pad(np.cross(right, down), ((0, 1), (0, 1), (0, 0)), mode="edge")
    normals = np.where(np.isfinite(normals), normals, 0)
    normals = np.where(normals[..., 2:] < 0, -normals, normals)
    return _unit(normals)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


class ReleasedDepth(Depth, style="released"):
    """Depth as the released code draws it: no return is as far as can be, and a surface that faces nowhere.

    Unlike there, maps without a pose show no surfaces in the world's frame, where it draws the camera's.
    """

    Rendering = ReleasedDepthRendering
    holes_as = "as if it were far"

    def blank(self, frames: Frames) -> Tensor:
        """What it draws where nothing returned, one of each kind of picture: (kinds, 3, H, W) uint8."""
        nothing, drawn = np.zeros((1, 1, 1, 3)), []
        if self.rendering.show != "normals":
            drawn.append(self._colors(nothing[..., 0]))
        if self.rendering.show != "turbo":
            drawn.append(self._shade(nothing))
        pixels = torch.from_numpy(np.concatenate(drawn)).permute(0, 3, 1, 2)  # (kinds, 3, 1, 1)
        return pixels.expand(-1, -1, *frames.pixels.shape[-2:]).contiguous()

    def _colors(self, depth: np.ndarray) -> np.ndarray:
        near, far = self.rendering.near, self.rendering.far
        meters = np.where(depth > 0, np.clip(depth, near, far), far)
        # it adds a micrometer before it divides, which moves a pixel in 400 by a step
        unit = closeness(meters + 1e-6, near + 1e-6, far + 1e-6, "linear")
        return np.asarray(polynomial_turbo()[np.rint(unit * 255).astype(np.int64)])

    def _normals(self, depth: np.ndarray, camera: np.ndarray) -> np.ndarray:
        return forward_normals(depth, camera, self.rendering.near, self.rendering.far)

    def _shade(self, normals: np.ndarray) -> np.ndarray:
        colors: np.ndarray[Any, Any] = np.rint((normals * 0.5 + 0.5) * 255).astype(np.uint8)
        return colors
