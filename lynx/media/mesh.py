"""Meshes and point clouds seen by cameras, as depth. The one module that uses trimesh.

Distances are meters along the camera's axis, 0 = no return. Cameras are those of ScanNet and OpenCV: x to
the right, y down, z ahead; a pose (4, 4) takes the camera's coordinates to the world's. Nothing is measured
before it is asked for: a scan of thousands of maps costs what its chosen views cost.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from json import JSONDecodeError
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np

from lynx.errors import MediaError
from lynx.media.gltf import read_gltf
from lynx.media.mesh_limits import BROKEN, check_counts, read_within_limits
from lynx.media.ply import read_polygons
from lynx.media.point_cloud import read_pcd
from lynx.types import DepthClip

logging.getLogger("trimesh").addHandler(logging.NullHandler())  # tracebacks of damaged files

MESHES = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off", ".pcd")
FIELD_OF_VIEW = 60.0  # degrees, of cameras on an orbit and of those whose intrinsics are unknown
ELEVATION = 25.0  # degrees by which the orbit looks down
MESH_SECONDS = 8.0  # a shape has no time; an orbit around it takes so long
MAX_SPLAT = 12  # pixels to each side that a point may cover
MAX_COORDINATE = 1e15  # points beyond are damage: their squares leave the range of float
MAX_RAYS = 2**13
"""Rays in a batch, spread over the whole view, so that the first batches show what all will cost."""
PROBES = 256
"""Rays in the first, smaller batch."""
MAX_RAY_SECONDS = 5e-5
"""Processor seconds a ray; a scan of millions of faces takes a tenth, 10^5 faces in one place five times."""
DAMAGED = "it is damaged, cut off or of another kind"
CAUSES = {
    RecursionError: "its description is nested too deeply",
    JSONDecodeError: "its description is no JSON",
    MemoryError: "it declares more than fits into memory",
    LookupError: "it is damaged or cut off, and refers to what it does not hold",
}
"""What is wrong with a file, by what its parser raised; DAMAGED for all else."""

Size = tuple[int, int]  # height and width, pixels
Camera = Callable[[np.ndarray, np.ndarray, Size], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """A mesh, or a point cloud where there are no faces: points (n, 3) float64 and faces (m, 3) int."""

    points: np.ndarray
    faces: np.ndarray
    name: str = "shape"
    notes: tuple[str, ...] = ()

    def scaled(self, factor: float) -> "Shape":
        """The shape with all lengths multiplied."""
        return self if factor == 1.0 else replace(self, points=self.points * factor)

    @property
    def bounds(self) -> tuple[np.ndarray, float]:
        """The center (3,) of the bounding box of all used points, and the distance of the farthest."""
        used = self.points
        if len(self.faces):
            corner = np.zeros(len(self.points), bool)
            corner[self.faces] = True
            used = self.points[corner]
        middle = (used.min(0) + used.max(0)) / 2
        return middle, float(np.linalg.norm(used - middle, axis=1).max())


def load_shape(path: str | Path) -> Shape:
    """The mesh or point cloud of a file, in its own unit; what it refers to (textures) is not opened.

    Raises MediaError when it is damaged, empty or too large, has no surface, or trimesh is missing.
    """
    path = Path(path)
    try:
        points, faces = _read_parts(path)
    except BROKEN as error:
        cause = next((what for kind, what in CAUSES.items() if isinstance(error, kind)), DAMAGED)
        if isinstance(error, OSError) and error.strerror:
            cause = f"it cannot be opened ({error.strerror})"
        raise MediaError(f"{path.name!r} cannot be read as a mesh or point cloud: {cause}.") from error
    check_counts(path.name, sum(map(len, points)), sum(map(len, faces)))
    if not points:
        raise MediaError(f"{path.name!r} is empty: it holds neither faces nor points.")
    starts = np.cumsum([0, *map(len, points[:-1])])
    joined = np.concatenate([face + start for face, start in zip(faces, starts, strict=True)])
    return clean_shape(Shape(np.concatenate(points), joined, path.name))


def _read_parts(path: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Points (n, 3) and faces (m, 3) of each part of a file."""
    trimesh, kind = _trimesh(), path.suffix[1:].lower()
    if kind == "pcd":
        points = read_pcd(path)
        return [points] * bool(len(points)), [np.empty((0, 3), np.int64)] * bool(len(points))
    data = read_gltf(path) if kind in ("glb", "gltf") else read_within_limits(path)
    kind = "glb" if kind == "gltf" else kind
    if kind == "ply" and (mixed := read_polygons(data)):
        return [mixed[0]], [mixed[1]]
    scene = trimesh.load_scene(BytesIO(data), file_type=kind, process=False, skip_materials=True)
    parts = [part for part in scene.dump() if len(getattr(part, "vertices", ()))]
    every = [np.asarray(part.vertices, dtype=np.float64) for part in parts]
    faces = [np.asarray(getattr(part, "faces", np.empty((0, 3))), dtype=np.int64) for part in parts]
    if any(one.ndim != 2 or one.shape[1] != 3 for one in (*every, *faces)):
        raise MediaError(
            f"{path.name!r} is damaged: its points and faces are not rows of 3 numbers. Export it again."
        )
    return every, faces


