"""Pictures of a run: its figures at a glance, and examples to look at."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from benchmarks.evidence_truth.measures import on_cells
from benchmarks.evidence_truth.questions import TYPES, Case, ask_task, load, tasks
from lynx.evidence.methods import ATTENTION, ATTRIBUTION
from lynx.visualization.interface_chart import require_matplotlib

EXAMPLES = ("color", "sound_time", "nearest", "flasher", "back")
"""The types of questions of the examples."""
SIDE = 160
"""Pixels of a frame of an example."""
POINTING, MASS = "#0d9488", "#94a3b8"


def draw_plot(figures: dict[str, Any], path: Path) -> None:
    """Pointing and mass of each method, a panel for each sense, sorted by pointing."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [group for group in TYPES if group in figures]
    count = max(len(figures[group]) for group in groups)
    figure = Figure(figsize=(4.2 * len(groups), 1.4 + 0.3 * count), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        ranked = sorted(figures[group].items(), key=lambda each: (each[1]["pointing"], each[1]["mass"]))
        for place, (_, mine) in enumerate(ranked):
            for name, color, mark, at in (("pointing", POINTING, "o", 0.12), ("mass", MASS, "s", -0.12)):
                axes.plot(mine[f"{name}_95"], [place + at] * 2, color=color, lw=1)
                axes.plot(mine[name], place + at, mark, color=color, ms=5, label="" if place else name)
        axes.axvline(figures["chance"][group], color="#cbd5e1", lw=1, ls="--", label="chance")
        axes.set(yticks=range(len(ranked)), xlim=(-0.02, 1.02), title=group.replace("_", " "))
        axes.set_yticklabels([method.replace("_", " ") for method, _ in ranked], fontsize=8)
        axes.grid(axis="x", alpha=0.3)
        if group == groups[0]:
            axes.legend(loc="lower right", fontsize=8)
    canvas.print_png(str(path))


def draw_examples(seed: int, folder: Path) -> None:
    """A picture for a question of each sense: the frames, the heat of attention and that of attribution, each
    with the truth's outline. They are the first right answers of the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks(len(TYPES["picture"]), seed, list(TYPES)):
        if task.type in EXAMPLES:
            case = next(case for case in ask_task(load(), task) if case.right)
            draw_example(case).save(folder / f"{task.name}.png")


def draw_example(case: Case) -> Image.Image:
    """Rows: the frames, attention, attribution; a column for each moment."""
    ((sense, truth),) = case.truth.items()
    stream = case.evidence.streams[sense]
    pixels = F.interpolate(stream.frames.pixels.float(), (SIDE, SIDE), mode="area")
    frames = pixels.permute(0, 2, 3, 1).numpy()  # (T, SIDE, SIDE, 3)
    rows = [_outlined(frames, truth)]
    for method in (ATTENTION, ATTRIBUTION):
        cells = on_cells(case.evidence.attribution(None, method).values[sense], stream).clip(min=0)
        heat = F.interpolate(torch.from_numpy(cells / max(cells.max(), 1e-9))[None], (SIDE, SIDE))[0].numpy()
        warm = np.array([255, 120, 0]) * heat[..., None] * 0.75
        rows.append(_outlined(frames * (0.25 + 0.35 * heat[..., None]) + warm * 0.6, truth))
    sheet = Image.new("RGB", (SIDE * len(frames), 3 * SIDE + 20), "white")
    said = f"{case.asked.turn.question} {case.answer}   rows: {sense}, attention, attribution; outline: truth"
    ImageDraw.Draw(sheet).text((4, 4), said, fill="black")
    for place, row in enumerate(rows):
        sheet.paste(row, (0, 20 + place * SIDE))
    return sheet


def _outlined(frames: np.ndarray, truth: np.ndarray) -> Image.Image:
    """Frames (T, SIDE, SIDE, 3) side by side, with the edges of the true cells in white."""
    strip = Image.fromarray(np.concatenate(list(frames.clip(0, 255).astype(np.uint8)), axis=1))
    draw = ImageDraw.Draw(strip)
    moments, rows, columns = truth.shape
    high, wide = SIDE / rows, SIDE / columns
    padded = np.pad(truth, ((0, 0), (1, 1), (1, 1)))
    for moment, row, column in np.argwhere(truth).tolist():
        left, top = moment * SIDE + column * wide, row * high
        around = padded[moment, row : row + 3, column : column + 3]
        right, bottom = left + wide - 2, top + high - 2
        corners = (left + 1, top + 1), (right, top + 1), (right, bottom), (left + 1, bottom)
        for (i, j), edge in (((0, 1), (0, 1)), ((1, 2), (1, 2)), ((2, 1), (3, 2)), ((1, 0), (0, 3))):
            if not around[i, j]:
                draw.line([corners[edge[0]], corners[edge[1]]], fill="white", width=2)
    return strip
