"""What lies beside depth maps and meshes and belongs to the recording: depth.json, times, cameras, poses."""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lynx.config import LIMITS, amount, short_repr
from lynx.errors import MediaError

SETTINGS = "depth.json"
"""Beside maps, in the folder that holds their depth/, or beside a mesh: what is known of the recording."""
TIMES = "times.txt"
"""Beside maps: the second at which each was measured."""
INTRINSICS = ("intrinsic_depth.txt", "intrinsic/intrinsic_depth.txt", "intrinsics.txt")
"""Beside maps or a mesh: the camera's matrix; the first that exists is read."""
TUM_LISTS = ("depth.txt", "groundtruth.txt")
"""Beside the maps of a sequence of TUM RGB-D; either will do."""
MAX_MATRIX = 64 * 2**10
"""Maximum bytes of depth.json, of a camera's matrix and of a pose."""
MAX_COORDINATE = 1e15
"""Places and camera settings beyond this (m or pixels) are damage: their squares leave the range of float."""
CENTERED = 0.2
"""Maximum distance of a principal point from a picture's middle, as a share of half the picture."""
AXES = {sign + name: axis * value for name, axis in zip("xyz", np.eye(3), strict=True)
        for sign, value in (("", 1.0), ("-", -1.0))}  # fmt: skip
"""Unit vectors of the names of axes."""
EXAMPLE = '{"unit": "mm", "up": "y"}'
MAX_NESTING = 64
"""Maximum lists and objects in depth.json: a matrix has five."""
UNITS = {
    "m": 1.0,
    "cm": 0.01,
    "mm": 0.001,
    "um": 1e-6,
    **dict.fromkeys(("tum", "icl", "bonn"), 1 / 5000),
    **dict.fromkeys(("scannet", "scannetpp", "arkit", "7scenes", "nyu", "redwood"), 0.001),
    **dict.fromkeys(("kinect", "kinect2", "azure", "d415", "d435", "d455"), 0.001),
    "d405": 0.0001,
    "l515": 0.00025,
    "matterport": 0.00025,
    "kitti": 1 / 256,
    "replica": 1 / 6553.5,
}
"""Meters of one step, by the names of units, sensors and data sets."""


@dataclass(frozen=True)
class DepthSettings:
    """What depth.json says; None where it says nothing."""

    unit: float | None = None  # meters of one step
    up: str | None = None  # one of AXES
    intrinsics: np.ndarray | None = None  # (3, 3) pixels
    size: tuple[int, int] | None = None  # height and width that the intrinsics are of, pixels
    fps: float | None = None


