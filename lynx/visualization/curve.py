"""The curve of a training run as a picture: loss, accuracy and learning rate over the steps.

The raw values are pale, the mean around each step is what the eye follows. What was measured on held-out
clips is dots on a line, and a ring stands around the step whose weights were kept.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lynx.visualization.interface_chart import DPI, FRAME, INK, PX, QUIET, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, TITLE, LEFT, RIGHT, BOTTOM, GAP = 1000, 84, 72, 28, 54, 44  # pixels
PANELS = {"loss": 270, "accuracy": 190, "learning rate": 84}
"""The panels from the top down, and their heights in pixels."""
LINES = {
    "loss": ("training", "#2563eb"),
    "accuracy": ("training", "#2563eb"),
    "replay_accuracy": ("training, replayed", "#0d9488"),
    "lr": ("", "#64748b"),
    "val_loss": ("held out", "#d9480f"),
    "val_accuracy": ("held out", "#d9480f"),
    "val_replay_accuracy": ("held out, replayed", "#a16207"),
}
"""Name in the log -> what its line is called, and its color."""
SMOOTHED = 20
"""The mean is over a 20th of the steps, so that a long run's line is as calm as a short one's."""
WIDE = 30.0
"""A loss that falls to less than a 30th is drawn on a logarithmic scale."""
SHARE = 1.05  # top of the axis of a share, so that 100 % is not the frame

Row = Mapping[str, float]


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean around every value, over a 20th of all; on both sides, so that it does not lag behind."""
    reach, last = len(values) // SMOOTHED // 2, len(values) - 1
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=float)])  # (n + 1,)
    here = np.arange(len(values))
    first, end = np.maximum(here - reach, 0), np.minimum(here + reach, last) + 1
    return list((sums[end] - sums[first]) / (end - first))


def draw_curve(rows: Sequence[Row], title: str, best: int | None = None) -> Image.Image:
    """The rows of a run's log as panels on white. best: index of the step whose weights were kept.

    Raises: LynxError: no matplotlib.
    """
    require_matplotlib("drawing the curve of a run")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = [name for name in PANELS if any(_of(name, key) for row in rows for key in row)]
    height = TITLE + sum(PANELS[name] + GAP for name in panels) - GAP + BOTTOM
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    figure.text(LEFT / WIDTH, 1 - 24 / height, title, color=INK, size=19 * PX, weight="bold", va="center")
    top = TITLE
    for name in panels:
        place = (LEFT / WIDTH, 1 - (top + PANELS[name]) / height)
        size = ((WIDTH - LEFT - RIGHT) / WIDTH, PANELS[name] / height)
        axes = figure.add_axes((*place, *size))
        _draw_panel(axes, name, rows, best)
        top += PANELS[name] + GAP
        axes.tick_params(labelbottom=name == panels[-1])
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("step", color=QUIET, size=13 * PX)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _of(panel: str, key: str) -> bool:
    """Whether a name in the log is a line of the panel."""
    return key in LINES and (key == "lr" if panel == "learning rate" else key.endswith(panel))


def _draw_panel(axes: "Axes", panel: str, rows: Sequence[Row], best: int | None) -> None:
    """The lines of one panel, each with its name where there are several."""
    values: list[float] = []
    for key, (label, color) in LINES.items():
        points = [(row["step"] + 1, row[key]) for row in rows if key in row and _of(panel, key)]
        if not points:
            continue
        steps, found = zip(*points, strict=True)
        values += found
        style: dict[str, Any] = {"color": color, "label": label, "linewidth": 2 * PX}
        if key.startswith("val_"):
            style |= {"clip_on": False, "zorder": 4, "marker": "o"}  # a dot on the edge is a whole one
            axes.plot(steps, found, **style, markersize=7 * PX)
            ring = style | {"label": None, "fillstyle": "none"}
            for kept in (point for point in points if best is not None and point[0] == best + 1):
                axes.plot(*kept, **ring, markersize=16 * PX, markeredgewidth=2 * PX)
        elif key == "lr":
            axes.plot(steps, found, **style)
        else:
            axes.plot(steps, found, color=color, alpha=0.22, linewidth=1.4 * PX)
            axes.plot(steps, smoothed(found), **(style | {"linewidth": 2.6 * PX}), zorder=3)
    _dress(axes, panel, values, len(rows))


def _dress(axes: "Axes", panel: str, values: Sequence[float], steps: int) -> None:
    """The axes of a panel: its name above, a faint grid, a legend where there are several lines."""
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=FRAME)
    axes.grid(axis="y", color=FRAME, linewidth=1 * PX)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=QUIET, labelsize=12 * PX)
    axes.set_xlim(1, max(2, steps))
    axes.set_title(panel, loc="left", color=INK, size=14 * PX, pad=8 * PX)
    if panel == "accuracy":
        axes.set_ylim(0, SHARE)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    elif panel == "learning rate":
        axes.set_ylim(0, 1.1 * max(values) or 1)
        axes.set_yticks([0, max(values)], ["0", f"{max(values):.1e}".replace("e-0", "e-")])
    elif min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, *values))
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=4, borderaxespad=0.1,
                    frameon=False, fontsize=13 * PX, labelcolor=QUIET, handlelength=1.4)  # fmt: skip
