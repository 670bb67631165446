"""One frame of a film: picture, words and bars beside it, every sense running along under a playhead.

The words, and one long strip of the senses, are drawn once; each frame shows the part of the strip around its
moment. Times are seconds of the recording.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from lynx.visualization import drawing
from lynx.visualization.bars import draw_bars
from lynx.visualization.drawing import Curve, Lane, TimeAxis
from lynx.visualization.explained import CURVE_LABELS, NATS, SHARE
from lynx.visualization.heat import THRESHOLD, evidence_picture, heat_picture
from lynx.visualization.text import legible, lines, write_lines

WIDTH = 1280  # pixels
MAX_WIDTH, MAX_HEIGHT = 720, 600  # pixels; of the picture, which keeps its shape
MIN_WIDTH, MIN_HEIGHT = 640, 480  # pixels; a smaller picture is enlarged to it
SPAN, MOMENTS = 12.0, 8  # seconds on the screen at once, or as many moments as the model looked at
DIMMED = 0.3
"""How much the picture fades into the background, so that heat stands out from its own colors."""
GROUND, RAISED = (15, 23, 42), (30, 41, 59)
INK, PALE, QUIET, MARK = (241, 245, 249), (203, 213, 225), (148, 163, 184), (251, 191, 36)
STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
"""Seconds from one mark of the time axis to the next."""
ANSWER_LINES, QUESTION_LINES, TOLD_LINES, NOTE_LINES = 4, 3, 4, 2
MARGIN, GUTTER, AXIS, GAP = 28, 172, 32, 8
"""Pixels: around all, left of the lanes, of the clock under them, between them."""
LANE, LOW_LANE, ONLY_LANE = 92, 76, 320
"""Height of a lane: usually, where there are more than MANY, and without a picture above."""
MANY = 2
GLOW = 0.8
"""Opacity of evidence over the picture, as a part of that over small pictures: what it lies on stays seen."""


@dataclass(frozen=True)
class Caption:
    """The text beside the picture. marked: start and end of the marked letters of the answer.

    totals: how much the marked letters rest on each sense, in `unit`; labels: the senses' names for people.
    told: a sentence under the bars. note: what the colors mean.
    """

    question: str
    answer: str
    marked: tuple[int, int]
    totals: Mapping[str, float]
    labels: Mapping[str, str]
    note: str = ""
    unit: str = SHARE
    told: str = ""


def picture_size(width: int, height: int) -> tuple[int, int]:
    """The even size at which a picture of that size is shown."""
    scale = min(MAX_WIDTH / width, MAX_HEIGHT / height)
    if scale > 1:
        scale = max(1.0, min(MIN_WIDTH / width, MIN_HEIGHT / height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


class FramePainter:
    """Draws a film's frames. shown: the picture's size, if there is one; window: first and last second.

    threshold: part of the strongest value below which evidence in nats is not drawn over the picture.
    """

    def __init__(
        self, shown: tuple[int, int] | None, caption: Caption, lanes: Sequence[Lane],
        curves: Sequence[Curve], window: tuple[float, float], threshold: float = THRESHOLD,
    ) -> None:
        self.shown, self.caption, self.threshold = shown, caption, threshold
        self.width, self.margin, self.gutter = WIDTH, MARGIN, GUTTER
        self.start, self.end = window
        lanes = drawing.split_lanes(lanes)
        longest = max((lane.seconds for lane in lanes), default=0.0)
        self.span = min(self.end - self.start, max(SPAN, MOMENTS * longest))
        self.lane_width = self.width - self.gutter - self.margin
        self.scale = self.lane_width / self.span  # pixels a second
        height = (LANE if len(lanes) <= MANY else LOW_LANE) if shown else ONLY_LANE
        names, self._strip = self._draw_strip(lanes, curves, height)
        self._base, self.top = self._draw_base(names)
        self.size = self._base.size

    def draw(self, time: float, pixels: Tensor | None, heat: Tensor | None = None) -> np.ndarray:
        """The frame (H, W, 3) uint8 of a moment: pixels (3, h, w) uint8 under heat (rows, cols)."""
        sheet = self._base.copy()
        if pixels is not None and self.shown is not None:
            shown = drawing.picture(pixels).resize(self.shown, Image.Resampling.BICUBIC)
            if heat is not None:
                shown = Image.blend(shown, Image.new("RGB", self.shown, GROUND), DIMMED)
                glow = self._glow(heat)
                shown.paste(glow, (0, 0), glow)
            sheet.paste(shown, (self.margin, self.margin))
        left = min(max(time - self.span / 2, self.start), self.end - self.span)
        first = round((left - self.start) * self.scale)
        part = self._strip.crop((first, 0, first + self.lane_width, self._strip.height))
        sheet.paste(part, (self.gutter, self.top))

        # the playhead: a line through all lanes, under the time
        draw, x = ImageDraw.Draw(sheet), self.gutter + (time - left) * self.scale
        bottom, top = self.top + self._strip.height - AXIS, self.top - 7
        draw.rectangle((x - 3, self.top, x + 3, bottom), fill=GROUND)
        draw.rectangle((x - 1, top, x + 1, bottom), fill=INK)
        text, font = legible(drawing.clock(time, self.end), 21)
        half = font.getlength(text) / 2 + 12
        middle = min(max(x, self.gutter + half), self.gutter + self.lane_width - half)
        box = (middle - half, top - AXIS, middle + half, top)
        draw.rounded_rectangle(box, radius=AXIS / 2, fill=INK)
        draw.text((middle, top - AXIS / 2), text, GROUND, font, anchor="mm")
        return np.asarray(sheet)

    def _glow(self, heat: Tensor) -> Image.Image:
        """The heat as it lies over the picture: attention in [0, 1], or signed evidence."""
        assert self.shown is not None
        if self.caption.unit != NATS:
            return heat_picture(heat).resize(self.shown, Image.Resampling.BICUBIC)
        glow = evidence_picture(heat, self.shown, self.threshold)
        glow.putalpha(glow.getchannel("A").point([round(GLOW * level) for level in range(256)]))
        return glow

    def _draw_base(self, names: Image.Image) -> tuple[Image.Image, int]:
        """The ground with the words, the bars and the names of the lanes, and where the strip begins."""
        caption, margin = self.caption, self.margin
        left = margin + (self.shown[0] + margin if self.shown else 0)
        width, above = self.width - left - margin, self.shown[1] if self.shown else 0
        sheet = Image.new("RGB", (self.width, 1200 + above + names.height), GROUND)
        draw = ImageDraw.Draw(sheet)

        def write(text: str, marked: tuple[int, int], at: tuple[int, int], size: int, limit: int) -> int:
            """Write a text from a corner on; returns where it ends."""
            if not text:
                return at[1]
            text, font = legible(text, size)
            rows, step = lines(text, marked, self.width - at[0] - margin, font, limit), round(size * 1.3)
            ink = INK if text == answer else QUIET
            write_lines(draw, rows, at, font, step, (ink, GROUND, MARK))
            return at[1] + len(rows) * step

        answer, _ = legible(caption.answer, 46)
        top = write(caption.question, (0, 0), (left, margin - 4), 28, QUESTION_LINES) + 6
        top = write(caption.answer, caption.marked, (left, top), 46, ANSWER_LINES) + 18
        bars = draw_bars(caption.totals, caption.labels, caption.unit, width, 42, PALE)
        sheet.paste(bars, (left, top), bars)
        top = write(caption.told, (0, 0), (left, top + bars.height + 14), 24, TOLD_LINES)
        top = max(top, margin + above) + 2 * AXIS
        sheet.paste(names, (margin, top))
        bottom = write(caption.note, (0, 0), (margin, top + names.height + 12), 21, NOTE_LINES)
        return sheet.crop((0, 0, self.width, (bottom + margin - 8) // 2 * 2)), top

    def _draw_strip(
        self, lanes: Sequence[Lane], curves: Sequence[Curve], height: int
    ) -> tuple[Image.Image, Image.Image]:
        """The names, and beside them all lanes, what lies on them over time and the clock of the window."""
        axis = TimeAxis(self.start, self.scale)
        curve_height = drawing.CURVE_HEIGHT if curves else 0
        width = max(self.lane_width, round((self.end - self.start) * self.scale))
        total = len(lanes) * (height + GAP) + curve_height + AXIS
        names = Image.new("RGB", (self.gutter - self.margin, total), GROUND)
        strip, top = Image.new("RGB", (width, total), GROUND), 0
        column, letters = (0, names.width - GAP), 24
        for lane in lanes:
            ImageDraw.Draw(strip).rectangle((0, top, strip.width, top + height - 1), fill=RAISED)
            drawing.draw_lane(strip, lane, axis, top, height)
            drawing.draw_label(names, lane.label, lane.sense, (*column, top + height / 2), letters, PALE)
            top += height + GAP
        if curves:
            drawn = drawing.draw_curves(curves, axis, strip.width)
            strip.paste(drawn, (0, top), drawn)
            name = CURVE_LABELS[self.caption.unit]
            drawing.draw_label(names, name, None, (*column, top + curve_height / 2), letters, PALE)
            top += curve_height
        draw, size = ImageDraw.Draw(strip), 20
        step = next((step for step in STEPS if step * self.scale >= 5 * size), STEPS[-1])
        for number in range(floor(self.start / step) + 1, floor(self.end / step) + 1):
            time = number * step
            text, font = legible(drawing.clock(time, self.end) if self.end >= 60 else f"{time:g} s", size)
            x, half = axis.x(time), font.getlength(text) / 2
            if half <= x <= strip.width - half:
                draw.text((x, top + AXIS / 2), text, QUIET, font, anchor="mm")
        return names, strip
