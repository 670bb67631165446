"""Files whose names are numbers, as of frames and depth maps, and the moments they stand for."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lynx.errors import MediaError

TIMES = "times.txt"
"""Beside numbered files: the second of each, one a line."""
STAMP = re.compile(r"\d{9,10}\.\d{3,9}")
"""A name that is a moment: seconds of Unix time with decimals, as in recordings of TUM."""


def in_order(files: Iterable[Path]) -> list[Path]:
    """Files in the order of the numbers in their names."""

    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.split("([0-9]+)", path.stem)
        return [(int(part[:1000]), "") if part[:1].isdecimal() else (-1, part) for part in parts]

    return sorted(files, key=key)


def read_times(path: Path, count: int, what: str) -> np.ndarray:
    """The seconds (count,) in a file. Raises MediaError unless there are `count`, ascending and finite."""
    try:
        times = np.loadtxt(path, dtype=np.float64, ndmin=1).reshape(-1)
    except (ValueError, OSError) as error:
        raise MediaError(f"{path.name!r} does not hold the numbers it should: {error}.") from error
    if len(times) != count:
        raise MediaError(f"{count} {what} need as many ascending times, not {len(times)}: {path.name!r}.")
    return check_times(times, what)


def times_at_rate(files: Sequence[Path], fps: float, what: str) -> np.ndarray:
    """The seconds (n,) of files whose names' last numbers count frames. Raises MediaError without numbers."""
    return check_times(frame_numbers(files, what) / fps, what)


def frame_numbers(files: Sequence[Path], what: str) -> np.ndarray:
    """The last numbers (n,) in the files' names. Raises MediaError where one has none."""
    found = [re.findall("[0-9]+", file.stem) for file in files]
    if not all(found):
        raise MediaError(f"The names of the {what} beside {files[0].name!r} hold no frame numbers.")
    return np.array([float(numbers[-1][:300]) for numbers in found])


def unix_times(files: Sequence[Path]) -> np.ndarray | None:
    """The seconds (n,) in the files' names, Unix time; None unless every name is one."""
    if not files or not all(STAMP.fullmatch(file.stem) for file in files):
        return None
    return np.array([float(file.stem) for file in files])


def check_times(times: np.ndarray, what: str) -> np.ndarray:
    """The times, if they are finite and ascend. Raises MediaError."""
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise MediaError(f"The times of {len(times)} {what} must be finite and ascend.")
    return times


def end_of(times: np.ndarray) -> float:
    """When a clip of pictures at these times ends: the last one lasts as long as the others."""
    return float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1.0))
