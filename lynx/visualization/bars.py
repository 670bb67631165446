"""A bar for each sense: to the right what speaks for a word, to the left what speaks against it. No model."""

from collections.abc import Mapping

from PIL import Image, ImageDraw

from lynx.modalities.base import Color
from lynx.visualization import drawing
from lynx.visualization.explained import NATS
from lynx.visualization.text import legible, shortened

INK = (100, 116, 139)  # a gray that is legible on white and on black


def amount(value: float, unit: str) -> str:
    """A total as text: "+8.1" nats, or "33 %"."""
    if unit != NATS:
        return f"{100 * value:.0f} %"
    return f"{0.0 if abs(value) < 0.05 else value:+.1f}".replace("+0.0", "0.0")


def draw_bars(
    totals: Mapping[str, float], labels: Mapping[str, str], unit: str, width: int = 1200, row: int = 34,
    ink: Color = INK,
) -> Image.Image:
    """A bar a sense, all on one scale, with names at the left and amounts at their ends: RGBA, no ground.

    totals: by sense in nats, or shares from 0 to 1; unit: "nats" or "share". row: pixels of one.
    """
    sheet = Image.new("RGBA", (width, row * len(totals)))
    if not totals:
        return sheet
    draw, size = ImageDraw.Draw(sheet), round(row * 0.6)
    written = {sense: legible(labels.get(sense, sense), size) for sense in totals}
    names = max(font.getlength(text) for text, font in written.values()) + 1.6 * size
    names = min(names, width * 0.42)
    _, font = legible("+0.0", size)
    figure = max(font.getlength(amount(value, unit)) for value in totals.values()) + 0.7 * size
    against, most = max(0.0, -min(totals.values())), max(0.0, *totals.values())
    sides = bool(against) * figure + figure
    scale = (width - names - sides) / ((against + most) or 1.0)  # pixels a nat
    zero = names + bool(against) * figure + against * scale
    radius = round(size * 0.28)
    for number, (sense, value) in enumerate(totals.items()):
        middle, length = (number + 0.5) * row, value * scale
        drawing.draw_dot(sheet, (radius + 1, middle), radius, drawing.color(sense))
        text, font = written[sense]
        name = shortened(text, names - 1.6 * size, font)
        draw.text((2 * radius + 0.4 * size, middle), name, ink, font, anchor="lm")
        box = (min(zero, zero + length), middle - row * 0.31, max(zero, zero + length), middle + row * 0.31)
        if abs(length) >= 1:
            draw.rectangle(box, fill=drawing.color(sense))
        side, anchor = (1, "lm") if value >= 0 else (-1, "rm")
        at = zero + length + side * 0.35 * size
        draw.text((at, middle), amount(value, unit), ink, font, anchor=anchor)
    draw.line((zero, 0, zero, sheet.height), fill=ink, width=max(1, row // 17))
    return sheet
