"""Scores of answered questions, a function for each kind of benchmark.

Every row is in the denominator: one that has no prediction, or whose prediction means none of the answers,
is wrong and counted apart. Where a published metric is wrong or more lenient it stands beside, by a name that
says so.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from lynx.datasets.base import METRICS
from lynx.errors import DataError
from lynx.evaluation import captions, refined_match
from lynx.evaluation.choices import choose, choose_as_lmms_eval, choose_first_letter, only_answer
from lynx.evaluation.metrics import chance_level, contains, exact_match, interval, normalize


@dataclass(frozen=True)
class Answered:
    """A question that was asked, with what is right and what was said."""

    id: str
    prediction: str
    answers: tuple[str, ...]  # all that are right; with options the letter of one
    options: tuple[str, ...] = ()
    type: str = ""
    groups: tuple[tuple[str, str], ...] = ()  # more that it is counted by: ("duration", "short")
    metric: str = ""  # one of METRICS, where the row itself asks for it
    error: str = ""  # why there is no prediction
    clip: str = ""  # that it is about: answers about one clip are right or wrong together
    tuned_on: str = ""  # what the clip was for the adapter, see `lynx.evaluation.tuned_on`; "": not known


@dataclass(frozen=True)
class Judged:
    """The values of each metric, one a row; their mean is the score. The first metric is the main one.

    parsed: which answer each prediction means, None where that is not clear; None where nothing is parsed.
    corpus: metrics of all rows together; None where a metric cannot be had here.
    """

    values: dict[str, list[float]]
    parsed: list[str | None] | None = None
    corpus: dict[str, float | None] = field(default_factory=dict)


Scorer = Callable[[Sequence[Answered]], Judged]


def choices(rows: Sequence[Answered]) -> Judged:
    """Multiple choice: the letter that a prediction means."""
    parsed = [choose(row.prediction, row.options) for row in rows]
    return Judged({"accuracy": _hits(parsed, rows)}, parsed)


def video_mme(rows: Sequence[Answered]) -> Judged:
    """Multiple choice, and as lmms-eval reads it, which published figures are measured with."""
    judged = choices(rows)
    judged.values["accuracy_lmms_eval"] = _hits(
        [choose_as_lmms_eval(row.prediction, row.options) for row in rows], rows
    )
    return judged


def mvbench(rows: Sequence[Answered]) -> Judged:
    """Multiple choice; the score is the mean of the tasks.

    `accuracy_lmms_eval` takes the article "a" for A and leaves empty predictions out.
    """
    judged = choices(rows)
    there = [row for row in rows if row.prediction.strip()]
    published = _hits([choose_first_letter(row.prediction) for row in there], there)
    judged.corpus["mean_of_tasks"] = _macro(judged.values["accuracy"], rows)
    judged.corpus["accuracy_lmms_eval"] = fmean(published) if there else 0.0
    return judged


def mlvu(rows: Sequence[Answered]) -> Judged:
    """Multiple choice; `m_avg` is the mean of the tasks; `micro`, of all rows, is the released code's."""
    judged = video_mme(rows)
    judged.corpus["m_avg"] = _macro(judged.values["accuracy"], rows)
    judged.corpus["micro"] = fmean(judged.values["accuracy"])
    return judged


def closed_set(rows: Sequence[Answered]) -> Judged:
    """One of a closed set of answers, `options`: the only one that occurs in the prediction.

    `accuracy_substring`, as published for MUSIC-AVQA, finds "no" in "piano".
    """
    parsed = [only_answer(row.prediction, row.options) for row in rows]
    right = [
        said is not None and normalize(said) == normalize(row.answers[0])
        for said, row in zip(parsed, rows, strict=True)
    ]
    published = [row.answers[0].lower() in row.prediction.lower() for row in rows]
    return Judged({"accuracy": _floats(right), "accuracy_substring": _floats(published)}, parsed)


def labels(rows: Sequence[Answered]) -> Judged:
    """One of a few labels, `options`, and how often always saying the commonest would be right."""
    judged = closed_set(rows)
    del judged.values["accuracy_substring"]
    judged.corpus["majority"] = chance_level([row.answers[0] for row in rows])
    return judged


def situated(rows: Sequence[Answered]) -> Judged:
    """SQA3D: EM@1, refined EM as published, and refined on whole words."""
    metrics = {
        "em": refined_match.strict,
        "em_refined": refined_match.refined,
        "em_words": refined_match.refined_words,
    }
    return Judged(
        {name: _floats(match(row.prediction, row.answers) for row in rows) for name, match in metrics.items()}
    )


