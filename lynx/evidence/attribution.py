"""What some tokens of an answer rest on: a value for every token of every sense, by some method."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lynx.errors import LynxError
from lynx.types import Stream

TEXT = "text"
"""Name, beside the senses, of the words of the conversation."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much every token of every sense speaks for some answer tokens (above 0) or against them (below).

    method: its name, see `lynx.evidence.methods`. unit: "nats", or "share" of attention, never below 0.
    values: by sense (k,) float32 on the CPU, one for each token of its stream; 0 for newlines.
    totals: by sense, and TEXT for the words of the conversation. Shares sum to 1. In nats, TEXT is how much
    more likely the words alone make the explained tokens than tokens drawn from the vocabulary. Those of
    "attribution" sum to log p(the explained tokens | media) + (their number) * log(size of the vocabulary),
    and its values to their sense's total. Neither holds of "hiding": what two senses, or two places, both
    show is lost only where both are hidden, and what needs both is lost with either.
    gained: log p(the answer tokens | media) - log p(the answer tokens | blank media), in nats; None where
    the method has no such figure. missed: nats of it that the gradients did not explain; they
    were shared out.
    """

    method: str
    unit: str
    values: Mapping[str, Tensor]
    streams: Mapping[str, Stream]
    totals: Mapping[str, float]
    gained: float | None = None
    missed: float | None = None

    def heatmap(self, sense: str) -> Tensor:
        """Over time and space: (T, rows, columns). Raises: LynxError: a sense that was not used."""
        stream = self._stream(sense)
        return self.values[sense][~stream.times.isnan()].view(-1, *stream.grid)

    def curve(self, sense: str) -> tuple[Tensor, Tensor]:
        """Over time: times (T,) seconds, values (T,). Raises: LynxError as `heatmap`."""
        stream = self._stream(sense)
        times = stream.times[~stream.times.isnan()][:: math.prod(stream.grid)]
        return times, self.heatmap(sense).sum(dim=(1, 2))

    def frame_maps(self, sense: str) -> Tensor:
        """The map of every (pseudo-)frame: (frames, rows, columns); frames that share tokens share it.

        Raises: LynxError as `heatmap`.
        """
        maps, count = self.heatmap(sense), len(self.streams[sense].frames)
        return maps[torch.arange(count) // -(-count // len(maps))]

    def _stream(self, sense: str) -> Stream:
        if sense not in self.streams:
            used = ", ".join(self.streams) or "no sense"
            raise LynxError(f"the answer rests on no {sense!r}: it used {used}")
        return self.streams[sense]