def parse_unit(given: str | float, what: str = "the depth unit") -> float:
    """Meters of one step of depth: a number, or a name of UNITS such as "mm", "tum" or "d405".

    Raises MediaError for anything else.
    """
    if isinstance(given, str):
        name = given.strip().lower()
        if name in UNITS:
            return UNITS[name]
        try:
            given = float(name)
        except ValueError:
            near = difflib.get_close_matches(name, UNITS, 1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise MediaError(
                f"{what[:1].upper()}{what[1:]} is {short_repr(given)}{meant}; expected meters a step, such "
                f"as 0.001, or one of {', '.join(UNITS)}."
            ) from None
    if not _number(given) or not 1e-9 <= given <= 1e6:
        raise MediaError(
            f"{what[:1].upper()}{what[1:]} is {short_repr(given)}; expected meters a step, such as 0.001, "
            "from 1e-9 to 1e6."
        )
    return float(given)


def parse_up(given: str, what: str = "the axis that points up") -> str:
    """The name of an axis, one of AXES. Raises MediaError for anything else."""
    if not isinstance(given, str) or given.strip().lower().removeprefix("+") not in AXES:
        raise MediaError(
            f"{what[:1].upper()}{what[1:]} is {short_repr(given)}; expected one of {', '.join(AXES)}."
        )
    return given.strip().lower().removeprefix("+")


def settings_file(folders: Sequence[Path]) -> Path | None:
    """The first depth.json in these folders."""
    return next((folder / SETTINGS for folder in folders if (folder / SETTINGS).is_file()), None)


def read_settings(folders: Sequence[Path]) -> DepthSettings:
    """The first depth.json in these folders; empty settings where there is none.

    Raises MediaError, with the file and the key, for what is no JSON, unknown keys and wrong values.
    """
    if (path := settings_file(folders)) is None:
        return DepthSettings()
    name = str(Path(path.parent.name, path.name))
    text = _text(path).removeprefix("\ufeff")
    try:
        if text.count("[") + text.count("{") > MAX_NESTING:
            raise ValueError
        values = json.loads(text)
    except ValueError as error:
        raise MediaError(f"{name!r} is no JSON of a few numbers: expected such as {EXAMPLE}.") from error
    return _settings(values, name)


def _settings(values: Any, name: str) -> DepthSettings:
    """The settings in the JSON of a file, checked."""
    known = list(DepthSettings.__dataclass_fields__)
    if not isinstance(values, dict):
        raise MediaError(f"{name!r} holds {short_repr(values)}; expected an object with {', '.join(known)}.")
    if unknown := [key for key in values if key not in known]:
        near = difflib.get_close_matches(unknown[0], known, 1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise MediaError(
            f"{name!r} has an unknown key {short_repr(unknown[0])}{meant}; {', '.join(known)} are read."
        )

    def wrong(key: str, expected: str) -> MediaError:
        return MediaError(f"{key!r} in {name!r} is {short_repr(values[key])}; expected {expected}.")

    unit, up, matrix, size, fps = (values.get(key) for key in known)
    if unit is not None and not isinstance(unit, str) and not _number(unit):
        raise wrong("unit", "meters a step, such as 0.001, or a name such as 'mm'")
    if fps is not None and not (_number(fps) and 1e-6 <= fps <= 1e6):
        raise wrong("fps", "frames a second, above 0")
    if size is not None and not (
        isinstance(size, list)
        and len(size) == 2
        and all(type(pixels) is int and 0 < pixels <= LIMITS.max_side for pixels in size)
    ):
        raise wrong("size", f"[width, height] of up to {LIMITS.say('max_side')}")
    if matrix is not None:
        rows = matrix if isinstance(matrix, list) else [None]
        width = len(rows)
        if not all(isinstance(row, list) and len(row) == width and all(map(_number, row)) for row in rows):
            raise wrong("intrinsics", "3 x 3 numbers")
        matrix = _camera(np.array(rows, np.float64), f"'intrinsics' in {name!r}")
    return DepthSettings(
        None if unit is None else parse_unit(unit, f"'unit' in {name!r}"),
        None if up is None else parse_up(up, f"'up' in {name!r}"),
        matrix,
        (size[1], size[0]) if size else None,
        float(fps) if fps else None,
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _text(path: Path, most: int = MAX_MATRIX, said: str = amount(MAX_MATRIX, "bytes")) -> str:
    """A file's text; bytes that are not UTF-8 become replacement characters, which no parser accepts.

    Raises MediaError above `most` bytes, which its message calls `said`.
    """
    try:
        if (size := path.stat().st_size) > most:
            raise MediaError(
                f"{path.name!r} has {size:,} bytes; at most {said} are read: it is damaged or another file."
            )
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise MediaError(f"{path.name!r} cannot be opened: {error.strerror}.") from error


def _numbers(text: str, path: Path) -> np.ndarray:
    """The rows of numbers of a file's text, in float64. Raises MediaError for what is none."""
    lines = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines()]
    rows = [(number, words) for number, words in enumerate(lines, 1) if words]
    if not rows:
        raise MediaError(f"{path.name!r} is empty: it does not hold the numbers it should.")
    for number, words in rows:
        if len(words) != len(rows[0][1]):
            raise MediaError(
                f"{path.name!r} does not hold the numbers it should: line {number} has {len(words)} where "
                f"line {rows[0][0]} has {len(rows[0][1])}."
            )
    values = []
    for number, words in rows:
        for word in words:
            try:
                values.append(float(word))
            except ValueError:
                problem = f"does not hold the numbers it should: line {number} has {short_repr(word)}."
                raise MediaError(f"{path.name!r} {problem}") from None
    return np.array(values).reshape(len(rows), -1)


def _camera(matrix: np.ndarray, what: str) -> np.ndarray:
    """The (3, 3) matrix of a camera. Raises MediaError unless `matrix` can be one."""
    good = matrix.shape in ((3, 3), (4, 4)) and np.isfinite(matrix).all() and np.abs(matrix).max() < 1e9
    if not good or not (matrix[[0, 1], [0, 1]] > 1e-6).all():
        raise MediaError(f"{what} is no camera matrix: 3 x 3 or 4 x 4 with focal lengths above 0.")
    return matrix[:3, :3]


def read_intrinsics(root: Path) -> np.ndarray | None:
    """The camera's matrix (3, 3) that lies in a folder. Raises MediaError when it cannot be one."""
    for name in INTRINSICS:
        if (root / name).is_file():
            return _camera(_numbers(_text(root / name), root / name), repr(name))
    return None


def fit_intrinsics(
    camera: np.ndarray | None, of: tuple[int, int] | None, size: tuple[int, int]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """A camera's matrix for maps of `size` (height, width), and a note where it was for others.

    of: the size that it is for, where that is known; else it is taken for a picture about whose middle the
    axis passes (as the method's released code does), unless that may be these maps.
    """
    if camera is None:
        return None, ()
    center, middle = camera[[1, 0], 2], (np.array(size) - 1) / 2
    if of is None:
        if (np.abs(center - middle) <= CENTERED * np.maximum(middle, 1)).all() or (center <= 0).any():
            return camera, ()
        of_height, of_width = (2 * center + 1).tolist()
    else:
        of_height, of_width = of
    if (of_height, of_width) == size:
        return camera, ()
    factors = np.array([size[1] / of_width, size[0] / of_height])  # of x and y
    fitted = camera.copy()
    fitted[:2] *= factors[:, None]
    fitted[:2, 2] = (camera[:2, 2] + 0.5) * factors - 0.5  # the centers of pixels are whole numbers
    given = f"the intrinsics are of pictures of {of_width:.0f}x{of_height:.0f}"
    return fitted, (f"{given}: scaled to the maps' {size[1]}x{size[0]}",)


def read_poses(root: Path, stems: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The poses (n, 4, 4) of the maps called `stems`, NaN where one is missing, and what had to be left out.

    None where there is no folder of poses.
    """
    if not (root / "pose").is_dir():
        return None, ()
    poses = np.full((len(stems), 4, 4), np.nan)
    for pose, stem in zip(poses, stems, strict=True):
        if (file := root / "pose" / f"{stem}.txt").is_file():
            if (matrix := _numbers(_text(file), file)).shape != (4, 4):
                raise MediaError(f"{file.name!r} is no pose: 4 x 4 numbers, camera to world.")
            with np.errstate(invalid="ignore"):
                pose[:] = matrix if np.abs(matrix).max() < MAX_COORDINATE else np.nan
    notes: tuple[str, ...] = ()
    if lost := (~np.isfinite(poses).all((1, 2))).sum():
        notes = (f"{lost} of {len(stems)} camera poses are missing or not finite",)
    if further := {file.stem for file in (root / "pose").glob("*.txt")} - set(stems):
        notes = (*notes, f"{len(further)} camera poses have no depth map and are left out")
    return poses, notes


def read_times(path: Path, count: int) -> np.ndarray:
    """The seconds (count,) in times.txt. Raises MediaError unless there are as many, and ascending."""
    text = _text(path, LIMITS.max_times_bytes, LIMITS.say("max_times_bytes"))
    return check_times(_numbers(text, path).reshape(-1), count)


def check_times(times: np.ndarray, count: int) -> np.ndarray:
    """The times. Raises MediaError unless there is one for each of `count` maps, finite and ascending."""
    if len(times) != count:
        raise MediaError(f"{count} depth maps need as many ascending times, not {len(times)}.")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise MediaError(f"{count} depth maps need as many ascending times, but these do not ascend.")
    return times


STAMP = re.compile(r"\d{9,}\.\d+")
"""A name that is the second since 1970, as in TUM RGB-D: 1305031102.160407."""


def stamped_times(stems: Sequence[str]) -> np.ndarray | None:
    """Seconds since the first of maps whose names are all seconds since 1970; None where they are not."""
    if not stems or not all(STAMP.fullmatch(stem) for stem in stems):
        return None
    whole = [int(stem.partition(".")[0]) for stem in stems]
    parts = [float("0." + stem.partition(".")[2]) for stem in stems]
    times = [w - whole[0] + p - parts[0] for w, p in zip(whole, parts, strict=True)]
    return check_times(np.array(times), len(stems))


def layout_of(root: Path, stems: Sequence[str]) -> str:
    """The data set that a folder is laid out like, a name of UNITS, or "".

    tum: names that are times, and the lists that come with them. scannet: poses and intrinsic_depth.txt.
    """
    if any((root / name).is_file() for name in TUM_LISTS) and all(map(STAMP.fullmatch, stems)):
        return "tum"
    return "scannet" if (root / "pose").is_dir() and (root / INTRINSICS[0]).is_file() else ""
