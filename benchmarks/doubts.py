"""How often lynx-tiny and its adapters say that they may be wrong, and whether they are right to.

    python -m benchmarks.doubts --n 300 --seed N [--others DIR]

For each sense `n` questions that need it, about clips of the miniature world's test split, which are like
those in training: `unlike` is the share of the clips that are said to be unlike them, which should be small.
`unsure` is the share of the answers that are said to be unsure, and `right_unsure` how many of those are
right all the same, beside `right_sure`. --others: a folder of recordings (video, sound, depth), each as any
sense that reads it: how many of them are said to be unlike the world, which should be all.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import report

if TYPE_CHECKING:
    from lynx.model import Lynx

SENSES = ("video", "audio", "depth", "high_fps", "multi_view")
SUFFIXES = (".mp4", ".ogg", ".wav", ".ply")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=300, help="questions a sense (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20621, help="of the clips (default: %(default)s)")
    parser.add_argument("--others", type=Path, help="recordings of another world")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = _model()
    figures = {sense: in_the_world(model, sense, options.n, options.seed) for sense in SENSES}
    others = elsewhere(model, options.others) if options.others else {}
    report("doubts", seed=options.seed, **figures, others=others)


def _model() -> "Lynx":
    import lynx
    from lynx.adapters.shipped import FOLDER

    return lynx.load(adapters=[FOLDER / sense for sense in SENSES[1:]])


def in_the_world(model: "Lynx", sense: str, n: int, seed: int) -> dict[str, Any]:
    """What is said about clips like those in training, one question each."""
    from lynx.datasets.sources import open_data

    needed = ("video",) if sense == "video" else ("video", sense)
    unlike, right = 0, {True: [0, 0], False: [0, 0]}
    for example in open_data("world", split="test", seed=seed, n=n, senses=needed):
        turns = [turn for turn in example.turns if sense in turn.senses] or list(example.turns)
        turn = turns[len(example.id) % len(turns)]
        chat = model.chat(**dict(example.media))
        answer = chat.ask(turn.question)
        unlike += any("unlike" in note for note in chat.notes)
        counts = right[any("not sure" in note for note in chat.notes)]
        counts[0] += answer == turn.answer
        counts[1] += 1
    asked = sum(count for _, count in right.values())
    return {
        "n": asked,
        "unlike": round(unlike / asked, 4),
        "unsure": round(right[True][1] / asked, 4),
        "right_unsure": _share(right[True]),
        "right_sure": _share(right[False]),
    }


def _share(counts: Sequence[int]) -> float | None:
    right, asked = counts
    return round(right / asked, 4) if asked else None


def elsewhere(model: "Lynx", folder: Path) -> dict[str, Any]:
    """By sense, how many recordings it reads and how many of them are said to be unlike the world."""
    found: dict[str, Any] = {}
    for sense, unlike in _doubted(model, folder):
        counts = found.setdefault(sense, {"n": 0, "unlike": 0})
        counts["n"] += 1
        counts["unlike"] += unlike
    return found


def _doubted(model: "Lynx", folder: Path) -> Iterator[tuple[str, bool]]:
    from lynx.errors import LynxError
    from lynx.evidence.doubts import unfamiliar

    for path in sorted(each for each in folder.rglob("*") if each.suffix in SUFFIXES or each.name == "depth"):
        for sense in ("depth",) if path.is_dir() else SENSES:
            try:
                streams = model.chat(**{sense: path}).encode()
            except LynxError:  # which is not what this sense reads
                continue
            yield sense, bool(unfamiliar(model, streams))


if __name__ == "__main__":
    main()
