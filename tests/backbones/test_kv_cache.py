import gc

import torch
from transformers import DynamicCache

from lynx.backbones.kv_cache import KvCache, KvCaches


class Conversation:
    """Anything that can be referred to weakly."""


def kept(labels, loras=(b"lora",), baseline=None):
    """The cache of that many positions in two layers: 2 * 2 * 4 * 3 * 4 = 192 bytes a position."""
    cache = DynamicCache()
    for layer in range(2):
        x = torch.arange(len(labels)).float().view(1, 1, -1, 1).expand(1, 4, -1, 3).contiguous()
        cache.update(x, x + 100, layer)
    return KvCache(cache, labels, loras, baseline)


ALL, VIDEO = ("video", "audio"), ("video",)
PROMPT = [7, ("clip", 0), ("clip", 1), ("sound", 0), 8, 9]


def test_the_longest_common_beginning_is_taken_and_what_it_was_taken_from_stays():
    caches, me = KvCaches(), Conversation()
    caches.keep(me, VIDEO, kept([7, ("clip", 0), ("clip", 1), 5]))
    found = caches.take(me, ALL, (b"lora",), PROMPT)
    assert found.cache.get_seq_length() == len(found.labels) == 3
    assert found.cache.layers[0].keys[0, 0, :, 0].tolist() == [0, 1, 2]
    found.cache.update(torch.zeros(1, 4, 1, 3), torch.zeros(1, 4, 1, 3), 0)
    other = caches.get(me, VIDEO)
    assert other.cache.get_seq_length() == 4 and other.cache.layers[0].values[0, 0, 3, 0] == 103
    caches.keep(me, ALL, kept(PROMPT))
    assert len(caches.take(me, ALL, (b"lora",), PROMPT).labels) == 5  # the last is left to compute
    assert caches.get(me, ALL) is None  # an answer has it now


def test_nothing_is_taken_of_other_weights_other_media_or_another_conversation():
    caches, me = KvCaches(), Conversation()
    for loras, prompt, who in (
        ((b"other",), PROMPT, me),
        ((), PROMPT, me),
        ((b"lora",), [7, ("another clip", 0), ("clip", 1), 8], me),  # the words before the media are the same
        ((b"lora",), PROMPT, Conversation()),
    ):
        caches.keep(me, ALL, kept(PROMPT))
        assert caches.take(who, ALL, loras, prompt) is None
    caches.keep(me, (), kept([1, 2, 3]))
    assert len(caches.take(me, (), (b"lora",), [1, 2, 4]).labels) == 2  # a conversation in words alone


def test_bytes_are_bounded_and_those_used_least_recently_go_first():
    caches, me, you = KvCaches(limit=192 * 12), Conversation(), Conversation()
    caches.keep(me, ALL, kept(PROMPT))
    caches.keep(you, ALL, kept(PROMPT))
    assert caches.nbytes == 192 * 12 and len(caches) == 2
    caches.get(me, ALL)
    caches.keep(you, VIDEO, kept(PROMPT[:4]))
    assert caches.get(you, ALL) is None and caches.get(me, ALL) is not None
    caches.take(me, VIDEO, (b"lora",), PROMPT)  # looks at all of mine, which makes none of them younger
    caches.get(you, VIDEO)
    caches.keep(you, ALL, kept(PROMPT[:4]))
    assert caches.get(me, ALL) is None and len(caches) == 2
    large = kept([*PROMPT, *range(100)])
    caches.keep(me, ALL, large)  # more than the limit: it is that of the conversation that goes on
    assert caches.get(me, ALL) is large and len(caches) == 1
    caches.keep(you, ALL, kept(PROMPT))
    assert len(caches) == 1 and caches.nbytes == 192 * 6


def test_the_caches_of_a_conversation_end_with_it():
    caches, me, you = KvCaches(), Conversation(), Conversation()
    caches.keep(me, ALL, kept(PROMPT))
    del me
    gc.collect()
    assert caches.take(you, ALL, (b"lora",), PROMPT) is None and len(caches) == 0
