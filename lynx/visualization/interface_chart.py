"""The atlas as a picture: a dot a token, a colour a group, an arrow to where alignment put a sense."""

from collections.abc import Callable
from math import atan2, cos, pi, sin

import torch
from PIL import Image, ImageDraw

from lynx.types import VIDEO
from lynx.visualization.interface_map import REFERENCE, VOCABULARY, Group, InterfaceMap
from lynx.visualization.text import legible, lines, write_lines
from lynx.visualization.timeline import colour

Point = tuple[float, float]
Colour = tuple[int, int, int]

SMOOTH = 2
"""How many times larger it is drawn before it is made small, for smooth edges."""
GROUND, FRAME, INK, QUIET = (255, 255, 255), (226, 232, 240), (30, 41, 59), (84, 98, 120)
GREYS = {VOCABULARY: (148, 163, 184), REFERENCE: (94, 196, 182)}
MARGIN, LEGEND, DOT = 24, 300, 3.6  # pixels of the finished picture
ENTRY, LINE, NOTE_LINES = 52, 20, 9
ALPHA = {VOCABULARY: 150, REFERENCE: 110}


def draw(atlas: InterfaceMap, width: int = 1040, height: int = 640) -> Image.Image:
    """The map of the tokens' directions with its legend: RGB on white; higher where many groups need it."""
    text, font = legible(_note(atlas), 14)
    note = lines(text, (0, 0), LEGEND, font, NOTE_LINES)
    height = max(height, 3 * MARGIN + ENTRY * len(atlas.groups) + LINE * len(note))
    sheet = Image.new("RGB", (width * SMOOTH, height * SMOOTH), GROUND)
    box = (MARGIN, MARGIN, width - LEGEND - 2 * MARGIN, height - MARGIN)
    pen = ImageDraw.Draw(sheet, "RGBA")
    pen.rounded_rectangle([side * SMOOTH for side in box], radius=8 * SMOOTH, outline=FRAME, width=2)
    place = _placement(atlas, box)
    for group in sorted(atlas.groups, key=_order):
        for x, y in group.points.tolist():
            _dot(pen, group, place((x, y)), DOT, ALPHA.get(group.sense, 190))
    for before in atlas.groups:
        after = next((one for one in atlas.groups if one.aligned and one.sense == before.sense), None)
        if not before.aligned and after is not None:
            _arrow(pen, place(_centre(before)), place(_centre(after)), _ink(after))
    sheet = sheet.resize((width, height), Image.Resampling.LANCZOS)
    left = width - LEGEND - MARGIN
    _legend(sheet, atlas, left)
    top = height - MARGIN - LINE * len(note)
    write_lines(ImageDraw.Draw(sheet), note, (left, top), font, LINE, (QUIET, QUIET, GROUND))
    return sheet


def _order(group: Group) -> int:
    """Small groups on large ones: words, other videos, what is not aligned, the rest."""
    kinds = (group.sense == VOCABULARY, group.sense == REFERENCE, not group.aligned, group.sense == VIDEO)
    return next((i for i, found in enumerate(kinds) if found), len(kinds))


def _placement(atlas: InterfaceMap, box: tuple[int, int, int, int]) -> Callable[[Point], Point]:
    """From the axes to pixels, one scale for both: all points lie within the box, up is up."""
    points = torch.cat([group.points for group in atlas.groups])
    low, high = points.min(0).values, points.max(0).values
    room = [box[2] - box[0] - 2 * MARGIN, box[3] - box[1] - 2 * MARGIN]
    scale = min(side / max(float(extent), 1e-6) for side, extent in zip(room, high - low, strict=True))
    middle = ((low + high) / 2).tolist()
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)

    def place(point: Point) -> Point:
        x, y = centre[0] + (point[0] - middle[0]) * scale, centre[1] - (point[1] - middle[1]) * scale
        return x * SMOOTH, y * SMOOTH

    return place


def _centre(group: Group) -> Point:
    x, y = group.points.mean(0).tolist()
    return x, y


def _ink(group: Group) -> Colour:
    return GREYS.get(group.sense) or colour(group.sense)


def _dot(pen: ImageDraw.ImageDraw, group: Group, at: Point, radius: float, alpha: int = 255) -> None:
    """A token: a disc, or a ring where its sense is not aligned."""
    radius *= SMOOTH
    box = (at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius)
    if group.aligned:
        pen.ellipse(box, fill=(*_ink(group), alpha))
    else:
        pen.ellipse(box, fill=(*GROUND, alpha), outline=(*_ink(group), 255), width=SMOOTH + 1)


def _arrow(pen: ImageDraw.ImageDraw, start: Point, end: Point, sense: Colour) -> None:
    """What alignment did to the middle of a sense."""
    angle, tip = atan2(end[1] - start[1], end[0] - start[0]), 11 * SMOOTH
    head = [
        (end[0] - tip * cos(angle + turn), end[1] - tip * sin(angle + turn)) for turn in (-pi / 7, pi / 7)
    ]
    dark = tuple(round(0.35 * of + 0.65 * ink) for of, ink in zip(sense, INK, strict=True))
    for ink, width in ((GROUND, 7), (dark, 3)):
        pen.line((*start, *end), fill=ink, width=width * SMOOTH)
        pen.line((*head[0], *end, *head[1]), fill=ink, width=width * SMOOTH, joint="curve")


def _legend(sheet: Image.Image, atlas: InterfaceMap, left: int) -> None:
    """The groups, each with its gap to the reference."""
    pen, top = ImageDraw.Draw(sheet), MARGIN
    for group in atlas.groups:
        _mark(sheet, group, (left + 7, top + 11))
        text, font = legible(group.label[:1].upper() + group.label[1:], 17)
        pen.text((left + 24, top + 11), text, INK, font, anchor="lm")
        figures = group.figures
        told = f"{figures.tokens:,} tokens"
        if figures.gap is not None and group.sense != REFERENCE:
            told += f" · gap {figures.gap:.3f}"
        text, font = legible(told, 14)
        pen.text((left + 24, top + 31), text, QUIET, font, anchor="lm")
        top += ENTRY


def _note(atlas: InterfaceMap) -> str:
    """What the picture shows, in sentences."""
    shares = " and ".join(f"{100 * share:.0f} %" for share in atlas.explained)
    note = f"A dot is the direction of one token. The axes show {shares} of the variance."
    if atlas.reference is not None:
        note += f" Gap: cosine distance to {atlas.reference} beyond what both spread themselves."
    if any(not group.aligned for group in atlas.groups):
        note += " Arrow: what alignment did."
    return note


def _mark(sheet: Image.Image, group: Group, at: Point) -> None:
    """The group's dot in the legend."""
    side = 16 * SMOOTH
    mark = Image.new("RGB", (side, side), GROUND)
    _dot(ImageDraw.Draw(mark, "RGBA"), group, (side / 2, side / 2), 6)
    sheet.paste(mark.resize((16, 16), Image.Resampling.LANCZOS), (round(at[0]) - 8, round(at[1]) - 8))
