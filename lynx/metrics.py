"""How well answers match: normalised exact match by question type, beside the level that guessing reaches.

Whole answers are compared, never substrings ("one" is in "none"), and an empty prediction is a wrong one: it
stays in the denominator.
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lynx.errors import DataError

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")


def normalise(answer: str) -> str:
    """Lower case, no punctuation, no articles, numbers up to ten as digits, single spaces."""
    words = _PUNCTUATION.sub(" ", answer.lower()).split()
    return " ".join(_DIGITS.get(word, word) for word in words if word not in ARTICLES)


def exact_match(prediction: str, reference: str) -> bool:
    """True if both are the same answer after `normalise`; an empty prediction never matches."""
    given = normalise(prediction)
    return bool(given) and given == normalise(reference)


@dataclass(frozen=True)
class Score:
    """Accuracy over `n` questions, all values in 0..1; `chance` is what the most common answer would get."""

    accuracy: float
    chance: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """The score as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Scores:
    """The score over all questions and the score of each question type.

    The overall chance level knows a question's type: the mean of the types' levels, weighted by questions.
    """

    overall: Score
    by_type: dict[str, Score]

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON values."""
        by_type = {kind: score.to_dict() for kind, score in self.by_type.items()}
        return {**self.overall.to_dict(), "by_type": by_type}


def chance_level(references: Sequence[str]) -> float:
    """Frequency of the most common answer among `references`, 0..1."""
    if not references:
        raise DataError("no answers to take a chance level from; at least one question is needed")
    return Counter(normalise(answer) for answer in references).most_common(1)[0][1] / len(references)


def score(
    predictions: Sequence[str], references: Sequence[str], types: Sequence[str] | None = None
) -> Scores:
    """Exact match of every prediction with its reference, overall and by type (sorted by name).

    Raises:
        DataError: lists of different lengths, or no questions at all.
    """
    types = [""] * len(references) if types is None else types
    if not len(predictions) == len(references) == len(types):
        raise DataError(
            f"{len(predictions)} predictions, {len(references)} references and {len(types)} types; "
            "every question needs one of each"
        )
    rows: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for prediction, reference, kind in zip(predictions, references, types, strict=True):
        rows[kind].append((exact_match(prediction, reference), reference))
    by_type = {kind: _score_one(rows[kind]) for kind in sorted(rows)}
    n = len(references)
    if n == 0:
        raise DataError("no questions to score; at least one is needed")
    overall = Score(
        accuracy=sum(part.accuracy * part.n for part in by_type.values()) / n,
        chance=sum(part.chance * part.n for part in by_type.values()) / n,
        n=n,
    )
    return Scores(overall, by_type)


def _score_one(rows: list[tuple[bool, str]]) -> Score:
    hits = sum(right for right, _ in rows)
    return Score(hits / len(rows), chance_level([reference for _, reference in rows]), len(rows))
