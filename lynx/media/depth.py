"""Depth from files: folders of maps, single maps, arrays, depth videos, and views of meshes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lynx.config import LIMITS
from lynx.errors import MediaError
from lynx.media.container import probe
from lynx.media.frame_folder import picture_files
from lynx.media.maps import ARRAYS, MAPS, map_form, open_array, read_map
from lynx.media.mesh import MESHES, load_shape, orbit_clip, posed_clip
from lynx.media.numbered_files import end_of, frame_numbers, in_order
from lynx.media.side_files import (
    AXES,
    INTRINSICS,
    TIMES,
    TUM_LISTS,
    UNITS,
    DepthSettings,
    check_times,
    fit_intrinsics,
    layout_of,
    parse_unit,
    parse_up,
    read_intrinsics,
    read_poses,
    read_settings,
    read_times,
    settings_file,
    stamped_times,
)
from lynx.media.video import read_levels
from lynx.media.worker_clip import clip_in_worker
from lynx.types import DepthClip, FileSource, Recording, valid_depth

NO_RETURN = 65535
"""Value of no measurement in some sensors' maps; ScanNet stores 0."""
MILLIMETER = 0.001
ASSUMED = "assumed"
"""`DepthClip.unit_from` where nothing says what a step is."""
ONE_MAP = "{} is one depth map: it is shown at all moments"
NO_TIMES = f"{{}} depth maps have no times ({TIMES}): they are spread over the clip"
READ = (
    f"one map ({' '.join(MAPS)}) or a folder of them, an array ({' '.join(ARRAYS)}), a gray video, a mesh or "
    f"a point cloud ({' '.join(MESHES)})"
)
"""What is read as depth, for refusals."""
_POINTS = "save it as .ply or .pcd, for example with CloudCompare"
_MESH = "export it as .glb or .ply, for example with Blender"
_ARRAY = "save its depth as a .npy in meters, with numpy.save"
_PICTURE = "save depth as 16-bit .png in millimeters, or as a .npy in meters"
CONVERT = {
    **dict.fromkeys((".las", ".laz", ".e57", ".pts", ".ptx", ".xyz", ".rcp", ".rcs", ".copc"), _POINTS),
    **dict.fromkeys((".fbx", ".dae", ".3ds", ".blend", ".usd", ".usda", ".usdc", ".usdz"), _MESH),
    **dict.fromkeys((".3mf", ".step", ".stp", ".iges", ".igs", ".wrl", ".x3d", ".drc", ".vtk"), _MESH),
    **dict.fromkeys((".hgt", ".h5", ".hdf5", ".mat", ".bin", ".raw", ".dpt", ".bag", ".pt", ".pkl"), _ARRAY),
    **dict.fromkeys((".jpg", ".jpeg", ".webp", ".bmp", ".heic", ".jxl", ".hdr", ".jp2", ".avif"), _PICTURE),
}
"""What to do with files of other kinds, by their ending."""


def open_depth(
    source: FileSource,
    *,
    unit: float = MILLIMETER,
    fps: float | None = None,
    reach: tuple[float, float] = (0.2, 10.0),
    views: int = 16,
    size: int = 384,
) -> DepthClip:
    """The depth in a map, a folder of maps or of a mesh with poses, an array, a mesh, points, or a video.

    Unit, up and fps come from the `Recording`, else from depth.json beside it, else from a known layout, else
    from the arguments. unit: meters of one step of integer maps. fps: rate at which the numbers in file names
    count. reach: near and far in meters, used where there is no unit. views, size: number of cameras around a
    mesh, and pixels a side. Raises MediaError when it is none of these, or damaged.
    """
    recording = Recording.of(source)
    path, kind = recording.path, recording.path.suffix.lower()
    if not path.exists():
        raise MediaError(f"There is no file {str(path)!r}; give depth maps, a mesh, points or a video.")
    if recording.unit is not None:
        recording = replace(recording, unit=parse_unit(recording.unit))
    if recording.up is not None:
        recording = replace(recording, up=parse_up(recording.up))
    if kind in CONVERT and path.is_file():
        raise MediaError(f"{path.name!r} is not read as depth: {CONVERT[kind]}. Depth is {READ}.")
    settings = read_settings(_homes(path))
    if path.is_dir():
        clip = _folder(path, recording, settings, unit, fps, size)
    elif kind in MAPS:
        clip = _single(path, recording, settings, unit)
    elif kind in ARRAYS:
        clip = _stack(path, recording, settings, unit)
    elif kind in MESHES:
        clip = _mesh(path, recording, settings, (reach, views, size))
    else:
        clip = _video(path, recording, settings, unit, reach)
    if clip.times is None and recording.lasts:
        clip = replace(clip, duration=recording.lasts)
    return clip


