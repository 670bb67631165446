"""How much an answer needs a part of its media (occlusion): show nothing there, and score the answer again.

M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", 2014 (arXiv 1311.2901).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lynx.evidence.replay import Replay
from lynx.types import Stream

Window = tuple[float, float]
"""Seconds from, to."""
Region = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture."""


def part_of_stream(stream: Stream, window: Window | None = None, region: Region | None = None) -> Tensor:
    """Which tokens (n,) bool of a stream lie in these seconds and have their cell's middle in this region."""
    inside = ~stream.times.isnan()  # never a newline
    if window is not None:
        inside &= (stream.times >= window[0]) & (stream.times <= window[1])
    if region is not None:
        left, top, right, bottom = region
        y, x = ((stream.cells + 0.5) / torch.tensor(stream.grid)).T
        inside &= (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return inside


@torch.no_grad()
def occlusion(
    replay: Replay, tokens: Sequence[int], sense: str, window: Window | None = None,
    region: Region | None = None,
) -> float:
    """How much the log-probability of answer tokens falls, in nats, where a part of a sense shows nothing."""
    hidden = replay.spans[sense][part_of_stream(replay.streams[sense], window, region)]
    inputs = replay.inputs.clone()
    inputs[0, hidden] = replay.blank[0, hidden]
    whole, rest = (float(replay.log_probs(each, tokens)) for each in (replay.inputs, inputs))
    return whole - rest