def clean_shape(shape: Shape) -> Shape:
    """The shape without points that are not finite and faces without an area, which is noted.

    Raises MediaError when nothing is left, or all of it is in one place.
    """
    points, faces, name = shape.points, shape.faces, shape.name
    finite = np.isfinite(points).all(1) & (np.abs(points) < MAX_COORDINATE).all(1)
    if len(faces):
        if faces.min() < 0 or faces.max() >= len(points):
            raise MediaError(f"{name!r} has faces of points that it does not hold: it is damaged.")
        origin = points[faces[finite[faces].all(1)][:1, 0]].sum(0)  # of the first good face
        corners = np.where(finite[:, None], points - origin, 0)[faces]  # (m, 3, 3)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        size = np.ptp(corners.reshape(-1, 3), axis=0).max()
        good = finite[faces].all(1) & (np.linalg.norm(normals, axis=1) > 1e-14 * size**2)
        kept, what = replace(shape, faces=faces[good]), "faces"
    else:
        good, kept, what = finite, replace(shape, points=points[finite]), "points"
    if not good.any() or kept.bounds[1] < 1 / MAX_COORDINATE:
        raise MediaError(f"{name!r} has no surface: its {len(good)} {what} are degenerate.")
    if dropped := int((~good).sum()):
        note = f"{dropped} of {len(good)} {what} of {name} are degenerate and left out"
        kept = replace(kept, notes=(*kept.notes, note))
    return _without_copies(kept)


def _without_copies(shape: Shape) -> Shape:
    """The shape with each face once, whichever way round: a ray meets all copies in a place."""
    if not len(shape.faces):
        return shape
    bits = (shape.points + 0.0).view(np.uint64)  # (n, 3); -0.0 + 0.0 is 0.0
    factors = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
    mixed = (bits ^ (bits >> np.uint64(29))) * factors
    place = np.bitwise_xor.reduce(mixed ^ (mixed >> np.uint64(32)), axis=1)  # one number a point
    corners = np.sort(place[shape.faces], axis=1) * factors  # (m, 3)
    face = np.bitwise_xor.reduce(corners ^ (corners >> np.uint64(31)), axis=1)
    first = np.sort(np.unique(face, return_index=True)[1])
    if len(first) == len(face):
        return shape
    kept = replace(shape, faces=shape.faces[first])
    if 2 * len(first) >= len(face):  # two sides of each, which changes nothing that is seen
        return kept
    note = f"{len(face) - len(first)} of {len(face)} faces of {shape.name} are copies of others and left out"
    return replace(kept, notes=(*shape.notes, note))


def orbit_clip(
    shape: Shape,
    views: int,
    size: int,
    reach: tuple[float, float],
    up: np.ndarray | None = None,
    meters: bool = False,
) -> DepthClip:
    """Depth from `views` cameras on a circle around a shape, which fills their `size` x `size` pixels.

    Its unit is taken for meters where that lies within `reach` of the cameras; else it is drawn as a shape
    of 2 m, and that is noted. meters: whether its unit is known to be that.
    """
    middle, radius = shape.bounds
    away = 1.05 / np.sin(np.radians(FIELD_OF_VIEW / 2))  # radii from the middle to a camera
    scale, notes = 1.0, shape.notes
    if radius * (away - 1) < reach[0] or radius * (away + 1) > reach[1]:
        scale = 1 / radius
        given = f"{shape.name} is {2 * radius:.4g} across in an unknown unit"
        if meters:
            given = f"{shape.name} is {2 * radius:.4g} m across, out of {reach[0]:g}-{reach[1]:g} m"
        notes = (*notes, f"{given}: drawn as if it were 2 m")
    placed = replace(shape, points=(shape.points - middle) * scale)
    poses = orbit(views, radius * scale * away, np.eye(3)[2] if up is None else up)
    clip = _clip(placed, poses, pinhole(size), (size, size), notes)
    return replace(clip, orbit=True, unit=1.0 if scale == 1.0 else None)


