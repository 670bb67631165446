"""Measures all senses of a model side by side: each alone, any two, all at once, and what needs three."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx.errors import DataError
from lynx.types import VIDEO
from lynx.world.eval import (
    MEASURED,
    SPLIT,
    Answers,
    Cells,
    Given,
    Progress,
    Sheet,
    answer,
    by_type,
    score_tasks,
    summarise,
)
from lynx.world.exam import Task, draw_tasks, split_evenly, take
from lynx.world.questions.asking import QUESTION_TYPES

if TYPE_CHECKING:
    from lynx.model import Lynx


def evaluate_together(
    model: "Lynx",
    n: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure the senses that the model has adapters for, alone and together, on the same questions.

    `alone`: for each sense the figures of `evaluate`, `n` questions a cell. `together`: for every two senses
    and for `all`, the accuracy on the questions that need each of them; of two senses each question of one
    is asked beside one other, so that these cells have a share of the questions. `lost`: the most that a
    sense loses in any company, in points of accuracy 0..1. `video_only_all`: questions on video, all senses
    on. `three_senses`: `n` / 4 questions that need the picture and two more senses, with these, with all,
    and with one of them missing.

    Raises: DataError if there is only one sense to measure.
    """
    senses = tuple(s for s in MEASURED if any(a.modality == s for a in model.adapters.values()))
    if len(senses) < 2:
        raise DataError(
            f"'all' measures several senses together, the model has {', '.join(senses) or 'none'}: give "
            "their adapters"
        )
    cells = {sense: Cells.of(sense, n) for sense in senses}
    three = split_evenly(n // 4, [name for name in QUESTION_TYPES if _is_three(name, senses)])
    counts = dict(three)
    for name, count in (pair for cell in cells.values() for pair in cell.together.items()):
        counts[name] = max(count, counts.get(name, 0))
    tasks = {task: _given(task, senses) for task in draw_tasks(counts, SPLIT, seed)}
    sheet = answer(model, senses, tasks, seed, progress, cache)
    return {"modality": "all", "n": n, "seed": seed, **_summarise(senses, cells, three, list(tasks), sheet)}


def _is_three(name: str, senses: Sequence[str]) -> bool:
    needs = QUESTION_TYPES[name].senses
    return len(needs) == 3 and set(needs) <= {VIDEO, *senses}


def _given(task: Task, senses: Sequence[str]) -> list[Given]:
    """Under which senses a question is asked."""
    everything, added = (VIDEO, *senses), [s for s in task.turn.senses if s != VIDEO]
    if not added:
        return [(VIDEO,), *((VIDEO, sense) for sense in senses), everything]
    if len(added) == 2:
        return [(VIDEO,), (VIDEO, added[0]), (VIDEO, added[1]), (VIDEO, *added), everything]
    others = [sense for sense in senses if sense != added[0]]
    beside = {added[0], others[task.index % len(others)]}
    pair = tuple(sense for sense in senses if sense in beside)
    return [(VIDEO,), (VIDEO, added[0]), *([(VIDEO, *pair)] if len(senses) > 2 else []), everything]


def _summarise(
    senses: Sequence[str],
    cells: Mapping[str, Cells],
    three: Mapping[str, int],
    tasks: Sequence[Task],
    sheet: Sheet,
) -> dict[str, Any]:
    everything = (VIDEO, *senses)
    asked = {sense: take(tasks, cells[sense].needed) for sense in senses}
    alone = {sense: summarise(sense, cells[sense], tasks, sheet) for sense in senses}
    for figures in alone.values():
        del figures["by_type"]
    company: dict[str, dict[str, float]] = {}
    lost = dict.fromkeys(senses, 0.0)
    for given in [*((VIDEO, *pair) for pair in combinations(senses, 2)), everything]:
        name = "all" if given == everything else " + ".join(given[1:])
        company[name] = {}
        for sense in given[1:]:
            if mine := [task for task in asked[sense] if task in sheet.given[given]]:
                before, after = (_accuracy(mine, sheet.given[g]) for g in ((VIDEO, sense), given))
                company[name][sense] = after
                lost[sense] = max(lost[sense], before - after)
    seen = take(tasks, next(iter(cells.values())).seen)
    columns = {"all": sheet.given[everything], "without": sheet.given[VIDEO,]}
    columns |= {f"with {sense}": sheet.given[VIDEO, sense] for sense in senses}
    columns["withheld"] = {task: said for sense in senses for task, said in sheet.withheld[sense].items()}
    return {
        "alone": alone,
        "together": company,
        "lost": lost,
        "video_only_all": _accuracy(seen, sheet.given[everything]),
        "three_senses": _three(take(tasks, three), sheet, everything) if three else None,
        "by_type": by_type(tasks, columns),
    }


def _three(tasks: Sequence[Task], sheet: Sheet, everything: Given) -> dict[str, float]:
    """Of questions that need three senses: with exactly these, with all, and with each missing."""
    one, other = (sense for sense in tasks[0].turn.senses if sense != VIDEO)
    columns = {
        "with": (VIDEO, one, other),
        "all": everything,
        f"without {one}": (VIDEO, other),
        f"without {other}": (VIDEO, one),
        "video alone": (VIDEO,),
    }
    chance = score_tasks(tasks, sheet.given[everything]).overall.chance
    scores = {name: _accuracy(tasks, sheet.given[given]) for name, given in columns.items()}
    return {"n": len(tasks), "chance": chance, **scores}


def _accuracy(tasks: Sequence[Task], answers: Answers) -> float:
    return score_tasks(tasks, answers).overall.accuracy
