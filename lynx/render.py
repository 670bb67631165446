"""Drawing what a model saw and where it looked, as PIL pictures with a transparent ground. No model here.

Everything with a time axis shares one layout, like a score: rows of frames from left to right, one lane a
sense, so that a picture, the sound under it and the curve below stand at the same second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lynx.media import Frames

INK = (100, 116, 139)  # a grey that reads on white and on black
FAINT = (148, 163, 184, 90)
GROUND = (0, 0, 0, 0)
COLOURS = {"video": (13, 148, 136), "audio": (217, 119, 6), "text": (148, 163, 184)}
OTHER_COLOURS = ((124, 58, 237), (219, 39, 119), (37, 99, 235), (101, 163, 13))
HEAT = (
    (40, 10, 70),
    (150, 30, 90),
    (235, 90, 40),
    (255, 190, 50),
    (255, 250, 190),
)  # dark to bright, as embers

GUTTER = 104  # pixels left of the lanes, for their names
GAP = 8
CURVE_HEIGHT = 96
MAX_FRAME_HEIGHT = 150
FONT_SIZE = 20


@dataclass(frozen=True)
class Lane:
    """One sense on the time axis: its (pseudo-)frames, and where attention lay on them.

    maps: (T, rows, cols) >= 0 or None, on one scale.
    """

    sense: str
    label: str
    frames: Frames
    maps: Tensor | None = None


@dataclass(frozen=True)
class Curve:
    """Attention on a sense over time: times (n,) seconds, values (n,) >= 0."""

    sense: str
    times: Tensor
    values: Tensor


def colour(sense: str) -> tuple[int, int, int]:
    """The sense's colour, the same in all pictures."""
    return COLOURS.get(sense) or OTHER_COLOURS[sum(sense.encode()) % len(OTHER_COLOURS)]


def clock(seconds: float, duration: float) -> str:
    """A moment as a player writes it: 2.25 s in short clips, 12.3 s in longer ones, 1:07 in long ones."""
    if duration < 60:
        return f"{seconds:.{2 if duration < 10 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def picture(frame: Tensor) -> Image.Image:
    """frame: (3, H, W) uint8 -> RGB picture."""
    return Image.fromarray(frame.permute(1, 2, 0).contiguous().cpu().numpy())


def heat_picture(values: Tensor) -> Image.Image:
    """values: (rows, cols) in [0, 1] -> RGBA picture, one pixel a cell; cold cells are transparent."""
    values = values.clamp(0, 1).float().cpu()
    stops = torch.tensor(HEAT, dtype=torch.float32)
    position = values * (len(stops) - 1)
    low = position.floor().long().clamp(max=len(stops) - 2)
    rgb = torch.lerp(stops[low], stops[low + 1], (position - low)[..., None])  # (rows, cols, 3)
    alpha = 175 * values.sqrt()
    return Image.fromarray(torch.cat([rgb, alpha[..., None]], -1).round().to(torch.uint8).numpy())


def full_heat(maps: Tensor) -> float:
    """The attention drawn brightest: that of the hottest 2 % of cells, so that one outlier hides nothing."""
    hot = float(maps.float().quantile(0.98)) if maps.numel() else 0.0
    return hot or float(maps.max()) or 1.0


def overlay_heatmap(frame: Tensor, heat: Tensor, size: tuple[int, int] | None = None) -> Image.Image:
    """A frame (3, H, W) uint8, half greyed, under a heat map (rows, cols) in [0, 1]; size: width, height."""
    base = picture(frame)
    base = base.resize(size, Image.Resampling.BICUBIC) if size else base
    base = Image.blend(base, base.convert("L").convert("RGB"), 0.6)
    glow = heat_picture(heat).resize(base.size, Image.Resampling.BICUBIC)
    return Image.alpha_composite(base.convert("RGBA"), glow)


def timeline(
    lanes: Sequence[Lane], curves: Sequence[Curve] = (), width: int = 1200, per_row: int = 8
) -> Image.Image:
    """All senses under one another on one time axis, in as many rows as `per_row` frames a row take."""
    if not lanes:
        return Image.new("RGBA", (width, 1), GROUND)
    rows = _split(lanes[0].frames, per_row)
    parts = [
        _system(lanes, curves, start, end, width, round(len(lanes[0].frames) / len(rows)))
        for start, end in rows
    ]
    return _stack(parts, width, GAP * 2)


