"""Measures a sense or a backbone on clips never seen in training: H.264 and AAC files, read as a user's are.

`python -m lynx.world.eval --backbone DIR --n 5000 --seed 7 --json` measures a backbone on video alone,
through stock transformers.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from lynx.backbones import Backbone, load_backbone
from lynx.errors import DataError
from lynx.evaluation.metrics import Scores, score
from lynx.media.video import read_frames
from lynx.types import VIDEO, Prompt, Stream, sample_times
from lynx.world.answering import answer_stock, answer_together, stock
from lynx.world.dataset import RENDERERS
from lynx.world.exam import Task, draw_tasks, split_evenly, take, types_for
from lynx.world.files import default_cache, sense_path, stream_clips
from lynx.world.scene.scene import DURATION

if TYPE_CHECKING:
    from lynx.model import Lynx

SPLIT = "test"
MEASURED = tuple(sense for sense in RENDERERS if sense != VIDEO)
"""The senses that there are files of: a clip's own, or some beside it."""
SIDE_BY_SIDE = 12
"""Questions that are collected before they are answered."""
Progress = Callable[[int, int], None]
Answers = dict[Task, str]
Given = tuple[str, ...]


@dataclass(frozen=True)
class Cells:
    """Questions of each type in each cell: that need the modality, that need both senses, that need video."""

    needed: Mapping[str, int]
    both: Mapping[str, int]
    seen: Mapping[str, int]

    @classmethod
    def of(cls, modality: str, n: int) -> "Cells":
        """`n` questions a cell, shared evenly among its types."""
        senses = (VIDEO, modality)
        wanted = ((senses, (modality,)), (senses, senses), ((VIDEO,), (VIDEO,)))
        needed, both, seen = (split_evenly(n, types_for(has, needs)) for has, needs in wanted)
        return cls(needed, both, seen)

    @property
    def together(self) -> dict[str, int]:
        """Questions of each type that all cells can be taken from."""
        cells = (self.needed, self.both, self.seen)
        return {
            name: max(cell.get(name, 0) for cell in cells)
            for name in {**self.needed, **self.both, **self.seen}
        }


@dataclass(frozen=True)
class Sheet:
    """The answers: under each set of senses that was given, with a sense's adapter on and the sense withheld,
    and of stock transformers about video alone."""

    given: dict[Given, Answers] = field(default_factory=lambda: defaultdict(dict))
    withheld: dict[str, Answers] = field(default_factory=lambda: defaultdict(dict))
    stock: Answers = field(default_factory=dict)


