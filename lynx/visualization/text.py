"""Text in pictures: fonts with a fallback, line breaks, and a sentence with one word marked."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import ImageDraw, ImageFont

from lynx.modalities.base import Color

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

ELSEWHERE = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf")
"""Fonts with more letters than Pillow's own, used where the system has them."""
ELLIPSIS = "…"


@lru_cache(maxsize=64)
def _named(name: str, size: int) -> Font | None:
    """A font of that many pixels; "" is Pillow's own. None if it is not installed."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(name: str, letter: str) -> bool:
    """Whether a font has a letter: all that it lacks are drawn as the same box."""
    font = _named(name, 24)
    return font is not None and (
        letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))
    )


def legible(text: str, size: int) -> tuple[str, Font]:
    """The text and a font that has its letters; where none does, accents are dropped, others are "?"."""
    name = next((name for name in ("", *ELSEWHERE) if all(_has(name, letter) for letter in text)), "")
    if not all(_has(name, letter) for letter in text):
        plain = (unicodedata.normalize("NFKD", letter)[0] for letter in text)
        text = "".join(letter if _has(name, letter) else "?" for letter in plain)
    return text, _named(name, size) or ImageFont.load_default(size)


def shortened(text: str, width: float, font: Font) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + ELLIPSIS) > width:
        text = text[:-1]
    return text + ELLIPSIS


@dataclass(frozen=True)
class Piece:
    """Part of a line: its text, its left edge (pixels), and whether it is marked."""

    text: str
    left: float
    marked: bool


def lines(text: str, marked: tuple[int, int], width: float, font: Font, limit: int) -> list[list[Piece]]:
    """Break a text into lines of at most `width` pixels; of more than `limit`, keep those around the mark.

    marked: first and end index of the marked letters. An ellipsis stands for what is cut.
    """
    # (first, end) of each word, or of its part up to a hyphen or an underscore. One that is wider than a line
    # is cut, as in scripts without spaces.
    words: list[tuple[int, int]] = []
    for word in re.finditer(r"[^\s_-]+[_-]*|[_-]+", text):
        start, end = word.span()
        while font.getlength(text[start:end]) > width:
            cut = start + 1
            while font.getlength(text[start : cut + 1]) <= width:
                cut += 1
            words.append((start, cut))
            start = cut
        words.append((start, end))

    rows: list[list[Piece]] = [[]]
    right = 0.0
    for start, end in words:
        length = font.getlength(text[start:end])
        space = font.getlength(" ") if text[start - 1 : start].isspace() else 0.0
        if rows[-1] and right + space + length > width:
            rows.append([])
        left = right + space if rows[-1] else 0.0
        cuts = (start, *(min(max(cut, start), end) for cut in marked), end)
        for is_marked, first, last in zip((False, True, False), cuts, cuts[1:], strict=False):
            if first == last:
                continue
            before = rows[-1][-1] if rows[-1] and not space else None
            if before is not None and before.marked == is_marked:  # parts of one word
                rows[-1][-1] = replace(before, text=before.text + text[first:last])
            else:
                rows[-1].append(Piece(text[first:last], left + font.getlength(text[start:first]), is_marked))
        right = left + length
    return rows if len(rows) <= limit else _around_mark(rows, limit, width, font)


def _around_mark(rows: list[list[Piece]], limit: int, width: float, font: Font) -> list[list[Piece]]:
    """`limit` of the rows, the first marked one in the middle, with an ellipsis where rows are left out."""
    first = next((i for i, row in enumerate(rows) if any(piece.marked for piece in row)), 0)
    start = min(max(0, first - limit // 2), len(rows) - limit)
    shown = rows[start : start + limit]
    dots = font.getlength(ELLIPSIS)
    if start:
        moved = [replace(piece, left=piece.left + dots) for piece in shown[0]]
        shown[0] = [Piece(ELLIPSIS, 0.0, False), *moved]
    if start + limit < len(rows):
        *before, last = shown[-1]
        while last.text and last.left + font.getlength(last.text) + dots > width:
            last = replace(last, text=last.text[:-1])
        shown[-1] = [*before, last, Piece(ELLIPSIS, last.left + font.getlength(last.text), False)]
    return shown


def write_lines(
    draw: ImageDraw.ImageDraw, rows: Sequence[Sequence[Piece]], at: tuple[float, float], font: Font,
    step: float, inks: tuple[Color, Color, Color],
) -> None:
    """Write lines from the corner `at` down, `step` pixels each. inks: of text, marked text, its ground."""
    ink, marked_ink, ground = inks
    pad = step * 0.1
    for number, row in enumerate(rows):
        edge = at[0] + (pad if row and row[0].marked else 0)  # the ground keeps to the edge, too
        for piece in row:
            left, top = edge + piece.left, at[1] + number * step
            if piece.marked:
                box = (left - pad, top, left + font.getlength(piece.text) + pad, top + step * 0.94)
                draw.rounded_rectangle(box, radius=step * 0.2, fill=ground)
            fill = marked_ink if piece.marked else ink
            draw.text((left, top + step / 2), piece.text, fill, font, anchor="lm")
