"""An answer's evidence as a figure on a light ground, for a paper or an e-mail. From plain data, no model."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from lynx.evidence.record import Record
from lynx.modalities.base import Color
from lynx.types import Frames
from lynx.visualization import explained
from lynx.visualization.bars import draw_bars
from lynx.visualization.explained import NATS
from lynx.visualization.heat import AGAINST, FOR, HEAT
from lynx.visualization.text import legible, lines, write_lines
from lynx.visualization.timeline import timeline

WIDTH = 1800  # pixels; 270 to the inch over the text width of a page
UNIT = 1200
"""The width for which lengths in this file are given."""
PAPER, INK, QUIET, LINE = (255, 255, 255), (15, 23, 42), (71, 85, 105), (203, 213, 225)
MARK = (253, 230, 138)
MARGIN, GAP = 40, 22
MOST_UNITS = 12_000
"""Length of a figure at which no further word begins; the JSON and the CSV have all."""
NOTE_NATS = (
    "Warm: makes it more likely. Blue: less likely. All senses on one scale; what is weaker than a fifth of "
    "the strongest place is not drawn. A nat is a factor of 2.7: +2.3 nats make a word ten times as likely. "
    "“The words alone”: how likely question and answer by themselves make it, beside a word drawn at random."
)
NOTE_SHARE = (
    "Brighter: more attention, each sense on its own scale. Attention is where the model looked, which is "
    "often not where the answer came from."
)


class _Sheet:
    """A page that grows downwards; lengths are for a page UNIT wide."""

    def __init__(self, width: int) -> None:
        self.scale = width / UNIT
        self.image, self.top = Image.new("RGB", (width, 1), PAPER), 0
        self.margin = self.px(MARGIN)

    def px(self, length: float) -> int:
        return round(length * self.scale)

    def room(self, height: int) -> int:
        """Make the page longer; returns where the new room begins."""
        grown = Image.new("RGB", (self.image.width, self.top + height), PAPER)
        grown.paste(self.image, (0, 0))
        self.image, top = grown, self.top
        self.top += height
        return top

    def space(self, length: float) -> None:
        self.room(self.px(length))

    def picture(self, shown: Image.Image) -> None:
        top = self.room(shown.height)  # before the page is pasted on: it is a new one then
        self.image.paste(shown, (self.margin, top), shown)

    def write(
        self, text: str, size: float, ink: Color, limit: int = 4, marked: tuple[int, int] = (0, 0)
    ) -> None:
        text, font = legible(text, self.px(size))
        step = round(self.px(size) * 1.34)
        rows = lines(text, marked, self.image.width - 2 * self.margin, font, limit)
        at = (self.margin, self.room(step * len(rows)))
        write_lines(ImageDraw.Draw(self.image), rows, at, font, step, (ink, INK, MARK))

    def rule(self) -> None:
        top = self.room(self.px(2 * GAP)) + self.px(GAP)
        ends = (self.margin, top, self.image.width - self.margin, top)
        ImageDraw.Draw(self.image).line(ends, fill=LINE, width=self.px(1.5))


def evidence_figure(
    record: Record, frames: Mapping[str, Frames], words: Sequence[int | None] | None = None,
    method: str | None = None, width: int = WIDTH,
) -> Image.Image:
    """Question, answer, and for each word the bars, the heat on its frames and the curve: RGB.

    frames: by sense, those that the model looked at. words: by index, None for the whole answer; by default
    all that the record has, as long as there is room. method: of several in the record only this one.
    """
    wanted = [
        each
        for each in record["attributions"]
        if method in (None, each["method"]) and (words is None or each["word"] in words)
    ]
    sheet = _Sheet(width)
    sheet.space(MARGIN)
    if record["question"]:
        sheet.write(record["question"], 24, QUIET, limit=3)
        sheet.space(6)
    mark = (0, 0)
    if len(wanted) == 1 and wanted[0]["word"] is not None:
        word = record["words"][wanted[0]["word"]]
        mark = (word["start"], word["end"])
    sheet.write(record["answer"] or "—", 44, INK, limit=6, marked=mark)
    shown = 0
    for shown, found in enumerate(wanted, start=1):
        sheet.rule()
        _explain(sheet, record, found, frames, brief=shown > 1)
        if sheet.top > MOST_UNITS * sheet.scale:
            break
    if left := len(wanted) - shown:
        sheet.space(GAP)
        sheet.write(f"{left} further words: in the files beside this picture.", 19, QUIET)
    sheet.rule()
    for unit in dict.fromkeys(found["unit"] for found in wanted):
        _legend(sheet, unit)
    sheet.write(_made_by(record, wanted), 17, QUIET, limit=3)
    sheet.space(MARGIN)
    return sheet.image


def _explain(
    sheet: _Sheet, record: Record, found: Record, frames: Mapping[str, Frames], brief: bool
) -> None:
    """What one word rests on. brief: only the senses with heat to see."""
    sheet.write(explained.heading(found), 28, INK, limit=2)
    sheet.space(4)
    told = (explained.gained_sentence(found), explained.said_sentence(record, found))
    if text := " ".join(filter(None, told)):
        sheet.write(text, 19, QUIET)
    sheet.space(GAP * 0.7)
    inner, row = sheet.image.width - 2 * sheet.margin, sheet.px(34)
    unit = found["unit"]
    sheet.picture(draw_bars(found["totals"], explained.labels_of(record, unit), unit, inner, row, INK))
    sheet.space(GAP)
    lanes = explained.lanes_of(record, found, frames)
    if brief:
        lanes = [lane for lane in lanes if explained.is_drawn(lane)] or lanes[:1]
    if lanes:
        per_row = 8 if max(len(lane.frames.times.unique()) for lane in lanes) <= 16 else 16
        curves, label = explained.curves_of(record, found), explained.CURVE_LABELS[unit]
        sheet.picture(timeline(lanes, curves, inner, per_row, label, sheet.scale))


def _legend(sheet: _Sheet, unit: str) -> None:
    """The scale of the heat, and what it means in plain words."""
    width, height = sheet.px(260), sheet.px(16)
    stops = (*reversed(AGAINST), PAPER, *FOR) if unit == NATS else (PAPER, *HEAT)
    strip = Image.new("RGB", (len(stops), 1))
    strip.putdata(list(stops))
    ends = ("less likely", "more likely") if unit == NATS else ("little", "much attention")
    top, left = sheet.room(sheet.px(34)), sheet.margin
    draw, (_, font) = ImageDraw.Draw(sheet.image), legible(ends[0], sheet.px(18))
    middle = top + sheet.px(12)
    draw.text((left, middle), ends[0], QUIET, font, anchor="lm")
    left += round(font.getlength(ends[0])) + sheet.px(12)
    sheet.image.paste(strip.resize((width, height), Image.Resampling.BILINEAR), (left, middle - height // 2))
    draw.text((left + width + sheet.px(12), middle), ends[1], QUIET, font, anchor="lm")
    sheet.write(NOTE_NATS if unit == NATS else NOTE_SHARE, 18, QUIET, limit=5)
    sheet.space(GAP / 2)


def _made_by(record: Record, wanted: Sequence[Record]) -> str:
    """Which model and which methods this is about, in a line."""
    parts = []
    if backbone := record["backbone"]:
        added = ", ".join(adapter["name"] for adapter in record["adapters"])
        parts.append(f"Model: {backbone['name']}" + (f" with {added}" if added else ""))
    methods = dict.fromkeys(
        each["method"] + "".join(f", {key} {value}" for key, value in each["parameters"].items())
        for each in wanted
    )
    if methods:
        parts.append("Method: " + "; ".join(methods))
    return ". ".join(parts) + "."
