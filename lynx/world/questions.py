"""Questions about a scene, with answers, and the senses each one needs.

A type is a row: its senses, its answers, several ways to say it, and a function that lists every instance a
scene allows. `ask` first draws the answer, evenly among those the scene allows, and only then the instance:
so the answers are balanced, and who lacks the sense is at chance.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np

from lynx.data import Turn
from lynx.world.scene import (
    COLORS,
    DISTANCES,
    GAINS,
    MOTIONS,
    SHAPES,
    SIZES,
    SOUND_LENGTH,
    SOUNDS,
    Item,
    Scene,
    moment_of,
    side_of,
)

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Slots = dict[str, object]
Candidates = Iterable[tuple[Slots, str]]


@dataclass(frozen=True)
class QuestionType:
    """A kind of question. `by` says how shapes are referred to: never by what is being asked for."""

    name: str
    senses: tuple[str, ...]
    answers: tuple[str, ...]
    phrasings: tuple[str, ...]
    candidates: Callable[[Scene], Candidates]
    by: tuple[str, ...] = ("shape", "color", "both")


def refer(item: Item, by: tuple[str, ...], rng: np.random.Generator) -> str:
    """Name a shape without its article: `circle`, `red shape` or `red circle`."""
    way = by[int(rng.integers(len(by)))]
    if way == "shape":
        return item.shape
    if way == "color":
        return f"{item.color} {('shape', 'one', 'object')[int(rng.integers(3))]}"
    return f"{item.color} {item.shape}"


def caption(scene: Scene) -> str:
    """List what the picture shows, in the order of `SHAPES`."""
    items = sorted(scene.items, key=lambda item: SHAPES.index(item.shape))
    return " and ".join(f"a {item.color} {item.shape}" for item in items)


# --- what each type may ask of a scene ---


def _of_items(attribute: Callable[[Item], str]) -> Callable[[Scene], Candidates]:
    return lambda scene: [({"item": item}, attribute(item)) for item in scene.items]


def _exists(scene: Scene) -> Candidates:
    shapes = {item.shape for item in scene.items}
    colors = {item.color for item in scene.items}
    pairs = {(item.color, item.shape) for item in scene.items}
    for shape in SHAPES:
        yield {"thing": shape}, _yes(shape in shapes)
    for color in COLORS:
        yield {"thing": f"{color} shape"}, _yes(color in colors)
    for color in colors:
        for shape in shapes:
            yield {"thing": f"{color} {shape}"}, _yes((color, shape) in pairs)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _moves(scene: Scene) -> Candidates:
    for item in scene.items:
        yield {"item": item, "how": ""}, _yes(item.motion != "still")
        for way in MOTIONS[:4]:
            yield {"item": item, "how": way}, _yes(item.motion == way)


def _movers(scene: Scene) -> Candidates:
    ways = [item.motion for item in scene.items]
    for item in scene.items:
        if ways.count(item.motion) == 1 and item.motion != "still":
            yield {"way": item.motion}, item.shape


def _where(scene: Scene) -> Candidates:
    for item in scene.items:
        yield {"item": item, "moment": "at the start"}, item.side("start")
        yield {"item": item, "moment": "at the end"}, item.side("end")
        if item.start[0] == item.end[0]:
            yield {"item": item, "moment": ""}, item.side("start")


def _beside(scene: Scene) -> Candidates:
    times = np.linspace(0, 4, 9)
    for one in scene.items:
        for other in scene.items:
            gaps = other.position(times)[:, 0] - one.position(times)[:, 0]
            if one is not other and (gaps.min() > 0.15 or gaps.max() < -0.15):
                yield {"item": one, "other": other, "side": "left"}, _yes(gaps.min() > 0)
                yield {"item": one, "other": other, "side": "right"}, _yes(gaps.max() < 0)


def _single(scene: Scene) -> str | None:
    return scene.sounds[0].kind if len(scene.bursts) == 1 else None


def _sound(scene: Scene) -> Candidates:
    if not scene.sounds:
        return [({}, "nothing")]
    kind = _single(scene)
    return [({}, kind)] if kind else []


def _of_burst(attribute: Callable[[Scene], str]) -> Callable[[Scene], Candidates]:
    def candidates(scene: Scene) -> Candidates:
        kind = _single(scene)
        return [({"kind": kind}, attribute(scene))] if kind else []

    return candidates


def _when(scene: Scene) -> Candidates:
    for burst in scene.bursts:
        middle = (burst[0].onset + burst[-1].onset + SOUND_LENGTH) / 2
        yield {"kind": burst[0].kind}, moment_of(middle)


def _heard(scene: Scene) -> Candidates:
    kinds = {event.kind for event in scene.sounds}
    others = [kind for kind in SOUNDS if kind not in kinds]
    for kind in [*kinds, *others]:
        yield {"kind": kind}, _yes(kind in kinds)


def _ordered(which: int) -> Callable[[Scene], Candidates]:
    def candidates(scene: Scene) -> Candidates:
        return [({}, scene.bursts[which][0].kind)] if len(scene.bursts) == 2 else []

    return candidates


def _crossings(scene: Scene) -> Iterable[tuple[Item, str, str]]:
    """Each shape that crosses the frame with each sound: the shape, the sound's kind, the side where the
    shape is then."""
    for item in scene.items:
        if item.motion not in ("left", "right"):
            continue
        for burst in scene.bursts:
            middles = np.array([event.onset + SOUND_LENGTH / 2 for event in burst])
            sides = {side_of(x) for x in item.position(middles)[:, 0]}
            if len(sides) == 1 and sides != {"middle"}:
                yield item, burst[0].kind, sides.pop()


def _where_at_sound(scene: Scene) -> Candidates:
    return [({"item": item, "kind": kind}, side) for item, kind, side in _crossings(scene)]


def _sound_while_side(scene: Scene) -> Candidates:
    for item, kind, side in _crossings(scene):
        for asked in ("left", "right"):
            yield {"item": item, "kind": kind, "side": asked}, _yes(side == asked)


def _sound_at_side(scene: Scene) -> Candidates:
    crossings = list(_crossings(scene))
    for item, kind, side in crossings:
        if len([c for c in crossings if c[0] is item]) == 2:
            yield {"item": item, "side": side}, kind


def _nearest(scene: Scene) -> Candidates:
    ranked = sorted(scene.items, key=lambda item: item.depth)
    if len(ranked) > 1 and ranked[0].distance == "near" and ranked[1].distance == "far":
        return [({}, ranked[0].shape)]
    return []


def _flasher(scene: Scene) -> Candidates:
    return [({}, scene.items[scene.flasher].shape)] if scene.flashes and len(scene.items) > 1 else []


def _always(answer: Callable[[Scene], str]) -> Callable[[Scene], Candidates]:
    return lambda scene: [({}, answer(scene))]


VIDEO, AUDIO, BOTH = ("video",), ("audio",), ("video", "audio")
_TYPES = (
    QuestionType(
        "color",
        VIDEO,
        tuple(COLORS),
        (
            "what color is the {item} ?",
            "which color is the {item} ?",
            "what is the color of the {item} ?",
            "what colour is the {item} ?",
            "tell me the color of the {item}",
            "which color does the {item} have ?",
        ),
        _of_items(lambda item: item.color),
        by=("shape",),
    ),
    QuestionType(
        "shape",
        VIDEO,
        SHAPES,
        (
            "what shape is the {item} ?",
            "which shape is the {item} ?",
            "what is the {item} ?",
            "what is the shape of the {item} ?",
            "tell me the shape of the {item}",
        ),
        _of_items(lambda item: item.shape),
        by=("color",),
    ),
    QuestionType(
        "count",
        VIDEO,
        NUMBERS[1:4],
        (
            "how many shapes are there ?",
            "how many shapes do you see ?",
            "how many objects are there ?",
            "how many objects can you see ?",
            "count the shapes",
        ),
        _always(lambda scene: NUMBERS[len(scene.items)]),
    ),
    QuestionType(
        "exist",
        VIDEO,
        ("yes", "no"),
        (
            "is there a {thing} ?",
            "do you see a {thing} ?",
            "can you see a {thing} ?",
            "is a {thing} in the video ?",
            "does the video show a {thing} ?",
        ),
        _exists,
    ),
    QuestionType(
        "motion",
        VIDEO,
        MOTIONS,
        (
            "which way does the {item} move ?",
            "in which direction does the {item} move ?",
            "how does the {item} move ?",
            "what direction does the {item} go ?",
            "which way is the {item} moving ?",
            "which way does the {item} go ?",
        ),
        _of_items(lambda item: item.motion),
    ),
    QuestionType(
        "moves",
        VIDEO,
        ("yes", "no"),
        (
            "does the {item} move {how} ?",
            "is the {item} moving {how} ?",
            "does the {item} go {how} ?",
        ),
        _moves,
    ),
    QuestionType(
        "mover",
        VIDEO,
        SHAPES,
        (
            "which shape moves {way} ?",
            "what moves {way} ?",
            "which shape goes {way} ?",
            "what is moving {way} ?",
            "which object moves {way} ?",
        ),
        _movers,
    ),
    QuestionType(
        "size",
        VIDEO,
        tuple(SIZES),
        (
            "is the {item} big or small ?",
            "how big is the {item} ?",
            "what size is the {item} ?",
            "is the {item} small or big ?",
            "what is the size of the {item} ?",
        ),
        _of_items(lambda item: item.size),
    ),
    QuestionType(
        "where",
        VIDEO,
        ("left", "middle", "right"),
        (
            "where is the {item} {moment} ?",
            "on which side is the {item} {moment} ?",
            "{moment} , where is the {item} ?",
            "where do you see the {item} {moment} ?",
        ),
        _where,
    ),
    QuestionType(
        "beside",
        VIDEO,
        ("yes", "no"),
        (
            "is the {item} {side} of the {other} ?",
            "is the {item} to the {side} of the {other} ?",
            "do you see the {item} to the {side} of the {other} ?",
        ),
        _beside,
    ),
    QuestionType(
        "caption",
        VIDEO,
        (),
        (
            "what do you see ?",
            "describe the video",
            "what is in the video ?",
            "what does the video show ?",
            "what can you see ?",
            "describe what you see",
        ),
        _always(caption),
    ),
    QuestionType(
        "sound",
        AUDIO,
        (*SOUNDS, "nothing"),
        (
            "what sound do you hear ?",
            "what do you hear ?",
            "which sound do you hear ?",
            "what sound is it ?",
            "what can you hear ?",
            "what is the sound ?",
            "what makes the sound ?",
            "which sound is in the video ?",
        ),
        _sound,
    ),
    QuestionType(
        "sound_count",
        AUDIO,
        NUMBERS[1:4],
        (
            "how many times do you hear the {kind} ?",
            "how often do you hear the {kind} ?",
            "how many times does the {kind} sound ?",
            "how many times does the {kind} ring ?",
            "how many sounds do you hear ?",
            "how often does the {kind} sound ?",
        ),
        _of_burst(lambda scene: NUMBERS[len(scene.sounds)]),
    ),
    QuestionType(
        "loudness",
        AUDIO,
        tuple(GAINS),
        (
            "is the {kind} loud or quiet ?",
            "is the sound loud or quiet ?",
            "how loud is the sound ?",
            "how loud is the {kind} ?",
            "is the {kind} quiet or loud ?",
        ),
        _of_burst(lambda scene: "loud" if scene.sounds[0].gain > 0.3 else "quiet"),
    ),
    QuestionType(
        "sound_time",
        AUDIO,
        ("start", "middle", "end"),
        (
            "when do you hear the {kind} ?",
            "when does the {kind} sound ?",
            "when is the {kind} ?",
            "when does the {kind} ring ?",
            "at which moment do you hear the {kind} ?",
        ),
        _when,
    ),
    QuestionType(
        "heard",
        AUDIO,
        ("yes", "no"),
        (
            "do you hear a {kind} ?",
            "can you hear a {kind} ?",
            "is there a {kind} sound ?",
            "do you hear the {kind} ?",
            "does a {kind} sound ?",
            "is there the sound of a {kind} ?",
        ),
        _heard,
    ),
    QuestionType(
        "first_sound",
        AUDIO,
        SOUNDS,
        (
            "which sound comes first ?",
            "what sound do you hear first ?",
            "what do you hear first ?",
            "which sound is first ?",
        ),
        _ordered(0),
    ),
    QuestionType(
        "last_sound",
        AUDIO,
        SOUNDS,
        (
            "which sound comes last ?",
            "what sound do you hear last ?",
            "what do you hear last ?",
            "which sound is last ?",
        ),
        _ordered(1),
    ),
    QuestionType(
        "where_at_sound",
        BOTH,
        ("left", "right"),
        (
            "where is the {item} when the {kind} sounds ?",
            "where is the {item} when you hear the {kind} ?",
            "when the {kind} rings , where is the {item} ?",
            "on which side is the {item} when you hear the {kind} ?",
            "where is the {item} when the {kind} rings ?",
        ),
        _where_at_sound,
    ),
    QuestionType(
        "sound_while_side",
        BOTH,
        ("yes", "no"),
        (
            "does the {kind} sound while the {item} is on the {side} ?",
            "does the {kind} ring while the {item} is on the {side} ?",
            "do you hear the {kind} while the {item} is on the {side} ?",
            "is the {item} on the {side} when the {kind} sounds ?",
            "is the {item} on the {side} when you hear the {kind} ?",
        ),
        _sound_while_side,
    ),
    QuestionType(
        "sound_at_side",
        BOTH,
        SOUNDS,
        (
            "what sound do you hear while the {item} is on the {side} ?",
            "which sound do you hear when the {item} is on the {side} ?",
            "what do you hear when the {item} is on the {side} ?",
        ),
        _sound_at_side,
    ),
    QuestionType(
        "distance",
        ("depth",),
        tuple(DISTANCES),
        (
            "is the {item} near or far ?",
            "how far is the {item} ?",
            "is the {item} far or near ?",
            "how far away is the {item} ?",
        ),
        _of_items(lambda item: item.distance),
    ),
    QuestionType(
        "nearest",
        ("depth",),
        SHAPES,
        (
            "which shape is nearest ?",
            "what is nearest ?",
            "which object is the nearest ?",
            "which shape is near ?",
        ),
        _nearest,
    ),
    QuestionType(
        "flashes",
        ("high_fps",),
        NUMBERS[:4],
        (
            "how many flashes are there ?",
            "how many flashes do you see ?",
            "how many times does a shape flash ?",
            "how often does something flash ?",
        ),
        _always(lambda scene: NUMBERS[len(scene.flashes)]),
    ),
    QuestionType(
        "flasher",
        ("high_fps",),
        SHAPES,
        ("which shape flashes ?", "what flashes ?", "which object flashes ?", "what is flashing ?"),
        _flasher,
    ),
    QuestionType(
        "back",
        ("multi_view",),
        tuple(COLORS),
        (
            "what color is the back of the {item} ?",
            "what is the color of the back of the {item} ?",
            "which color does the {item} have on the back ?",
        ),
        _of_items(lambda item: item.back),
    ),
    QuestionType(
        "hidden_shape",
        ("multi_view",),
        SHAPES,
        (
            "what shape is hidden ?",
            "which shape is hidden ?",
            "what is hidden ?",
            "what is the hidden shape ?",
        ),
        _always(lambda scene: scene.hidden.shape),
    ),
    QuestionType(
        "hidden_color",
        ("multi_view",),
        tuple(COLORS),
        (
            "what color is the hidden shape ?",
            "which color is the hidden shape ?",
            "what is the color of the hidden shape ?",
        ),
        _always(lambda scene: scene.hidden.color),
    ),
)
QUESTION_TYPES = {kind.name: kind for kind in _TYPES}


def ask(
    scene: Scene,
    rng: np.random.Generator,
    senses: Collection[str] | None = None,
    per_type: int = 1,
) -> list[Turn]:
    """Ask up to `per_type` questions of every type that the scene allows and that needs none but the given
    senses."""
    turns = []
    for kind in _TYPES:
        if senses is None or set(kind.senses) <= set(senses):
            turns += ask_type(kind, scene, rng, per_type)
    return turns


def ask_type(kind: QuestionType, scene: Scene, rng: np.random.Generator, count: int = 1) -> list[Turn]:
    """Ask up to `count` different questions of one type, the answer drawn evenly first."""
    left = list(kind.candidates(scene))
    turns = []
    while left and len(turns) < count:
        answers = sorted({answer for _, answer in left})
        answer = answers[int(rng.integers(len(answers)))]
        fitting = [i for i, candidate in enumerate(left) if candidate[1] == answer]
        slots, _ = left.pop(fitting[int(rng.integers(len(fitting)))])
        turns.append(Turn(phrase(kind, slots, rng), answer, kind.name, kind.senses))
    return turns


def phrase(kind: QuestionType, slots: Slots, rng: np.random.Generator) -> str:
    """Say a question in one of its ways, spaces tidied; one time in eight without its question mark."""
    template = kind.phrasings[int(rng.integers(len(kind.phrasings)))]
    words = {k: refer(v, kind.by, rng) if isinstance(v, Item) else v for k, v in slots.items()}
    text = " ".join(template.format(**words).split()).removeprefix(", ")
    return text.removesuffix(" ?") if rng.random() < 0.125 else text
