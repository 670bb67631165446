"""The instances of each type of question in a scene: slots that fill a phrasing, and the answer."""

from collections.abc import Callable, Iterable

import numpy as np

from lynx.world.scene.scene import (
    COLORS,
    DURATION,
    MOTIONS,
    SHAPES,
    SOUND_LENGTH,
    SOUNDS,
    Item,
    Scene,
    moment_of,
    side_of,
)

Slots = dict[str, object]
Candidates = Iterable[tuple[Slots, str]]
Instances = Callable[[Scene], Candidates]


def caption(scene: Scene) -> str:
    """List what the picture shows, in the order of `SHAPES`."""
    items = sorted(scene.items, key=lambda item: SHAPES.index(item.shape))
    return " and ".join(f"a {item.color} {item.shape}" for item in items)


def shapes(scene: Scene) -> list[str]:
    """The shapes in the picture."""
    return [item.shape for item in scene.items]


def colors(scene: Scene) -> list[str]:
    """The colors in the picture, one for each shape."""
    return [item.color for item in scene.items]


def of_items(attribute: Callable[[Item], str]) -> Instances:
    """Ask about each shape's attribute."""
    return lambda scene: [({"item": item}, attribute(item)) for item in scene.items]


def always(answer: Callable[[Scene], str]) -> Instances:
    """Ask once about the whole scene."""
    return lambda scene: [({}, answer(scene))]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def exists(scene: Scene) -> Candidates:
    """Ask for shapes, colors and both together."""
    shown, used = set(shapes(scene)), set(colors(scene))
    for shape in SHAPES:
        yield {"thing": shape}, _yes(shape in shown)
    for color in COLORS:
        yield {"thing": f"{color} shape"}, _yes(color in used)
    # A pair is only asked for where both halves are there: else the half would answer it.
    for color in sorted(used):
        for shape in sorted(shown):
            both = any((item.color, item.shape) == (color, shape) for item in scene.items)
            yield {"thing": f"{color} {shape}"}, _yes(both)


def moves(scene: Scene) -> Candidates:
    """Ask whether a shape moves, and which way."""
    for item in scene.items:
        yield {"item": item, "how": ""}, _yes(item.motion != "still")
        for way in MOTIONS[:4]:
            yield {"item": item, "how": way}, _yes(item.motion == way)


def movers(scene: Scene) -> Candidates:
    """Ask for the shape that moves one way, where one alone does."""
    ways = [item.motion for item in scene.items]
    for item in scene.items:
        if ways.count(item.motion) == 1 and item.motion != "still":
            yield {"way": item.motion}, item.shape


def where(scene: Scene) -> Candidates:
    """Ask for the third in which a shape is at the start, at the end, or all along."""
    for item in scene.items:
        yield {"item": item, "moment": "at the start"}, item.side("start")
        yield {"item": item, "moment": "at the end"}, item.side("end")
        if item.start[0] == item.end[0]:
            yield {"item": item, "moment": ""}, item.side("start")


def beside(scene: Scene) -> Candidates:
    """Ask for the order of two shapes that keep their sides."""
    times = np.linspace(0, DURATION, 9)
    for one in scene.items:
        for other in scene.items:
            gaps = other.position(times)[:, 0] - one.position(times)[:, 0]
            if one is not other and (gaps.min() > 0.15 or gaps.max() < -0.15):
                yield {"item": one, "other": other, "side": "left"}, _yes(gaps.min() > 0)
                yield {"item": one, "other": other, "side": "right"}, _yes(gaps.max() < 0)


def _single(scene: Scene) -> list[str]:
    """The kind of sound, where there is one burst alone."""
    return [scene.sounds[0].kind] if len(scene.bursts) == 1 else []


def sound(scene: Scene) -> Candidates:
    """Ask for the one kind of sound, or for silence."""
    return [({}, kind) for kind in _single(scene)] if scene.sounds else [({}, "nothing")]


