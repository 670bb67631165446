"""Results computed from a file, cached until the file changes."""

from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

KEPT = 256
"""Maximum cached results of one function; the least recently used is dropped."""


def cached_by_file(function: Callable[[str | Path], T]) -> Callable[[str | Path], T]:
    """Cache `function` of a path until the file's inode, size or modification time changes.

    Errors are not cached.
    """

    @lru_cache(KEPT)
    def cached(path: Path, state: tuple[int, ...]) -> T:
        return function(path)

    @wraps(function)
    def call(path: str | Path) -> T:
        if not Path(path).is_file():
            return function(path)
        stat = Path(path).stat()
        return cached(Path(path), (stat.st_ino, stat.st_size, stat.st_mtime_ns))

    return call
