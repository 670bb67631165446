"""Questions about a scene, with answers, and the senses each one needs.

`ask` first draws the answer, evenly among those the scene allows, and only then the instance: so the answers
are balanced, and who lacks the sense is at chance.
"""

from collections.abc import Callable, Collection, Iterator

import numpy as np

from lynx.datasets.base import Turn
from lynx.world.questions.instances import Slots
from lynx.world.questions.types import QUESTION_TYPES, QuestionType
from lynx.world.scene.scene import Item, Scene


def refer(item: Item, by: tuple[str, ...], rng: np.random.Generator) -> str:
    """Name a shape without its article: `circle`, `red shape` or `red circle`."""
    way = by[int(rng.integers(len(by)))]
    if way == "shape":
        return item.shape
    if way == "color":
        return f"{item.color} {('shape', 'one', 'object')[int(rng.integers(3))]}"
    return f"{item.color} {item.shape}"


def ask(
    scene: Scene,
    rng: np.random.Generator,
    senses: Collection[str] | None = None,
    per_type: int = 1,
) -> list[Turn]:
    """Up to `per_type` questions of every type that the scene allows and that needs no other senses."""
    turns: list[Turn] = []
    for kind in QUESTION_TYPES.values():
        if senses is None or set(kind.senses) <= set(senses):
            turns += ask_type(kind, scene, rng, per_type)
    return turns


def ask_type(
    kind: QuestionType,
    scene: Scene,
    rng: np.random.Generator,
    count: int = 1,
    allowed: Callable[[str], bool] = lambda answer: True,
) -> Iterator[Turn]:
    """Ask up to `count` different questions of one type, the answer drawn first, evenly of those allowed.

    `allowed` is asked anew before every question, after the one before was taken.
    """
    left = list(kind.candidates(scene))
    for _ in range(count):
        answers = sorted({answer for _, answer in left if allowed(answer)})
        if not answers:
            return
        answer = answers[int(rng.integers(len(answers)))]
        fitting = [i for i, candidate in enumerate(left) if candidate[1] == answer]
        slots, _ = left.pop(fitting[int(rng.integers(len(fitting)))])
        yield Turn(phrase(kind, slots, rng), answer, kind.name, kind.senses)


def phrase(kind: QuestionType, slots: Slots, rng: np.random.Generator) -> str:
    """Say a question in one of its ways, spaces tidied; one time in eight without its question mark."""
    template = kind.phrasings[int(rng.integers(len(kind.phrasings)))]
    words = {k: refer(v, kind.by, rng) if isinstance(v, Item) else v for k, v in slots.items()}
    text = " ".join(template.format(**words).split()).removeprefix(", ")
    return text.removesuffix(" ?") if rng.random() < 0.125 else text
