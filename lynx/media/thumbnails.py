"""Frames made small, for people to look at."""

import math

import torch
from torch.nn import functional as F

from lynx.types import Frames

THUMBNAIL_PIXELS = 480 * 270
"""Maximum pixels of a kept frame, more than the page or a figure shows."""
LONG = 8
"""Maximum aspect ratio that is preserved: a longer spectrogram loses length, not height."""
AT_ONCE = 16  # frames; bounds the memory of the interpolation


def thumbnails(frames: Frames, pixels: int = THUMBNAIL_PIXELS) -> Frames:
    """The same frames, shrunk to at most that many pixels each; small ones are unchanged."""
    sides = list(frames.pixels.shape[-2:])
    if math.prod(sides) <= pixels:
        return frames
    long, short = sorted((0, 1), key=lambda side: -sides[side])
    sides[long] = min(sides[long], max(LONG * sides[short], pixels // sides[short]))
    scale = min(1.0, math.sqrt(pixels / math.prod(sides)))
    size = [max(1, round(side * scale)) for side in sides]
    small = [
        F.interpolate(part, size, mode="bilinear", align_corners=False, antialias=True)
        for part in frames.pixels.split(AT_ONCE)
    ]
    return Frames(torch.cat(small), frames.times, frames.duration, frames.labels, frames.notes)
