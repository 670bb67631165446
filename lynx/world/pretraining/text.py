"""Scenes told in words: what the language model of the embedded backbone learns before it sees a frame.

It learns every sense's words here, as a large model knows them from text. Where the text leaves a sense
out, the answer is drawn evenly from the possible ones: asked about what it cannot sense, the model guesses
and has no favourite.
"""

import re
from dataclasses import replace

import numpy as np

from lynx.datasets.base import Turn
from lynx.world.questions.asking import ask
from lynx.world.questions.types import NUMBERS, QUESTION_TYPES
from lynx.world.scene.scene import MOMENTS, SOUNDS, Item, Scene, moment_of

REAL_SOUNDS = (
    "dog",
    "rooster",
    "rain",
    "waves",
    "fire",
    "baby",
    "sneeze",
    "clock",
    "helicopter",
    "chainsaw",
)
"""The classes of ESC-10, known as words only."""
SENSES = ("audio", "depth", "high_fps", "multi_view")
_SPOKEN = (
    "what number do you hear ?",
    "which number do you hear ?",
    "what number is spoken ?",
    "which digit do you hear ?",
    "what does the voice say ?",
    "which number does the voice say ?",
)
SPEECH = ("a voice says", *_SPOKEN, "what digit is spoken ?", "is it a", "the", "noise", "animal")


def tell(scene: Scene, rng: np.random.Generator) -> tuple[str, list[Turn]]:
    """Tell a scene as facts, some senses left out: the text, and questions with answers."""
    scene = _rename_sounds(scene, rng)
    known = {"video", *(sense for sense in SENSES if rng.random() < 0.75)}
    sentences = [_look(item, rng) for item in scene.items]
    if "audio" in known:
        sentences += _hear(scene)
    if "depth" in known:
        sentences += [f"the {item.shape} is {item.distance}" for item in scene.items]
        sentences += [
            f"the {turn.answer} is nearest" for turn in ask(scene, rng, ("depth",)) if turn.type == "nearest"
        ]
    if "high_fps" in known:
        sentences.append(_flash(scene))
    if "multi_view" in known:
        sentences.append(f"a {scene.hidden.color} {scene.hidden.shape} is hidden")
        sentences += [f"the back of the {item.shape} is {item.back}" for item in scene.items]
    rng.shuffle(sentences)
    turns = [turn if set(turn.senses) <= known else guess(turn, rng) for turn in ask(scene, rng)]
    if rng.random() < 0.2:
        digit = NUMBERS[int(rng.integers(10))]
        sentences.append(f"a voice says {digit}")
        turns.append(Turn(str(rng.choice(_SPOKEN)), digit, "digit", ("audio",)))
    return " . ".join(sentences) + " .", turns


def guess(turn: Turn, rng: np.random.Generator) -> Turn:
    """The same question with an answer drawn evenly from the possible ones."""
    answers = QUESTION_TYPES[turn.type].answers
    return replace(turn, answer=answers[int(rng.integers(len(answers)))])


def _rename_sounds(scene: Scene, rng: np.random.Generator) -> Scene:
    """Let real sounds stand for the world's own in half of the texts."""
    if rng.random() < 0.5:
        return scene
    names = dict(zip(SOUNDS, rng.permutation(REAL_SOUNDS), strict=False))
    return replace(scene, sounds=tuple(replace(event, kind=str(names[event.kind])) for event in scene.sounds))


def _look(item: Item, rng: np.random.Generator) -> str:
    start, end = item.side("start"), item.side("end")
    if item.motion == "still":
        path = f"does not move in the {start}"
    elif start == end:
        path = f"moves {item.motion} in the {start}"
    else:
        path = f"moves {item.motion} from the {start} to the {end}"
    looks = f"a {item.size} {item.color} {item.shape}"
    return f"there is {looks} that {path}" if rng.random() < 0.5 else f"{looks} {path}"


def _hear(scene: Scene) -> list[str]:
    if not scene.sounds:
        return ["there is nothing to hear"]
    told = []
    for order, burst in enumerate(scene.bursts):
        middle = (burst[0].onset + burst[-1].onset) / 2
        level = "loud" if burst[0].gain > 0.3 else "quiet"
        when = f"at the {moment_of(middle)}"
        place = f" , {('first', 'last')[order]}" if len(scene.bursts) == 2 else ""
        told.append(f"the {burst[0].kind} sounds {NUMBERS[len(burst)]} times , {level} , {when}{place}")
    return told


def _flash(scene: Scene) -> str:
    if not scene.flashes:
        return "zero flashes , nothing flashes"
    return f"the {scene.items[scene.flasher].shape} flashes {NUMBERS[len(scene.flashes)]} times"


def vocabulary() -> list[str]:
    """Every word of the world, sorted: what the tokenizer holds whole and the backbone has been taught."""
    texts = [
        *NUMBERS,
        *SOUNDS,
        *REAL_SOUNDS,
        *MOMENTS,
        *SPEECH,
        "user",
        "assistant",
        "system",
        "shape one object at",
    ]
    for kind in QUESTION_TYPES.values():
        texts += [*kind.answers, *(re.sub(r"{.*?}", "", phrasing) for phrasing in kind.phrasings)]
    texts.append(
        "there is a that does not move moves in from to flashes times first last hidden nothing hear . and"
    )
    return sorted({word for text in texts for word in text.split()})