def scanqa(rows: Sequence[Answered]) -> Judged:
    """ScanQA: those of SQA3D and the caption metrics, on cleaned texts; em_strict: `answer in answers`."""
    said = [refined_match.clean(row.prediction) for row in rows]
    answers = [[refined_match.clean(answer) for answer in row.answers] for row in rows]
    spoken = _captions(said, answers)
    exact = situated(rows).values
    exact["em_strict"] = _floats(row.prediction in row.answers for row in rows)
    return Judged({**exact, **spoken.values}, corpus=spoken.corpus)


def dialog(rows: Sequence[Answered]) -> Judged:
    """AVSD: the caption metrics, CIDEr first; how many references a row has on average."""
    judged = _captions([row.prediction for row in rows], [row.answers for row in rows])
    judged.corpus["references"] = fmean(len(row.answers) for row in rows)
    return judged


def _captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Judged:
    """CIDEr 0..10, the others 0..1."""
    said = [captions.tokenize(text) for text in predictions]
    answers = [[captions.tokenize(text) for text in each] for each in references]
    bleu = {f"bleu_{n}": value for n, value in enumerate(captions.bleu(said, answers), 1)}
    rouge = [captions.rouge_l(*row) for row in zip(said, answers, strict=True)]
    values = {"cider": captions.cider(said, answers), "rouge_l": rouge}
    return Judged(values, corpus={**bleu, "meteor": captions.meteor(said, answers)})


def own(rows: Sequence[Answered]) -> dict[str, tuple[list[Answered], Judged]]:
    """One's own data: the rows of each metric that is asked for, in their order, and how it judges them."""
    asked: dict[str, list[Answered]] = defaultdict(list)
    for row in rows:
        asked[row.metric or ("options" if row.options else "exact")].append(row)
    return {metric: (mine, _own(metric, mine)) for metric, mine in sorted(asked.items())}


def _own(metric: str, rows: Sequence[Answered]) -> Judged:
    if metric == "options":
        return choices(rows)
    if metric in ("rouge_l", "cider"):
        values = _captions([row.prediction for row in rows], [row.answers for row in rows]).values
        return Judged({metric: values[metric]})
    if metric not in METRICS:
        raise DataError(f"there is no metric {metric!r}; known are {', '.join(METRICS)}")
    match = exact_match if metric == "exact" else contains
    right = (any(match(row.prediction, answer) for answer in row.answers) for row in rows)
    return Judged({metric: _floats(right)})


def summarize(rows: Sequence[Answered], judged: Judged) -> dict[str, Any]:
    """The scores as plain JSON values: each metric with its interval, by type and by every other group.

    n: rows. failed: rows without a prediction. unparsed: predictions that mean none of the answers.
    """
    if not rows:
        raise DataError("no answers to score; at least one is needed")
    summary: dict[str, Any] = {"n": len(rows), "failed": sum(bool(row.error) for row in rows)}
    if judged.parsed is not None:
        unclear = zip(judged.parsed, rows, strict=True)
        summary["unparsed"] = sum(said is None and not row.error for said, row in unclear)
    clips = [row.clip or str(place) for place, row in enumerate(rows)]
    for name, values in judged.values.items():
        low, high = interval(values, clips)
        summary[name] = {"mean": fmean(values), "low": low, "high": high}
    summary |= judged.corpus
    grouped = {"type": [row.type for row in rows], "tuned_on": [row.tuned_on for row in rows]}
    for row in rows:
        for name, _ in row.groups:
            grouped.setdefault(name, [dict(each.groups).get(name, "") for each in rows])
    for name, kinds in grouped.items():
        if set(kinds) != {""}:
            summary[f"by_{name}"] = _means(kinds, judged.values)
    return summary


def _means(kinds: Sequence[str], values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Of each kind of row, sorted by name, how many there are and the mean of each metric."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, kind in enumerate(kinds):
        places[kind].append(place)
    return {
        kind: {"n": len(mine)} | {name: fmean(column[i] for i in mine) for name, column in values.items()}
        for kind, mine in sorted(places.items())
    }


def _macro(values: Sequence[float], rows: Sequence[Answered]) -> float:
    """The plain mean of the types' means."""
    return fmean(each["v"] for each in _means([row.type for row in rows], {"v": values}).values())


def _hits(parsed: Sequence[str | None], rows: Sequence[Answered]) -> list[float]:
    return _floats(said is not None and said in row.answers for said, row in zip(parsed, rows, strict=True))


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]
