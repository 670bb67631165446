"""The map of the tokens' directions as a picture: a dot a token, an arrow to where alignment put a sense.

It uses matplotlib's `Figure` and Agg canvas: pyplot has global state, and the app draws in threads.
"""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lynx.errors import LynxError
from lynx.types import VIDEO
from lynx.visualization.drawing import color as color_of
from lynx.visualization.interface_map import REFERENCE, VOCABULARY, Group, InterfaceMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 100
PX = 72 / DPI
"""Points, in which matplotlib measures lines and letters, in a pixel of the finished picture."""
FRAME, INK, QUIET = "#e2e8f0", "#1e293b", "#546278"
GRAYS = {VOCABULARY: (148, 163, 184), REFERENCE: (94, 196, 182)}
ALPHA = {VOCABULARY: 0.6, REFERENCE: 0.45}
MARGIN, LEGEND, DOT = 24, 300, 7.2  # pixels; DOT is a diameter
ENTRY, LINE, LETTERS = 52, 20, 42  # pixels of a legend's entry and of a line; letters in a line


def require_matplotlib(what: str = "drawing the map") -> None:
    """Raises: LynxError that says what to install for `what`, where there is no matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise LynxError(f"{what} needs matplotlib: pip install 'lynx[plots]'") from error


def draw(found: InterfaceMap, width: int = 1040, height: int = 640) -> Image.Image:
    """The map with its legend: RGB on white, higher where groups need it. Raises LynxError: no matplotlib."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    told = "A dot is the direction of one token."
    if found.reference is not None:
        told += f" Gap: cosine distance to {found.reference} beyond what both spread themselves."
    if any(not group.aligned for group in found.groups):
        told += " Arrow: what alignment did."
    note = textwrap.wrap(told, LETTERS)
    height = max(height, 3 * MARGIN + ENTRY * len(found.groups) + LINE * len(note))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    # in fractions of the figure: (left, bottom, width, height), with room for the names of the axes
    left, bottom = MARGIN + LINE, MARGIN + LINE
    inner = ((width - LEGEND - 2 * MARGIN - left) / width, (height - MARGIN - bottom) / height)
    _draw_map(figure.add_axes((left / width, bottom / height, *inner)), found)
    side = figure.add_axes(((width - LEGEND - MARGIN) / width, 0, (LEGEND + MARGIN) / width, 1))
    side.set(xlim=(0, LEGEND + MARGIN), ylim=(height, 0))  # pixels, from the top down
    side.set_axis_off()
    for number, group in enumerate(found.groups):
        middle = MARGIN + number * ENTRY + 11
        side.scatter(7, middle, **(_mark(group) | {"s": (12 * PX) ** 2}))
        label = group.label[:1].upper() + group.label[1:]
        side.text(24, middle, label, color=INK, size=16 * PX, va="center")
        told = f"{group.figures.tokens:,} tokens"
        if group.figures.gap is not None and group.sense != REFERENCE:
            told += f" · gap {group.figures.gap:.3f}"
        side.text(24, middle + 21, told, color=QUIET, size=13 * PX, va="center")
    side.text(0, height - MARGIN, "\n".join(note), color=QUIET, size=13 * PX, va="bottom", linespacing=1.5)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw_map(axes: "Axes", found: InterfaceMap) -> None:
    """Every group's points, small groups on large ones, and what alignment did to the middle of a sense."""
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke

    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axes.margins(0.04)
    axes.spines[:].set_color(FRAME)
    first, second = (f"{100 * share:.0f} % of the variance" for share in found.explained)
    axes.set_xlabel(first, color=QUIET, size=13 * PX)
    axes.set_ylabel(second, color=QUIET, size=13 * PX)

    def order(group: Group) -> int:
        """Order of drawing: words, other videos, unaligned senses, the clip's video, the senses."""
        kinds = (group.sense == VOCABULARY, group.sense == REFERENCE, not group.aligned, group.sense == VIDEO)
        return kinds.index(True) if any(kinds) else len(kinds)

    for group in sorted(found.groups, key=order):
        axes.scatter(*group.points.T.numpy(), **_mark(group, ALPHA.get(group.sense, 0.75)))
    for before in found.groups:
        after = next((one for one in found.groups if one.aligned and one.sense == before.sense), None)
        if before.aligned or after is None:
            continue
        dark = tuple(0.35 * np.array(_color(after)) + 0.65 * np.array(to_rgb(INK)))
        tail, head = (tuple(group.points.mean(0).tolist()) for group in (before, after))
        style = {"arrowstyle": "->,head_width=0.35,head_length=0.6", "shrinkA": 0, "shrinkB": 0}
        arrow = axes.annotate("", head, tail, arrowprops=style | {"color": dark, "lw": 3 * PX})
        if arrow.arrow_patch is not None:
            arrow.arrow_patch.set(path_effects=[withStroke(linewidth=7 * PX, foreground="white")])


def _color(group: Group) -> tuple[float, float, float]:
    red, green, blue = GRAYS.get(group.sense) or color_of(group.sense)
    return red / 255, green / 255, blue / 255


def _mark(group: Group, alpha: float = 1.0) -> dict[str, Any]:
    """How a token is drawn: a disc, or a ring where its sense is not aligned."""
    color, size = _color(group), (DOT * PX) ** 2
    if group.aligned:
        return {"s": size, "color": [color], "alpha": alpha, "linewidths": 0}
    return {"s": size, "facecolors": [(1, 1, 1, alpha)], "edgecolors": [color], "linewidths": 1.5 * PX}
