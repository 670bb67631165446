"""One's own data: questions asked with the added senses, without them, and with them withheld."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lynx.adapters.model_card import TABLE
from lynx.adapters.tuned_on import HELD_OUT, NEW, TRAINED
from lynx.backbones import Backbone
from lynx.datasets.base import Example
from lynx.errors import DataError
from lynx.evaluation.predictions import Prediction, PredictionFile, refuse_fewer
from lynx.evaluation.runner import (
    INTERNAL,
    NO_QUESTIONS,
    Progress,
    Senses,
    Setting,
    answer,
    digest_of,
    draw,
    identity,
    left_out,
    questions_of,
    senses_of,
)
from lynx.evaluation.scorers import Answered, own, summarize
from lynx.evaluation.tuned_on import NO_RECORD, TUNED_ON, counted, overlap, warnings_of
from lynx.model import Lynx
from lynx.training.processes import Processes
from lynx.types import VIDEO

FEW = 20
"""Clips below which a bootstrap says little."""
ROLES = {TRAINED: "clips it was tuned on", HELD_OUT: "clips held out in tuning", NEW: "clips new to it"}
WITH, WITHOUT, WITHHELD = "with", "without", "withheld"
"""With the senses; the same without the added ones, adapters off; without them, adapters on."""


def compare_own(
    model: Lynx,
    examples: Sequence[Example],
    setting: Setting,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    n: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask the questions of one's own data with the added senses, without them, and with them withheld.

    Raises: DataError: no example has a medium for an added sense, or one has none that the model can use.
    """
    senses = senses_of(model)
    added = tuple(sense for sense in senses if sense != VIDEO)
    everything = questions_of(examples)
    if not everything:
        raise DataError(NO_QUESTIONS)
    asked = draw(everything, n, seed)
    if added and not any(sense in example.media for example, _ in asked for sense in added):
        raise DataError(f"no row has a medium for an added sense of the model: it has {', '.join(added)}")
    if none := [example.id for example, _ in asked if not set(senses) & set(example.media)]:
        raise DataError(
            f"example {none[0]!r} has no medium that the model can use: it has {', '.join(senses)}"
        )

    def conditions(given: Senses) -> dict[str, tuple[Senses, Senses]]:
        seen = tuple(sense for sense in given if sense == VIDEO)
        more = {WITHOUT: (seen, ()), WITHHELD: (seen, added)} if added else {}
        return {WITH: (given, given), **more}

    unused = Counter(sense for example, _ in asked for sense in example.media if sense not in senses)
    total = sum(len(mine) for _, mine in everything)
    settings: dict[str, Any] = {"drawn": n, "seed": seed, "questions": total, "frames": setting.frames}
    settings |= {"max_new_tokens": setting.max_new_tokens, **identity(model, senses)}
    count = sum(len(mine) for _, mine in asked)
    settings |= {"asked": digest_of(asked), "rows": count * len(conditions(senses))}
    file = PredictionFile(out, settings, resume, Processes(model.backbone.device))
    keys = answer(model, asked, senses, conditions, file, setting, progress)
    told = {key: value for key, value in settings.items() if key not in INTERNAL}
    predictions = [file.done[key] for key in keys]
    told |= {"not_used": dict(unused), "left_out": left_out(predictions)}
    told |= overlap(model, predictions, senses) | {"asked": count, "clips": len(asked)}
    scores = told | score_own(predictions)
    file.finish(keys, scores)
    return scores


def score_own(predictions: Sequence[Prediction], run: Path | None = None) -> dict[str, Any]:
    """The scores of one's own data: of each metric that rows ask for, under each condition.

    run: what describes the run of the predictions. Raises: DataError: there are fewer than it has.
    """
    if run is not None:
        refuse_fewer(predictions, run)
    by_condition: dict[str, list[Answered]] = defaultdict(list)
    for each in predictions:
        by_condition[each.condition].append(each.answered)
    scores: dict[str, dict[str, Any]] = defaultdict(dict)
    for condition, rows in by_condition.items():
        for metric, (mine, judged) in own(rows).items():
            scores[metric][condition] = summarize(mine, judged)
    return {TUNED_ON: counted(predictions), "scores": dict(scores)}


def side_by_side(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of `score_own` as rows: a metric, all questions or those of a type, a column a condition.

    In percent (CIDEr times 100), with the interval where all questions are counted.
    """
    rows = []
    for metric, columns in scores.items():
        first = next(iter(columns.values()))
        row: dict[str, Any] = {"metric": metric, "type": "all", "n": first["n"]}
        for condition, summary in columns.items():
            mean, low, high = (100 * summary[_value(metric)][part] for part in ("mean", "low", "high"))
            row[condition] = f"{mean:.1f} ({low:.1f}-{high:.1f})"
        rows.append(row)
        parts = [("by_type", kind, kind or "-") for kind in first.get("by_type", {})]
        if len(roles := first.get("by_tuned_on", {})) > 1:
            parts += [("by_tuned_on", role, ROLES[role]) for role in roles]
        for group, kind, label in parts:
            row = {"metric": metric, "type": label, "n": first[group][kind]["n"]}
            for condition, summary in columns.items():
                row[condition] = f"{100 * summary[group][kind][_value(metric)]:.1f}"
            rows.append(row)
    return rows


def for_card(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report as figures for the card of the adapter that it is of."""
    counts = {"questions": report["asked"], "clips": report["clips"], "of these new to it": "not known"}
    if not report[NO_RECORD]:
        counts["of these new to it"] = report[TUNED_ON][NEW]
    notes = {f"note {number}": text for number, text in enumerate(remarks(report), 1)}
    return counts | notes | {TABLE: {str(i): row for i, row in enumerate(side_by_side(report["scores"]), 1)}}


def remarks(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures has to know: what was not used, and what could not be read."""
    told = [
        f"{count} rows have {sense}, which no adapter is for" for sense, count in report["not_used"].items()
    ]
    told += [f"{count} answers were given without {sense}" for sense, count in report["left_out"].items()]
    told += warnings_of(report)
    if report.get("clips", FEW) < FEW:
        text = f"the intervals are of {report['clips']} clips, drawn anew again and again"
        told.append(f"{text}: of so few they are rough, and rather too narrow")
    failed = sum(part["failed"] for columns in report["scores"].values() for part in columns.values())
    return [*told, f"{failed} answers are missing and count as wrong"] if failed else told


def unknown_words(backbone: Backbone, examples: Sequence[Example]) -> dict[str, int]:
    """Words that a backbone with a closed vocabulary lacks, of questions none of whose answers it can say."""
    found: Counter[str] = Counter()
    for turn in (turn for example in examples for turn in example.turns):
        lacking = [backbone.unknown_words(answer) for answer in turn.references]
        found.update(sorted(lacking, key=len)[0])
    return dict(found.most_common())


def _value(metric: str) -> str:
    """The name of a metric's values."""
    return "accuracy" if metric == "options" else metric