def posed_clip(
    shape: Shape,
    poses: np.ndarray,
    camera: np.ndarray | None,
    size: int,
    camera_size: tuple[int, int] | None = None,
) -> DepthClip:
    """Depth of a shape in meters, such as a room, seen from `poses` (n, 4, 4), no side above `size` pixels.

    camera_size: height and width of the pictures that the camera's matrix is of. Poses that are not finite
    are left out, which is noted. Raises MediaError when there is no other.
    """
    good = np.isfinite(poses).all((1, 2))
    notes, pixels = shape.notes, (size, size)
    if not good.any():
        raise MediaError(f"None of the {len(poses)} camera poses of {shape.name!r} is finite.")
    if not good.all():
        notes = (*notes, f"{(~good).sum()} of {len(poses)} camera poses are not finite and left out")
    if camera is None:
        camera = pinhole(size)
        notes = (*notes, f"no intrinsics: a field of view of {FIELD_OF_VIEW:.0f} degrees is assumed")
    else:
        # unless its size is known, the axis meets the picture in its middle
        height, width = camera_size or (2 * camera[[1, 0], 2] + 1).tolist()
        if not (0.5 <= height < 1e6 and 0.5 <= width < 1e6):
            raise MediaError(
                f"The camera's axis meets no picture at {camera[0, 2]:g}, {camera[1, 2]:g} pixels: give its "
                'matrix for pixels, or "size" in depth.json.'
            )
        scale = min(1.0, size / max(height, width))
        pixels = (max(1, round(height * scale)), max(1, round(width * scale)))
        camera = resized(camera, scale)
    # about its middle: single-precision rays are off by decimeters at the coordinates of a map of the earth
    middle = shape.bounds[0]
    near = poses[good].copy()
    near[:, :3, 3] -= middle
    clip = _clip(replace(shape, points=shape.points - middle), near, camera, pixels, notes)
    return replace(clip, poses=poses[good])


def resized(intrinsics: np.ndarray, scale: float) -> np.ndarray:
    """The (3, 3) camera matrix of a picture made `scale` times as large; pixel centers are whole numbers."""
    matrix = intrinsics.astype(np.float64).copy()
    matrix[:2, :2] *= scale
    matrix[:2, 2] = (matrix[:2, 2] + 0.5) * scale - 0.5
    return matrix


def pinhole(size: int) -> np.ndarray:
    """The (3, 3) matrix of a square camera of FIELD_OF_VIEW degrees."""
    focal = size / 2 / np.tan(np.radians(FIELD_OF_VIEW / 2))
    return np.array([[focal, 0, (size - 1) / 2], [0, focal, (size - 1) / 2], [0, 0, 1]])


def orbit(views: int, distance: float, up: np.ndarray) -> np.ndarray:
    """Poses (views, 4, 4) on a circle about the origin, looking at it from ELEVATION degrees above."""
    side = np.roll(up, 1)  # the coordinate axes: any two of them are at right angles
    angles = np.linspace(0, 2 * np.pi, views, endpoint=False)[:, None]
    around = np.cos(angles) * side + np.sin(angles) * np.cross(up, side)  # (views, 3)
    tilt = np.radians(ELEVATION)
    eyes = distance * (np.cos(tilt) * around + np.sin(tilt) * up)
    poses = np.repeat(np.eye(4)[None], views, axis=0)
    ahead = -eyes / distance
    right = np.cross(ahead, up)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    poses[:, :3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=2)
    poses[:, :3, 3] = eyes
    return poses


def _clip(
    shape: Shape, poses: np.ndarray, camera: np.ndarray, pixels: Size, notes: tuple[str, ...]
) -> DepthClip:
    built: list[Camera] = []

    def measure(indices: Sequence[int]) -> np.ndarray:
        if not built:  # once: sorting millions of faces takes longer than a view
            built.append(ray_caster(shape) if len(shape.faces) else partial(splat, shape.points))
        see = built[0]
        return np.stack([see(poses[index], camera, pixels) for index in indices])

    return DepthClip(
        len(poses), measure, intrinsics=camera, poses=poses, notes=notes, background=True, size=pixels
    )


