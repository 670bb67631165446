"""What an answer rests on and what was looked at, made small enough to be sent to a page."""

from dataclasses import replace
from typing import TYPE_CHECKING

from lynx.ui.values import Findings

if TYPE_CHECKING:
    from torch import Tensor

    from lynx.session import Session
    from lynx.types import Frames

THUMBNAIL_SIDE = 320  # pixels; what a picture in the page needs


def thumbnails(frames: "Frames") -> "Frames":
    """The same frames, no side longer than a page needs."""
    from torch.nn.functional import interpolate

    height, width = frames.pixels.shape[-2:]
    size = tuple(
        min(side, round(side * THUMBNAIL_SIDE / max(height, width))) or 1 for side in (height, width)
    )
    if max(height, width) > 2 * THUMBNAIL_SIDE and min(height, width) < THUMBNAIL_SIDE / 4:
        size = (height, THUMBNAIL_SIDE)  # a long spectrogram keeps its rows
    pixels = interpolate(frames.pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return replace(frames, pixels=pixels)


def per_moment(times: "Tensor", values: "Tensor") -> "tuple[Tensor, Tensor]":
    """A curve in which each moment stands once, with the sum of what several pictures of it have."""
    moments, index = times.unique(return_inverse=True)
    return moments, values.new_zeros(len(moments)).index_add(0, index, values)


def findings(session: "Session") -> Findings | None:
    """The session's evidence as small plain data, for the whole answer and for each word."""
    evidence = session.evidence
    if evidence is None or not evidence.words:
        return None
    indices = [None, *(tokens for _, tokens in evidence.words)]
    return Findings(
        tuple(word for word, _ in evidence.words),
        tuple(evidence.share(index) for index in indices),
        tuple(
            {sense: per_moment(*evidence.curve(index, sense)) for sense in evidence.spans}
            for index in indices
        ),
        tuple({sense: evidence.frame_maps(index, sense) for sense in evidence.spans} for index in indices),
        {sense: thumbnails(stream.frames) for sense, stream in evidence.streams.items()},
    )
