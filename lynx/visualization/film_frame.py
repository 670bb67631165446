"""One frame of a film: the picture, the words under it, and every sense running along under a playhead.

No model and no file here. What stands still is drawn once; the senses are one long strip, drawn once too, of
which each frame shows the part around its moment. Times are seconds of the recording.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from lynx.types import Frames
from lynx.visualization.text import Font, legible, lines, shortened, write_lines
from lynx.visualization.timeline import (
    CURVE_HEIGHT,
    GUTTER,
    Curve,
    clock,
    colour,
    full_heat,
    heat_picture,
    overlay_heatmap,
    picture,
    plot_curve,
    share_bar,
)

WIDEST, HIGHEST = 960, 720  # pixels; of the picture, which keeps its shape
LEAST = (640, 480)  # pixels; a smaller picture is enlarged to it, and no film is narrower
SPAN, MOMENTS = 12.0, 8  # seconds on the screen at once, or as many moments as the model looked at
DIMMED = 0.3
"""How far the picture fades into the ground, so that the heat on it is told from its own colours."""
GROUND, RAISED = (15, 23, 42), (30, 41, 59)
INK, QUIET, MARK = (241, 245, 249), (148, 163, 184), (251, 191, 36)
STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
"""Seconds from one mark of the time axis to the next."""
ANSWER_LINES, QUESTION_LINES = 3, 2


@dataclass(frozen=True)
class Track:
    """A sense that runs along: its (pseudo-)frames, each for `seconds`, and where attention lay on them.

    maps: (T, rows, cols) >= 0, on one scale, or None. spread: whether a picture is stretched over its
    seconds, as a spectrogram is; others keep their shape, centred at their moment.
    """

    sense: str
    label: str
    frames: Frames
    maps: Tensor | None
    seconds: float
    spread: bool


@dataclass(frozen=True)
class Words:
    """What was said. marked: the first letter of the answer that is marked, and the first one behind.

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
    scale = min(WIDEST / width, HIGHEST / height)
    if scale > 1:
        scale = max(1.0, min(LEAST[0] / width, LEAST[1] / height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


class Screen:
    """Draws the film's frames: `size` (width, height), even; `draw` one of them.

    shown: the size of the picture, None where there is none. stretch: the film's first and last second.
    """

    def __init__(
        self,
        shown: tuple[int, int] | None,
        words: Words,
        tracks: Sequence[Track],
        curves: Sequence[Curve],
        stretch: tuple[float, float],
    ) -> None:
        self.shown = shown
        self.width = max(LEAST[0], shown[0]) if shown else WIDEST
        self.unit = self.width / WIDEST
        self.margin, self.gutter = self._px(24), self._px(24 + GUTTER, 116)
        self.start, self.end = stretch
        length = self.end - self.start
        self.span = min(length, max(SPAN, MOMENTS * max((t.seconds for t in tracks), default=0.0)))
        self.lane_width = self.width - self.gutter - self.margin
        self.scale = self.lane_width / self.span  # pixels a second
        self._strip, places = self._draw_strip(tracks, curves, 84 if shown else 300)
        self._base, self.top = self._draw_base(words, places)
        self.size = self._base.size

    def _px(self, size: float, least: float = 0) -> int:
        """A length on a screen of the widest kind, in pixels of this one."""
        return round(max(least, size * self.unit))

    def draw(self, time: float, pixels: Tensor | None, heat: Tensor | None = None) -> np.ndarray:
        """The frame (H, W, 3) uint8 of a moment: pixels (3, h, w) uint8 under heat (rows, cols) in [0, 1]."""
        sheet = self._base.copy()
        if pixels is not None and self.shown is not None:
            shown = picture(pixels).resize(self.shown, Image.Resampling.BICUBIC)
            if heat is not None:
                shown = Image.blend(shown, Image.new("RGB", self.shown, GROUND), DIMMED)
                glow = heat_picture(heat).resize(self.shown, Image.Resampling.BICUBIC)
                shown.paste(glow, (0, 0), glow)
            sheet.paste(shown, ((self.width - self.shown[0]) // 2, 0))
        left = min(max(time - self.span / 2, self.start), self.end - self.span)
        first = round((left - self.start) * self.scale)
        part = self._strip.crop((first, 0, first + self.lane_width, self._strip.height))
        sheet.paste(part, (self.gutter, self.top))
        self._draw_playhead(sheet, time, self.gutter + (time - left) * self.scale)
        return np.asarray(sheet)

    def _draw_playhead(self, sheet: Image.Image, time: float, x: float) -> None:
        """A line through all that runs along, under the time."""
        draw = ImageDraw.Draw(sheet)
        bottom, top = self.top + self._strip.height - self._axis_height, self.top - self._px(6, 5)
        draw.rectangle((x - 2, self.top, x + 2, bottom), fill=GROUND)
        draw.rectangle((x - 1, top, x + 1, bottom), fill=INK)
        text, font = legible(clock(time, self.end), self._px(15, 13))
        half = font.getlength(text) / 2 + self._px(8)
        middle = min(max(x, self.gutter + half), self.gutter + self.lane_width - half)
        box = (middle - half, top - self._axis_height, middle + half, top)
        draw.rounded_rectangle(box, radius=self._axis_height / 2, fill=INK)
        draw.text((middle, top - self._axis_height / 2), text, GROUND, font, anchor="mm")

    # --- what stands still ---------------------------------------------------------------------------

    def _draw_base(self, words: Words, places: list["_Place"]) -> tuple[Image.Image, int]:
        """The ground with the words and the names of the tracks, and where the strip begins."""
        top = (self.shown[1] if self.shown else 0) + self._px(18)
        sheet = Image.new("RGB", (self.width, top + self._px(420) + self._strip.height), GROUND)
        draw = ImageDraw.Draw(sheet)
        top = self._write(draw, words.question, (0, 0), top, self._px(20, 15), QUESTION_LINES, QUIET)
        top = self._write(
            draw, words.answer, words.marked, top + self._px(5), self._px(34, 24), ANSWER_LINES, INK
        )
        top = self._draw_shares(sheet, draw, words, top + self._px(8)) + self._axis_height + self._px(16)
        font = self._px(17, 13)
        for place in places:
            text, letters = legible(place.label, font)
            middle, dot = top + place.middle, self._px(5, 4)
            left = float(self.margin)
            if place.ink:
                draw.ellipse((left, middle - dot, left + 2 * dot, middle + dot), fill=place.ink)
                left += 2 * dot + self._px(7)
            text = shortened(text, self.gutter - left - 8, letters)
            draw.text((left, middle), text, QUIET, letters, anchor="lm")
        bottom = top + self._strip.height + self._px(10)
        bottom = self._write(draw, words.note, (0, 0), bottom, self._px(14, 11), 2, QUIET)
        return sheet.crop((0, 0, self.width, (bottom + self._px(10)) // 2 * 2)), top

    def _write(
        self,
        draw: ImageDraw.ImageDraw,
        text: str,
        marked: tuple[int, int],
        top: int,
        size: int,
        limit: int,
        ink: tuple[int, int, int],
    ) -> int:
        """Write a text from the margin on; returns where it ends."""
        text, font = legible(text, size)
        width = self.width - 2 * self.margin
        rows, step = lines(text, marked, width, font, limit), round(size * 1.36)
        write_lines(draw, rows, (self.margin, top), font, step, (ink, GROUND, MARK))
        return top + len(rows) * step

    def _draw_shares(self, sheet: Image.Image, draw: ImageDraw.ImageDraw, words: Words, top: int) -> int:
        """The shares of the senses as a bar, and in words under it; returns where they end."""
        width, height = self.width - 2 * self.margin, self._px(8, 6)
        bar = share_bar(words.share, width, height)
        sheet.paste(bar, (self.margin, top), bar)
        left, size = float(self.margin), self._px(16, 13)
        top += height + self._px(6)
        for sense, value in words.share.items():
            text, font = legible(f"{words.labels.get(sense, sense)}  {100 * value:.0f} %", size)
            radius = self._px(5, 4)
            length = 2 * radius + self._px(7) + font.getlength(text)
            if left > self.margin and left + length > self.width - self.margin:
                left, top = float(self.margin), top + round(size * 1.5)
            middle = top + size * 0.65
            draw.ellipse((left, middle - radius, left + 2 * radius, middle + radius), fill=colour(sense))
            draw.text((left + length, middle), text, QUIET, font, anchor="rm")
            left += length + self._px(24)
        return top + round(size * 1.3)

    # --- what runs along -----------------------------------------------------------------------------

    @property
    def _axis_height(self) -> int:
        return self._px(24, 20)

    def _draw_strip(
        self, tracks: Sequence[Track], curves: Sequence[Curve], height: int
    ) -> tuple[Image.Image, list["_Place"]]:
        """All tracks, the attention over time and the clock, over the whole stretch; and their names."""
        height, gap = self._px(height), self._px(8)
        width = max(self.lane_width, round((self.end - self.start) * self.scale))
        curve_height = CURVE_HEIGHT if curves else 0
        rows = len(tracks) * (height + gap) + curve_height + self._axis_height
        strip, top = Image.new("RGB", (width, rows), GROUND), 0
        places = []
        for track in tracks:
            self._draw_track(strip, track, top, height)
            places.append(_Place(track.label, top + height / 2, colour(track.sense)))
            top += height + gap
        if curves:
            moved = [Curve(curve.sense, curve.times - self.start, curve.values) for curve in curves]
            drawn = plot_curve(moved, self.end - self.start, GUTTER + width).crop(
                (GUTTER, 0, GUTTER + width, curve_height)
            )
            strip.paste(drawn, (0, top), drawn)
            places.append(_Place("attention", top + curve_height / 2, None))
            top += curve_height
        self._draw_axis(strip, top)
        return strip, places

    def _draw_track(self, strip: Image.Image, track: Track, top: int, height: int) -> None:
        ImageDraw.Draw(strip).rectangle((0, top, strip.width, top + height - 1), fill=RAISED)
        peak = full_heat(track.maps) if track.maps is not None else 1.0
        rows, columns = track.frames.pixels.shape[-2:]
        for i, time in enumerate(track.frames.times.tolist()):
            edges = [(time + side * track.seconds / 2 - self.start) * self.scale for side in (-1, 1)]
            if edges[1] <= 0 or edges[0] >= strip.width:
                continue
            left, right = round(edges[0]), round(edges[1])
            size = (max(1, right - left), height)
            if not track.spread:
                fitting = min(max(1, right - left - self._px(4)) / columns, height / rows)
                size = (max(1, round(columns * fitting)), max(1, round(rows * fitting)))
            if track.maps is None:
                tile = picture(track.frames.pixels[i]).resize(size, Image.Resampling.BICUBIC)
            else:
                tile = overlay_heatmap(track.frames.pixels[i], track.maps[i] / peak, size)
            place = (left + (right - left - size[0]) // 2, top + (height - size[1]) // 2)
            strip.paste(tile, place)

    def _draw_axis(self, strip: Image.Image, top: int) -> None:
        draw = ImageDraw.Draw(strip)
        font: Font
        size = self._px(14, 12)
        step = next((step for step in STEPS if step * self.scale >= 5 * size), STEPS[-1])
        for number in range(floor(self.start / step) + 1, floor(self.end / step) + 1):
            text, font = legible(
                clock(number * step, self.end) if self.end >= 60 else f"{number * step:g} s", size
            )
            x, half = (number * step - self.start) * self.scale, font.getlength(text) / 2
            if half <= x <= strip.width - half:
                draw.text((x, top + self._axis_height / 2), text, QUIET, font, anchor="mm")


@dataclass(frozen=True)
class _Place:
    """The name of a row of the strip, and how far down its middle is."""

    label: str
    middle: float
    ink: tuple[int, int, int] | None
