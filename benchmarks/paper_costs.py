"""What the runs of `recipes/paper` would take: hours and disk on 1, 8 and 64 H100s, on paper.

    python -m benchmarks.paper_costs [--json] [--memory] [--measure]

Operations are counted from the configurations (`benchmarks/flops.py`). An H100 does 989 TFLOP/s in bf16 at
its peak; that 30 to 50 % of them are reached is assumed, not measured. A clip is read and drawn once in every
pass over the data, in processor seconds that `--measure` measures. Sizes of data sets marked * are from
memory; all clips of a set are taken to be of one length. A step of alignment and tuning is divided among no
more GPUs than it has clips. `--memory` prints what tuning takes of a card, by
`lynx.backbones.estimate.estimate_tuning`.
"""

import argparse
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import CACHE, ROOT, cpu_seconds, flops

PEAK = 989e12
"""Operations a second of an H100 (SXM) in bf16, dense."""
UTILISED = (0.5, 0.3)
"""Shares of the peak that are assumed to be reached: the best and the worst case."""
GPUS = (1, 8, 64)
STEP_SECONDS, BATCH = 0.077, 8
"""A decoding step as it was measured on one H100 (docs/results.md), and the answers written side by side."""
QUESTION = 40
"""Tokens of a question with its answer, 120 with options; 4 of them are the answer's."""
BYTES = 2
"""Of a number of a stream in bf16."""


@dataclass(frozen=True)
class Data:
    """A data set. clips, questions: to train on; asked: of (clips, questions) of the benchmark.

    recording: key of DRAWN. views: pseudo-frames of a moment. assumed: whether a number is from memory.
    """

    clips: int
    questions: int
    asked: tuple[int, int]
    recording: str
    views: int = 1
    tokens: int = QUESTION
    answer: int = 16
    assumed: bool = True


DATA = {
    "avsd": Data(7_659, 76_590, (1_710, 1_710), "30 s", answer=64, assumed=False),
    "avqa": Data(40_000, 40_300, (17_000, 17_035), "10 s", tokens=120),
    "music-avqa": Data(9_288, 32_000, (6_399, 9_185), "60 s", answer=32),
    "scanqa": Data(563, 25_563, (71, 4_675), "scan", answer=32),
    "sqa3d": Data(518, 26_623, (67, 3_519), "scan", answer=32),
    "llava-video": Data(50_000, 100_000, (6_000, 9_000), "120 s fast", tokens=80),
    "ego-exo": Data(5_000, 5_000, (1_000, 1_000), "120 s views", views=4, tokens=120),
}
"""By the name of the recipe without its size."""


@dataclass(frozen=True)
class Drawn:
    """Processor seconds to read and draw a clip at 32 moments: its video, and the sense."""

    video: float
    sense: float


DRAWN = {
    "10 s": Drawn(0.152, 0.024),
    "30 s": Drawn(0.385, 0.089),
    "60 s": Drawn(0.78, 0.15),
    "120 s fast": Drawn(1.456, 2.066),
    "120 s views": Drawn(1.565, 6.097),
    "scan": Drawn(0.057, 0.398),
}
"""As `--measure` found them on one core: clips of 640 x 360 at 24 frames a second in H.264, sound in AAC;
scans of 32 pictures of 640 x 480 with depth."""


@dataclass(frozen=True)
class Stage:
    """One stage: its operations, how many GPUs its steps can be divided among, what CPUs do, what is written.

    written: seconds of decoding steps, which launches bound and not operations.
    """

    flops: float
    clips_a_step: float
    cpu_seconds: float
    written: float = 0.0

    def hours(self, gpus: int, utilised: float) -> float:
        """Of so many GPUs; those that a step has no clip for wait."""
        return (self.flops / (PEAK * utilised) + self.written) / 3600 / min(gpus, self.clips_a_step)