def _split(frames: Frames, per_row: int) -> list[tuple[float, float]]:
    """The time axis in equal rows of at most per_row frames: [(start, end) seconds]."""
    count = len(frames)
    rows = -(-count // per_row)
    spacing = float(frames.times.diff().median()) if count > 1 else frames.duration
    spacing = max(spacing, 1e-3)
    start = float(frames.times[0]) - spacing / 2
    length = -(-count // rows) * spacing
    return [(start + row * length, start + (row + 1) * length) for row in range(rows)]


def _system(
    lanes: Sequence[Lane], curves: Sequence[Curve], start: float, end: float, width: int, per_row: int
) -> Image.Image:
    """One row of the score, from `start` to `end` seconds."""
    parts = [_lane(lane, start, end, width, first=index == 0) for index, lane in enumerate(lanes)]
    if curves:
        parts.append(_curve_lane(curves, start, end, width))
    parts.append(_axis(lanes[0].frames, start, end, width))
    return _stack(parts, width, GAP)


def _stack(parts: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Pictures of one width under one another."""
    sheet = Image.new("RGBA", (width, sum(part.height for part in parts) + gap * (len(parts) - 1)), GROUND)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + gap
    return sheet


def _x(time: float, start: float, end: float, width: int) -> float:
    """The pixel column of a moment."""
    return GUTTER + (time - start) / (end - start) * (width - GUTTER)


def _visible(times: Tensor, start: float, end: float) -> list[int]:
    return [i for i, time in enumerate(times.tolist()) if start <= time < end]


def _lane(lane: Lane, start: float, end: float, width: int, first: bool) -> Image.Image:
    """The frames of one sense, each centred at its time."""
    shown = _visible(lane.frames.times, start, end)
    spacing = float(lane.frames.times.diff().median()) if len(lane.frames) > 1 else end - start
    cell = max(8, round(_x(start + spacing, start, end, width) - GUTTER))
    height, wide = lane.frames.pixels.shape[-2:]
    size = _fit(wide, height, cell - (GAP if lane.sense != "audio" else 0), lane.sense == "audio")
    sheet = Image.new("RGBA", (width, size[1]), GROUND)
    peak = full_heat(lane.maps) if lane.maps is not None else 1.0
    for i in shown:
        frame = lane.frames.pixels[i]
        if lane.maps is not None:
            tile = overlay_heatmap(frame, lane.maps[i] / peak, size)
        else:
            tile = picture(frame).resize(size, Image.Resampling.BICUBIC)
        sheet.paste(tile, (round(_x(float(lane.frames.times[i]), start, end, width) - size[0] / 2), 0))
    _name(sheet, lane.label, colour(lane.sense))
    return sheet


def _fit(width: int, height: int, cell: int, fill: bool) -> tuple[int, int]:
    """The size of a tile: a picture keeps its shape, a spectrogram fills its time."""
    if fill:
        return cell, MAX_FRAME_HEIGHT - 40
    scale = min(cell / width, MAX_FRAME_HEIGHT / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _name(sheet: Image.Image, label: str, ink: tuple[int, int, int] | None = None) -> None:
    """Write a lane's name into the gutter, half-way down, behind a dot of its colour."""
    draw = ImageDraw.Draw(sheet)
    if ink:
        draw.ellipse((0, sheet.height / 2 - 5, 10, sheet.height / 2 + 5), fill=ink)
    draw.text((16 if ink else 0, sheet.height / 2), label, fill=INK, font=_font(FONT_SIZE), anchor="lm")


def _axis(frames: Frames, start: float, end: float, width: int) -> Image.Image:
    """The moments of the frames, written under them."""
    sheet = Image.new("RGBA", (width, FONT_SIZE + 6), GROUND)
    draw = ImageDraw.Draw(sheet)
    for i in _visible(frames.times, start, end):
        time = float(frames.times[i])
        text = clock(time, frames.duration)
        draw.text((_x(time, start, end, width), 2), text, fill=INK, font=_font(FONT_SIZE - 2), anchor="mt")
    return sheet


def _curve_lane(curves: Sequence[Curve], start: float, end: float, width: int) -> Image.Image:
    """Attention over time, all senses on one scale, drawn at twice the size and shrunk for smooth lines."""
    scale = 2
    sheet = Image.new("RGBA", (width * scale, CURVE_HEIGHT * scale), GROUND)
    draw = ImageDraw.Draw(sheet, "RGBA")
    peak = max((float(curve.values.max()) for curve in curves if curve.values.numel()), default=0.0) or 1.0
    base = (CURVE_HEIGHT - 6) * scale
    draw.line((GUTTER * scale, base, width * scale, base), fill=FAINT, width=scale)
    for curve in curves:
        points = [
            (_x(time, start, end, width) * scale, base - value / peak * (CURVE_HEIGHT - 18) * scale)
            for time, value in zip(curve.times.tolist(), curve.values.tolist(), strict=True)
        ]
        draw.line(points, fill=colour(curve.sense), width=3 * scale, joint="curve")
        radius = 5 * scale
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour(curve.sense))
    sheet.paste(GROUND, (0, 0, GUTTER * scale - 1, sheet.height))
    sheet = sheet.resize((width, CURVE_HEIGHT), Image.Resampling.LANCZOS)
    _name(sheet, "attention")
    return sheet


def plot_curve(curves: Sequence[Curve], duration: float, width: int = 1200) -> Image.Image:
    """The curves alone, over the whole recording."""
    return _curve_lane(curves, 0.0, max(duration, 1e-3), width)


def contact_sheet(frames: Frames, label: str = "picture", width: int = 1200) -> Image.Image:
    """The frames alone, with their times."""
    return timeline([Lane("video", label, frames)], width=width)


def spectrogram_strip(frames: Frames, label: str = "sound", width: int = 1200) -> Image.Image:
    """The sound's pseudo-frames alone, side by side, with their times."""
    return timeline([Lane("audio", label, frames)], width=width)


def share_bar(share: Mapping[str, float], width: int = 1200, height: int = 28) -> Image.Image:
    """The shares of the senses, which add up to one, as one bar of their colours."""
    sheet = Image.new("RGBA", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    total = sum(share.values()) or 1.0
    left = 0.0
    for sense, value in share.items():
        right = left + value / total * width
        if right - left >= 1:
            draw.rectangle((round(left), 0, round(right) - 2, height), fill=colour(sense))
        left = right
    return sheet
