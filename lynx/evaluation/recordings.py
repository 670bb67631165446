"""How well a sense names real recordings: a chat is asked about each of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import naming
from lynx.evaluation.metrics import Scores, score
from lynx.model import Lynx
from lynx.training.processes import Processes


def evaluate(
    model: Lynx, examples: Sequence[Example], progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Ask a chat about each recording, one question of every type: its phrasings take turns. Processes that
    were launched together take a share of the recordings each, and all return the same.

    accuracy, chance, n: of the questions of a recording's first type, which name it. by_type: of every type.
    confusion: what the recordings of each name were taken for, and how often.
    """
    processes = Processes()
    mine: dict[int, list[tuple[Turn, str]]] = {}  # by the recording's number
    for number in processes.share(range(len(examples))):
        example, answered = examples[number], []
        media: dict[str, Any] = dict(example.media)
        with naming(example):
            chat = model.chat(**media, **asdict(example.moments))
        for kind in dict.fromkeys(turn.type for turn in example.turns):
            phrasings = [turn for turn in example.turns if turn.type == kind]
            turn = phrasings[number % len(phrasings)]
            chat.clear()
            with naming(example):
                answered.append((turn, chat.ask(turn.question)))
        mine[number] = answered
        if progress:
            progress(number + 1, len(examples))
    all_answered = {number: said for each in processes.gather(mine) for number, said in each.items()}
    asked = [said for number in sorted(all_answered) for said in all_answered[number]]
    # the first type is asked first
    named = [all_answered[number][0] for number in sorted(all_answered) if all_answered[number]]
    confusion: dict[str, Counter[str]] = {turn.answer: Counter() for turn, _ in named}
    for turn, answer in named:
        confusion[turn.answer][answer] += 1
    return {
        **_score(named).overall.to_dict(),
        "by_type": _score(asked).to_dict()["by_type"],
        "confusion": {name: dict(answers.most_common()) for name, answers in confusion.items()},
    }


def _score(answered: Sequence[tuple[Turn, str]]) -> Scores:
    turns = [turn for turn, _ in answered]
    return score([said for _, said in answered], [t.answer for t in turns], [t.type for t in turns])
