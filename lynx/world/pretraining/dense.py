"""Labels of every patch of a frame, on which the vision tower is pretrained."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lynx.world.scene.scene import COLORS, FPS, SHAPES, Scene

_COLORS = tuple(COLORS)
_REACH = 0.2
"""Places are in units of this fraction of the frame."""


def dense_targets(scene: Scene, frames: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Label the patches of frames (numbers at `FPS`).

    Returns: classes `(T, grid * grid, 2)` int64 of shape and color, 0 = background; places `(T, grid *
    grid, 3)` float32: x and y of the shape's center, from the middle of the frame, and its radius.
    """
    axis = (np.arange(grid) + 0.5) / grid
    centers = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)  # (N, 2) x, y
    classes = np.zeros((len(frames), grid * grid, 2), dtype=np.int64)
    places = np.zeros((len(frames), grid * grid, 3), dtype=np.float32)
    nearest = np.full((len(frames), grid * grid), np.inf)
    for item in scene.items:
        offset = item.position(frames / FPS)[:, None] - centers  # (T, N, 2)
        distance = np.linalg.norm(offset, axis=-1)
        inside = (distance < item.radius * 1.05 + 0.02) & (distance < nearest)
        nearest[inside] = distance[inside]
        classes[inside] = (1 + SHAPES.index(item.shape), 1 + _COLORS.index(item.color))
        center = np.broadcast_to((item.position(frames / FPS) - 0.5)[:, None], offset.shape)
        places[inside, :2] = center[inside] / _REACH
        places[inside, 2] = item.radius / _REACH
    return classes, places


class DenseHeads(nn.Module):
    """Linear heads on patch features, for training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.color = nn.Linear(width, len(_COLORS) + 1)
        self.place = nn.Linear(width, 3)

    def forward(self, features: Tensor, classes: Tensor, places: Tensor) -> Tensor:
        """Loss of patch features (T, N, D) against the targets of `dense_targets`, stacked the same way."""
        shapes = F.cross_entropy(self.shape(features).flatten(0, 1), classes[..., 0].flatten())
        colors = F.cross_entropy(self.color(features).flatten(0, 1), classes[..., 1].flatten())
        shown = classes[..., :1] > 0
        error = F.smooth_l1_loss(self.place(features), places, reduction="none") * shown
        return shapes + colors + 4 * error.sum() / shown.sum().clamp(min=1) / 3


def accuracy(heads: DenseHeads, features: Tensor, classes: Tensor) -> float:
    """Share of the patches with a shape whose shape and color are both read right."""
    with torch.no_grad():
        read = torch.stack([head(features).argmax(-1) for head in (heads.shape, heads.color)], -1)
        right = (read == classes).all(-1)
        shown = classes[..., 0] > 0
    return float((right & shown).sum() / shown.sum().clamp(min=1))
