"""How well answers match: normalized exact match by question type, beside the level that guessing reaches,
and how sure a mean is.

Whole answers are compared, never substrings ("one" is in "none"), and an empty prediction is a wrong one: it
stays in the denominator.
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lynx.errors import DataError

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")


def normalize(answer: str) -> str:
    """Lower case, no punctuation, no articles, numbers up to ten as digits, single spaces."""
    words = _PUNCTUATION.sub(" ", answer.lower()).split()
    return " ".join(_DIGITS.get(word, word) for word in words if word not in ARTICLES)


def exact_match(prediction: str, reference: str) -> bool:
    """True if both are the same answer after `normalize`; an empty prediction never matches."""
    given = normalize(prediction)
    return bool(given) and given == normalize(reference)


def contains(prediction: str, reference: str) -> bool:
    """True if the reference occurs in the prediction as whole words, both after `normalize`."""
    wanted = normalize(reference)
    return bool(wanted) and f" {wanted} " in f" {normalize(prediction)} "


RESAMPLES = 1000
"""Samples, with replacement, that a bootstrap interval is taken from."""


def interval(
    values: Sequence[float], clips: Sequence[str] | None = None, seed: int = 0
) -> tuple[float, float]:
    """The bootstrap 95 % interval of a mean: 2.5 % and 97.5 % of the means of resampled values.

    clips: what each value is of; values of one clip depend on each other, so clips are drawn as well, whole,
    and the wider interval counts (of few clips that of the values). None: each value is of another clip.
    Where all n clips are 0, or all 1, resampling would show no doubt: the end in question is then that of the
    exact binomial (Clopper-Pearson) interval, 1 - 0.025^(1/n) or 0.025^(1/n).
    """
    if not values:
        raise DataError("no values to take an interval of; at least one is needed")
    array = np.asarray(values, dtype=np.float64)
    if set(values) in ({0.0}, {1.0}):
        end = 0.025 ** (1 / len(set(clips or range(len(array)))))
        return (end, 1.0) if values[0] else (0.0, 1 - end)
    low, high = _resampled(array, np.ones(len(array)), seed)
    if clips is not None and len(set(clips)) < len(array):
        _, place = np.unique(clips, return_inverse=True)
        lower, higher = _resampled(np.bincount(place, array), np.bincount(place), seed)
        low, high = min(low, lower), max(high, higher)
    return low, high


def _resampled(sums: "np.ndarray", counts: "np.ndarray", seed: int) -> tuple[float, float]:
    """2.5 % and 97.5 % of the mean over groups that are drawn with replacement; of each its sum and count."""
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(sums), size=len(sums)) for _ in range(RESAMPLES))
    low, high = np.quantile([sums[mine].sum() / counts[mine].sum() for mine in drawn], (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Score:
    """Accuracy over `n` questions, all values in 0..1; `chance` is what a guess would get."""

    accuracy: float
    chance: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Scores:
    """The score over all questions and the score of each question type.

    The overall chance level knows a question's type: the mean of the types' levels, weighted by questions.
    """

    overall: Score
    by_type: dict[str, Score]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self.overall) | {"by_type": {name: asdict(part) for name, part in self.by_type.items()}}


def chance_level(references: Sequence[str]) -> float:
    """Frequency of the most common answer among `references`, 0..1."""
    if not references:
        raise DataError("no answers to take a chance level from; at least one question is needed")
    return Counter(normalize(answer) for answer in references).most_common(1)[0][1] / len(references)


def score(
    predictions: Sequence[str], references: Sequence[str], types: Sequence[str] | None = None,
    guesses: Sequence[float | None] | None = None,
) -> Scores:
    """Exact match of every prediction with its reference, overall and by type (sorted by name).

    guesses: for each question how often a guess is right, 0..1; None: as often as the most common answer to
    the questions of its type that have none.

    Raises: DataError: lists of different lengths, or no questions at all.
    """
    n = len(references)
    types = [""] * n if types is None else types
    guesses = [None] * n if guesses is None else guesses
    if not len(predictions) == n == len(types) == len(guesses):
        raise DataError(
            f"{len(predictions)} predictions, {n} references, {len(types)} types and "
            f"{len(guesses)} guesses; every question needs one of each"
        )
    if n == 0:
        raise DataError("no questions to score; at least one is needed")
    rows: dict[str, list[tuple[bool, str, float | None]]] = defaultdict(list)
    for prediction, reference, kind, guess in zip(predictions, references, types, guesses, strict=True):
        rows[kind].append((exact_match(prediction, reference), reference, guess))
    by_type: dict[str, Score] = {}
    for kind in sorted(rows):
        mine = rows[kind]
        hits = sum(right for right, _, _ in mine)
        guessed = sum(guess for _, _, guess in mine if guess is not None)
        if blind := [reference for _, reference, guess in mine if guess is None]:
            guessed += chance_level(blind) * len(blind)
        by_type[kind] = Score(hits / len(mine), guessed / len(mine), len(mine))
    accuracy = sum(part.accuracy * part.n for part in by_type.values()) / n
    return Scores(Score(accuracy, sum(part.chance * part.n for part in by_type.values()) / n, n), by_type)
