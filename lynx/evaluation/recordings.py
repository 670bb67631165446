"""How well a sense names real recordings: a chat is asked about each of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lynx.datasets.base import Example, Turn
from lynx.evaluation.metrics import Scores, score
from lynx.model import Lynx


def evaluate(
    model: Lynx,
    examples: Sequence[Example],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ask a chat about each recording, one question of every type: its phrasings take turns.

    accuracy, chance, n: of the questions of a recording's first type, which name it. by_type: of every type.
    confusion: what the recordings of each name were taken for, and how often.
    """
    asked: list[tuple[Turn, str]] = []
    named: list[tuple[Turn, str]] = []
    for number, example in enumerate(examples):
        media: dict[str, Any] = dict(example.media)
        chat = model.chat(**media)
        for kind in dict.fromkeys(turn.type for turn in example.turns):
            phrasings = [turn for turn in example.turns if turn.type == kind]
            turn = phrasings[number % len(phrasings)]
            chat.clear()
            asked.append((turn, chat.ask(turn.question)))
            if kind == example.turns[0].type:
                named.append(asked[-1])
        if progress:
            progress(number + 1, len(examples))
    by_type = {kind: part.to_dict() for kind, part in _score(asked).by_type.items()}
    return {**_score(named).overall.to_dict(), "by_type": by_type, "confusion": _confusion(named)}


def _score(answered: Sequence[tuple[Turn, str]]) -> Scores:
    return score(
        [answer for _, answer in answered],
        [turn.answer for turn, _ in answered],
        [turn.type for turn, _ in answered],
    )


def _confusion(answered: Sequence[tuple[Turn, str]]) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = {turn.answer: Counter() for turn, _ in answered}
    for turn, answer in answered:
        table[turn.answer][answer] += 1
    return {name: dict(answers.most_common()) for name, answers in table.items()}
