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
"""Identity of a prompt position: a token's id, or a stream's key and the number of its token."""

Name = tuple["weakref.ref[object]", tuple[str, ...]]
"""Key of a kept cache: its conversation, and the senses that were on."""


@dataclass(frozen=True)
class KvCache:
    """Keys and values of S positions, with everything that determines them."""

    cache: DynamicCache  # keys and values (1, Hkv, S, d) a layer
    labels: Sequence[Label]  # S of them
    loras: Hashable  # the weights of the LLM LoRAs that were on (`AdaptedBackbone.llm_identity`)
    baseline: Tensor | None  # see `Evidence`; it belongs to these media, and is computed with them only

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(tensor.nbytes for tensor in compat.cache_tensors(self.cache))


class KvCaches:
    """The last caches of each conversation and set of senses; use it under the model's lock.

    While an answer is computed its cache belongs to the answer and cannot be dropped. The least recently used
    are dropped first; the last one stays even if it alone exceeds `limit`.
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
        """The kept cache that shares the longest prefix with these labels, cut to that prefix; or None.

        It may have been kept for other senses. At least one position is left to compute, since an answer
        starts from the logits of the last one. The cache of the same senses is taken out of the store, so
        that one half filled by a failed answer is never reused.
        """
        self._forget_ended()
        mine = weakref.ref(conversation)
        same = self._kept.pop((mine, senses), None)
        # LRUCache's own __getitem__, which `values()` calls too, would mark an entry as used.
        others = [Cache.__getitem__(self._kept, name) for name in self._kept if name[0] == mine]
        usable = [kept for kept in (same, *others) if kept is not None and kept.loras == loras]
        best = max(usable, key=lambda kept: common_length(kept.labels, labels[:-1]), default=None)
        length = common_length(best.labels, labels[:-1]) if best else 0
        # Continuing a cache needs an explicit mask of new by old positions, unlike a causal prefill from the
        # start: twice the memory where only the words before the media are shared. So caches that end there
        # are not continued.
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
        """The cache that was kept for these senses, or None; marks it as most recently used."""
        return self._kept.get((weakref.ref(conversation), senses))

    def clear(self) -> None:
        """Drop all caches, of every conversation."""
        self._kept.clear()

    def _forget_ended(self) -> None:
        """Drop the caches of conversations that were garbage-collected."""
        for name in [name for name in self._kept if name[0]() is None]:
            del self._kept[name]


def prompt_labels(prompt: Prompt, keys: Mapping[str, str]) -> list[Label]:
    """The labels (S) of a prompt: its ids, where placeholders give way to (stream key, token number)."""
    labels: list[Label] = prompt.input_ids[0].tolist()
    for sense, span in prompt.spans.items():
        for number, position in enumerate(span.tolist()):
            labels[position] = (keys[sense], number)
    return labels


def common_length(one: Sequence[Label], other: Sequence[Label]) -> int:
    """Number of labels in the common prefix of both."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
