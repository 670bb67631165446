"""Frames made small, for people to look at."""

import math

import torch
from torch.nn import functional as F

from lynx.types import Frames

THUMBNAIL_PIXELS = 480 * 270
"""Of a frame that is kept to be thumbnails: more than a page or a figure draws of it."""


def thumbnails(frames: Frames) -> Frames:
    """The same frames with at most THUMBNAIL_PIXELS pixels each: all that people look at."""
    height, width = frames.pixels.shape[-2:]
    scale = math.sqrt(THUMBNAIL_PIXELS / (height * width))
    if scale >= 1:
        return frames
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = [
        F.interpolate(part, size, mode="bilinear", align_corners=False, antialias=True)
        for part in frames.pixels.split(16)
    ]
    return Frames(torch.cat(small), frames.times, frames.duration, frames.labels, frames.notes)
