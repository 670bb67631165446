"""A depth clip that a worker makes, keeps and measures: the mesh itself never leaves it."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from lynx.media.worker import call
from lynx.types import DepthClip

KEPT = 2
"""Clips, with their meshes, that a worker keeps; the least recently used goes."""
LARGE = 2**24
"""Bytes of files above which a clip gets all memory of its worker: the others go before it is made."""

State = tuple[tuple[int, int, int], ...]

_kept: dict[tuple[Hashable, ...], DepthClip] = {}
_lock = Lock()  # where there are no workers, threads of the app share them


def clip_in_worker(
    make: Callable[..., DepthClip], path: Path, *args: Hashable, files: Sequence[Path] = ()
) -> DepthClip:
    """`make(path, *args)` in a worker; its maps are measured there, too.

    make: a function of a module. files: all that it reads, path alone if empty; the clip is made anew when
    one has changed, or when another worker measures it. Raises what `make` does, and what `call` does.
    """
    state: State = tuple(
        (stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files or [path])
    )
    about, clip = repr(path.name), (make, path, state, args)
    facts = call(_facts, *clip, about=about)

    def measure(indices: Sequence[int]) -> np.ndarray:
        return call(_measure, tuple(map(int, indices)), *clip, about=about)

    return replace(facts, measure=measure)


def _clip(make: Callable[..., DepthClip], path: Path, state: State, args: tuple[Hashable, ...]) -> DepthClip:
    key = (make, path, state, args)
    with _lock:
        clip = _kept.pop(key, None)
        large = sum(size for _, size, _ in state) > LARGE
        while clip is None and _kept and (large or len(_kept) >= KEPT):
            _kept.pop(next(iter(_kept)))
    clip = clip or make(path, *args)
    with _lock:
        _kept[key] = clip
    return clip


def _facts(*clip: Any) -> DepthClip:
    """The clip without the function that measures it, which cannot be pickled."""
    return replace(_clip(*clip), measure=_unmeasured)


def _measure(indices: Sequence[int], *clip: Any) -> np.ndarray:
    return _clip(*clip).measure(indices)


def _unmeasured(indices: Sequence[int]) -> np.ndarray:
    raise NotImplementedError
