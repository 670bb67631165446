"""What other instruments make of a scene: a depth camera and a camera on the other side.

A shape stands at its item's depth from the first camera, before a wall. The second camera stands behind the
shapes, higher, and looks back: left and right change places, heights are squeezed, the shapes show their
backs, and the hidden shape, out of the first camera's sight, stands on a shelf over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lynx.world.scene.animation import animate
from lynx.world.scene.picture import FIELDS, draw_background, draw_item
from lynx.world.scene.scene import DURATION, FPS, Background, Item, Scene

WALL = 7.0
"""Metres to the wall behind the shapes, in the middle of the frame."""
TILT = 0.8
"""Metres by which the wall comes nearer from left to right; half as much from the top to the bottom."""
BULGE = 0.12
"""Metres by which the middle of a shape is nearer than its rim."""
FOCAL = 0.9
"""Focal length as a fraction of the frame: a field of view of 58 degrees."""
SHRINK = 0.9
"""Sizes in the second view relative to those in the first: a small shape must still be told from another."""
SQUEEZE = 0.68
"""Heights over the floor in the second view relative to those in the first."""
SHELF = 0.28
"""The part of the second view's height, from the top, that the shelf takes."""
Point = tuple[float, float]


def draw_depth(scene: Scene, frames: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """Measure the given frames (numbers at `FPS`): `(T, size, size)` float32 meters, all above 0."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(axis, axis)
    wall = WALL - TILT * (x - 0.5) - TILT / 2 * (y - 0.5)
    depth = np.repeat(wall[None].astype(np.float32), len(frames), axis=0)
    for item in sorted(scene.items, key=lambda item: -item.depth):
        for picture, frame in zip(depth, frames, strict=True):
            center = item.position(frame / FPS)
            _stand(picture, item, (x - center[0]) / item.radius, (y - center[1]) / item.radius)
    return depth


def _stand(picture: np.ndarray, item: Item, x: np.ndarray, y: np.ndarray) -> None:
    """Put a bulging shape into a depth map in place; `x`, `y` (size, size) in radii from its center."""
    field = FIELDS[item.shape](x, y)
    inside = field < 0
    picture[inside] = item.depth - BULGE * np.minimum(-field[inside], 1)


def intrinsics(size: int) -> np.ndarray:
    """The depth camera's matrix for frames of `size` pixels: `(4, 4)`."""
    matrix = np.eye(4)
    matrix[0, 0] = matrix[1, 1] = FOCAL * size
    matrix[0, 2] = matrix[1, 2] = (size - 1) / 2
    return matrix


@dataclass(frozen=True)
class _FromBehind(Item):
    """A shape as the second camera sees it."""

    @property
    def radius(self) -> float:
        """Radius as a fraction of the second camera's frame."""
        return SHRINK * super().radius


def _from_behind(item: Item, color: str, start: Point, end: Point) -> Item:
    return _FromBehind(
        item.shape, color, item.size, item.motion, start, end, WALL - item.depth, back=item.color
    )


def _turn(x: float, y: float) -> Point:
    """A place in the first frame as a place in the second one."""
    return 1 - x, 1 - SQUEEZE * (1 - y)


def draw_second_view(scene: Scene, frames: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """Draw the given frames (numbers at `FPS`) of the second camera: `(T, size, size, 3)` uint8."""
    canvas = np.repeat(_other_side(scene, size)[None], len(frames), axis=0)
    for seen in _backs(scene):
        for picture, frame in zip(canvas, frames, strict=True):
            x, y = seen.position(frame / FPS)
            draw_item(picture, seen, float(x), float(y))
    return (canvas + 0.5).astype(np.uint8)


def draw_second_clip(scene: Scene, size: int) -> np.ndarray:
    """Draw all frames of the second camera: `(DURATION * FPS, size, size, 3)` uint8, as `draw_clip` does."""
    backdrop = (_other_side(scene, size) + 0.5).astype(np.uint8)
    canvas = np.repeat(backdrop[None], round(DURATION * FPS), axis=0)
    for seen in _backs(scene):
        animate(canvas, seen)
    return canvas


def _other_side(scene: Scene, size: int) -> np.ndarray:
    """What stands still before the second camera, the hidden shape included: `(size, size, 3)` float32."""
    backdrop = draw_background(_other_wall(scene.background), size)
    backdrop[: round(SHELF * size)] *= np.float32(1.35)
    hidden = _from_behind(scene.hidden, scene.hidden.color, (0.5, SHELF / 2), (0.5, SHELF / 2))
    draw_item(backdrop, hidden, *hidden.start)
    return backdrop


def _backs(scene: Scene) -> list[Item]:
    """The shapes as the second camera sees them, those farthest from it first."""
    items = sorted(scene.items, key=lambda item: item.depth)
    return [_from_behind(item, item.back, _turn(*item.start), _turn(*item.end)) for item in items]


def _other_wall(wall: Background) -> Background:
    """The wall behind the first camera: other colors, the texture turned."""
    first, second = ((blue, red, green) for red, green, blue in wall.colors)
    return replace(wall, colors=(first, second), angle=wall.angle + np.pi / 3, seed=wall.seed ^ 1)
