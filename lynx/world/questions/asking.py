"""Questions about a scene, with answers, and the senses each one needs.

The answer is drawn first, evenly among those the scene allows, and only then the instance: so the answers are
balanced, and a model that lacks the sense is at chance.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from lynx.datasets.base import Turn
from lynx.world.questions.instances import Slots
from lynx.world.questions.types import QUESTION_TYPES, QuestionType
from lynx.world.scene.scene import Item, Scene


@dataclass(frozen=True)
class Asked:
    """A question with the instance it is about: the slots that filled its phrasing."""

    turn: Turn
    slots: Slots


def ask(
    scene: Scene, rng: np.random.Generator, senses: Collection[str] | None = None, per_type: int = 1
) -> list[Turn]:
    """Up to `per_type` questions of every type that the scene allows and that needs no other senses."""
    kinds = [kind for kind in QUESTION_TYPES.values() if senses is None or set(kind.senses) <= set(senses)]
    return [turn for kind in kinds for turn in ask_type(kind, scene, rng, per_type)]


def ask_type(
    kind: QuestionType,
    scene: Scene,
    rng: np.random.Generator,
    count: int = 1,
    allowed: Callable[[str], bool] = lambda answer: True,
) -> Iterator[Turn]:
    """Ask up to `count` different questions of one type; `allowed` is called before each of them."""
    return (asked.turn for asked in ask_instances(kind, scene, rng, count, allowed))


def ask_instances(
    kind: QuestionType,
    scene: Scene,
    rng: np.random.Generator,
    count: int = 1,
    allowed: Callable[[str], bool] = lambda answer: True,
) -> Iterator[Asked]:
    """The same questions with the instance that each is about."""
    left = list(kind.candidates(scene))
    for _ in range(count):
        answers = sorted({answer for _, answer in left if allowed(answer)})
        if not answers:
            return
        answer = answers[int(rng.integers(len(answers)))]
        fitting = [i for i, candidate in enumerate(left) if candidate[1] == answer]
        slots, _ = left.pop(fitting[int(rng.integers(len(fitting)))])
        yield Asked(Turn(_phrase(kind, slots, rng), answer, kind.name, kind.senses), slots)


def _phrase(kind: QuestionType, slots: Slots, rng: np.random.Generator) -> str:
    """Say a question in one of its ways, spaces tidied; one time in eight without its question mark.

    A shape is named `circle`, `red shape` or `red circle`, as `kind.by` allows.
    """
    template = kind.phrasings[int(rng.integers(len(kind.phrasings)))]
    words = dict(slots)
    for slot, item in slots.items():
        if isinstance(item, Item):
            way = kind.by[int(rng.integers(len(kind.by)))]
            noun = ("shape", "one", "object")[int(rng.integers(3))] if way == "color" else item.shape
            words[slot] = noun if way == "shape" else f"{item.color} {noun}"
    text = " ".join(template.format(**words).split()).removeprefix(", ")
    return text.removesuffix(" ?") if rng.random() < 0.125 else text
