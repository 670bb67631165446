"""The recipe's stages 1 to 3, and its cross-validation, which repeats all of them in every round.

Round i holds out fold i of ESC-10 and speaker i of the digits; neither alignment nor tuning uses them. The
voices are further speakers of the digits, in training alone. `adapters/sounds` was trained so on all
recordings. A round that is done is kept.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import lynx
from lynx.adapters.saving import save_adapter
from lynx.backbones.familiarity import CLIPS, familiar_tokens
from lynx.config import AlignConfig, GuideConfig, Sampling, TuneConfig
from lynx.datasets.base import Example
from lynx.datasets.sources import open_data
from lynx.evaluation.recordings import evaluate
from lynx.modalities.audio import Audio, AudioRendering
from lynx.model import Lynx
from lynx.training.alignment import align
from lynx.training.guidance import Guidance, guide
from lynx.types import Stream
from recipes.real_sounds.data import folds_of, open_recordings
from recipes.real_sounds.talking import ConversationLoss, as_people_ask
from recipes.real_sounds.training import Regularization, tune_regularized
from recipes.real_sounds.variants import with_variants

RENDERING = AudioRendering(n_mels=20, hop_s=0.004, fmax=4000.0, least_s=0.32, level_db=-14.0, show="slopes")
REFERENCE_CLIPS = 500
"""Clips of the world that the guidance is taken from."""
VARIANTS = {"esc10": (20, 10), "digits": (3, 3), "voices": (2, 2)}
"""Copies of each recording, itself included, in each phase: there are nine times as many digits as sounds."""
ALIGN = AlignConfig(rank=16, alpha=32, dropout=0.0, batch_size=64, steps=40, lr=2e-4, save_every=0)
TUNE = TuneConfig(
    rank=32,
    alpha=32,
    dropout=0.1,
    batch_size=64,
    steps=2400,
    lr=2.5e-3,
    token_pooling="bands",
    type_embedding=True,
)
SAMPLING = Sampling(questions=1, conversation=0.0, replay_from="data")
REGULARIZATION = Regularization(noise=0.15, mixup=0.4, final_lr=0.4, average=0.997)
SETTLE = replace(TUNE, warm_start=True, steps=1000, lr=1.5e-3, seed=1, save_every=0)
"""The second phase of stage 3, with a larger share of digits; a round that is killed in it starts again."""
SETTLE_REGULARIZATION = replace(REGULARIZATION, final_lr=0.1)
TALK = replace(SETTLE, steps=800, lr=1e-3, seed=2)
"""The third phase of stage 3: conversations, asked as people ask."""
TALKING = Sampling(conversation=0.5, replay_from="data")
Confusion = Mapping[str, Mapping[str, int]]


def reference(folder: Path) -> Guidance:
    """Stage 1, once for all rounds."""
    path = folder / "guidance.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        videos = open_data("world", seed=1, n=REFERENCE_CLIPS, senses=("video",))
        guide(lynx.load(), videos, GuideConfig()).save(path)
    return Guidance.load(path)


def train(
    recordings: Mapping[str, Sequence[Example]], guidance: Guidance, out: Path, cache: Path
) -> tuple[Lynx, dict[str, Any]]:
    """Stages 2 and 3 on these recordings, by collection; the model with the adapter, and the last report."""
    first, second = (
        [e for name, known in recordings.items() for e in with_variants(known, VARIANTS[name][phase])]
        for phase in range(2)
    )
    model = lynx.load()
    alone = [replace(example, turns=()) for example in first]  # sounds, and not what they are
    align(model, Audio(RENDERING), alone, guidance, ALIGN, out, name="sounds")
    tune_regularized(model, "sounds", first, TUNE, out, REGULARIZATION, sampling=SAMPLING, cache_dir=cache)
    tune_regularized(
        model, "sounds", second, SETTLE, out, SETTLE_REGULARIZATION, sampling=SAMPLING, cache_dir=cache
    )
    return model, talk(model, as_people_ask(second), out, cache)


def talk(model: Lynx, known: Sequence[Example], out: Path, cache: Path) -> dict[str, Any]:
    """The last phase of stage 3 on these recordings, from the weights as they are; the report."""
    return tune_regularized(
        model,
        "sounds",
        known,
        TALK,
        out,
        SETTLE_REGULARIZATION,
        sampling=TALKING,
        cache_dir=cache,
        loss=ConversationLoss,
    )


def know_recordings(
    model: Lynx, paths: Mapping[str, Path], held: Mapping[str, Sequence[str]], out: Path
) -> None:
    """Keep with the adapter what recordings sound like (`lynx.backbones.familiarity`), and write it.

    The directions are of one half of the folds and speakers, the limit of the other: tuning takes it from
    variants of the same recordings, so that a new one would seem farther off than it is.
    """
    clips: list[Stream] = []
    others: list[Stream] = []
    for name in paths.keys() & {"esc10", "digits"}:
        known = [fold for fold in folds_of(name, paths[name]) if fold not in held.get(name, ())]
        later = known[len(known) // 2 :]
        away = [*later, *held.get(name, ())]
        halves = {"train": (clips, away), "test": (others, later)}
        for split, (streams, out_of_it) in halves.items():
            recordings = open_recordings(name, paths[name], held_out=out_of_it, split=split)
            drawn = random.Random(0).sample(recordings, min(len(recordings), CLIPS))
            streams += [model.chat(sounds=each.media["audio"]).encode()["sounds"] for each in drawn]
    if clips and others:
        model.familiar_tokens["sounds"] = familiar_tokens(clips, others)
        save_adapter(model, "sounds", out)


def run(groups: Mapping[str, str | None], paths: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """One round: what was found about the groups held out, by collection."""
    out = folder / "-".join(group or "none" for group in groups.values())
    result = out / "result.json"
    if not result.exists():
        held = {name: [group] if (group := groups.get(name)) else [] for name in paths}
        known = {name: open_recordings(name, path, held_out=held[name]) for name, path in paths.items()}
        model, tuned = train(known, reference(folder), out, folder / "streams")
        know_recordings(model, paths, held, out)
        found = {
            name: evaluate(model, open_recordings(name, path, held_out=held[name], split="test"))
            for name, path in paths.items()
            if held[name]
        }
        result.write_text(json.dumps({"tune": tuned["last"], "groups": groups, "found": found}))
    return dict(json.loads(result.read_text()))


def cross_validate(
    asked: Mapping[str, Path], voices: Path | None, folder: Path, rounds: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Run the rounds that have no result yet: how many there are, and what was found by collection."""
    paths = {**asked, **({"voices": voices} if voices else {})}
    groups = list(zip_longest(*(folds_of(*item) for item in asked.items())))[:rounds]
    found = [run(dict(zip(asked, each, strict=True)), paths, folder) for each in groups]
    return len(found), {name: total(found, name) for name in asked}


