"""Does alignment help? Stage 3 with and without stages 1 and 2: `python -m benchmarks.early_learning`.

Every arm is tuned on clips it has not seen before, each once, so the accuracy of a step before its update is
that of held-out clips: the curve costs nothing extra. A seed fixes the alignment, the order of the clips and
the first weights; arms of a seed differ in the vision LoRA alone.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lynx
from benchmarks import ROOT, report
from lynx.config import AlignConfig, GuideConfig, Sampling, TuneConfig
from lynx.datasets.sources import open_data
from lynx.training.alignment import align
from lynx.training.guidance import Guidance, guide
from lynx.training.tuning import tune

FOLDER = ROOT / "runs" / "early_learning"
WINDOW = 20
ALIGN = AlignConfig(rank=16, alpha=32, dropout=0.0, batch_size=64, steps=120, lr=5e-4, save_every=0)
TUNE = TuneConfig(rank=16, alpha=16, dropout=0.0, batch_size=12, lr=4e-3)
SAMPLING = Sampling(replay=0.4, questions=12)
DATA_SEED = 900
"""The clips of this study are not those that the shipped adapters were trained on."""


def reference(folder: Path) -> Guidance:
    """Stage 1, once for all arms."""
    path = folder / "guidance.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        videos = open_data("world", seed=DATA_SEED + 1, n=200, senses=("video",))
        guide(lynx.load(), videos, GuideConfig()).save(path)
    return Guidance.load(path)


def run(arm: str, seed: int, modality: str, steps: int, folder: Path) -> dict[str, Any]:
    """One arm: its alignment (0 steps without), its tuning; the log is kept in `folder/arm-seed`."""
    out = folder / f"{arm}-{seed}"
    result = out / "result.json"
    if not result.exists():
        model = lynx.load()
        unpaired = open_data("world", seed=DATA_SEED + 2 + seed, n=1000, senses=(modality,))
        config = replace(ALIGN, seed=seed, steps=ALIGN.steps if arm == "aligned" else 0)
        aligned = align(model, modality, unpaired, reference(folder), config, out)
        clips = open_data("world", seed=DATA_SEED, n=steps * TUNE.batch_size, senses=("video", modality))
        settings = replace(TUNE, seed=seed, steps=steps, save_every=0)
        tuned = tune(
            model, modality, clips, settings, out, sampling=SAMPLING, cache_dir=folder / "streams"
        )
        log = [json.loads(line) for line in (out / "training" / "tune" / "log.jsonl").open()]
        result.write_text(json.dumps({"align": aligned["last"], "tune": tuned["last"], "log": log}))
    return dict(json.loads(result.read_text()))


def curve(log: list[dict[str, float]], name: str) -> list[float]:
    """Means of `name` over windows of steps."""
    rows = [[row[name] for row in log[i : i + WINDOW] if name in row] for i in range(0, len(log), WINDOW)]
    return [round(sum(values) / len(values), 4) for values in rows if values]


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    """One line a seed, one color an arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=140)
    for color, (arm, runs) in zip(("#c2410c", "#1d4ed8"), curves.items(), strict=True):
        for number, values in enumerate(runs):
            steps = [WINDOW * (i + 0.5) for i in range(len(values))]
            axes.plot(steps, values, color=color, alpha=0.75, lw=1.8, label=None if number else arm)
    axes.set(xlabel="tuning step", ylabel="accuracy on clips not seen before")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Run all arms and seeds that have no result yet, then print and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modality", default="audio")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="100 are too few: no arm has learned yet")
    parser.add_argument("--plot", type=Path, help="where the curves are drawn, a PNG")
    options = parser.parse_args()
    folder = FOLDER / f"{options.modality}-{options.steps}"
    curves: dict[str, list[list[float]]] = {}
    for arm in ("aligned", "unaligned"):
        runs = [run(arm, seed, options.modality, options.steps, folder) for seed in options.seeds]
        curves[arm] = [curve(each["log"], "accuracy") for each in runs]
    if options.plot:
        draw(curves, options.plot)
    last = {arm: [values[-1] for values in runs] for arm, runs in curves.items()}
    settings = {"modality": options.modality, "seeds": options.seeds, "steps": options.steps}
    report("early_learning", **settings, window=WINDOW, curves=curves, last_window=last)


if __name__ == "__main__":
    main()
