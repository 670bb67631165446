"""The KV caches of one conversation, one for each set of senses that was used.

An LLM LoRA changes every key and value, so a cache is worth something under the same LoRAs only; there a
prompt takes up the longest beginning that it shares with any of them, whichever senses that was for.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from lynx import compat

if TYPE_CHECKING:
    from transformers import DynamicCache

KEPT = 3
"""With and without a sense, and one more."""
Label = int | tuple[str, int]
"""What stands at a place of a prompt: a token's id, or the n-th token of a sense's stream."""


@dataclass(frozen=True)
class Kept:
    """A cache, what stands at its places, the LoRAs it was made under, and the baseline of its media."""

    cache: "DynamicCache"
    labels: Sequence[Label]
    loras: tuple[str, ...]
    baseline: Tensor | None


class KvCaches:
    """The last few caches, by the senses they were made for."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, senses: tuple[str, ...], loras: tuple[str, ...], labels: Sequence[Label]) -> Kept | None:
        """The longest beginning that is there of a prompt with these labels, as a cache of its own, or None.

        At least one token is left to compute. The cache of the same senses is taken out: what a failure
        leaves half filled is never used again.
        """
        found = self._kept.pop(senses, None)
        candidates = [kept for kept in (found, *self._kept.values()) if kept and kept.loras == loras]
        best = max(candidates, key=lambda kept: shared(kept.labels, labels[:-1]), default=None)
        length = shared(best.labels, labels[:-1]) if best else 0
        if best is None or not length:
            return None
        cache = compat.cache_beginning(best.cache, dropped=len(best.labels) - length)
        return Kept(cache, labels[:length], loras, best.baseline if best is found else None)

    def keep(self, senses: tuple[str, ...], kept: Kept) -> None:
        """Keep the cache of an answer; the one that was used least recently makes room."""
        self._kept[senses] = kept
        self._kept.move_to_end(senses)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def touch(self, senses: tuple[str, ...]) -> None:
        """Make the cache of these senses, if there is one, the last to go."""
        if senses in self._kept:
            self._kept.move_to_end(senses)

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()


def shared(one: Sequence[Label], other: Sequence[Label]) -> int:
    """How many labels both begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
