"""Draws a scene for eyes: what the first camera sees, at any size and at any of its frames.

Shapes are signed distance fields, drawn with antialiased edges at any resolution, so that the small frames
used in training and the large ones in the files are the same picture.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from lynx.world.scene.scene import COLORS, FPS, Background, Item, Scene

LIT = 0.3
"""Radius to which a flashing shape grows, as a fraction of the frame."""
Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ten mirrored wedges between a tip and a notch: the angle is folded into one, an edge is a line."""
    tip = np.pi / 5
    fold = np.abs(np.arctan2(x, -y) % (2 * tip) - tip)
    radius = np.hypot(x, y)
    u, v = radius * np.cos(tip - fold), radius * np.sin(tip - fold)
    edge_u, edge_v = 0.5 * np.cos(tip) - 1.08, 0.5 * np.sin(tip)
    return ((u - 1.08) * edge_v - v * edge_u) / np.hypot(edge_u, edge_v)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(a - 0.95, b - 0.33), np.maximum(b - 0.95, a - 0.33))


FIELDS: dict[str, Field] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.95,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.84,
    "triangle": lambda x, y: np.maximum(np.abs(x) * 0.866 - (y + 0.12) * 0.5, y + 0.12) - 0.56,
    "star": _star,
    "cross": _cross,
}
"""Signed distance to a shape's edge, below 0 inside; x and y in radii from its center."""


def draw_frames(
    scene: Scene, frames: Sequence[int] | np.ndarray, size: int, backdrop: np.ndarray | None = None
) -> np.ndarray:
    """Draw the given frames (numbers at `FPS`) of a scene: `(T, size, size, 3)` uint8.

    backdrop: (size, size, 3) float32 in 0..255, what stands still; None: the scene's background.
    """
    backdrop = draw_background(scene.background, size) if backdrop is None else backdrop
    canvas = np.repeat(backdrop[None], len(frames), axis=0)
    for number, item in enumerate(scene.items):
        lit = lit_frames(scene) if number == scene.flasher else frozenset()
        for picture, frame in zip(canvas, frames, strict=True):
            x, y = item.position(frame / FPS)
            draw_item(picture, item, float(x), float(y), lit=int(frame) in lit)
    return (canvas + 0.5).astype(np.uint8)


def lit_frames(scene: Scene) -> frozenset[int]:
    """Frame numbers at which the flasher is lit."""
    return frozenset(frame + offset for frame in scene.flashes for offset in (0, 1))


def draw_item(picture: np.ndarray, item: Item, x: float, y: float, lit: bool = False) -> None:
    """Paint one shape, its soft shadow and darker rim into `picture`, `(size, size, 3)` float32.

    Lit, it grows, enough to be recognized in a picture half as wide.
    """
    color = np.array(COLORS[item.color], dtype=np.float32)
    scale = LIT / item.radius if lit else 1.0
    _paint(picture, item, x + 0.012, y + 0.016, np.zeros(3, np.float32), 0.35, softness=0.25)
    _paint(picture, item, x, y, color * np.float32(0.62), scale=scale)
    _paint(picture, item, x, y, color, inset=0.11, scale=scale)


def _paint(
    picture: np.ndarray, item: Item, x: float, y: float, color: np.ndarray, opacity: float = 1.0,
    inset: float = 0.0, softness: float = 0.0, scale: float = 1.0,
) -> None:
    """Blend a shape into a window around it. `inset` and `softness` are fractions of its scaled radius."""
    size = picture.shape[0]
    radius = item.radius * scale * size
    reach = radius * (1.3 + softness) + 1
    top, bottom = (int(np.clip(round(y * size + d), 0, size)) for d in (-reach, reach))
    left, right = (int(np.clip(round(x * size + d), 0, size)) for d in (-reach, reach))
    if top >= bottom or left >= right:
        return
    rows = ((np.arange(top, bottom, dtype=np.float32) + 0.5) - y * size) / radius
    columns = ((np.arange(left, right, dtype=np.float32) + 0.5) - x * size) / radius
    field = FIELDS[item.shape](columns[None, :], rows[:, None]) + np.float32(inset)
    ramp = max(1.0 / radius, 2 * softness)  # one pixel at least: the edge is antialiased
    alpha = (np.clip(0.5 - field / ramp, 0, 1) * np.float32(opacity))[..., None].astype(np.float32)
    window = picture[top:bottom, left:right]
    window += alpha * (color - window)


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the middles of all pixels: `(size, size)` float32 in 0..1."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.meshgrid(axis, axis)


def draw_background(background: Background, size: int) -> np.ndarray:
    """Draw the texture: `(size, size, 3)` float32 in 0..255."""
    x, y = grid(size)
    along = (x * np.cos(background.angle) + y * np.sin(background.angle)) / background.period
    across = (y * np.cos(background.angle) - x * np.sin(background.angle)) / background.period
    wave, cowave = np.sin(2 * np.pi * along), np.sin(2 * np.pi * across)
    rng = np.random.default_rng(background.seed)
    if background.texture == "stripes":
        level = wave
    elif background.texture == "checks":
        level = wave * cowave * 1.4
    elif background.texture == "dots":
        level = np.clip(4 * (wave * cowave - 0.55), -1, 1)
    elif background.texture == "clouds":
        level = np.zeros_like(x)
        for scale in (1.0, 2.0, 3.5):
            angle, shift = rng.uniform(0, 2 * np.pi, 2)
            level += np.sin(2 * np.pi * scale * (x * np.cos(angle) + y * np.sin(angle)) + shift) / scale
    else:
        level = 2 * y - 1
    part = np.clip(0.5 + 0.5 * level, 0, 1)[..., None].astype(np.float32)
    first, second = (np.array(color, dtype=np.float32) for color in background.colors)
    return first + part * (second - first)
