"""The KV caches that the conversations of one model keep between answers, up to a number of bytes.

Keys and values of a position depend on everything before it and on the LLM's LoRAs. So a cache is continued
only under LoRAs of the same weights, and only as far as its *labels*, which say what stands at each position,
are those of the new prompt. Conversations do not share caches: the first answer of each is computed from
nothing, and therefore bit for bit what stock `generate` gives.
"""

import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from cachetools import Cache, LRUCache
from torch import Tensor
from transformers import DynamicCache

from lynx import compat
from lynx.types import Prompt

MAX_BYTES = 2**30
"""Maximum bytes of all KV caches that a model keeps between answers, across its conversations."""

Label = int | tuple[str, int]
"""What stands at a position of a prompt: a token's id, or the key of a stream and the number of its token."""

Name = tuple["weakref.ref[object]", tuple[str, ...]]
"""What a cache is kept under: its conversation, and the senses that were on."""


@dataclass(frozen=True)
class KvCache:
    """Keys and values of S positions, with all that decides them."""

    cache: DynamicCache  # keys and values (1, Hkv, S, d) a layer
    labels: Sequence[Label]  # S of them
    loras: Hashable  # the weights of the LLM LoRAs that were on (`AdaptedBackbone.llm_identity`)
    baseline: Tensor | None  # see `Evidence`; it belongs to these media, and is computed with them only

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        held = [x for layer in self.cache.layers for x in vars(layer).values()]
        return sum(x.nbytes for x in held if isinstance(x, Tensor))


class KvCaches:
    """The last caches of each conversation and set of senses; use it under the model's lock.

    While an answer is computed its cache belongs to the answer and cannot be dropped. Of those kept, the ones
    that were used least recently make room; the last one stays even where it alone is more than `limit`.
    """

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._kept: LRUCache[Name, KvCache] = LRUCache(limit, lambda kept: min(kept.nbytes, limit))

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all caches that are kept, of each at most the limit."""
        return int(self._kept.currsize)

    def take(
        self, conversation: object, senses: tuple[str, ...], loras: Hashable, labels: Sequence[Label]
    ) -> KvCache | None:
        """The longest beginning of a prompt with these labels that this conversation kept, or None.

        It may have been kept for other senses. At least one position is left to compute, since an answer
        starts from the logits of the last one. The cache of the same senses is taken out of the store: what a
        failure leaves half filled must never be used again.
        """
        self._forget_ended()
        mine = weakref.ref(conversation)
        same = self._kept.pop((mine, senses), None)
        # LRUCache's own __getitem__, behind `values()` too, would mark an entry as used.
        others = [Cache.__getitem__(self._kept, name) for name in self._kept if name[0] == mine]
        usable = [kept for kept in (same, *others) if kept is not None and kept.loras == loras]
        best = max(usable, key=lambda kept: common_length(kept.labels, labels[:-1]), default=None)
        length = common_length(best.labels, labels[:-1]) if best else 0
        # Continuing a cache needs a mask of all new positions by all old ones, which a causal prefill from
        # nothing does without: 2.0 times the memory was measured where only the words before the media were
        # shared. So nothing is continued that ends before the media.
        media = next((i for i, label in enumerate(labels) if not isinstance(label, int)), 0)
        if best is None or length <= media:
            return None
        cache = compat.cache_beginning(best.cache, dropped=len(best.labels) - length)
        return KvCache(cache, labels[:length], loras, best.baseline if best is same else None)

    def keep(self, conversation: object, senses: tuple[str, ...], kept: KvCache) -> None:
        """Keep the cache of an answer."""
        self._forget_ended()
        self._kept[weakref.ref(conversation), senses] = kept

    def get(self, conversation: object, senses: tuple[str, ...]) -> KvCache | None:
        """The cache that was kept for these senses, or None; it becomes the last to be dropped."""
        return self._kept.get((weakref.ref(conversation), senses))

    def clear(self) -> None:
        """Drop all caches, of every conversation."""
        self._kept.clear()

    def _forget_ended(self) -> None:
        """Drop the caches of conversations that nobody holds any more."""
        for name in [name for name in self._kept if name[0]() is None]:
            del self._kept[name]


def prompt_labels(prompt: Prompt, keys: Mapping[str, str]) -> list[Label]:
    """The labels (S) of a prompt with these streams, where placeholders alone would all look alike."""
    labels: list[Label] = prompt.input_ids[0].tolist()
    for sense, span in prompt.spans.items():
        for number, position in enumerate(span.tolist()):
            labels[position] = (keys[sense], number)
    return labels


def common_length(one: Sequence[Label], other: Sequence[Label]) -> int:
    """How many labels both sequences begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
