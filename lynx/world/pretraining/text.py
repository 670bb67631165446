"""Scenes told in words: what the language model of the embedded backbone learns before it sees a frame.

It learns every sense's words here, as a large model knows them from text. Where the text leaves a sense
out, the answer is drawn evenly from the possible ones: asked about what it cannot sense, the model guesses
without a favorite.
"""

import re
from dataclasses import replace

import numpy as np

from lynx.datasets.base import Turn
from lynx.world.questions.asking import ask
from lynx.world.questions.types import NUMBERS, QUESTION_TYPES
from lynx.world.scene.scene import MOMENTS, SOUNDS, Item, Scene, moment_of

REAL_SOUNDS = ("dog", "rooster", "rain", "waves", "fire", "baby", "sneeze", "clock", "helicopter", "chainsaw")
"""The classes of ESC-10, known as words only."""
SENSES = ("audio", "depth", "high_fps", "multi_view")
_SPOKEN = (
    "what number do you hear ?", "which number do you hear ?", "what number is spoken ?",
    "which digit do you hear ?", "what does the voice say ?", "which number does the voice say ?",
)
SPEECH = ("a voice says", *_SPOKEN, "what digit is spoken ?", "is it a", "the", "noise", "animal")


def tell(scene: Scene, rng: np.random.Generator) -> tuple[str, list[Turn]]:
    """Tell a scene as facts, some senses left out: the text, and questions with answers."""
    if rng.random() >= 0.5:  # real sounds stand for the world's own
        names = dict(zip(SOUNDS, rng.permutation(REAL_SOUNDS), strict=False))
        sounds = tuple(replace(event, kind=str(names[event.kind])) for event in scene.sounds)
        scene = replace(scene, sounds=sounds)
    known = {"video", *(sense for sense in SENSES if rng.random() < 0.75)}
    sentences = [_look(item, rng) for item in scene.items]
    if "audio" in known:
        sentences += _hear(scene)
    if "depth" in known:
        sentences += [f"the {item.shape} is {item.distance}" for item in scene.items]
        asked = ask(scene, rng, ("depth",))
        sentences += [f"the {turn.answer} is nearest" for turn in asked if turn.type == "nearest"]
    if "high_fps" in known:
        flasher, count = scene.items[scene.flasher].shape, len(scene.flashes)
        flashes = f"the {flasher} flashes {NUMBERS[count]} times"
        sentences.append(flashes if count else "zero flashes , nothing flashes")
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


def vocabulary() -> list[str]:
    """Every word of the world, sorted: those that are one token and that the backbone has been taught."""
    told = "there is a that does not move moves in from to flashes times first last hidden nothing hear . and"
    said = "user assistant system shape one object at"
    texts = [*NUMBERS, *SOUNDS, *REAL_SOUNDS, *MOMENTS, *SPEECH, told, said]
    for kind in QUESTION_TYPES.values():
        texts += [*kind.answers, *(re.sub(r"{.*?}", "", phrasing) for phrasing in kind.phrasings)]
    return sorted({word for text in texts for word in text.split()})
