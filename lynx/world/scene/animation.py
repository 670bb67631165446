"""Every frame of a clip at once: the same picture as `draw_frames`, six times as fast.

A shape is painted once for each place it can take within a pixel (in eighths), on black and on white, which
gives its color and its opacity; a frame is then the still background with a few of these stamps blended in.
"""

import numpy as np

from lynx.world.scene.picture import draw_background, draw_item, lit_frames
from lynx.world.scene.scene import DURATION, FPS, Item, Scene

PARTS = 8
"""Places within a pixel, each way: a shape is drawn at most a sixteenth of a pixel from where it is."""
Stamp = tuple[np.ndarray, np.ndarray, int, int]
"""A painted shape: color times opacity (h, w, 3), what shows through (h, w, 3) in 0..1, top and left."""


def draw_clip(scene: Scene, size: int, backdrop: np.ndarray | None = None) -> np.ndarray:
    """Draw all frames of a scene: `(DURATION * FPS, size, size, 3)` uint8; `backdrop` as in `draw_frames`."""
    count = round(DURATION * FPS)
    backdrop = draw_background(scene.background, size) if backdrop is None else backdrop
    canvas = np.repeat((backdrop + 0.5).astype(np.uint8)[None], count, axis=0)
    for number, item in enumerate(scene.items):
        lit = lit_frames(scene) if number == scene.flasher else frozenset()
        places = np.rint(item.position(np.arange(count) / FPS) * size * PARTS).astype(int)
        stamps: dict[tuple[int, int, bool], Stamp] = {}
        for frame, (x, y) in enumerate(places.tolist()):
            key = (x % PARTS, y % PARTS, frame in lit)
            if key not in stamps:
                stamps[key] = _stamp(item, size, *key)
            color, through, top, left = stamps[key]
            top, left = y // PARTS + top, x // PARTS + left
            height, width = color.shape[:2]
            # What lies outside of the frame is cut off.
            rows = slice(max(0, -top), min(height, size - top))
            columns = slice(max(0, -left), min(width, size - left))
            picture = canvas[frame]
            window = picture[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
            window[:] = window * through[rows, columns] + color[rows, columns] + np.float32(0.5)
    return canvas


def _stamp(item: Item, size: int, x_part: int, y_part: int, lit: bool) -> Stamp:
    """Paint a shape in the middle of two canvases; top and left count from the pixel of its center."""
    middle = size // 2
    black, white = np.zeros((size, size, 3), np.float32), np.full((size, size, 3), 255, np.float32)
    for canvas in (black, white):
        draw_item(canvas, item, (middle + x_part / PARTS) / size, (middle + y_part / PARTS) / size, lit)
    through = (white - black) / 255
    rows, columns = (np.flatnonzero((through < 1).any(axis=(axis, 2))) for axis in (1, 0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return black[inside], through[inside], int(rows[0]) - middle, int(columns[0]) - middle
