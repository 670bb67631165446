"""How much alignment is good? What the frozen model reads: `python -m recipes.readability`.

A depth map or a second view is a picture. Sent through the encoder as if it were the video, it can be asked
about with no tuning at all: what shape the yellow one is (near is yellow), what color the circle is (its
back). The share that the stock language model answers right says what the tokens still tell it after so many
steps of stage 2, which itself looks at no question.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import lynx
from benchmarks import ROOT, report
from benchmarks.early_learning import reference
from lynx.config import AlignConfig
from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import render_clip
from lynx.datasets.sources import open_data
from lynx.modalities import Modality
from lynx.modalities.depth import Depth, DepthRendering
from lynx.modalities.multi_view import MultiView
from lynx.model import Lynx
from lynx.training.alignment import align
from lynx.training.packing import Packer
from lynx.training.tuning_loss import answer_loss

FOLDER = ROOT / "runs" / "readability"
SENSES: dict[str, tuple[Modality, str]] = {
    "depth": (Depth(DepthRendering(near=1.0, far=6.5)), "nearest"),
    "multi_view": (MultiView(), "back"),
}
"""Each sense as it is rendered, and the type of question that its pictures alone answer."""
ALIGN = AlignConfig(rank=16, alpha=32, dropout=0.0, batch_size=64, save_every=0)
STEPS = (0, 10, 20, 40, 80, 160, 320)
COLORS = ("#c2410c", "#1d4ed8")


def as_of_a_picture(turn: Turn) -> Turn:
    """The question that asks the same of the sense's pictures as if they were the video."""
    if turn.type == "nearest":
        return replace(turn, question="what shape is the yellow shape ?")
    shape = next(
        word for word in turn.question.split() if word in ("circle", "square", "triangle", "star", "cross")
    )
    return replace(turn, question=f"what color is the {shape} ?")


@torch.no_grad()
def read(model: Lynx, sense: Modality, kind: str, examples: Sequence[Example]) -> tuple[float, int]:
    """The share that the stock language model answers right from the sense alone, and of how many."""
    packer, right = Packer(model.backbone), []
    for example in examples:
        turns = [as_of_a_picture(turn) for turn in example.turns if turn.type == kind]
        frames = render_clip({sense.name: sense}, example, model.backbone.default_frames)
        stream = model.encode(sense.name, frames[sense.name])
        with model.using():
            right += answer_loss(model.backbone, packer.pack([[stream]], [turns]))[1].tolist()
    return sum(right) / len(right), len(right)


def run(name: str, steps: int, lr: float, clips: int, folder: Path) -> dict[str, Any]:
    """Align from the start for so many steps, then read."""
    sense, kind = SENSES[name]
    model = lynx.load()
    unpaired = open_data("world", seed=902, n=1000, senses=(name,))
    config = replace(ALIGN, steps=steps, lr=lr)
    last = align(model, sense, unpaired, reference(folder), config, folder / f"{name}-{lr}-{steps}")["last"]
    asked = open_data("world", split="validation", seed=3, n=clips, senses=(name,), focus=[kind])
    share, n = read(model, sense, kind, asked)
    losses = {key: round(last[key], 4) for key in ("attention_loss", "statistics_loss") if key in last}
    return {"steps": steps, "lr": lr, "read": round(share, 4), "n": n, **losses}


def draw(curves: dict[str, dict[float, list[dict[str, Any]]]], path: Path) -> None:
    """Share read over steps of alignment: a color a sense, dashed for the second learning rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=140)
    for color, (name, by_rate) in zip(COLORS, curves.items(), strict=True):
        for style, (lr, rows) in zip(("-", "--", ":"), by_rate.items(), strict=False):
            xs, ys = [row["steps"] for row in rows], [row["read"] for row in rows]
            axes.plot(xs, ys, style, color=color, marker="o", ms=4, lw=1.8, label=f"{name}, lr {lr:g}")
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
    axes.minorticks_off()
    axes.set(xlabel="steps of stage 2", ylabel="answered right, untuned", ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Align each sense for each number of steps, read, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--lr", type=float, nargs="+", default=[2e-4, 5e-4])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--plot", type=Path, help="where the curves are drawn, a PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    curves = {
        name: {
            lr: [run(name, steps, lr, options.clips, FOLDER) for steps in options.steps] for lr in options.lr
        }
        for name in SENSES
    }
    if options.plot:
        draw(curves, options.plot)
    report("readability", clips=options.clips, curves=curves)


if __name__ == "__main__":
    main()
