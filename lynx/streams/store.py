"""The streams that a model encoded last, kept in memory up to a number of bytes."""

from cachetools import LRUCache

from lynx.types import Stream

MAX_BYTES = 512 * 2**20
"""Maximum bytes of all streams a model keeps, on whichever device they are."""


class StreamStore:
    """The last streams by `stream_key`, at most `limit` bytes of them; use it under the model's lock."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._kept: LRUCache[str, Stream] = LRUCache(limit, getsizeof=stream_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all streams that are kept."""
        return int(self._kept.currsize)

    def get(self, key: str) -> Stream | None:
        """The stream of that key, or None; it becomes the last to be dropped."""
        return self._kept.get(key)

    def put(self, key: str, stream: Stream) -> None:
        """Keep a stream; those asked for least recently make room. One larger than the limit is not kept."""
        if stream_bytes(stream) <= self._kept.maxsize:  # LRUCache would refuse it with a ValueError
            self._kept[key] = stream

    def clear(self) -> None:
        """Drop all streams."""
        self._kept.clear()


def stream_bytes(stream: Stream) -> int:
    """Bytes of a stream with its frames."""
    return sum(x.nbytes for x in (stream.tokens, stream.times, stream.cells, stream.frames.pixels))
