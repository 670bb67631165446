"""Depth from files: folders of maps in ScanNet form, .npy stacks, depth videos, and views of meshes."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lynx.errors import MediaError
from lynx.media.container import MAX_SIDE, probe
from lynx.media.mesh import BROKEN, MESHES, load_shape, orbit_clip, posed_clip
from lynx.media.video import read_levels
from lynx.types import DepthClip, valid_depth

MAX_MAPS = 10_000_000
"""Maximum frames of a depth video: 28 hours at 100 a second."""
DAMAGED = "it is damaged or of another kind"
TIMES = "times.txt"
"""Beside maps: the second at which each was measured."""
INTRINSICS = ("intrinsic_depth.txt", "intrinsic/intrinsic_depth.txt", "intrinsics.txt")
"""Beside maps or a mesh: the camera's matrix; the first that exists is read."""
NO_RETURN = 65535
"""Value of no measurement in some sensors' maps; ScanNet stores 0."""


def open_depth(
    path: str | Path,
    *,
    unit: float = 0.001,
    fps: float | None = None,
    reach: tuple[float, float] = (0.2, 10.0),
    views: int = 16,
    size: int = 384,
) -> DepthClip:
    """The depth in a folder of maps or of a mesh with poses, a .npy stack, a mesh, a point cloud, or a video.

    unit: meters of one step of integer maps. fps: the rate at which the numbers in file names count. reach:
    near and far, meters, if there is no unit. views, size: of the cameras around a mesh, pixels a side.
    Raises MediaError when it is none of these, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise MediaError(f"There is no file {str(path)!r}; give depth maps, a mesh, points or a video.")
    if path.is_dir():
        root, maps = _maps(path)
        if maps or (path / "depth").is_dir():
            return _folder(root, maps, unit, fps)
        # a mesh in meters with pose/*.txt
        meshes, stems = _meshes(path), [file.stem for file in _numbered(path / "pose", "txt")]
        if len(meshes) != 1 or not stems or (poses := _poses(path, stems)) is None:
            raise MediaError(
                f"{str(path)!r} holds {len(meshes)} meshes and {len(stems)} poses, and no depth maps; "
                "expected depth/*.png in millimeters, or one mesh with pose/*.txt."
            )
        return posed_clip(load_shape(meshes[0]), poses, _intrinsics(path), size)
    if path.suffix.lower() == ".npy":
        return _stack(path, unit)
    if path.suffix.lower() in MESHES:
        up = np.eye(3)[1 if path.suffix.lower() == ".glb" else 2]
        return orbit_clip(load_shape(path), views, size, reach, up)
    return _video(path, reach)


def depth_files(path: Path) -> list[Path]:
    """Every file that `open_depth` reads of a path: maps or a mesh, and times, intrinsics and poses."""
    if path.is_dir():
        root, files = _maps(path)
        if not files:
            root, files = path, _meshes(path)
        return [*files, *_beside(root), *_numbered(root / "pose", "txt")]
    return [path, *_beside(path.parent)] if path.suffix.lower() == ".npy" else [path]


def _maps(folder: Path) -> tuple[Path, list[Path]]:
    """The maps in a folder, or in its folder depth/; and the folder that their times and cameras lie in."""
    maps = folder / "depth" if (folder / "depth").is_dir() else folder
    return maps.parent if maps.name == "depth" else maps, _numbered(maps, "png")


def _meshes(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.suffix.lower() in MESHES]


def _beside(root: Path) -> list[Path]:
    return [root / name for name in (TIMES, *INTRINSICS) if (root / name).is_file()]


def to_meters(values: np.ndarray, unit: float = 0.001) -> np.ndarray:
    """Stored depth -> float32 meters: integers are steps of `unit` meters (65535: no return), floats meters.

    Raises MediaError for 8-bit values, which have no unit, and for what is no number.
    """
    if values.dtype.kind not in "uif" or values.dtype.itemsize == 1:
        raise MediaError(f"Depth is stored as 16-bit millimeters or as meters, not as {values.dtype}.")
    if values.dtype.kind == "f":
        return valid_depth(values)
    return valid_depth(np.where(values == NO_RETURN, 0, values) * unit)


def _numbered(folder: Path, ending: str) -> list[Path]:
    """The folder's files with that ending, in the order of the numbers in their names."""

    def key(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]

    return sorted(folder.glob(f"*.{ending}"), key=key)


def _folder(root: Path, files: Sequence[Path], unit: float, fps: float | None) -> DepthClip:
    """Maps of one size, `files`, with the times and cameras found in `root`."""
    if not files:
        raise MediaError(f"{str(root / 'depth')!r} holds no depth maps; 16-bit PNGs in millimeters are read.")
    times, notes = _clock(root, files, fps)
    poses = _poses(root, [file.stem for file in files])
    if poses is not None and (lost := (~np.isfinite(poses).all((1, 2))).sum()):
        notes = (*notes, f"{lost} of {len(files)} camera poses are missing or not finite")

    def measure(indices: Sequence[int]) -> np.ndarray:
        maps = [to_meters(_read_png(files[index]), unit) for index in indices]
        if len({one.shape for one in maps}) > 1:
            raise MediaError(f"The depth maps beside {files[0].name!r} are of different sizes.")
        return np.stack(maps)

    return DepthClip(len(files), measure, times, _end(times), _intrinsics(root), poses, notes)