def ray_caster(shape: Shape) -> Camera:
    """`(pose, intrinsics, (H, W)) -> (H, W)` float32 depth of a mesh, in its unit, 0 where no face is hit."""
    mesh = _trimesh().Trimesh(shape.points, shape.faces, process=False)
    try:
        from trimesh.ray.ray_pyembree import RayMeshIntersector
    except ImportError as error:
        raise MediaError("Meshes are seen with embreex: pip install 'lynx[mesh]'.") from error
    rays = RayMeshIntersector(mesh)
    corner = shape.points[shape.faces[:, 0]]
    normal = np.cross(shape.points[shape.faces[:, 1]] - corner, shape.points[shape.faces[:, 2]] - corner)

    def cast(pixels: np.ndarray, width: int, pose: np.ndarray, camera: np.ndarray) -> np.ndarray:
        v, u = np.divmod(pixels, width)
        x, y = (u - camera[0, 2]) / camera[0, 0], (v - camera[1, 2]) / camera[1, 1]
        # 1 along the camera's axis, so that a ray's length is the depth
        direction = (pose[:3, :3] @ np.stack([x, y, np.ones(len(u))])).T
        hit = rays.intersects_first(np.broadcast_to(pose[:3, 3], direction.shape), direction)  # face, or -1
        depth = np.zeros(len(u))
        there, face = hit >= 0, hit[hit >= 0]
        across = (normal[face] * direction[there]).sum(1)
        length = ((corner[face] - pose[:3, 3]) * normal[face]).sum(1) / np.where(across == 0, np.nan, across)
        depth[there] = np.where(length > 0, length, 0)
        return depth.astype(np.float32)

    def see(pose: np.ndarray, camera: np.ndarray, pixels: Size) -> np.ndarray:
        count = pixels[0] * pixels[1]
        depth = np.zeros(count, np.float32)
        cast(np.zeros(1, np.int64), pixels[1], pose, camera)  # prepares the faces, once
        begin, done = thread_time(), 0
        steps = -(-count // MAX_RAYS)
        probes = np.linspace(0, count - 1, min(PROBES, count)).astype(np.int64)
        for part in (probes, *(np.arange(step, count, steps) for step in range(steps))):
            depth[part] = cast(part, pixels[1], pose, camera)
            done += len(part)
            if thread_time() - begin > MAX_RAY_SECONDS * done + 0.05:
                raise MediaError(
                    f"{shape.name!r} takes too long to draw: its {len(shape.faces):,} faces lie in one "
                    "another. Remove those that are hidden, for example with Blender or MeshLab."
                )
        return depth.reshape(pixels)

    return see


def splat(
    points: np.ndarray, pose: np.ndarray, camera: np.ndarray, pixels: Size, reach: int | None = None
) -> np.ndarray:
    """(H, W) float32 depth of points (n, 3), in their unit: the nearest wins, 0 where there is none.

    reach: pixels that a point covers on each side; by default enough that the points, spread over their
    bounding box, hide what is behind them.
    """
    height, width = pixels
    local = (points - pose[:3, 3]) @ pose[:3, :3]  # (n, 3) in the camera's coordinates
    local = local[local[:, 2] > 0]
    u = np.rint(local[:, 0] / local[:, 2] * camera[0, 0] + camera[0, 2])
    v = np.rint(local[:, 1] / local[:, 2] * camera[1, 1] + camera[1, 2])
    seen = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    depth = local[seen, 2]
    buffer = np.full(pixels, np.inf)
    np.minimum.at(buffer, (v[seen].astype(np.int64), u[seen].astype(np.int64)), depth)
    if reach is None and len(depth):
        a, b, c = np.ptp(points, axis=0)
        apart = np.sqrt(2 * (a * b + b * c + c * a) / len(points)) * camera[0, 0] / np.percentile(depth, 1)
        reach = min(MAX_SPLAT, int(np.ceil(apart - 0.5)))  # squares of 2 * apart: four points in each
    reach = reach or 0
    for axis in (0, 1):  # the nearest of up to `reach` pixels to both sides
        wide = np.pad(buffer, [(reach * (a == axis),) * 2 for a in (0, 1)], constant_values=np.inf)
        buffer = np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1, axis).min(-1)
    return np.where(np.isfinite(buffer), buffer, 0).astype(np.float32)


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise MediaError("Meshes and point clouds need trimesh: pip install 'lynx[mesh]'.") from error
    return trimesh
