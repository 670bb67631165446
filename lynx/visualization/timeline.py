"""Drawing what a model saw and where it looked, as PIL pictures with a transparent ground. No model here.

Everything with a time axis shares one layout, like a score: rows of frames from left to right, one lane a
sense, so that a picture, the sound under it and the curve below stand at the same second.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lynx.modalities import color_of
from lynx.types import Frames

INK = (100, 116, 139)  # a grey that reads on white and on black
FAINT = (148, 163, 184, 90)
GROUND = (0, 0, 0, 0)
TEXT, TEXT_COLOR = "text", (148, 163, 184)  # what lies on the words of the prompt, beside the senses
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
MANY = 3  # lanes; where there are more, pictures are less high
FONT_SIZE = 20
LINE = 22
DOT = 16  # pixels that the dot before a name takes


@dataclass(frozen=True)
class Lane:
    """One sense on the time axis: its (pseudo-)frames, and where attention lay on them.

    maps: (T, rows, cols) >= 0 or None, on one scale. strip: pictures that fill their time, as spectrograms
    do; others keep their shape.
    """

    sense: str
    label: str
    frames: Frames
    maps: Tensor | None = None
    strip: bool = False


@dataclass(frozen=True)
class Curve:
    """Attention on a sense over time: times (n,) seconds, values (n,) >= 0."""

    sense: str
    times: Tensor
    values: Tensor


def colour(sense: str) -> tuple[int, int, int]:
    """The sense's colour, the same in all pictures."""
    return TEXT_COLOR if sense == TEXT else color_of(sense)


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
    lanes = [kind for lane in lanes for kind in _kinds(lane)]
    rows = _split(lanes[0].frames, per_row)
    return _stack([_system(lanes, curves, start, end, width) for start, end in rows], width, GAP * 2)


def _kinds(lane: Lane) -> list[Lane]:
    """A lane for each kind of picture that there is of a moment, heat on the scale of all of them."""
    frames = lane.frames
    maps = lane.maps / full_heat(lane.maps) if lane.maps is not None else None
    kinds = list(dict.fromkeys(frames.labels))
    if len(kinds) < 2:
        return [replace(lane, maps=maps)]
    parts = []
    for kind in kinds:
        there = torch.tensor([label == kind for label in frames.labels])
        pictures = Frames(frames.pixels[there], frames.times[there], frames.duration)
        heat = maps[there] if maps is not None else None
        parts.append(replace(lane, label=kind, frames=pictures, maps=heat))
    return parts


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
    lanes: Sequence[Lane], curves: Sequence[Curve], start: float, end: float, width: int
) -> Image.Image:
    """One row of the score, from `start` to `end` seconds."""
    highest = MAX_FRAME_HEIGHT if len(lanes) <= MANY else MAX_FRAME_HEIGHT * 2 // 3
    parts = [_lane(lane, start, end, width, highest) for lane in lanes]
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


def _lane(lane: Lane, start: float, end: float, width: int, highest: int) -> Image.Image:
    """The frames of one sense, each centred at its time, `highest` pixels high at most."""
    shown = _visible(lane.frames.times, start, end)
    spacing = float(lane.frames.times.diff().median()) if len(lane.frames) > 1 else end - start
    cell = max(8.0, spacing / (end - start) * (width - GUTTER))
    high, wide = lane.frames.pixels.shape[-2:]
    scale = min((cell - GAP) / wide, highest / high)
    size = (cell, highest * 3 // 4) if lane.strip else (wide * scale, max(1, round(high * scale)))
    name = _wrapped(lane.label)
    sheet = Image.new("RGBA", (width, max(size[1], LINE * len(name))), GROUND)
    for i in shown:
        middle = _x(float(lane.frames.times[i]), start, end, width)
        left, right = round(middle - size[0] / 2), round(middle + size[0] / 2)
        frame, fitting = lane.frames.pixels[i], (max(1, right - left), size[1])
        if lane.maps is not None:
            tile = overlay_heatmap(frame, lane.maps[i], fitting)
        else:
            tile = picture(frame).resize(fitting, Image.Resampling.BICUBIC)
        sheet.paste(tile, (left, (sheet.height - size[1]) // 2))
    _name(sheet, name, colour(lane.sense))
    return sheet


def _wrapped(label: str) -> list[str]:
    """A lane's name in lines that fit the gutter; what does not is cut."""
    lines: list[str] = []
    for word in re.findall(r"[^\s_-]+[\s_-]?|[\s_-]", label):
        if lines and _room(lines[-1] + word.rstrip()) >= 0:
            lines[-1] += word
        else:
            lines.append(word)
    return [_cut(line.strip()) for line in lines]


def _cut(line: str) -> str:
    kept = line
    while _room(line) < 0:
        kept = kept[:-1]
        line = f"{kept}…"
    return line


def _room(line: str) -> float:
    """Pixels that a line leaves of the gutter."""
    return GUTTER - GAP - DOT - _font(FONT_SIZE).getlength(line)


def _name(sheet: Image.Image, lines: Sequence[str], ink: tuple[int, int, int] | None = None) -> None:
    """Write a lane's name into the gutter, half-way down, behind a dot of its colour."""
    draw = ImageDraw.Draw(sheet)
    middle, left = sheet.height / 2, DOT if ink else 0
    if ink:
        draw.ellipse((0, middle - 5, 10, middle + 5), fill=ink)
    for i, line in enumerate(lines):
        top = middle + (i - (len(lines) - 1) / 2) * LINE
        draw.text((left, top), line, fill=INK, font=_font(FONT_SIZE), anchor="lm")


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
    _name(sheet, ["attention"])
    return sheet


def plot_curve(curves: Sequence[Curve], duration: float, width: int = 1200) -> Image.Image:
    """The curves alone, over the whole recording."""
    return _curve_lane(curves, 0.0, max(duration, 1e-3), width)


def contact_sheet(frames: Frames, label: str = "picture", width: int = 1200) -> Image.Image:
    """The frames alone, with their times."""
    return timeline([Lane("video", label, frames)], width=width)


def spectrogram_strip(frames: Frames, label: str = "sound", width: int = 1200) -> Image.Image:
    """The sound's pseudo-frames alone, side by side, with their times."""
    return timeline([Lane("audio", label, frames, strip=True)], width=width)


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
