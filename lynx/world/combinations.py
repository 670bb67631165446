"""Measures all senses of a model: each alone, any two, all at once, and questions that need three."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from lynx.errors import DataError
from lynx.model import Lynx
from lynx.types import VIDEO
from lynx.world.balanced_sampling import Question, sample_balanced, split_evenly, subsample
from lynx.world.evaluation import (
    MEASURED,
    SPLIT,
    AllAnswers,
    Cells,
    Progress,
    Senses,
    accuracy,
    by_type,
    collect_answers,
    score_questions,
    summarize,
)
from lynx.world.questions.types import QUESTION_TYPES


def evaluate_combinations(
    model: Lynx, n: int = 1000, seed: int = 0, progress: Progress | None = None, cache: Path | None = None
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
    needs = {name: set(kind.senses) for name, kind in QUESTION_TYPES.items()}
    three = split_evenly(n // 4, [k for k, v in needs.items() if len(v) == 3 and v <= {VIDEO, *senses}])
    counts = dict(three)
    for name, count in (pair for cell in cells.values() for pair in cell.together.items()):
        counts[name] = max(count, counts.get(name, 0))
    conditions = {question: _given(question, senses) for question in sample_balanced(counts, SPLIT, seed)}
    answers = collect_answers(model, senses, conditions, seed, progress, cache)
    figures = _summarize(senses, cells, three, list(conditions), answers)
    return {"modality": "all", "n": n, "seed": seed, **figures}


def _given(question: Question, senses: Sequence[str]) -> list[Senses]:
    """The sets of senses that a question is asked under."""
    everything, added = (VIDEO, *senses), [s for s in question.turn.senses if s != VIDEO]
    given: list[Senses] = [(VIDEO,), *((VIDEO, sense) for sense in added or senses)]
    if len(added) == 2:
        given.append((VIDEO, *added))
    elif added and len(senses) > 2:  # beside one other sense, each in turn
        others = [sense for sense in senses if sense != added[0]]
        beside = {added[0], others[question.index % len(others)]}
        given.append((VIDEO, *(sense for sense in senses if sense in beside)))
    return [*given, everything]


def _summarize(
    senses: Sequence[str], cells: Mapping[str, Cells], three: Mapping[str, int],
    questions: Sequence[Question], answers: AllAnswers,
) -> dict[str, Any]:
    everything = (VIDEO, *senses)
    asked = {sense: subsample(questions, cells[sense].needed) for sense in senses}
    alone = {sense: summarize(sense, cells[sense], questions, answers) for sense in senses}
    for figures in alone.values():
        del figures["by_type"]  # there is one for all of them
    company: dict[str, dict[str, float]] = {}
    lost = dict.fromkeys(senses, 0.0)
    for given in [*((VIDEO, *pair) for pair in combinations(senses, 2)), everything]:
        name = "all" if given == everything else " + ".join(given[1:])
        company[name] = {}
        for sense in given[1:]:
            if mine := [question for question in asked[sense] if question in answers.given[given]]:
                before, after = (accuracy(mine, answers.given[g]) for g in ((VIDEO, sense), given))
                company[name][sense] = after
                lost[sense] = max(lost[sense], before - after)
    seen = subsample(questions, next(iter(cells.values())).seen)
    columns = {"all": answers.given[everything], "without": answers.given[VIDEO,]}
    columns |= {f"with {sense}": answers.given[VIDEO, sense] for sense in senses}
    columns["withheld"] = {q: said for sense in senses for q, said in answers.withheld[sense].items()}
    return {
        "alone": alone,
        "together": company,
        "lost": lost,
        "video_only_all": accuracy(seen, answers.given[everything]),
        "three_senses": _three(subsample(questions, three), answers, everything) if three else None,
        "by_type": by_type(questions, columns),
    }


def _three(questions: Sequence[Question], answers: AllAnswers, everything: Senses) -> dict[str, float]:
    """Of questions that need three senses: with exactly these, with all, and with each missing."""
    one, other = (sense for sense in questions[0].turn.senses if sense != VIDEO)
    columns = {"with": (VIDEO, one, other), "all": everything}
    columns |= {f"without {one}": (VIDEO, other), f"without {other}": (VIDEO, one), "video alone": (VIDEO,)}
    chance = score_questions(questions, answers.given[everything]).overall.chance
    scores = {name: accuracy(questions, answers.given[given]) for name, given in columns.items()}
    return {"n": len(questions), "chance": chance, **scores}
