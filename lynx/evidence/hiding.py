"""How much an answer needs a part of its media (occlusion): show nothing there, and score the answer again.

M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", 2014 (arXiv 1311.2901).
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lynx.evidence.integrated_gradients import Progress
from lynx.evidence.replay import Replay
from lynx.types import Stream

PASSES, FEW_PASSES = 256, 64
"""Maximum number of parts that are hidden, over all senses together: of short prompts, and of long ones."""
WORK = 2**18
"""Tokens over all passes at which a prompt counts as long: there are fewer, down to FEW_PASSES."""
TOKENS = 4096
"""Maximum number of tokens in one pass, of all the prompts in it; at least those of one prompt."""

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


def occlusion(
    replay: Replay, tokens: Sequence[int], sense: str, window: Window | None = None,
    region: Region | None = None,
) -> float:
    """How much the log-probability of answer tokens falls, in nats, where a part of a sense shows nothing."""
    hidden = replay.spans[sense][part_of_stream(replay.streams[sense], window, region)]
    whole, rest = (_log_probs(replay, tokens, [places])[0] for places in (hidden[:0], hidden))
    return float(whole - rest)


@dataclass(frozen=True)
class Hidden:
    """What hiding every part of every sense does to some answer tokens, in nats.

    values: by sense (k,) float32, for each token of its stream: how much their log-probability falls when
    its part is hidden alone, shared evenly among the part's tokens. Below 0: it rises.
    whole: by sense, how much it falls when all of the sense is hidden.
    real, blank: it itself with everything shown and with everything hidden.
    """

    values: dict[str, Tensor]
    whole: dict[str, float]
    real: float
    blank: float


def hide_each(
    replay: Replay, tokens: Sequence[int], passes: int | None = None, progress: Progress | None = None
) -> Hidden:
    """Hide each token of each sense alone; larger parts where there are more tokens than `passes`.

    passes: by default PASSES, and for long prompts fewer.
    progress: told how many parts are done, and of how many.
    """
    if passes is None:
        passes = min(PASSES, max(FEW_PASSES, WORK // replay.inputs.shape[1]))
    parts = divide(replay.streams, passes)
    places = [replay.spans[sense][part] for sense, mine in parts.items() for part in mine]
    senses = {sense: replay.spans[sense][part_of_stream(each)] for sense, each in replay.streams.items()}
    everything = torch.cat([*senses.values(), torch.zeros(0, dtype=torch.long)])  # there may be no sense
    hidden = [everything[:0], everything, *senses.values(), *places]
    real, blank, *scores = _log_probs(replay, tokens, hidden, progress).tolist()
    whole = {sense: real - scores.pop(0) for sense in senses}
    values = {sense: torch.zeros(len(span)) for sense, span in replay.spans.items()}
    for sense, mine in parts.items():
        for part in mine:
            values[sense][part] = (real - scores.pop(0)) / len(part)
    return Hidden(values, whole, real, blank)


def divide(streams: Mapping[str, Stream], most: int) -> dict[str, list[Tensor]]:
    """Each stream's tokens, newlines apart, in parts of neighbors: indices (m,) each.

    At most `most` parts over all senses. Every token is a part where that suffices. Else cells are put
    together, up to 4 x 4 parts of a picture, then moments, then the rest of the picture.
    """
    if not streams:
        return {}
    places = {}  # (T, rows, columns): each token's index
    for sense, stream in streams.items():
        places[sense] = (~stream.times.isnan()).nonzero().flatten().view(-1, *stream.grid)
    side, moments = (max(max(each.shape[i:j]) for each in places.values()) for i, j in ((1, 3), (0, 1)))
    coarse = -(-side // 4)
    sizes = [(1, cells) for cells in range(1, coarse + 1)]
    sizes += [(count, coarse) for count in range(2, moments + 1)]
    sizes += [(moments, cells) for cells in range(coarse + 1, side + 1)]
    fitting = (size for size in sizes if sum(_count(each, size) for each in places.values()) <= most)
    size = next(fitting, sizes[-1])
    return {sense: _blocks(each, size) for sense, each in places.items()}


def _count(places: Tensor, size: tuple[int, int]) -> int:
    """Number of blocks that `_blocks` makes."""
    moments, cells = size
    return math.prod(-(-n // each) for n, each in zip(places.shape, (moments, cells, cells), strict=True))


def _blocks(places: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """The entries of (T, rows, columns) in blocks of so many moments and of so many cells a side, or less."""
    moments, cells = size
    parts = [places]
    for axis, each in enumerate((moments, cells, cells)):
        parts = [block for part in parts for block in part.split(each, dim=axis)]
    return [part.flatten() for part in parts]


@torch.no_grad()
def _log_probs(
    replay: Replay, tokens: Sequence[int], hidden: Sequence[Tensor], progress: Progress | None = None
) -> Tensor:
    """Log-probability of the answer tokens with each of these sets of positions hidden: (sets,) nats."""
    scores, batch = [], max(1, TOKENS // replay.inputs.shape[1])
    for at in range(0, len(hidden), batch):
        some = hidden[at : at + batch]
        inputs = replay.inputs.repeat(len(some), 1, 1)  # (B, S + n, D)
        for row, places in zip(inputs, some, strict=True):
            row[places] = replay.blank[0, places]
        scores.append(replay.log_probs(inputs, tokens))
        if progress is not None:
            progress(at + len(some), len(hidden))
        time.sleep(0.001)  # whoever waits for the model gets it now
    return torch.cat(scores).cpu()