def total(rounds: Sequence[Mapping[str, Any]], source: str) -> dict[str, Any]:
    """All groups of a source: the accuracy in each, over all, and the confusion matrix."""
    mine = [each for each in rounds if source in each["found"]]
    groups = {each["groups"][source]: each["found"][source] for each in mine}
    table: dict[str, Counter[str]] = {}
    for found in groups.values():
        for name, answers in found["confusion"].items():
            table.setdefault(name, Counter()).update(answers)
    count = sum(sum(answers.values()) for answers in table.values())
    right = sum(answers[name] for name, answers in table.items())
    return {
        "accuracy": round(right / count, 4),
        "n": count,
        "by_group": {group: found["accuracy"] for group, found in groups.items()},
        "confusion": {name: dict(answers.most_common()) for name, answers in table.items()},
    }


def draw(totals: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A confusion matrix a source, in percent of the row; answers that name nothing there share a column."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(
        1, len(totals), figsize=(6.4 * len(totals), 5.6), dpi=130, squeeze=False
    )
    titles = {"esc10": "ESC-10, folds held out", "digits": "Spoken digits, speakers held out"}
    for axes, (source, found) in zip(all_axes[0], totals.items(), strict=True):
        names = list(found["confusion"])
        shares = _shares(found["confusion"], names)
        columns = [*names, "other"][: shares.shape[1]]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="answered", ylabel="is")
        axes.set_title(f"{titles[source]}: {100 * found['accuracy']:.1f} % of {found['n']}", fontsize=11)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, column in zip(*shares.nonzero(), strict=True):
            share = shares[row, column]
            color = "white" if share > 55 else "#334155"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _shares(confusion: Confusion, names: Sequence[str]) -> Any:
    import numpy as np

    counts = np.zeros((len(names), len(names) + 1))
    for row, name in enumerate(names):
        for answer, count in confusion[name].items():
            counts[row, names.index(answer) if answer in names else -1] += count
    counts = counts if counts[:, -1].any() else counts[:, :-1]
    return 100 * counts / counts.sum(1, keepdims=True)
