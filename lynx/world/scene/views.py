"""Other recordings of a scene: by a depth camera, and by a camera on the other side.

A shape stands at its item's depth from the first camera, before a wall. The second camera stands behind the
shapes, higher, and looks back: left and right change places, heights are squeezed, the shapes show their
backs, and the hidden shape, out of the first camera's sight, stands on a shelf over them.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lynx.world.scene.animation import draw_clip
from lynx.world.scene.picture import FIELDS, draw_background, draw_frames, draw_item, grid
from lynx.world.scene.scene import FPS, Item, Scene

WALL = 7.0
"""Meters to the wall behind the shapes, in the middle of the frame."""
TILT = 0.8
"""Meters by which the wall comes nearer from left to right; half as much from the top to the bottom."""
BULGE = 0.12
"""Meters by which the middle of a shape is nearer than its rim."""
FOCAL = 0.9
"""Focal length as a fraction of the frame: a field of view of 58 degrees."""
SHRINK = 0.9
"""Sizes in the second view relative to those in the first: shapes have to stay recognizable."""
SQUEEZE = 0.68
"""Heights over the floor in the second view relative to those in the first."""
SHELF = 0.28
"""The part of the second view's height, from the top, that the shelf takes."""


def draw_depth(scene: Scene, frames: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """Measure the given frames (numbers at `FPS`): `(T, size, size)` float32 meters, all above 0."""
    x, y = grid(size)
    wall = WALL - TILT * (x - 0.5) - TILT / 2 * (y - 0.5)
    depth = np.repeat(wall[None].astype(np.float32), len(frames), axis=0)
    for item in sorted(scene.items, key=lambda item: -item.depth):
        for picture, frame in zip(depth, frames, strict=True):
            center = item.position(frame / FPS)
            field = FIELDS[item.shape]((x - center[0]) / item.radius, (y - center[1]) / item.radius)
            inside = field < 0
            picture[inside] = item.depth - BULGE * np.minimum(-field[inside], 1)
    return depth


def intrinsics(size: int) -> np.ndarray:
    """The depth camera's matrix for frames of `size` pixels: `(4, 4)`."""
    matrix = np.eye(4)
    matrix[0, 0] = matrix[1, 1] = FOCAL * size
    matrix[0, 2] = matrix[1, 2] = (size - 1) / 2
    return matrix


def draw_second_view(scene: Scene, frames: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """Draw the given frames (numbers at `FPS`) of the second camera: `(T, size, size, 3)` uint8."""
    return draw_frames(from_behind(scene), frames, size, _other_side(scene, size))


def draw_second_clip(scene: Scene, size: int) -> np.ndarray:
    """Draw all frames of the second camera: `(DURATION * FPS, size, size, 3)` uint8, as `draw_clip` does."""
    return draw_clip(from_behind(scene), size, _other_side(scene, size))


def from_behind(scene: Scene) -> Scene:
    """The shapes as the second camera sees them, those farthest from it first, without flashes.

    The hidden shape is not among them: it is a part of the background.
    """

    def turned(x: float, y: float) -> tuple[float, float]:
        return 1 - x, 1 - SQUEEZE * (1 - y)

    items = tuple(
        replace(item, color=item.back, start=turned(*item.start), end=turned(*item.end), scale=SHRINK)
        for item in sorted(scene.items, key=lambda item: item.depth)
    )
    return replace(scene, items=items, flashes=())


def _other_side(scene: Scene, size: int) -> np.ndarray:
    """The static background of the second camera, the hidden shape included: `(size, size, 3)` float32."""
    wall = scene.background
    first, second = ((blue, red, green) for red, green, blue in wall.colors)
    wall = replace(wall, colors=(first, second), angle=wall.angle + np.pi / 3, seed=wall.seed ^ 1)
    backdrop = draw_background(wall, size)
    backdrop[: round(SHELF * size)] *= np.float32(1.35)
    item = hidden_item(scene)
    draw_item(backdrop, item, *item.start)
    return backdrop


def hidden_item(scene: Scene) -> Item:
    """The hidden shape as the second camera sees it, on its shelf."""
    place = (0.5, SHELF / 2)
    return replace(scene.hidden, scale=SHRINK, start=place, end=place)
