"""Shared by all pictures: colors, lanes and curves on one time axis. No model.

A lane is a sense from left to right, like a staff of a score: a picture, the sound under it and the curve
below stand at the same second. Grounds are transparent, so that a picture fits a light page and a dark film.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lynx.evidence.attribution import TEXT, Attribution
from lynx.modalities import color_of
from lynx.modalities.base import Color
from lynx.types import Frames
from lynx.visualization.heat import evidence_picture, full_heat, grayed, overlay_heatmap, picture
from lynx.visualization.text import legible, lines, write_lines

TEXT_COLOR = (148, 163, 184)  # of the conversation's words, beside the senses
FAINT = (148, 163, 184, 90)
CURVE_HEIGHT = 96  # pixels
LABEL_LINES = 3
SMOOTH = 4  # times larger: how a dot is drawn before it is made small, for a smooth edge


def color(sense: str) -> Color:
    """The sense's color, the same in all pictures."""
    return TEXT_COLOR if sense == TEXT else color_of(sense)


def clock(seconds: float, duration: float) -> str:
    """A moment as a player writes it: 2.25 s below 10 s of `duration`, 12.3 s below a minute, else 1:07."""
    if duration < 60:
        return f"{seconds:.{2 if duration < 10 else 1}f} s"
    return "{}:{:02d}".format(*divmod(round(seconds), 60))


@dataclass(frozen=True)
class TimeAxis:
    """`start` seconds at the left edge, `scale` pixels a second."""

    start: float
    scale: float

    def x(self, time: float) -> float:
        """The pixel column of a moment."""
        return (time - self.start) * self.scale


@dataclass(frozen=True)
class Lane:
    """One sense on the time axis: its (pseudo-)frames, and what lies on them.

    maps: (T, rows, cols) on one scale, or None: attention >= 0, or where `signed` evidence for and against.
    fill: pictures are stretched over their seconds, as spectrograms are; others keep their shape.
    seconds: of one frame; by default the spacing of the frames.
    full: the value that is drawn strongest; 0: this sense's own. threshold: the part of it below which
    signed values are not drawn.
    """

    sense: str
    label: str
    frames: Frames
    maps: Tensor | None = None
    fill: bool = False
    seconds: float = 0.0
    full: float = 0.0
    signed: bool = False
    threshold: float = 0.0

    def scaled(self) -> Tensor | None:
        """The maps in [0, 1], or in [-1, 1] where they are signed."""
        if self.maps is None:
            return None
        own = strongest([self.maps]) if self.signed else full_heat(self.maps)
        return self.maps / (self.full or own)

    def tile(self, axis: TimeAxis, height: int) -> tuple[int, int]:
        """The size (width, height) of a frame in a lane of that height."""
        cell = self.seconds * axis.scale
        if self.fill:
            return max(1, round(cell)), height
        rows, columns = self.frames.pixels.shape[-2:]
        fit = min(cell * 0.94 / columns, height / rows)  # a gap between pictures
        return max(1, round(columns * fit)), max(1, round(rows * fit))


def split_lanes(lanes: Sequence[Lane]) -> list[Lane]:
    """A lane for each kind of picture (`Frames.labels`), with `seconds`, and heat on one scale."""
    parts = []
    for lane in lanes:
        frames = lane.frames
        whole = replace(lane, maps=lane.scaled(), full=1.0)
        kinds = list(dict.fromkeys(frames.labels))
        for kind in kinds if len(kinds) > 1 else [None]:
            part = whole
            if kind is not None:
                there = torch.tensor([label == kind for label in frames.labels])  # (T,) bool
                shown = Frames(frames.pixels[there], frames.times[there], frames.duration)
                heat = whole.maps[there] if whole.maps is not None else None
                part = replace(whole, label=kind, frames=shown, maps=heat)
            times = part.frames.times
            spacing = float(times.diff().median()) if len(times) > 1 else frames.duration
            parts.append(replace(part, seconds=part.seconds or max(spacing, 1e-3)))
    return parts