def stages_of(path: Path) -> dict[str, Stage]:
    """The stages of a recipe, by name; "encode" is the part of stage 3 that is done once a clip."""
    from lynx.backbones import skeleton
    from lynx.cli.recipes import read_recipe

    recipe, data = read_recipe(path, []), DATA[path.stem.rpartition("-")[0]]
    backbone = skeleton(recipe["backbone"])
    guide, align, tune = (recipe[stage] for stage in ("guide", "align", "tune"))
    frame, drawn = flops.encoder(backbone), DRAWN[data.recording]
    passes, frames = data.clips * align["epochs"], align["frames"] * data.views
    at_once = align["batch_size"] * align["accumulate"] / frames  # clips in a step
    encoded = frame.forward * tune["frames"] * (1 + data.views)
    media = (1 + data.views) * backbone.tokens(tune["frames"])
    asked = data.questions / data.clips
    step = flops.llm(backbone, round(media + asked * data.tokens), round(4 * asked))
    seen = data.clips * tune["epochs"]
    clips, questions = data.asked
    read = flops.llm(backbone, media, 1).forward * clips
    read += flops.llm(backbone, data.tokens, 1).forward * questions
    both, share = drawn.video + drawn.sense, guide["frames"] / 32
    recomputed = tune["checkpointing"] != "off"
    return {
        "guide": Stage(
            frame.forward * guide["frames"] * data.clips, math.inf, drawn.video * share * data.clips
        ),
        # the reference response to the mean keys and values, of a quarter of the queries
        "align": Stage(
            (frame.step() + 3 * frame.attention / 4) * frames * passes,
            max(1.0, at_once),
            drawn.sense * align["frames"] / 32 * passes,
        ),
        "encode": Stage(encoded * data.clips, math.inf, both * data.clips),
        "tune": Stage(step.step(recomputed) * seen, tune["batch_size"] * tune["accumulate"], 0.0),
        "eval": Stage(
            encoded * clips + read, math.inf, both * clips, questions / BATCH * data.answer * STEP_SECONDS
        ),
    }


