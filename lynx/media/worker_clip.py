"""A depth clip that a worker makes, keeps and measures: the mesh itself never leaves it."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from lynx.media.worker import call
from lynx.types import DepthClip

KEPT = 2
"""Clips, with their meshes, that a worker keeps; the least recently used goes."""

State = tuple[tuple[int, int, int], ...]


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
    about = repr(path.name)
    facts = call(_facts, make, path, state, args, about=about)

    def measure(indices: Sequence[int]) -> np.ndarray:
        return call(_measure, make, path, state, args, tuple(map(int, indices)), about=about)

    return replace(facts, measure=measure)


@lru_cache(KEPT)
def _clip(make: Callable[..., DepthClip], path: Path, state: State, args: tuple[Hashable, ...]) -> DepthClip:
    return make(path, *args)


def _facts(
    make: Callable[..., DepthClip], path: Path, state: State, args: tuple[Hashable, ...]
) -> DepthClip:
    """The clip without the function that measures it, which cannot be pickled."""
    return replace(_clip(make, path, state, args), measure=_unmeasured)


def _measure(
    make: Callable[..., DepthClip],
    path: Path,
    state: State,
    args: tuple[Hashable, ...],
    indices: Sequence[int],
) -> np.ndarray:
    return _clip(make, path, state, args).measure(indices)


def _unmeasured(indices: Sequence[int]) -> np.ndarray:
    raise NotImplementedError
