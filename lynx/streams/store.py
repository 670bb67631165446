"""The streams that a model encoded last, kept in memory up to a number of bytes."""

from collections import OrderedDict

from lynx.types import Stream

BYTES_KEPT = 512 * 2**20
"""Of all streams that one model keeps, on whichever device they are."""


class StreamStore:
    """The streams that a model encoded last, at most `limit` bytes of them; use it under the model's lock."""

    def __init__(self, limit: int = BYTES_KEPT) -> None:
        self.limit = limit
        self._kept: OrderedDict[str, Stream] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Of everything that is kept."""
        return sum(map(size_of, self._kept.values()))

    def get(self, key: str) -> Stream | None:
        """The stream of that key, which becomes the last to go."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, stream: Stream) -> None:
        """Keep a stream; those that were asked for least recently make room."""
        self._kept[key] = stream
        self._kept.move_to_end(key)
        while self.nbytes > self.limit:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()


def size_of(stream: Stream) -> int:
    """Bytes of a stream with its frames."""
    return sum(x.nbytes for x in (stream.tokens, stream.times, stream.cells, stream.frames.pixels))
