"""What was found out about a file, remembered for as long as the file stays as it is."""

from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

KEPT = 256
"""Results of one function; what was asked for least recently makes room."""


def cached_by_file(function: Callable[[str | Path], T]) -> Callable[[str | Path], T]:
    """`function` of a path, called once for every state of the file: its place, size and second of change.

    What it raises is not remembered.
    """

    @lru_cache(KEPT)
    def remembered(path: Path, state: tuple[int, ...]) -> T:
        return function(path)

    @wraps(function)
    def ask(path: str | Path) -> T:
        if not Path(path).is_file():
            return function(path)
        stat = Path(path).stat()
        return remembered(Path(path), (stat.st_ino, stat.st_size, stat.st_mtime_ns))

    return ask