def _read_png(path: Path) -> np.ndarray:
    """(H, W) integers."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if max(image.size) > MAX_SIDE:
                raise MediaError(f"{path.name!r} is {image.size}; sides of up to {MAX_SIDE} pixels are read.")
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path.name!r} cannot be read as a PNG: {DAMAGED}.") from error
    if values.ndim != 2 or values.dtype.itemsize == 1:
        raise MediaError(f"{path.name!r} is no depth map but a {image.mode} picture; 16-bit gray is read.")
    return values


def _clock(root: Path, files: Sequence[Path], fps: float | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """When each map was measured: `times.txt`, else the numbers in the names at `fps`, else unknown."""
    if (root / TIMES).is_file():
        times = _numbers(root / TIMES).reshape(-1)
    elif fps:
        found = [re.findall(r"\d+", file.stem) for file in files]
        if not all(found):
            raise MediaError(f"The names of the depth maps beside {files[0].name!r} hold no frame numbers.")
        times = np.array([int(numbers[-1]) for numbers in found]) / fps
    else:
        return None, (f"{len(files)} depth maps have no times (times.txt): they are spread over the clip",)
    if len(times) != len(files) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise MediaError(f"{len(files)} depth maps need as many ascending times, not {len(times)}.")
    return times, ()


def _end(times: np.ndarray | None) -> float | None:
    """The seconds of a clip with maps at these times: the last one lasts as long as the others."""
    if times is None:
        return None
    return float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1.0))


def _numbers(path: Path) -> np.ndarray:
    try:
        return np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (ValueError, OSError) as error:
        raise MediaError(f"{path.name!r} does not hold the numbers it should: {error}.") from error


def _intrinsics(root: Path) -> np.ndarray | None:
    for name in INTRINSICS:
        if (root / name).is_file():
            matrix = _numbers(root / name)
            if matrix.shape not in ((3, 3), (4, 4)) or not (matrix[[0, 1], [0, 1]] > 0).all():
                raise MediaError(f"{name!r} is no camera matrix: 3 x 3 or 4 x 4 with focal lengths above 0.")
            return matrix[:3, :3]
    return None


def _poses(root: Path, stems: Sequence[str]) -> np.ndarray | None:
    """(n, 4, 4), NaN where one is missing; None where there is no folder of poses."""
    if not (root / "pose").is_dir():
        return None
    poses = np.full((len(stems), 4, 4), np.nan)
    for pose, stem in zip(poses, stems, strict=True):
        if (file := root / "pose" / f"{stem}.txt").is_file():
            if (matrix := _numbers(file)).shape != (4, 4):
                raise MediaError(f"{file.name!r} is no pose: 4 x 4 numbers, camera to world.")
            pose[:] = matrix
    return poses


def _stack(path: Path, unit: float) -> DepthClip:
    try:
        stack: np.ndarray = np.lib.format.open_memmap(path, mode="r")  # no archive, no pickle
    except BROKEN as error:
        raise MediaError(f"{path.name!r} cannot be read as a .npy array of numbers: {DAMAGED}.") from error
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.ndim != 3 or not stack.size:
        raise MediaError(f"{path.name!r} holds {stack.shape}; depth is a stack of maps (T, H, W).")
    if max(stack.shape[1:]) > MAX_SIDE:
        raise MediaError(f"{path.name!r} holds {stack.shape}; sides of up to {MAX_SIDE} pixels are read.")
    typical = to_meters(stack[len(stack) // 2], unit)
    notes: tuple[str, ...] = ()
    scale = 1.0
    if stack.dtype.kind == "f" and (typical > 0).any() and np.median(typical[typical > 0]) > 100:
        scale, notes = 0.001, (f"{path.name} holds values in the hundreds: read as millimeters",)
    times, unknown = _clock(path.parent, [path] * len(stack), None)
    notes += unknown

    def measure(indices: Sequence[int]) -> np.ndarray:
        return to_meters(np.asarray(stack[list(indices)]), unit) * np.float32(scale)

    return DepthClip(len(stack), measure, times, _end(times), _intrinsics(path.parent), notes=notes)


def _video(path: Path, reach: tuple[float, float]) -> DepthClip:
    info = probe(path)
    if info.video is None:
        raise MediaError(f"{path.name!r} has no picture track; depth is read from a gray video.")
    rate = info.video.fps
    count = max(1, round(info.duration * rate))
    if count > MAX_MAPS:  # a gap in the timestamps, or a rate that the container made up
        raise MediaError(
            f"{path.name!r} lasts {info.duration / 3600:.1f} h at {rate:g} frames a second; "
            f"depth of up to {MAX_MAPS:,} frames is read: cut it, or encode it anew without gaps."
        )
    gray = f"{path.name} has 8 bits and no unit: black is no return, white is {reach[1]:g} m"
    notes = (gray,) if read_levels(path, [0.0]).ndim == 4 else ()

    def measure(indices: Sequence[int]) -> np.ndarray:
        levels = read_levels(path, [(index + 0.5) / rate for index in indices])
        if levels.ndim == 3:
            return to_meters(levels)
        if np.ptp(levels.astype(np.int16), axis=3).mean() > 8:  # gray stays gray to a few levels when encoded
            raise MediaError(f"{path.name!r} is a color video; depth is read from gray ones.")
        meters = levels[..., 1] / 255 * reach[1]
        return valid_depth(np.where(meters < reach[0], 0, meters))  # near black: black after coding

    return DepthClip(count, measure, np.arange(count) / rate, info.duration, notes=notes)
