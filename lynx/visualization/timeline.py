"""A clip as a still picture: all senses under one another on one time axis, attention over time below."""

from collections.abc import Sequence
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
    lanes: Sequence[Lane], curves: Sequence[Curve] = (), width: int = 1200, per_row: int = 8
) -> Image.Image:
    """Draw all senses on one time axis, in rows of `per_row` frames at most: RGBA, transparent ground."""
    if not lanes:
        return Image.new("RGBA", (width, 1))
    lanes = drawing.split_lanes(lanes)
    first = lanes[0]
    count = ceil(len(first.frames) / per_row)
    length = ceil(len(first.frames) / count) * first.seconds  # of a row
    start = float(first.frames.times[0]) - first.seconds / 2
    rows = [_row(lanes, curves, start + i * length, start + (i + 1) * length, width) for i in range(count)]
    sheet = Image.new("RGBA", (width, sum(row.height + 2 * GAP for row in rows) - 2 * GAP))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + 2 * GAP
    return sheet


def _row(lanes: Sequence[Lane], curves: Sequence[Curve], start: float, end: float, width: int) -> Image.Image:
    """The part from `start` to `end` seconds."""
    axis = TimeAxis(start, (width - GUTTER) / (end - start))
    most = MAX_FRAME_HEIGHT if len(lanes) <= MANY else MAX_FRAME_HEIGHT * 2 // 3
    heights = [lane.tile(axis, most * 3 // 4 if lane.fill else most)[1] for lane in lanes]
    rows = [max(height, 3 * FONT_SIZE) + GAP for height in heights]
    curve_height = drawing.CURVE_HEIGHT + GAP if curves else 0
    sheet = Image.new("RGBA", (width, sum(rows) + curve_height + FONT_SIZE + 6))
    strip = Image.new("RGBA", (width - GUTTER, sheet.height))  # lanes and curves; names stay on the sheet
    column, top = (0, GUTTER - GAP), 0
    for lane, height, room in zip(lanes, heights, rows, strict=True):
        drawing.draw_lane(strip, lane, axis, top + (room - GAP - height) // 2, height)
        drawing.draw_label(sheet, lane.label, lane.sense, (*column, top + (room - GAP) / 2), FONT_SIZE, INK)
        top += room
    if curves:
        strip.paste(drawing.draw_curves(curves, axis, strip.width), (0, top))
        middle = top + drawing.CURVE_HEIGHT / 2
        drawing.draw_label(sheet, "attention", None, (*column, middle), FONT_SIZE, INK)
        top += curve_height
    sheet.paste(strip, (GUTTER, 0))
    frames, draw = lanes[0].frames, ImageDraw.Draw(sheet)
    for time in frames.times.tolist():
        if start <= time < end:
            text, font = legible(drawing.clock(time, frames.duration), FONT_SIZE - 2)
            draw.text((GUTTER + axis.x(time), top + 2), text, INK, font, anchor="mt")
    return sheet