def depth_files(path: Path) -> list[Path]:
    """Every file that `open_depth` reads of a path: maps or a mesh, and all that lies beside and is read."""
    settings = [file] if (file := settings_file(_homes(path))) else []
    if path.is_dir():
        root, maps, meshes = _contents(path)
        lists = [root / name for name in TUM_LISTS if (root / name).is_file()]
        files = [*maps, *lists] if maps else meshes
        return [*files, *settings, *_beside(root, TIMES, *INTRINSICS), *_numbered(root / "pose", (".txt",))]
    kind = path.suffix.lower()
    if kind in MAPS:
        root = _homes(path)[-1]
        return [path, *settings, *_beside(root, *INTRINSICS, f"pose/{path.stem}.txt")]
    if kind in ARRAYS:
        return [path, *settings, *_beside(path.parent, TIMES, *INTRINSICS)]
    return [path, *settings]


def _homes(path: Path) -> list[Path]:
    """Folders in which what belongs to a recording may lie; the last also holds its times and cameras."""
    if path.is_dir() and (path / "depth").is_dir():
        return [path / "depth", path]
    folder = path if path.is_dir() else path.parent
    single = path.suffix.lower() in MAPS or path.is_dir()
    return [folder, folder.parent] if folder.name == "depth" and single else [folder]


def _contents(folder: Path) -> tuple[Path, list[Path], list[Path]]:
    """Where times and cameras lie, the maps in the folder or in its folder depth/, and the meshes.

    Pictures beside one mesh with poses are its textures.
    """
    place = folder / "depth" if (folder / "depth").is_dir() else folder
    kinds = [_numbered(place, (ending,)) for ending in MAPS]
    maps = next(filter(None, kinds), [])
    meshes = _numbered(folder, MESHES)
    if place == folder and len(meshes) == 1:
        stems = {file.stem for file in _numbered(folder / "pose", (".txt",))}
        if stems and not stems & {file.stem for file in maps}:
            maps = []
    return place.parent if place.name == "depth" else place, maps, meshes


def _beside(root: Path, *names: str) -> list[Path]:
    return [root / name for name in names if (root / name).is_file()]