def summary(path: Path) -> dict[str, Any]:
    """The figures of a recipe, as JSON values."""
    from lynx.backbones import skeleton
    from lynx.cli.recipes import read_recipe

    recipe, data = read_recipe(path, []), DATA[path.stem.rpartition("-")[0]]
    backbone, stages = skeleton(recipe["backbone"]), stages_of(path)
    hours = {
        gpus: [sum(stage.hours(gpus, share) for stage in stages.values()) for share in UTILISED]
        for gpus in GPUS
    }
    tokens = (1 + data.views) * backbone.tokens(recipe["tune"]["frames"])
    return {
        "recipe": path.stem,
        "assumed": data.assumed,
        "clips": data.clips,
        "questions": data.questions,
        "stages": {name: asdict(stage) for name, stage in stages.items()},
        "petaflops": {name: stage.flops / 1e15 for name, stage in stages.items()},
        "hours": {str(gpus): found for gpus, found in hours.items()},
        "cpu_hours": sum(stage.cpu_seconds for stage in stages.values()) / 3600,
        "cores_a_gpu": max(
            stage.cpu_seconds / 3600 / stage.hours(1, UTILISED[0]) for stage in stages.values()
        ),
        "streams_gb": data.clips * tokens * backbone.token_width * BYTES / 1e9,
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """The figures as markdown."""
    names = ["recipe", "clips", "questions", "PFLOP: encoder; LLM"]
    names += [f"hours, {gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS]
    names += ["CPU hours", "cores a GPU", "streams, GB"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        seen = sum(row["petaflops"][stage] for stage in ("guide", "align", "encode"))
        cells = [row["recipe"] + "*" * row["assumed"], f"{row['clips']:,}", f"{row['questions']:,}"]
        cells.append(f"{seen:,.0f}; {row['petaflops']['tune']:,.0f}")
        for found in row["hours"].values():
            cells.append("-".join(map(_short, found)))
        cells += [_short(row["cpu_hours"]), _short(row["cores_a_gpu"]), f"{row['streams_gb']:,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(number: float) -> str:
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"


MODELS = ("llava-onevision-0.5b", "qwen3-vl-2b", "llava-onevision-7b", "qwen3-vl-8b", "llava-onevision-72b")
PLACES = (("bf16", 1), ("bf16", 8), ("nf4", 1))
"""Precisions, and the cards that divide the LLM (`--shard`)."""


def memory_table(frames: int = 32) -> str:
    """GB of a card that tuning takes, one clip in a pass with one sense beside the video, as markdown."""
    from lynx.backbones.estimate import estimate_tuning

    names = ["model", "precision", "cards", "tokens", "weights", "LoRAs, optimizer", "activations", "in all"]
    lines = ["| " + " | ".join([*names, "not checkpointed"]) + " |", "|" + "---|" * (len(names) + 1)]
    for model in MODELS:
        for precision, cards in PLACES:
            options: dict[str, Any] = {"frames": frames, "precision": precision, "processes": cards}
            found = estimate_tuning(model, **options)
            whole = estimate_tuning(model, **options, checkpointing="off").total
            sizes = (found.weights, found.lora, found.activations, found.total, whole)
            cells = [model, precision, str(cards), f"{found.tokens:,}"]
            cells += [f"{size / 1e9:.1f}" for size in sizes]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- what reading and drawing takes here ------------------------------------------------------------


def measure() -> dict[str, dict[str, float]]:
    """Processor seconds of `DRAWN`, on clips and scans that are made once."""
    import torch

    torch.set_num_threads(1)
    clips = {seconds: _clip(seconds) for seconds in (10, 30, 60, 120)}
    recordings: dict[str, tuple[Any, str, Any]] = {
        f"{seconds} s": (clip, "audio", clip) for seconds, clip in clips.items() if seconds < 120
    }
    recordings["120 s fast"] = clips[120], "high_fps", clips[120]
    recordings["120 s views"] = clips[120], "multi_view", {str(view): clips[120] for view in range(4)}
    scan = _scan()
    recordings["scan"] = scan["video"], "depth", scan["depth"]
    return {
        name: {"video": _drawing("video", video), "sense": _drawing(sense, source)}
        for name, (video, sense, source) in recordings.items()
    }


def _drawing(sense: str, source: Any) -> float:
    from lynx import modalities
    from lynx.types import sample_times

    modality = modalities.get(sense)()
    times = sample_times(modality.duration(source), 32)
    return round(min(cpu_seconds(lambda: modality.render(source, times)) for _ in range(2)), 3)


def _clip(seconds: int) -> Path:
    import subprocess

    import imageio_ffmpeg

    path = CACHE / f"paper_{seconds}s_360p.mp4"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "lavfi", "-i"]
        command += ["testsrc2=size=640x360:rate=24", "-f", "lavfi", "-i", "sine=frequency=440", "-t"]
        command += [str(seconds), "-c:v", "libx264", "-crf", "26", "-pix_fmt", "yuv420p", "-c:a", "aac"]
        subprocess.run([*command, str(path)], check=True)
    return path


def _scan() -> dict[str, Any]:
    """A scene of 32 pictures in ScanNet's layout."""
    import numpy as np
    from PIL import Image

    from lynx.datasets.public import scan

    folder, rng = CACHE / "scans" / "scene0000_00", np.random.default_rng(0)
    if not folder.is_dir():
        for name in ("color", "depth", "pose"):
            (folder / name).mkdir(parents=True)
        ramp = np.linspace(0, 255, 640)[None, :, None] + rng.integers(0, 20, (480, 640, 3))
        for number in range(32):
            Image.fromarray(np.roll(ramp, 9 * number, 1).clip(0, 255).astype(np.uint8)).save(
                folder / f"color/{number}.jpg"
            )
            maps = (rng.integers(0, 40, (480, 640)) + np.linspace(900, 4000, 640)).astype(np.uint16)
            Image.fromarray(maps).save(folder / f"depth/{number}.png")
            np.savetxt(folder / f"pose/{number}.txt", np.eye(4))
        np.savetxt(folder / "intrinsic_depth.txt", np.diag([577.0, 577, 1, 1]))
    return scan(folder.parent, folder.name)


def main() -> None:
    """Compute, or measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON, by stage")
    parser.add_argument("--memory", action="store_true", help="print what tuning takes of a card")
    parser.add_argument("--measure", action="store_true", help="measure reading and drawing here")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.measure:
        print(json.dumps(measure(), indent=1))
    elif options.memory:
        print(memory_table())
    else:
        rows = [summary(path) for path in sorted((ROOT / "recipes" / "paper").glob("*.yaml"))]
        print(json.dumps(rows, indent=1) if options.json else as_table(rows))


if __name__ == "__main__":
    main()
