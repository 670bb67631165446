"""Results computed from a recording, cached until its file changes."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, wraps
from typing import TypeVar

from lynx.types import FileSource, Recording

T = TypeVar("T")

KEPT = 256
"""Maximum cached results of one function; the least recently used is dropped."""


def cached_by_file(function: Callable[[FileSource], T]) -> Callable[[FileSource], T]:
    """Cache `function` of a recording until the file's inode, size or modification time changes.

    Errors are not cached.
    """

    @lru_cache(KEPT)
    def cached(recording: Recording, state: tuple[int, ...]) -> T:
        return function(recording)

    @wraps(function)
    def call(source: FileSource) -> T:
        recording = Recording.of(source)
        if not recording.path.is_file():
            return function(recording)
        # none of these changes what is read from the file
        recording = replace(recording, unit=None, up=None, lasts=None, part=None)
        stat = recording.path.stat()
        return cached(recording, (stat.st_ino, stat.st_size, stat.st_mtime_ns))

    return call
