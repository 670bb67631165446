"""One frame of a film: the picture, the words under it, and every sense running along under a playhead.

The words, and one long strip of the senses, are drawn once; each frame shows the part of the strip around its
moment. Times are seconds of the recording.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from lynx.modalities.base import Color
from lynx.visualization import drawing
from lynx.visualization.drawing import Curve, Lane, TimeAxis
from lynx.visualization.text import legible, lines, write_lines

MAX_WIDTH, MAX_HEIGHT = 960, 720  # pixels; of the picture, which keeps its shape
MIN_WIDTH, MIN_HEIGHT = 640, 480  # pixels; a smaller picture is enlarged to it, and no film is narrower
SPAN, MOMENTS = 12.0, 8  # seconds on the screen at once, or as many moments as the model looked at
DIMMED = 0.3
"""How much the picture fades into the background, so that heat stands out from its own colors."""
GROUND, RAISED = (15, 23, 42), (30, 41, 59)
INK, QUIET, MARK = (241, 245, 249), (148, 163, 184), (251, 191, 36)
STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
"""Seconds from one mark of the time axis to the next."""
ANSWER_LINES, QUESTION_LINES, NOTE_LINES = 3, 2, 2


@dataclass(frozen=True)
class Caption:
    """The text under the picture. marked: start and end of the marked letters of the answer.

    share: how much the marked letters rest on each sense; labels: the senses' names for people.
    """

    question: str
    answer: str
    marked: tuple[int, int]
    share: Mapping[str, float]
    labels: Mapping[str, str]
    note: str = ""


def picture_size(width: int, height: int) -> tuple[int, int]:
    """The even size at which a picture of that size is shown."""
    scale = min(MAX_WIDTH / width, MAX_HEIGHT / height)
    if scale > 1:
        scale = max(1.0, min(MIN_WIDTH / width, MIN_HEIGHT / height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


class FramePainter:
    """Draws a film's frames. shown: the picture's size, if there is one; window: first and last second."""

    def __init__(
        self, shown: tuple[int, int] | None, caption: Caption, lanes: Sequence[Lane],
        curves: Sequence[Curve], window: tuple[float, float],
    ) -> None:
        self.shown = shown
        self.width = max(MIN_WIDTH, shown[0]) if shown else MAX_WIDTH
        self.margin, self.gutter = self._px(24), self._px(128, 116)
        self.start, self.end = window
        lanes = drawing.split_lanes(lanes)
        longest = max((lane.seconds for lane in lanes), default=0.0)
        self.span = min(self.end - self.start, max(SPAN, MOMENTS * longest))
        self.lane_width = self.width - self.gutter - self.margin
        self.scale = self.lane_width / self.span  # pixels a second
        self._axis_height = self._px(24, 20)
        names, self._strip = self._draw_strip(lanes, curves, self._px(84 if shown else 300))
        self._base, self.top = self._draw_base(caption, names)
        self.size = self._base.size

    def _px(self, size: float, least: float = 0) -> int:
        """A length on the widest film, in pixels of this one."""
        return round(max(least, size * self.width / MAX_WIDTH))

    def draw(self, time: float, pixels: Tensor | None, heat: Tensor | None = None) -> np.ndarray:
        """The frame (H, W, 3) uint8 of a moment: pixels (3, h, w) uint8 under heat (rows, cols) in [0, 1]."""
        sheet = self._base.copy()
        if pixels is not None and self.shown is not None:
            shown = drawing.picture(pixels).resize(self.shown, Image.Resampling.BICUBIC)
            if heat is not None:
                shown = Image.blend(shown, Image.new("RGB", self.shown, GROUND), DIMMED)
                glow = drawing.heat_picture(heat).resize(self.shown, Image.Resampling.BICUBIC)
                shown.paste(glow, (0, 0), glow)
            sheet.paste(shown, ((self.width - self.shown[0]) // 2, 0))
        left = min(max(time - self.span / 2, self.start), self.end - self.span)
        first = round((left - self.start) * self.scale)
        part = self._strip.crop((first, 0, first + self.lane_width, self._strip.height))
        sheet.paste(part, (self.gutter, self.top))

        # the playhead: a line through all lanes, under the time
        draw, x = ImageDraw.Draw(sheet), self.gutter + (time - left) * self.scale
        bottom, top = self.top + self._strip.height - self._axis_height, self.top - self._px(6, 5)
        draw.rectangle((x - 2, self.top, x + 2, bottom), fill=GROUND)
        draw.rectangle((x - 1, top, x + 1, bottom), fill=INK)
        text, font = legible(drawing.clock(time, self.end), self._px(15, 13))
        half = font.getlength(text) / 2 + self._px(8)
        middle = min(max(x, self.gutter + half), self.gutter + self.lane_width - half)
        box = (middle - half, top - self._axis_height, middle + half, top)
        draw.rounded_rectangle(box, radius=self._axis_height / 2, fill=INK)
        draw.text((middle, top - self._axis_height / 2), text, GROUND, font, anchor="mm")
        return np.asarray(sheet)

    def _draw_base(self, caption: Caption, names: Image.Image) -> tuple[Image.Image, int]:
        """The ground with the words and the names of the lanes, and how far down the strip begins."""
        top = (self.shown[1] if self.shown else 0) + self._px(18)
        sheet = Image.new("RGB", (self.width, top + self._px(420) + names.height), GROUND)
        draw = ImageDraw.Draw(sheet)

        def write(text: str, marked: tuple[int, int], top: int, size: int, limit: int, ink: Color) -> int:
            """Write a text from the margin on; returns where it ends."""
            text, font = legible(text, size)
            rows, step = lines(text, marked, self.width - 2 * self.margin, font, limit), round(size * 1.36)
            write_lines(draw, rows, (self.margin, top), font, step, (ink, GROUND, MARK))
            return top + len(rows) * step

        top = write(caption.question, (0, 0), top, self._px(20, 15), QUESTION_LINES, QUIET) + self._px(5)
        top = write(caption.answer, caption.marked, top, self._px(34, 24), ANSWER_LINES, INK) + self._px(10)
        # the shares of the senses as a bar, and in words under it
        bar = drawing.share_bar(caption.share, self.width - 2 * self.margin, self._px(8, 6))
        sheet.paste(bar, (self.margin, top), bar)
        left, size, radius = float(self.margin), self._px(16, 13), self._px(5, 4)
        top += bar.height + self._px(8)
        for sense, value in caption.share.items():
            text, font = legible(f"{caption.labels.get(sense, sense)}  {100 * value:.0f} %", size)
            length = 2 * radius + self._px(7) + font.getlength(text)
            if left > self.margin and left + length > self.width - self.margin:
                left, top = float(self.margin), top + round(size * 1.5)
            middle = top + size * 0.65
            drawing.draw_dot(sheet, (left + radius, middle), radius, drawing.color(sense))
            draw.text((left + length, middle), text, QUIET, font, anchor="rm")
            left += length + self._px(20)
        top += round(size * 1.3) + self._axis_height + self._px(16)
        sheet.paste(names, (self.margin, top))
        bottom = top + names.height + self._px(10)
        bottom = write(caption.note, (0, 0), bottom, self._px(14, 11), NOTE_LINES, QUIET)
        return sheet.crop((0, 0, self.width, (bottom + self._px(10)) // 2 * 2)), top

    def _draw_strip(
        self, lanes: Sequence[Lane], curves: Sequence[Curve], height: int
    ) -> tuple[Image.Image, Image.Image]:
        """The names, and beside them all lanes, the attention over time and the clock of the whole window."""
        axis, gap = TimeAxis(self.start, self.scale), self._px(8)
        curve_height = drawing.CURVE_HEIGHT if curves else 0
        width = max(self.lane_width, round((self.end - self.start) * self.scale))
        total = len(lanes) * (height + gap) + curve_height + self._axis_height
        names = Image.new("RGB", (self.gutter - self.margin, total), GROUND)
        strip, top = Image.new("RGB", (width, total), GROUND), 0
        column, letters = (0, names.width - gap), self._px(17, 13)
        for lane in lanes:
            ImageDraw.Draw(strip).rectangle((0, top, strip.width, top + height - 1), fill=RAISED)
            drawing.draw_lane(strip, lane, axis, top, height)
            drawing.draw_label(names, lane.label, lane.sense, (*column, top + height / 2), letters, QUIET)
            top += height + gap
        if curves:
            drawn = drawing.draw_curves(curves, axis, strip.width)
            strip.paste(drawn, (0, top), drawn)
            drawing.draw_label(names, "attention", None, (*column, top + curve_height / 2), letters, QUIET)
            top += curve_height
        draw, size = ImageDraw.Draw(strip), self._px(14, 12)
        step = next((step for step in STEPS if step * self.scale >= 5 * size), STEPS[-1])
        for number in range(floor(self.start / step) + 1, floor(self.end / step) + 1):
            time = number * step
            text, font = legible(drawing.clock(time, self.end) if self.end >= 60 else f"{time:g} s", size)
            x, half = axis.x(time), font.getlength(text) / 2
            if half <= x <= strip.width - half:
                draw.text((x, top + self._axis_height / 2), text, QUIET, font, anchor="mm")
        return names, strip
