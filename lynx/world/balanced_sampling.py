"""Balanced sampling of questions: equally many of every type, and of every answer within a type.

A model that cannot sense what is asked is at chance: that of a type's best constant answer, 1 in 2 for yes
and no, 1 in 6 for colors; or, where the picture shows what may be meant ("which shape is nearest ?"), that of
naming one of the shapes in it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lynx.datasets.base import Turn
from lynx.errors import DataError
from lynx.world.dataset import EVALUATION, check_key
from lynx.world.questions.asking import ask_type
from lynx.world.questions.types import QUESTION_TYPES, QuestionType
from lynx.world.scene.scene import draw_scene, scene_rng

PER_CLIP = 2
"""Maximum number of questions of one type about one clip."""
MAX_SCENES = 400
"""Maximum number of scenes looked at for one question."""
Quota = dict[tuple[str, str], int]
"""Number of questions still needed of each (type, answer); free text counts as the answer ""."""


@dataclass(frozen=True)
class Question:
    """One question of an evaluation."""

    index: int  # of the clip, within the evaluation's split and seed
    turn: Turn
    guess: float | None = None  # see `QuestionType.guess`


def types_for(senses: Collection[str], needed: Collection[str]) -> list[str]:
    """The types that the senses can answer and that need all of `needed`."""
    return [kind.name for kind in QUESTION_TYPES.values() if set(needed) <= set(kind.senses) <= set(senses)]


def split_evenly(n: int, names: Sequence[str]) -> dict[str, int]:
    """Share `n` among names, the first ones getting one more where it does not divide."""
    return {name: n // len(names) + (place < n % len(names)) for place, name in enumerate(names)}


def sample_balanced(counts: Mapping[str, int], split: str, seed: int) -> list[Question]:
    """Draw `counts[type]` questions of each type, from as few clips of the split as it takes, in order.

    Raises: DataError for an unknown split or type, or if the world does not hold that many.
    """
    check_key(split, seed)
    if unknown := [name for name in counts if name not in QUESTION_TYPES]:
        raise DataError(f"no question type {unknown[0]!r}; there are {', '.join(QUESTION_TYPES)}")
    left = _quota(counts)
    questions: list[Question] = []
    for index in range(MAX_SCENES * (1 + sum(left.values()))):
        kinds = [QUESTION_TYPES[name] for name in counts if any(left[key] for key in left if key[0] == name)]
        if not kinds:
            return questions
        scene = draw_scene(split, seed, index)
        rng = scene_rng(scene.key, EVALUATION)
        for kind in kinds:

            def wanted(answer: str, kind: QuestionType = kind) -> bool:
                return left[_key(kind, answer)] > 0

            for turn in ask_type(kind, scene, rng, PER_CLIP, wanted):
                left[_key(kind, turn.answer)] -= 1
                questions.append(Question(index, turn, kind.guess(scene)))
    more = f"{sum(left.values())} more questions like {kinds[0].name!r}"
    raise DataError(f"the world's {split} split has no {more}")


def subsample(questions: Sequence[Question], counts: Mapping[str, int]) -> list[Question]:
    """The first questions that make a smaller sample, as balanced as the whole."""
    left, taken = _quota(counts), []
    for question in questions:
        key = _key(QUESTION_TYPES[question.turn.type], question.turn.answer)
        if left.get(key, 0):
            left[key] -= 1
            taken.append(question)
    return taken


def _quota(counts: Mapping[str, int]) -> Quota:
    shares = {name: split_evenly(n, QUESTION_TYPES[name].answers or ("",)) for name, n in counts.items()}
    return {(name, answer): n for name, answers in shares.items() for answer, n in answers.items()}


def _key(kind: QuestionType, answer: str) -> tuple[str, str]:
    return kind.name, answer if kind.answers else ""
