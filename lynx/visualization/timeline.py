"""A clip as a still picture: all senses under one another on one time axis, evidence over time below."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from PIL import Image, ImageDraw

from lynx.visualization import drawing
from lynx.visualization.drawing import Curve, Lane, TimeAxis
from lynx.visualization.text import legible

INK = (100, 116, 139)  # a gray that is legible on white and on black
GUTTER = 112  # pixels left of the lanes, for their names
GAP = 8
MAX_FRAME_HEIGHT = 150
MANY = 3  # lanes; where there are more, pictures are less high
FONT_SIZE = 19


def timeline(
    lanes: Sequence[Lane], curves: Sequence[Curve] = (), width: int = 1200, per_row: int = 8,
    curve_label: str = "attention", scale: float = 1.0,
) -> Image.Image:
    """Draw all senses on one time axis, in rows of `per_row` frames at most: RGBA, transparent ground.

    scale: of letters and gaps, for a sheet with more pixels that is looked at in the same size.
    """
    if not lanes:
        return Image.new("RGBA", (width, 1))
    lanes = drawing.split_lanes(lanes)
    first = lanes[0]
    count = ceil(len(first.frames) / per_row)
    length = ceil(len(first.frames) / count) * first.seconds  # of a row
    start = float(first.frames.times[0]) - first.seconds / 2
    style = Style(curve_label, scale)
    ends = [(start + i * length, start + (i + 1) * length) for i in range(count)]
    rows, gap = [_row(lanes, curves, part, width, style) for part in ends], style.px(2 * GAP)
    sheet = Image.new("RGBA", (width, sum(row.height + gap for row in rows) - gap))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + gap
    return sheet


@dataclass(frozen=True)
class Style:
    """How a row is drawn: what stands beside the curves, and how large letters and gaps are."""

    curve_label: str
    scale: float

    def px(self, length: float) -> int:
        """A length in pixels of the sheet."""
        return round(length * self.scale)


def _row(
    lanes: Sequence[Lane], curves: Sequence[Curve], part: tuple[float, float], width: int, style: Style
) -> Image.Image:
    """The part from its first to its last second."""
    start, end = part
    gutter, gap, size = style.px(GUTTER), style.px(GAP), style.px(FONT_SIZE)
    axis = TimeAxis(start, (width - gutter) / (end - start))
    most = style.px(MAX_FRAME_HEIGHT if len(lanes) <= MANY else MAX_FRAME_HEIGHT * 2 // 3)
    heights = [lane.tile(axis, most * 3 // 4 if lane.fill else most)[1] for lane in lanes]
    rows = [max(height, 3 * size) + gap for height in heights]
    curve_height = style.px(drawing.CURVE_HEIGHT) if curves else 0
    room_below = curve_height + gap if curves else 0
    sheet = Image.new("RGBA", (width, sum(rows) + room_below + size + style.px(6)))
    strip = Image.new("RGBA", (width - gutter, sheet.height))  # lanes and curves; names stay on the sheet
    column, top = (0, gutter - gap), 0
    for lane, height, room in zip(lanes, heights, rows, strict=True):
        drawing.draw_lane(strip, lane, axis, top + (room - gap - height) // 2, height)
        drawing.draw_label(sheet, lane.label, lane.sense, (*column, top + (room - gap) / 2), size, INK)
        top += room
    if curves:
        strip.paste(drawing.draw_curves(curves, axis, strip.width, curve_height), (0, top))
        middle = top + curve_height / 2
        drawing.draw_label(sheet, style.curve_label, None, (*column, middle), size, INK)
        top += room_below
    sheet.paste(strip, (gutter, 0))
    frames, draw = lanes[0].frames, ImageDraw.Draw(sheet)
    for time in frames.times.tolist():
        if start <= time < end:
            text, font = legible(drawing.clock(time, frames.duration), size - style.px(2))
            draw.text((gutter + axis.x(time), top + style.px(2)), text, INK, font, anchor="mt")
    return sheet
