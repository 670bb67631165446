"""How often evidence is true: where each method points, beside what the world shows there.

    python -m benchmarks.evidence_truth --n 300 --seed N [--json] [--out DIR] [--workers 2]

For each sense `n` questions that need it alone, evenly of all types whose place or time the world knows
(`lynx.world.places`), asked of lynx-tiny with its four adapters about clips of the test split, drawn in
memory as in training, until so many answers are right; each type has its own clips. Video is always on
beside the sense that is needed; questions about the picture are asked with picture and sound, so that the
share of the needed sense says something. A color in a question makes the picture needed, too: depth does not
show it. `both_senses`: n / 3 questions that need two or three senses, with the truth in each.

pointing: share of the answers whose strongest cell of the needed sense is true. mass: share of the values
above 0 that lies on true cells. chance: share of the cells that is true. needed_share: share of the needed
senses in the positive nats of the attribution, over senses; the mean over answers (needed_share_of_nats: of
all their nats together). deletion, insertion: area under p(answer) while the strongest tokens of the needed
senses become blank, or come back (V. Petsiuk et al., 2018, arXiv 1806.07421); less is better for deletion,
more for insertion. Intervals are 95 %: Wilson's for shares, by the standard error for means.

In --out a line of JSON is kept for each answer: a run that was stopped goes on. Start a new folder after a
change of code.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.evidence_truth.maps import method_names
from benchmarks.evidence_truth.pictures import draw_examples, draw_plot
from benchmarks.evidence_truth.questions import SPLIT, TYPES, tasks
from benchmarks.evidence_truth.run import Plan, run_all
from benchmarks.evidence_truth.summary import summarize


def main() -> None:
    """Measure and print."""
    options = _options()
    known = method_names()
    methods = tuple(options.methods.split(",")) if options.methods else tuple(known)
    if unknown := set(methods) - set(known):
        sys.exit(f"no method {', '.join(unknown)}; there are {', '.join(known)}")
    groups = options.senses.split(",") if options.senses else list(TYPES)
    if unknown := set(groups) - set(TYPES):
        sys.exit(f"no sense {', '.join(unknown)}; there are {', '.join(TYPES)}")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    begin = time.time()
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(options.out or aside) / f"{SPLIT}-{options.seed}-n{options.n}"
        groups = [group for group in TYPES if group in groups]
        plan = Plan(methods, *(_of_each_type(options.n, share) for share in (3, 5, 5)))
        found = run_all(tasks(options.n, options.seed, groups), plan, folder, options.workers)
    figures = {"seed": options.seed, "n": options.n, "split": SPLIT, **summarize(found, methods)}
    figures["seconds"] = round(time.time() - begin)
    if options.plot:
        draw_plot(figures, Path(options.plot))
    if options.examples:
        draw_examples(options.seed, Path(options.examples))
    if options.json:
        report("evidence_truth", **figures)
    else:
        print(tables(figures, groups))


def _of_each_type(n: int, part: int) -> int:
    """How many answers of each of four types make a part of n."""
    return max(1, n // part // 4)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence_truth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--n", type=int, default=300, help="questions answered right, for each sense")
    parser.add_argument("--seed", type=int, default=1, help="of the clips")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--senses", help=f"some of {','.join(TYPES)}")
    parser.add_argument("--methods", help="names of methods, with commas; default: all")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--out", help="folder in which the rows are kept")
    parser.add_argument("--plot", help="picture of pointing and mass by method and sense")
    parser.add_argument("--examples", help="folder for pictures of five examples")
    return parser.parse_args()


def tables(figures: dict[str, Any], groups: list[str]) -> str:
    """A table for each sense, its methods sorted by pointing."""
    lines = []
    for group in groups:
        chance, needed = figures["chance"][group], figures["needed_share"].get(group)
        said = f", {needed:.1%} of the positive nats on what is needed" if needed is not None else ""
        n = next(iter(figures[group].values()))["n"]
        lines.append(f"\n{group}: {n} of {figures['asked'][group]} answers right, chance {chance:.1%}{said}")
        lines.append(f"{'method':22}{'pointing':>9}{'95 %':>14}{'mass':>8}{'95 %':>14}{'del.':>7}{'ins.':>7}")
        ranked = sorted(figures[group].items(), key=lambda each: (-each[1]["pointing"], -each[1]["mass"]))
        for method, mine in ranked:
            (low, high), (least, most) = mine["pointing_95"], mine["mass_95"]
            line = f"{method:22}{mine['pointing']:9.1%}{low:7.1%}{high:7.1%}"
            line += f"{mine['mass']:8.2f}{least:7.2f}{most:7.2f}"
            if "deletion" in mine:
                line += f"{mine['deletion']:7.2f}{mine['insertion']:7.2f}"
            lines.append(line)
    for name, mine in figures["sanity"].items():
        lines.append(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in mine.items()))
    return "\n".join(lines).strip()


if __name__ == "__main__":
    main()