def draw_lane(sheet: Image.Image, lane: Lane, axis: TimeAxis, top: int, height: int) -> None:
    """Paste the frames of a lane of `split_lanes` at their moments, its heat over them; `height` pixels."""
    width, high = lane.tile(axis, height)
    for i, time in enumerate(lane.frames.times.tolist()):
        left, right = round(axis.x(time - lane.seconds / 2)), round(axis.x(time + lane.seconds / 2))
        if right <= 0 or left >= sheet.width:
            continue
        size = (max(1, right - left), high) if lane.fill else (width, high)  # spectrograms have no seams
        if lane.maps is None:
            tile = picture(lane.frames.pixels[i]).resize(size, Image.Resampling.BICUBIC)
        elif not lane.signed:
            tile = overlay_heatmap(lane.frames.pixels[i], lane.maps[i], size)
        else:
            tile = grayed(picture(lane.frames.pixels[i]).resize(size, Image.Resampling.BICUBIC))
            tile = Image.alpha_composite(tile.convert("RGBA"), _signed_tile(lane, i, size))
        sheet.paste(tile, (left + (right - left - size[0]) // 2, top + (height - high) // 2))


def _signed_tile(lane: Lane, index: int, size: tuple[int, int]) -> Image.Image:
    """The evidence over a picture; over a spectrogram it goes on into those beside it, without seams."""
    assert lane.maps is not None
    if not lane.fill:
        return evidence_picture(lane.maps[index], size, lane.threshold)
    first, last = max(0, index - 1), min(len(lane.maps) - 1, index + 1)
    around = torch.cat(list(lane.maps[first : last + 1]), dim=-1)  # (rows, up to 3 * cols)
    wide = evidence_picture(around, (size[0] * (last - first + 1), size[1]), lane.threshold)
    left = size[0] * (index - first)
    return wide.crop((left, 0, left + size[0], size[1]))


@dataclass(frozen=True)
class Curve:
    """What lies on a sense over time: times (n,) seconds, values (n,), below 0 where they speak against."""

    sense: str
    times: Tensor
    values: Tensor


def strongest(values: Iterable[Tensor]) -> float:
    """The largest absolute value of all; 1 where all are 0."""
    return max((float(each.abs().max()) for each in values if each.numel()), default=0.0) or 1.0


def add_moments(sense: str, times: Tensor, values: Tensor) -> Curve:
    """A curve from values (T,) at times (T,), summed over the pictures of a moment."""
    moments, index = times.unique(return_inverse=True)
    return Curve(sense, moments, torch.zeros(len(moments)).index_add(0, index, values.float().cpu()))


def curve_of(attribution: Attribution, sense: str) -> Curve:
    """What some answer tokens rest on in a sense over time, summed over the pictures of a moment."""
    return add_moments(sense, *attribution.curve(sense))


def draw_curves(
    curves: Sequence[Curve], axis: TimeAxis, width: int, height: int = CURVE_HEIGHT
) -> Image.Image:
    """Values over time, all senses on one scale, over and under a line at zero.

    Drawn at twice the size and shrunk for smooth lines.
    """
    sheet = Image.new("RGBA", (width * 2, height * 2))
    draw, unit = ImageDraw.Draw(sheet), height * 2 / (CURVE_HEIGHT * 2)
    filled = [curve.values for curve in curves if curve.values.numel()]
    most = max((float(values.max()) for values in filled), default=0.0)
    least = min(0.0, *(float(values.min()) for values in filled), 0.0)
    most = max(most, 0.0 if least else 1e-30)
    whole, room = most - least, (height - 18 * unit) * 2
    base = (height - 6 * unit) * 2 - (-least / whole * room if least else 0.0)
    draw.line((0, base, width * 2, base), fill=FAINT, width=round(2 * unit) or 1)
    # flat ones first, so that they hide no others
    for curve in sorted(curves, key=lambda curve: float(curve.values.abs().sum())):
        points = [
            (axis.x(time) * 2, base - value / whole * room)
            for time, value in zip(curve.times.tolist(), curve.values.tolist(), strict=True)
        ]
        draw.line(points, fill=color(curve.sense), width=round(6 * unit), joint="curve")
        dot = 9 * unit
        for x, y in points:
            draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=color(curve.sense))
    return sheet.resize((width, height), Image.Resampling.LANCZOS)


def share_bar(share: Mapping[str, float], width: int = 1200, height: int = 28) -> Image.Image:
    """The shares of the senses as one bar of their colors."""
    sheet = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(sheet)
    total, left = sum(share.values()) or 1.0, 0.0
    for sense, value in share.items():
        right = left + value / total * width
        if right - left >= 1:
            end = max(round(left), round(right) - 2)  # a gap of two pixels, where there is room for it
            draw.rectangle((round(left), 0, end, height), fill=color(sense))
        left = right
    return sheet


def draw_dot(sheet: Image.Image, center: tuple[float, float], radius: int, fill: Color) -> None:
    """A disc with a smooth edge."""
    side = (2 * radius + 1) * SMOOTH
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), fill=255)
    disc = Image.new("RGBA", (2 * radius + 1, 2 * radius + 1), fill)
    disc.putalpha(mask.resize(disc.size, Image.Resampling.BOX))
    left, top = round(center[0]) - radius, round(center[1]) - radius
    ground = sheet.crop((left, top, left + disc.width, top + disc.height)).convert("RGBA")
    sheet.paste(Image.alpha_composite(ground, disc), (left, top))


def draw_label(
    sheet: Image.Image, label: str, sense: str | None, box: tuple[float, float, float], size: int, ink: Color
) -> None:
    """A lane's name in at most LABEL_LINES lines, behind a dot of the sense's color.

    box: the left and right edges of its column, and the middle of the lane from the top.
    """
    left, right, middle = box
    radius = round(size * 0.28)
    if sense is not None:
        draw_dot(sheet, (left + radius, middle), radius, color(sense))
    left += 2 * radius + round(size * 0.4)  # names stand under one another, with or without a dot
    text, font = legible(label, size)
    rows, step = lines(text, (0, 0), right - left, font, LABEL_LINES), size * 1.15
    at = (left, middle - len(rows) * step / 2)
    write_lines(ImageDraw.Draw(sheet), rows, at, font, step, (ink, ink, ink))