def of_burst(attribute: Callable[[Scene], str]) -> Instances:
    """Ask about an attribute of the one burst of sounds."""
    return lambda scene: [({"kind": kind}, attribute(scene)) for kind in _single(scene)]


def when(scene: Scene) -> Candidates:
    """Ask for the third of the clip in which a burst lies."""
    for burst in scene.bursts:
        middle = (burst[0].onset + burst[-1].onset + SOUND_LENGTH) / 2
        yield {"kind": burst[0].kind}, moment_of(middle)


def heard(scene: Scene) -> Candidates:
    """Ask for each sound, heard or not."""
    kinds = {event.kind for event in scene.sounds}
    for kind in [*sorted(kinds), *(kind for kind in SOUNDS if kind not in kinds)]:
        yield {"kind": kind}, _yes(kind in kinds)


def ordered(which: int) -> Instances:
    """Ask for the first (0) or the last (1) of two sounds."""
    return lambda scene: [({}, scene.bursts[which][0].kind)] if len(scene.bursts) == 2 else []


def _crossings(scene: Scene) -> Iterable[tuple[Item, str, str]]:
    """Each shape that crosses the frame with each sound: the shape, the sound, the shape's side then."""
    for item in scene.items:
        if item.motion not in ("left", "right"):
            continue
        for burst in scene.bursts:
            middles = np.array([event.onset + SOUND_LENGTH / 2 for event in burst])
            sides = {side_of(x) for x in item.position(middles)[:, 0]}
            if len(sides) == 1 and sides != {"middle"}:
                yield item, burst[0].kind, sides.pop()


def where_at_sound(scene: Scene) -> Candidates:
    """Ask for the side of a shape at the moment of a sound."""
    return [({"item": item, "kind": kind}, side) for item, kind, side in _crossings(scene)]


def sound_while_side(scene: Scene) -> Candidates:
    """Ask whether a sound is heard while a shape is on one side."""
    for item, kind, side in _crossings(scene):
        for asked in ("left", "right"):
            yield {"item": item, "kind": kind, "side": asked}, _yes(side == asked)


def sound_at_side(scene: Scene) -> Candidates:
    """Ask which of two sounds is heard while a shape is on one side."""
    crossings = list(_crossings(scene))
    for item, kind, side in crossings:
        if len([c for c in crossings if c[0] is item]) == 2:
            yield {"item": item, "side": side}, kind


def _nearest(scene: Scene) -> list[Item]:
    """The only near shape among several, where there is one."""
    ranked = sorted(scene.items, key=lambda item: item.depth)
    return ranked[:1] if [item.distance for item in ranked[:2]] == ["near", "far"] else []


def of_nearest(answer: Callable[[Item], str]) -> Instances:
    """Ask for an attribute of the only near shape."""
    return lambda scene: [({}, answer(item)) for item in _nearest(scene)]


def nearest_and_sound(scene: Scene) -> Candidates:
    """Ask for the color of the only near shape and for the one kind of sound, in one answer."""
    return [({}, f"{item.color} and {kind}") for item in _nearest(scene) for kind in _single(scene)]


def nearest_at_sound(scene: Scene) -> Candidates:
    """Ask for the side of the only near shape at a sound, while another shape is on the other side."""
    crossings = list(_crossings(scene))
    for near in _nearest(scene):
        for item, kind, side in crossings:
            others = [other for one, name, other in crossings if one is not near and name == kind]
            if item is near and any(other != side for other in others):
                yield {"kind": kind}, side


def of_flasher(answer: Callable[[Item], str]) -> Instances:
    """Ask for an attribute of the shape that flashes, among several."""
    return lambda scene: (
        [({}, answer(scene.items[scene.flasher]))] if scene.flashes and len(scene.items) > 1 else []
    )


def flashing(scene: Scene) -> Candidates:
    """Ask whether a shape flashes, of each of several."""
    for number, item in enumerate(scene.items if len(scene.items) > 1 else ()):
        yield {"item": item}, _yes(bool(scene.flashes) and number == scene.flasher)