def _numbered(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The folder's files with such endings, in the order of the numbers in their names."""
    found = folder.iterdir() if folder.is_dir() else ()
    return in_order(file for file in found if file.suffix.lower() in endings and file.name[0] != ".")


def to_meters(values: np.ndarray, unit: float = MILLIMETER, float_unit: float = 1.0) -> np.ndarray:
    """Stored depth -> float32 meters: integers are steps of `unit` meters (65535: no return), floats of
    `float_unit`.

    Raises MediaError for 8-bit values, which have no unit, and for what is no number.
    """
    if values.dtype.kind not in "uif" or values.dtype.itemsize == 1:
        raise MediaError(f"Depth is stored as 16-bit millimeters or as meters, not as {values.dtype}.")
    if values.dtype.kind == "f":
        return valid_depth(values if float_unit == 1.0 else values * float_unit)
    return valid_depth(np.where(values == NO_RETURN, 0, values) * unit)


def _units(
    recording: Recording, settings: DepthSettings, fallback: float, floats: bool, layout: str = ""
) -> tuple[float, float, str]:
    """Meters of a step of integers, meters of a step of floats, and the source of the one that is stored."""
    for known, who in ((recording.unit, "given with the recording"), (settings.unit, "depth.json")):
        if known is not None:
            return known, known, who
    if floats:
        return fallback, 1.0, "floats are meters"
    if layout == "tum" or (layout and fallback == MILLIMETER):
        return UNITS[layout], 1.0, f"the layout of {layout}"
    return fallback, 1.0, ASSUMED if fallback == MILLIMETER else "the adapter's rendering"


def _folder(
    path: Path, recording: Recording, settings: DepthSettings, unit: float, fps: float | None, size: int
) -> DepthClip:
    """Maps of one size with the times and cameras that lie with them, or a mesh with poses."""
    root, files, meshes = _contents(path)
    if not files and not (path / "depth").is_dir():
        return _posed_mesh(path, meshes, recording, settings, size)
    if not files:
        raise MediaError(f"{str(root / 'depth')!r} holds no depth maps; 16-bit PNGs in millimeters are read.")
    stems = [file.stem for file in files]
    height, width, kind = map_form(files[0])
    step, float_step, unit_from = _units(recording, settings, unit, kind == "f", layout_of(root, stems))
    times, notes = _clock(root, files, recording, settings, fps)
    if unit_from == "the layout of tum":
        notes = (*notes, f"{root.name} is laid out as TUM RGB-D: a step of its maps is taken for 0.2 mm")
    ending = files[0].suffix.lower()
    if others := len(_numbered(files[0].parent, [other for other in MAPS if other != ending])):
        notes = (*notes, f"{others} maps of other kinds than {ending} are left out")
    poses, lost = read_poses(root, stems)
    camera, fitted = _camera(root, settings, (height, width))

    def measure(indices: Sequence[int]) -> np.ndarray:
        maps = [to_meters(read_map(files[index]), step, float_step) for index in indices]
        for index, one in zip(indices, maps, strict=True):
            if one.shape != (height, width):
                raise MediaError(
                    f"The depth maps are of different sizes: {files[0].name!r} of {width}x{height}, "
                    f"{files[index].name!r} of {one.shape[1]}x{one.shape[0]}."
                )
        return np.stack(maps)

    return DepthClip(
        len(files), measure, times, _end(times), camera, poses, (*notes, *lost, *fitted),
        unit=float_step if kind == "f" else step, unit_from=unit_from, size=(height, width),
    )  # fmt: skip


def _single(path: Path, recording: Recording, settings: DepthSettings, unit: float) -> DepthClip:
    """One map, which has no time."""
    root, values = _homes(path)[-1], read_map(path)
    step, float_step, unit_from = _units(recording, settings, unit, values.dtype.kind == "f")
    meters = to_meters(values, step, float_step)[None]
    camera, fitted = _camera(root, settings, values.shape[:2])
    poses = read_poses(root, [path.stem])[0] if (root / "pose" / f"{path.stem}.txt").is_file() else None
    return DepthClip(
        1, lambda indices: meters[list(indices)], None, None, camera, poses,
        (ONE_MAP.format(path.name), *fitted), unit=float_step if values.dtype.kind == "f" else step,
        unit_from=unit_from, size=values.shape[:2],
    )  # fmt: skip


def _camera(
    root: Path, settings: DepthSettings, size: tuple[int, int]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The intrinsics of maps of that height and width, and a note where they were made to fit."""
    camera = read_intrinsics(root) if settings.intrinsics is None else settings.intrinsics
    return fit_intrinsics(camera, settings.size, size)


def _clock(
    root: Path, files: Sequence[Path], recording: Recording, settings: DepthSettings, fps: float | None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """When each map was measured, and a note where that is not known.

    The user's rate counts first, then times.txt, the rate in depth.json, names that are times, and `fps`.
    """
    if recording.fps:
        return _counted(root, files, recording.fps), ()
    if (root / TIMES).is_file():
        return read_times(root / TIMES, len(files)), ()
    if settings.fps:
        return _counted(root, files, settings.fps), ()
    if (times := stamped_times([file.stem for file in files])) is not None:
        return times, ("the maps' names are their times, from that of the first on",)
    if fps:
        return _counted(root, files, fps), ()
    if len(files) == 1:
        return None, (ONE_MAP.format(files[0].name),)
    return None, (NO_TIMES.format(len(files)),)


def _counted(root: Path, files: Sequence[Path], fps: float) -> np.ndarray:
    """Times from the last number in each name, which counts at `fps` a second.

    From zero on; where numbered pictures lie beside the maps, from the first of those, at which they begin.
    """
    pictures = [file for file in picture_files(root)[:1] if file not in files]
    numbered = bool(pictures) and re.search("[0-9]", pictures[0].stem)
    begin = frame_numbers(pictures, "pictures")[0] if numbered else 0.0
    return check_times((frame_numbers(files, "depth maps") - begin) / fps, len(files))


def _end(times: np.ndarray | None) -> float | None:
    return None if times is None else end_of(times)


def _stack(path: Path, recording: Recording, settings: DepthSettings, unit: float) -> DepthClip:
    stack, name = open_array(path), path.name
    floats = stack.dtype.kind == "f"
    step, float_step, unit_from = _units(recording, settings, unit, floats)
    middle = np.asarray(stack[len(stack) // 2])
    typical = to_meters(middle, step, float_step)
    notes: tuple[str, ...] = ()
    if floats and not (np.isfinite(middle) & (middle >= 0)).all():
        notes = (f"{name} holds values that are no distances (NaN, infinite, negative): they are holes",)
    if float_step == 1.0 and floats and (typical > 0).any() and np.median(typical[typical > 0]) > 100:
        float_step, unit_from = MILLIMETER, "values in the hundreds"
        notes = (*notes, f"{name} holds values in the hundreds: read as millimeters")
    times, listed = None, path.parent / TIMES
    if not recording.fps and listed.is_file():
        times = read_times(listed, len(stack))
    elif rate := recording.fps or settings.fps:
        times = np.arange(len(stack)) / rate
    elif len(stack) == 1:
        notes = (*notes, ONE_MAP.format(name))
    else:
        notes = (*notes, NO_TIMES.format(len(stack)))
    size = (stack.shape[1], stack.shape[2])
    camera, fitted = _camera(path.parent, settings, size)
    scale = np.float32(float_step if floats else 1)

    def measure(indices: Sequence[int]) -> np.ndarray:
        return to_meters(np.asarray(stack[list(indices)]), step) * scale

    return DepthClip(
        len(stack), measure, times, _end(times), camera, None, (*notes, *fitted),
        unit=float_step if floats else step, unit_from=unit_from, size=size,
    )  # fmt: skip


def _posed_mesh(
    path: Path, meshes: Sequence[Path], recording: Recording, settings: DepthSettings, size: int
) -> DepthClip:
    """A mesh in meters seen from pose/*.txt."""
    stems = [file.stem for file in _numbered(path / "pose", (".txt",))]
    if len(meshes) != 1 or not stems:
        raise MediaError(
            f"{str(path)!r} holds {len(meshes)} meshes and {len(stems)} poses, and no depth maps; "
            "expected depth/*.png in millimeters, or one mesh with pose/*.txt."
        )
    unit = recording.unit or settings.unit
    clip = clip_in_worker(_posed, meshes[0], path, size, unit or 1.0, files=depth_files(path))
    who = "given with the recording" if recording.unit else "depth.json" if unit else ASSUMED
    return replace(clip, unit=unit or 1.0, unit_from=who)


def _posed(mesh: Path, folder: Path, size: int, unit: float) -> DepthClip:
    """A mesh seen from the poses in a folder; runs in a worker."""
    settings = read_settings(_homes(folder))
    poses, _ = read_poses(folder, [file.stem for file in _numbered(folder / "pose", (".txt",))])
    assert poses is not None  # there is a folder of them
    camera = read_intrinsics(folder) if settings.intrinsics is None else settings.intrinsics
    return posed_clip(load_shape(mesh).scaled(unit), poses, camera, size, settings.size)


def _mesh(
    path: Path, recording: Recording, settings: DepthSettings, cameras: tuple[tuple[float, float], int, int]
) -> DepthClip:
    """A mesh or point cloud seen from all around. cameras: near and far in meters, how many, and pixels."""
    kind, (reach, views, size) = path.suffix.lower(), cameras
    up = recording.up or settings.up
    notes: tuple[str, ...] = ()
    if up is None:
        up = "y" if kind in (".glb", ".gltf", ".obj") else "z"
        if kind not in (".glb", ".gltf"):  # whose standard says it
            other = "z" if up == "y" else "y"
            notes = (f"{up.upper()} is taken for up in {path.name}: give --depth-up {other} if it lies",)
    unit = recording.unit or settings.unit
    clip = clip_in_worker(_around, path, views, size, reach, up, unit)
    drawn_in_meters = unit is not None or clip.unit is not None
    who = "given with the recording" if recording.unit else "depth.json" if unit else ASSUMED
    known = (unit or 1.0, who) if drawn_in_meters else (None, "unknown")
    return replace(clip, notes=(*clip.notes, *notes), up=up, unit=known[0], unit_from=known[1])


def _around(
    path: Path, views: int, size: int, reach: tuple[float, float], up: str, unit: float | None
) -> DepthClip:
    """A mesh or point cloud seen from a circle about it; runs in a worker."""
    return orbit_clip(load_shape(path).scaled(unit or 1.0), views, size, reach, AXES[up], unit is not None)


def _video(
    path: Path, recording: Recording, settings: DepthSettings, unit: float, reach: tuple[float, float]
) -> DepthClip:
    info = probe(path)
    if info.video is None:
        raise MediaError(f"{path.name!r} has no picture track; depth is read from a gray video.")
    rate = info.video.fps
    count = max(1, round(info.duration * rate))
    if count > LIMITS.max_maps:  # a gap in the timestamps, or a rate that the container made up
        raise MediaError(
            f"{path.name!r} lasts {info.duration / 3600:.1f} h at {rate:g} frames a second; "
            f"at most {LIMITS.say('max_maps')} are read: cut it, or encode it anew without gaps."
        )
    gray = read_levels(path, [0.0]).ndim == 4
    step, _, unit_from = _units(recording, settings, unit, False)
    explicit = recording.unit or settings.unit
    notes: tuple[str, ...] = ()
    if gray and not explicit:
        notes = (f"{path.name} has 8 bits and no unit: black is no return, white is {reach[1]:g} m",)
        step, unit_from = reach[1] / 255, "white is the rendering's far"
    size = (info.video.height, info.video.width)
    camera, fitted = fit_intrinsics(settings.intrinsics, settings.size, size)

    def measure(indices: Sequence[int]) -> np.ndarray:
        levels = read_levels(path, [(index + 0.5) / rate for index in indices])
        if levels.ndim == 3:
            return to_meters(levels, step)
        if np.ptp(levels.astype(np.int16), axis=3).mean() > 8:  # gray stays gray to a few levels when encoded
            raise MediaError(f"{path.name!r} is a color video; depth is read from gray ones.")
        meters = levels[..., 1] * step if explicit else levels[..., 1] / 255 * reach[1]
        return valid_depth(np.where(meters < reach[0], 0, meters))  # near black: black after coding

    return DepthClip(
        count, measure, np.arange(count) / rate, info.duration, camera, None, (*notes, *fitted),
        unit=step, unit_from=unit_from,
    )  # fmt: skip
