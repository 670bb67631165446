"""Distance: depth maps, meshes and point clouds as pictures in false colors.

Two ways to draw depth. *turbo*: near is red, far is blue, on a scale that is the same for every picture, so
that near means near in all of them; *normals*: which way each surface faces, as in a normal map. What
returned nothing is black. The functions are pure: `depth: (..., H, W) meters, 0 = no return`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lynx.errors import DataError, MediaError
from lynx.media.depth import ASSUMED, depth_files, open_depth
from lynx.media.maps import ARRAYS, MAPS
from lynx.media.mesh import FIELD_OF_VIEW, MESH_SECONDS, MESHES, pinhole, resized
from lynx.modalities.base import MAX_SIDE, Modality, check_ranges, recording_of
from lynx.modalities.video import Video
from lynx.types import DepthClip, FileSource, Frames, MediaSource, Recording

TURBO = np.frombuffer(
    bytes.fromhex(
        "30123b32154333184a341b51351e5836215f37246638276d392a733a2d793b2f803c32863d358b3e38913f3b973f3e9c"
        "4040a24143a74146ac4249b1424bb5434eba4451bf4454c34456c74559cb455ccf455ed34661d64664da4666dd4669e0"
        "466be3476ee64771e94773eb4776ee4778f0477bf2467df44680f64682f84685fa4687fb458afc458cfd448ffe4391fe"
        "4294ff4196ff4099ff3e9bfe3d9efe3ba0fd3aa3fc38a5fb37a8fa35abf833adf731aff52fb2f42eb4f22cb7f02ab9ee"
        "28bceb27bee925c0e723c3e422c5e220c7df1fc9dd1ecbda1ccdd81bd0d51ad2d21ad4d019d5cd18d7ca18d9c818dbc5"
        "18ddc218dec018e0bd19e2bb19e3b91ae4b61ce6b41de7b21fe9af20eaac22ebaa25eca727eea42aefa12cf09e2ff19b"
        "32f29835f39438f4913cf58e3ff68a43f78746f8844af8804ef97d52fa7a55fa7659fb735dfc6f61fc6c65fd6969fd66"
        "6dfe6271fe5f75fe5c79fe597dff5680ff5384ff5188ff4e8bff4b8fff4992ff4796fe4499fe429cfe409ffd3fa1fd3d"
        "a4fc3ca7fc3aa9fb39acfb38affa37b1f936b4f836b7f735b9f635bcf534bef434c1f334c3f134c6f034c8ef34cbed34"
        "cdec34d0ea34d2e935d4e735d7e535d9e436dbe236dde037dfdf37e1dd37e3db38e5d938e7d739e9d539ebd339ecd13a"
        "eecf3aefcd3af1cb3af2c93af4c73af5c53af6c33af7c13af8be39f9bc39faba39fbb838fbb637fcb336fcb136fdae35"
        "fdac34fea933fea732fea431fea130fe9e2ffe9b2dfe992cfe962bfe932afe9029fd8d27fd8a26fc8725fc8423fb8122"
        "fb7e21fa7b1ff9781ef9751df8721cf76f1af66c19f56918f46617f36315f26014f15d13f05b12ef5811ed5510ec530f"
        "eb500eea4e0de84b0ce7490ce5470be4450ae2430ae14109df3f08dd3d08dc3b07da3907d83706d63506d43305d23105"
        "d02f05ce2d04cc2b04ca2a04c82803c52603c32503c12302be2102bc2002b91e02b71d02b41b01b21a01af1801ac1701"
        "a91601a71401a41301a112019e10019b0f01980e01950d01920b018e0a018b09028808028507028106027e05027a0403"
    ),
    dtype=np.uint8,
).reshape(256, 3)
"""The turbo color map (A. Mikhailov, Google, 2019): from dark blue over green to dark red."""
JUMP = 3.0
"""Steps in depth to both sides of a pixel that differ by more than this factor are an edge."""
SURFACE = 0.03
"""Neighbors whose depth differs by more than this part are of another surface."""
BEYOND = 1.25
"""Factor from which on depth out of the drawn range is noted: a wall a little behind it looks the same."""
PLAUSIBLE = (0.1, 6.0)
"""Meters between which the median depth of sensors for rooms lies, which store millimeters."""


PIXELS_AT_ONCE = 2**24
"""Maximum pixels of the maps that are measured together."""


@dataclass(frozen=True)
class DepthRendering:
    """How depth is drawn, in meters."""

    near: float = 0.2
    far: float = 10.0
    """Nearer and farther depth is clipped to these."""
    show: str = "turbo"
    """turbo, normals, or both: then each moment has two pictures."""
    scale: str = "log"
    """log: equal ratios of distance are equal steps of color; linear: equal steps of disparity, as in the
    paper, where a room from 1 to 4 m takes the lowest sixth of the colors."""
    frame: str = "camera"
    """Frame of the normals: camera (blue faces it), or world (by the poses)."""
    choose: str = "uniform"
    """uniform: the maps nearest to the moments; pose_aware: those whose cameras differ most."""
    unit: float = 0.001
    """Meters of one step of integer maps."""
    fps: float | None = None
    """Frames a second of the numbers in the maps' names; None where they are not times."""
    max_side: int = 384
    """Pixels; larger maps are made smaller, which takes noise from the normals."""

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far:
            raise DataError(f"near={self.near} and far={self.far} must be meters, near above 0, below far.")
        check_ranges(self, unit=(1e-9, 1e6), fps=(1e-6, 1e6), max_side=(2, MAX_SIDE), far=(0, 1e9))
        allowed = {
            "show": ("turbo", "normals", "both"),
            "scale": ("log", "linear"),
            "frame": ("camera", "world"),
            "choose": ("uniform", "pose_aware"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise DataError(f"{name}={getattr(self, name)!r} is none of {', '.join(values)}.")


def closeness(depth: np.ndarray, near: float, far: float, scale: str = "log") -> np.ndarray:
    """0 (at `far` and beyond) .. 1 (at `near` and before), NaN where nothing returned: float64, as `depth`.

    linear: (1/d - 1/far) / (1/near - 1/far). log: log(far/d) / log(far/near).
    """
    meters = np.where(depth > 0, np.clip(depth.astype(np.float64), near, far), np.nan)
    if scale == "log":
        return np.log(far / meters) / np.log(far / near)
    return (1 / meters - 1 / far) / (1 / near - 1 / far)


def turbo(depth: np.ndarray, near: float, far: float, scale: str = "log") -> np.ndarray:
    """Depth in false colors: (..., H, W, 3) uint8, black where nothing returned."""
    unit = closeness(depth, near, far, scale)
    colors = TURBO[np.rint(np.nan_to_num(unit) * 255).astype(np.int64)]
    return np.where(np.isnan(unit)[..., None], np.uint8(0), colors)


def surface_normals(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Which way surfaces face, in the camera's coordinates (x right, y down, z ahead): unit vectors.

    depth (..., H, W), intrinsics (3, 3) pixels -> (..., H, W, 3) float32, towards the camera, zero where it
    is unknown. At an edge in depth the side is taken that belongs to the pixel's own surface.
    """
    height, width = depth.shape[-2:]
    v, u = np.indices((height, width))
    x, y = (u - intrinsics[0, 2]) / intrinsics[0, 0], (v - intrinsics[1, 2]) / intrinsics[1, 1]
    rays = np.stack([x, y, np.ones((height, width))], -1)  # (H, W, 3)
    points = np.where(depth > 0, depth, np.nan)[..., None] * rays  # (..., H, W, 3)
    right, down = (_smooth(_slope(points, axis), depth) for axis in (-2, -3))
    normal = np.cross(down, right)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    known = (length > 0) & (depth > 0)[..., None]  # False for NaN
    away = (normal * points).sum(-1, keepdims=True) > 0
    unit = normal / np.where(known, length, 1)
    return np.where(known, np.where(away, -unit, unit), 0).astype(np.float32)


def _slope(points: np.ndarray, axis: int) -> np.ndarray:
    """How points (..., H, W, 3) change from pixel to pixel along an axis; NaN where no neighbor is known."""
    step = np.diff(points, axis=axis)
    edge = np.full_like(np.take(points, [0], axis=axis), np.nan)
    before, after = np.concatenate([edge, step], axis), np.concatenate([step, edge], axis)
    one, other = np.abs(before[..., 2:]), np.abs(after[..., 2:])
    floor = 0.005 * np.nan_to_num(points[..., 2:], nan=1.0)  # noise is no edge
    mean = (before + after) / 2
    mean = np.where(one > JUMP * other + floor, after, np.where(other > JUMP * one + floor, before, mean))
    return np.where(np.isnan(before), after, np.where(np.isnan(after), before, mean))


def _smooth(slopes: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Means over 3 x 3 pixels of slopes (..., H, W, 3), for sensors are noisy; over the pixel's own surface.

    That is all known neighbors whose depth differs from the pixel's by at most the share SURFACE.
    """
    height, width = depth.shape[-2:]
    edge = [(0, 0)] * (depth.ndim - 2) + [(1, 1), (1, 1)]  # beyond the map nothing is known
    depths = np.pad(depth, edge, constant_values=np.nan)
    around = np.pad(slopes, [*edge, (0, 0)], constant_values=np.nan)
    total, count = np.zeros_like(slopes), np.zeros((*depth.shape, 1))
    for down, right in np.ndindex(3, 3):
        there = (..., slice(down, down + height), slice(right, right + width))
        slope = around[(*there, slice(None))]  # (..., H, W, 3)
        same = np.abs(depths[there] - depth) <= SURFACE * depth
        same &= np.isfinite(slope).all(-1)
        total += np.where(same[..., None], slope, 0)
        count += same[..., None]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def draw_normals(normals: np.ndarray, frame: str = "camera") -> np.ndarray:
    """Normals (..., 3) as colors (..., 3) uint8: -1..1 is 0..255, black where they are zero.

    camera: red is right, green is up, blue is towards the camera. world: the world's x, y and z.
    """
    axes = normals * (np.array([1, -1, -1]) if frame == "camera" else 1)
    colors = np.rint((axes + 1) * 127.5).astype(np.uint8)
    return np.where((normals == 0).all(-1, keepdims=True), np.uint8(0), colors)


def farthest_views(poses: np.ndarray, n: int) -> np.ndarray:
    """Up to n of the cameras (count, 4, 4), chosen one after the other as far from all others as can be.

    The distance adds that between positions, in units of the cameras' extent, to that between directions.
    Poses that are not finite are never chosen; the first that is, always. Returns ascending indices.
    """
    finite = np.flatnonzero(np.isfinite(poses).all((1, 2)))
    if not len(finite):
        return finite
    places, ahead = poses[finite, :3, 3], poses[finite, :3, 2]
    extent = np.linalg.norm(np.ptp(places, axis=0)) or 1.0
    views = np.concatenate([places / extent, ahead / 2], 1)  # directions are at most 2 apart
    chosen, distance = [0], np.linalg.norm(views - views[0], axis=1)
    while len(chosen) < min(n, len(finite)):
        distance[chosen[-1]] = -1  # never again, not even where cameras stand in one place
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(views - views[chosen[-1]], axis=1))
    return finite[sorted(chosen)]


def shrink(depth: np.ndarray, max_side: int) -> tuple[np.ndarray, int]:
    """Depth (..., H, W) averaged over blocks of k x k pixels, the smallest k that fits; and k.

    What returned nothing takes no part in the average; a block needs returns in half of it.
    """
    height, width = depth.shape[-2:]
    k = -(-max(height, width) // max_side)
    if k == 1:
        return depth, 1
    pad = [(0, 0)] * (depth.ndim - 2) + [(0, -height % k), (0, -width % k)]
    blocks = np.pad(depth, pad).reshape(*depth.shape[:-2], -(-height // k), k, -(-width // k), k)
    count = (blocks > 0).sum((-3, -1))
    mean = blocks.sum((-3, -1), dtype=np.float64) / np.maximum(count, 1)
    return np.where(2 * count >= k * k, mean, 0).astype(np.float32), k


class Depth(Modality):
    """Depth in false colors."""

    name = "depth"
    label = "depth"
    color = (124, 58, 237)
    takes = "depth"
    suffixes = (*ARRAYS, *MAPS, *MESHES, *Video.suffixes)
    example_file = "scan"
    example_questions = ("Which shape is nearest?",)
    Rendering = DepthRendering
    holes_as: ClassVar[str] = "black"
    """How depth without a return is drawn, for a note."""

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """The maps or the mesh, and the times, intrinsics and poses beside them."""
        return depth_files(path)

    def pictures(self, source: MediaSource) -> int:
        """Two where both are shown, else one."""
        return 2 if self.rendering.show == "both" else 1

    def duration(self, source: MediaSource) -> float:
        """Seconds of the maps' own clock; of maps without one a second each, of a shape MESH_SECONDS."""
        clip = self._open(source, 1)
        if clip.duration is not None:
            return clip.duration
        return float(clip.count) if clip.count > 1 else MESH_SECONDS

    def clock(self, source: MediaSource) -> float | None:
        """Seconds of the maps' own clock; None for maps without one and for a shape."""
        shape = isinstance(source, FileSource) and Recording.of(source).path.suffix.lower() in MESHES
        return None if shape else self._open(source, 1).duration  # a shape is not read for that

    def render(self, source: MediaSource, times: Tensor) -> Frames:
        """Pictures (T', 3, H, W) uint8 of the maps measured nearest to `times` (T,) seconds.

        If pose-aware, their moments are those of the chosen maps instead.
        Raises MediaError if it is no depth, nothing returned in any map, or poses are needed and missing.
        """
        (frames,) = self.parts(source, times, len(times))
        return frames

    def parts(self, source: MediaSource, times: Tensor, size: int) -> Iterator[Frames]:
        """The same pictures, of `size` moments at a time: no more maps are held."""
        times = torch.as_tensor(times, dtype=torch.float64)
        clip = self._open(source, len(times))
        if isinstance(source, Recording) and source.part:
            clip = self._in_part(clip, source, times.numpy())
        index, moments, notes = self._choose(clip, times.numpy())
        notes = (*clip.notes, *notes, *self._camera_notes(clip, np.unique(index)))
        duration = clip.duration if clip.duration is not None else float(times[0] + times[-1])
        seen: dict[int, tuple[float, ...]] = {}  # `_statistics` of each map drawn
        for begin in range(0, len(index), size):
            part = slice(begin, begin + size)
            unique, inverse = np.unique(index[part], return_inverse=True)
            depth, k = self._measure(clip, unique)
            for number, one in zip(unique.tolist(), depth, strict=True):
                if number not in seen:
                    seen[number] = self._statistics(one)
            if part.stop >= len(index):
                notes += self._remarks(np.array(list(seen.values())), clip)
            drawn = self._draw(clip, depth, unique, k)
            pictures = np.stack(list(drawn.values()), 1)[inverse]  # (moments, pictures, H, W, 3)
            yield Frames(
                torch.from_numpy(pictures).flatten(0, 1).permute(0, 3, 1, 2).contiguous(),
                torch.from_numpy(np.repeat(moments[part], len(drawn))),
                duration,
                tuple(drawn) * len(inverse) if len(drawn) > 1 else (),
                notes,
            )

    def _open(self, source: MediaSource, views: int) -> DepthClip:
        r = self.rendering
        if isinstance(source, DepthClip):
            return source
        recording = recording_of(source, "Depth is read from files or a DepthClip")
        reach = (r.near, r.far)
        return open_depth(recording, unit=r.unit, fps=r.fps, reach=reach, views=views, size=r.max_side)

    def _measure(self, clip: DepthClip, index: np.ndarray) -> tuple[np.ndarray, int]:
        """Maps `index` (n,), made small (n, H, W) a few at a time where they are large, and the factor."""
        together = max(1, PIXELS_AT_ONCE // math.prod(clip.size)) if clip.size else len(index)
        parts = [
            shrink(clip.measure(index[begin : begin + together].tolist()), self.rendering.max_side)
            for begin in range(0, len(index), together)
        ]
        return np.concatenate([depth for depth, _ in parts]), parts[0][1]

    def _in_part(self, clip: DepthClip, recording: Recording, times: np.ndarray) -> DepthClip:
        """A clip of which a part is looked at: what has no clock is given one, over all that it lasts.

        Views around a shape are of no moment: all of them are drawn. Poses are chosen inside the part.
        """
        if clip.times is None and recording.lasts is not None:
            around = recording.path.suffix.lower() in MESHES and recording.path.is_file()
            clock = times if around else (np.arange(clip.count) + 0.5) * (recording.lasts / clip.count)
            clip = replace(clip, times=clock, duration=recording.lasts)
        if self.rendering.choose == "pose_aware" and clip.times is not None and clip.poses is not None:
            start, end = recording.part or (0.0, np.inf)
            inside = (clip.times >= start) & (clip.times <= end)
            clip = replace(clip, poses=np.where(inside[:, None, None], clip.poses, np.nan))
        return clip

    def _choose(self, clip: DepthClip, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Indices of the maps to draw, the moments they stand for, and notes on the choice."""
        clock = clip.times
        if clock is None:  # spread evenly over the clip, which lasts times[0] + times[-1] if nothing says it
            lasts = clip.duration or times[0] + times[-1]
            clock = (np.arange(clip.count) + 0.5) * lasts / clip.count
        after = np.searchsorted(clock, times).clip(max=len(clock) - 1)
        before = (after - 1).clip(min=0)
        nearest = np.where(times - clock[before] <= clock[after] - times, before, after)
        index = np.searchsorted(clock, clock[nearest])  # (T,); of maps of one time the first
        if clip.orbit and clip.count == len(times):
            index = np.arange(clip.count)
        if self.rendering.choose == "pose_aware":
            if clip.poses is None:
                return index, times, ("no camera poses: the views are chosen evenly in time",)
            index = farthest_views(clip.poses, len(times))
            if not len(index):
                raise MediaError("None of the camera poses is finite; choose the views evenly in time.")
            few = f"only {len(index)} of {clip.count} maps have a camera pose: {len(index)} views are drawn"
            return index, clock[index], (few,) if len(index) < len(times) else ()
        if clip.times is None and (clip.orbit or clip.count == 1):
            return index, times, ()
        gap = np.abs(clock[index] - times)
        usual = max(*(np.median(np.diff(t)) if len(t) > 1 else 0.0 for t in (clock, times)), 0.1)
        far = f"{(gap > usual).sum()} of {len(times)} moments lie up to {gap.max():.1f} s from any depth map"
        return index, times, (far,) if (gap > usual).any() else ()

    def _camera_notes(self, clip: DepthClip, index: np.ndarray) -> tuple[str, ...]:
        """Notes on missing intrinsics and poses of maps `index` (n,). Raises MediaError if needed."""
        notes: list[str] = []
        if self.rendering.show == "turbo":
            return ()
        if clip.intrinsics is None:
            notes.append(f"no intrinsics: a field of view of {FIELD_OF_VIEW:.0f} degrees is assumed")
        if self.rendering.frame == "world":
            if clip.poses is None:
                raise MediaError("Normals in the world's frame need camera poses: give pose/*.txt.")
            if lost := (~_has_pose(clip.poses[index])).sum():
                notes.append(f"{lost} of {len(index)} maps have no camera pose: their surfaces are not drawn")
        return tuple(notes)

    def _draw(self, clip: DepthClip, depth: np.ndarray, index: np.ndarray, k: int) -> dict[str, np.ndarray]:
        """Pictures (n, H, W, 3) uint8 of maps (n, H, W), those at `index`, by what they show."""
        r, drawn = self.rendering, {}
        if r.show != "normals":
            drawn["distance"] = self._colors(depth)
        if r.show != "turbo":
            camera = clip.intrinsics
            if camera is None:
                camera = pinhole(max(depth.shape[-2:]) * k)
                camera[:2, 2] = (np.array(depth.shape[:-3:-1]) * k - 1) / 2
            normals = np.stack([self._normals(one, resized(camera, 1 / k)) for one in depth])
            if r.frame == "world" and clip.poses is not None:
                poses = clip.poses[index, :3, :3]
                turn = np.where(_has_pose(clip.poses[index])[:, None, None], poses, 0)  # lost: black
                normals = np.einsum("nij,nhwj->nhwi", turn, normals).astype(np.float32)
            drawn["surface"] = self._shade(normals)
        return drawn

    def _colors(self, depth: np.ndarray) -> np.ndarray:
        """Distance in maps (n, H, W) as colors (n, H, W, 3) uint8."""
        return turbo(depth, self.rendering.near, self.rendering.far, self.rendering.scale)

    def _normals(self, depth: np.ndarray, camera: np.ndarray) -> np.ndarray:
        """Unit vectors (H, W, 3) float32 of a map (H, W), zero where none is known; camera: (3, 3) pixels."""
        return surface_normals(depth, camera)

    def _shade(self, normals: np.ndarray) -> np.ndarray:
        """Such vectors (n, H, W, 3), in the rendering's frame, as colors uint8."""
        return draw_normals(normals, self.rendering.frame)

    def _statistics(self, depth: np.ndarray) -> tuple[float, ...]:
        """Of a map (H, W): how many pixels, returns, returns far out of range; median of returns, meters."""
        r, returned = self.rendering, depth[depth > 0]
        outside = ((returned < r.near / BEYOND) | (returned > r.far * BEYOND)).sum()
        return depth.size, returned.size, outside, np.median(returned) if returned.size else np.nan

    def _remarks(self, statistics: np.ndarray, clip: DepthClip) -> tuple[str, ...]:
        """Notes on holes, range and unit of maps (n, 4 statistics). Raises MediaError if nothing returned."""
        r, (pixels, returned, outside, _) = self.rendering, statistics.sum(0)
        if not returned:
            raise MediaError("None of the depth maps holds a measurement: every pixel is 0, 'no return'.")
        notes, middle = [], float(np.nanmedian(statistics[:, 3]))
        if (holes := 1 - returned / pixels) >= 0.01 and not clip.background:
            notes.append(f"{holes:.0%} of the depth has no return and is drawn {self.holes_as}")
        if outside / returned > 0.5:
            end = f"farther than {r.far:g}" if middle > r.near else f"nearer than {r.near:g}"
            drawn = f"is {end} m (around {middle:.3g} m) and is drawn as if it were there"
            notes.append(f"{outside / returned:.0%} of the depth {drawn}")
        if clip.unit_from == ASSUMED and clip.unit and not clip.background:
            if not PLAUSIBLE[0] <= middle <= PLAUSIBLE[1]:
                notes.append(
                    f"half of the depth lies {'beyond' if middle > 1 else 'below'} {middle:.2g} m at the "
                    f"{1000 * clip.unit:g} mm a step that are assumed: give --depth-unit "
                    "(tum, if these are maps of TUM RGB-D)"
                )
        return tuple(notes)


def _has_pose(poses: np.ndarray) -> np.ndarray:
    """Which of the poses (n, 4, 4) are known: (n,) bool."""
    return np.asarray(np.isfinite(poses[:, :3, :3]).all((1, 2)))
