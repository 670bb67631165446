"""Heat over pictures: attention from dark to bright; evidence in warm colors for, in cool ones against."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

HEAT = ((40, 10, 70), (150, 30, 90), (235, 90, 40), (255, 190, 50), (255, 250, 190))  # from dark to bright
FOR = ((200, 60, 20), (240, 110, 30), (255, 190, 50), (255, 250, 190))  # from little to much
AGAINST = ((30, 70, 190), (40, 120, 235), (80, 190, 255), (205, 245, 255))
THRESHOLD = 0.2
"""Part of the strongest value below which evidence is not drawn: what several cells share by interpolation
stays, what is left over everywhere goes."""
FAINTEST, OPAQUE = 120, 225
"""Opacity (0..255) of evidence just above the threshold, and of the strongest."""
EDGE = 0.08
"""Part of the scale above the threshold within which evidence fades in, so that its edge is smooth."""


def picture(frame: Tensor) -> Image.Image:
    """frame: (3, H, W) uint8 -> RGB picture."""
    return Image.fromarray(frame.permute(1, 2, 0).contiguous().cpu().numpy())


def full_heat(maps: Tensor) -> float:
    """The attention that is drawn brightest: the 98th percentile, so that one outlier hides nothing."""
    hot = float(maps.float().quantile(0.98)) if maps.numel() else 0.0
    return hot or float(maps.max()) or 1.0


def heat_picture(values: Tensor) -> Image.Image:
    """values: (rows, cols) in [0, 1] -> RGBA picture, one pixel a cell; cold cells are transparent."""
    values = values.clamp(0, 1).float().cpu()
    rgba = torch.cat([_on_scale(values, HEAT), 175 * values.sqrt()[..., None]], -1)  # (rows, cols, 4)
    return Image.fromarray(rgba.round().to(torch.uint8).numpy())


def evidence_picture(values: Tensor, size: tuple[int, int], threshold: float = THRESHOLD) -> Image.Image:
    """Signed values (rows, cols) in [-1, 1] -> RGBA picture of a size (width, height).

    The values are interpolated, not their colors: between evidence for and against lies nothing, and an edge
    is sharp at any size. What is weaker than `threshold` is transparent.
    """
    cells = Image.fromarray(values.clamp(-1, 1).float().cpu().contiguous().numpy())
    field = torch.from_numpy(np.array(cells.resize(size, Image.Resampling.BICUBIC)))  # (height, width)
    strength = ((field.abs() - threshold) / max(1e-6, 1 - threshold)).clamp(0, 1)
    rgb = torch.where((field > 0)[..., None], _on_scale(strength, FOR), _on_scale(strength, AGAINST))
    fade = (strength / EDGE).clamp(0, 1) if threshold else strength.sqrt()
    alpha = fade * (FAINTEST + (OPAQUE - FAINTEST) * strength)
    rgba = torch.cat([rgb, alpha[..., None]], -1)  # (height, width, 4)
    return Image.fromarray(rgba.round().to(torch.uint8).numpy())


def grayed(base: Image.Image, part: float = 0.6) -> Image.Image:
    """A picture that is mostly gray, so that heat is the color in it."""
    return Image.blend(base, base.convert("L").convert("RGB"), part)


def overlay_heatmap(frame: Tensor, heat: Tensor, size: tuple[int, int] | None = None) -> Image.Image:
    """A frame (3, H, W) uint8, half grayed, under a heat map (rows, cols) in [0, 1]; size: width, height."""
    base = picture(frame)
    base = grayed(base.resize(size, Image.Resampling.BICUBIC) if size else base)
    glow = heat_picture(heat).resize(base.size, Image.Resampling.BICUBIC)
    return Image.alpha_composite(base.convert("RGBA"), glow)


def _on_scale(values: Tensor, stops: tuple[tuple[int, int, int], ...]) -> Tensor:
    """Values (rows, cols) in [0, 1] -> colors (rows, cols, 3) in 0..255."""
    colors, position = torch.tensor(stops).float(), values * (len(stops) - 1)
    low = position.floor().long().clamp(max=len(stops) - 2)
    return torch.lerp(colors[low], colors[low + 1], (position - low)[..., None])