def evaluate(
    model: "Lynx",
    modality: str,
    n: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure a modality: `n` questions in every cell, accuracies 0..1, answers balanced within each type.

    `with`: questions that need the modality (some need video too), video and modality given, adapter on;
    `without`: the same on video alone, adapters off; `withheld`: on video alone, adapter on, so that the
    words are known and the sense is missing; `both_senses`: questions that need video and modality, in a cell
    of their own (None if there are none); `video_only_on`, `_off`: questions on video, likewise;
    `video_only_stock`: the same through stock transformers; `chance`: the best guess of who sees the picture
    alone (`exam.py`).

    Raises: DataError if the world asks nothing about the modality; AdapterError if the model has none for it.
    """
    cells = Cells.of(modality, n)
    if not cells.needed or modality not in MEASURED:
        raise DataError(f"the world's clips are evaluated for {', '.join(MEASURED)}, not for {modality!r}")
    model.adapter(modality)
    tasks = draw_tasks(cells.together, SPLIT, seed)
    both = ((VIDEO, modality), (VIDEO,))
    sheet = answer(model, (modality,), {task: both for task in tasks}, seed, progress, cache)
    return {"modality": modality, "n": n, "seed": seed, **summarise(modality, cells, tasks, sheet)}


def answer(
    model: "Lynx",
    senses: Sequence[str],
    tasks: Mapping[Task, Collection[Given]],
    seed: int,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Sheet:
    """Ask each task under each of its sets of senses, with the adapters of these alone; and one that needs a
    single new sense without it, its adapter on.

    Each clip is read and encoded once; questions under the same senses are answered side by side.
    """
    plain, sheet = stock(model.backbone), Sheet()
    waiting: dict[tuple[Given, Given], dict[Task, Prompt]] = defaultdict(dict)  # by senses and adapters
    for clip, asked in _clips(tasks, seed, cache, progress, senses):
        media: dict[str, Any] = {VIDEO: clip, **{sense: sense_path(clip, sense) for sense in senses}}
        streams = model.chat(**media).encode()
        for task in asked:
            added = [sense for sense in task.turn.senses if sense != VIDEO]
            withheld = [((VIDEO,), (VIDEO, *added))] if len(added) == 1 else []
            for given, on in [*((given, given) for given in tasks[task]), *withheld]:
                used = [streams[sense] for sense in given]
                waiting[given, on][task] = model.backbone.compose([_user(task)], used)
            if task.turn.senses == (VIDEO,):
                sheet.stock[task] = answer_stock(plain, streams[VIDEO].frames, task.turn.question)
        for key in [key for key, prompts in waiting.items() if len(prompts) >= SIDE_BY_SIDE]:
            _fill(sheet, model, *key, waiting.pop(key))
    for key, prompts in waiting.items():
        _fill(sheet, model, *key, prompts)
    return sheet


def _clips(
    tasks: Iterable[Task],
    seed: int,
    cache: Path | None,
    progress: Progress | None,
    senses: Sequence[str] = (),
) -> Iterator[tuple[Path, list[Task]]]:
    """The clips and what is asked about each; the next ones are drawn while one is being asked about."""
    groups: dict[int, list[Task]] = defaultdict(list)
    for task in tasks:
        groups[task.index].append(task)
    clips = stream_clips(SPLIT, seed, groups, cache or default_cache(), senses=senses)
    for number, (index, clip) in enumerate(clips, 1):
        yield clip, groups[index]
        if progress:
            progress(number, len(groups))


def _fill(sheet: Sheet, model: "Lynx", given: Given, on: Given, prompts: Mapping[Task, Prompt]) -> None:
    """Answer prompts of the senses `given` with the adapters of `on` alone."""
    with model.using(*on):
        clips = [task.index for task in prompts]
        answers = answer_together(model.backbone, list(prompts.values()), clips)
    column = sheet.given[given] if given == on else sheet.withheld[on[-1]]
    column.update(zip(prompts, answers, strict=True))


def _user(task: Task) -> dict[str, str]:
    return {"role": "user", "content": task.turn.question}


def summarise(modality: str, cells: Cells, tasks: Sequence[Task], sheet: Sheet) -> dict[str, Any]:
    """The figures of `evaluate` from all questions and their answers."""
    on, off = sheet.given[VIDEO, modality], sheet.given[VIDEO,]
    needed, both, seen = (take(tasks, cell) for cell in (cells.needed, cells.both, cells.seen))
    heard = score_tasks(needed, on)
    columns = {"with": on, "without": off, "withheld": sheet.withheld[modality], "stock": sheet.stock}
    return {
        "with": heard.overall.accuracy,
        "without": score_tasks(needed, off).overall.accuracy,
        "withheld": score_tasks(needed, sheet.withheld[modality]).overall.accuracy,
        "chance": heard.overall.chance,
        "both_senses": score_tasks(both, on).overall.accuracy if both else None,
        "video_only_on": score_tasks(seen, on).overall.accuracy,
        "video_only_off": score_tasks(seen, off).overall.accuracy,
        "video_only_stock": score_tasks(seen, sheet.stock).overall.accuracy,
        "by_type": by_type(tasks, columns),
    }


def score_tasks(tasks: Sequence[Task], answers: Answers) -> Scores:
    """The scores of answers to all of the tasks."""
    turns = [task.turn for task in tasks]
    given = [answers[task] for task in tasks]
    guesses = [task.guess for task in tasks]
    return score(given, [turn.answer for turn in turns], [turn.type for turn in turns], guesses)


def by_type(tasks: Sequence[Task], columns: Mapping[str, Answers]) -> dict[str, dict[str, Any]]:
    """Every type: its senses, questions and chance, and the accuracy in each column that answered it."""
    table: dict[str, dict[str, Any]] = {}
    for task in tasks:
        table.setdefault(task.turn.type, {"senses": list(task.turn.senses)})
    for name, answers in columns.items():
        for kind, mine in score_tasks([task for task in tasks if task in answers], answers).by_type.items():
            table[kind] |= {"n": mine.n, "chance": mine.chance, name: mine.accuracy}
    return table


def evaluate_backbone(
    source: str | Path | Backbone,
    n: int = 5000,
    seed: int = 0,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure a backbone on video alone through stock transformers: `n` questions, evenly of every type."""
    backbone = stock(source if isinstance(source, Backbone) else load_backbone(source))
    tasks = draw_tasks(split_evenly(n, types_for((VIDEO,), (VIDEO,))), SPLIT, seed)
    times, answers = sample_times(DURATION, backbone.default_frames), Answers()
    for clip, asked in _clips(tasks, seed, cache, progress):
        frames = read_frames(clip, times)
        with torch.no_grad():
            tokens, layout = backbone.encode(backbone.pixels(frames.pixels))
            video = Stream(VIDEO, tokens, layout.frame.double(), layout.cell, layout.grid, frames)
            prompts = [backbone.compose([_user(task)], [video]) for task in asked]
        answers.update(zip(asked, answer_together(backbone, prompts), strict=True))
    scores = score_tasks(tasks, answers)
    return {"backbone": str(backbone.source), "seed": seed, **scores.to_dict()}


def main(argv: list[str] | None = None) -> None:
    """The command line of `evaluate_backbone`."""
    parser = argparse.ArgumentParser(prog="python -m lynx.world.eval", description=evaluate_backbone.__doc__)
    parser.add_argument("--backbone", default="lynx-tiny", help="a name, or a checkpoint folder")
    parser.add_argument("--n", type=int, default=5000, help="questions (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="draws the clips (default: 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # beside two drawing processes, more threads cost more than they bring
    with tqdm(disable=None, unit="clip", leave=False) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = evaluate_backbone(options.backbone, options.n, options.seed, tell)
    sys.stdout.write(json.dumps(result, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
