"""Where and when a scene shows what a question is about: the tokens that an answer should rest on.

A clip is a grid of cells, `frames` moments of `grid` (rows, columns), one token each. A cell shows a shape if
one of its patches (the pieces that a vision tower looks at, `PATCHES` a side of a cell) is covered by it for
an eighth or more, or holds an eighth of the shape: less than that is an edge. Of sound, the columns of a
moment's cells are its parts of time and the rows frequencies; a column shows a sound that lasts for an eighth
of it or more, in all rows.

What is asked for is shown at every moment that shows the shape or the sound, unless the question is about
some of them: at the start, at the end, when a sound is heard. Nothing shows that something is absent ("is
there ..." answered with no, no sound, no flash): such a question has no place here.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lynx.modalities.high_fps import HighFpsRendering, fast_times
from lynx.types import sample_times
from lynx.world.dataset import frame_numbers
from lynx.world.questions.asking import Asked
from lynx.world.questions.instances import Slots
from lynx.world.scene.picture import FIELDS, LIT, lit_frames
from lynx.world.scene.scene import (
    DURATION,
    FPS,
    SOUND_LENGTH,
    Item,
    Scene,
    SoundEvent,
    side_of,
)
from lynx.world.scene.views import from_behind, hidden_item

PATCHES = 2
"""Patches a side of a cell: a token is pooled from as many tower patches, squared."""
SAMPLES = 16
"""Points a side at which a patch is looked at."""
SHOWS = 1 / 8
"""Share of a patch, or of a part of time, from which on it shows something."""
TILE = HighFpsRendering().tile
Mask = np.ndarray
"""(moments, rows, columns) bool."""
Places = dict[str, Mask]
"""By sense."""


@dataclass(frozen=True)
class Clip:
    """A scene as cells: `frames` moments, `grid` rows and columns a moment."""

    scene: Scene
    frames: int = 8
    grid: tuple[int, int] = (4, 4)

    @cached_property
    def times(self) -> np.ndarray:
        """Middle of each moment, (T,) seconds."""
        return np.asarray(sample_times(DURATION, self.frames).numpy())

    def shapes(self, sense: str, wanted: Callable[[Item], bool], when: np.ndarray | None = None) -> Mask:
        """The cells of a sense that show such shapes, at the moments `when` (T,) bool, by default at all.

        sense: video, depth, multi_view (where items are the first camera's still), or high_fps.
        """
        chosen = [number for number, item in enumerate(self.scene.items) if wanted(item)]
        seen = self._covered(sense, chosen)
        return seen if when is None else seen & when[:, None, None]

    def hidden(self) -> Mask:
        """The cells of the second view that show the hidden shape."""
        item = hidden_item(self.scene)
        owners = draw_owners([item], frame_numbers(self.frames), self._points)
        return self._cells(owners, [0])

    def sounds(self, events: Iterable[SoundEvent]) -> Mask:
        """The cells at which these sound."""
        columns = self.grid[1]
        width = DURATION / self.frames / columns
        begins = np.arange(self.frames * columns) * width
        heard = np.zeros(len(begins), dtype=bool)
        for event in events:
            end = np.minimum(begins + width, event.onset + SOUND_LENGTH)
            heard |= end - np.maximum(begins, event.onset) >= SHOWS * width
        return np.repeat(heard.reshape(self.frames, 1, columns), self.grid[0], axis=1)

    def heard_at(self, events: Iterable[SoundEvent]) -> np.ndarray:
        """The moments at which these sound: (T,) bool."""
        return np.asarray(self.sounds(events).any((1, 2)))

    def flashes(self, lit: str = "lit") -> Mask:
        """The cells of fast motion that show the flashing shape. lit: in the frames in which it is lit, the
        flash itself; "moment": in all frames of a mosaic that has such a frame; "always": in all frames."""
        numbers = self._fast_numbers
        flashing = np.isin(numbers, list(lit_frames(self.scene)))  # (T, k)
        if lit != "lit":
            flashing = flashing | (lit == "always") | flashing.any(1, keepdims=True)
        return self._covered("high_fps", [self.scene.flasher], flashing)

    @property
    def _points(self) -> tuple[int, int]:
        rows, columns = self.grid
        return rows * PATCHES * SAMPLES, columns * PATCHES * SAMPLES

    @property
    def _fast_numbers(self) -> np.ndarray:
        """The frames of each moment's mosaic, row by row: (T, k)."""
        moments = fast_times(sample_times(DURATION, self.frames), TILE**2, DURATION).numpy()
        return np.floor(moments * FPS + 1e-6).astype(int)

    def _covered(self, sense: str, chosen: Collection[int], when: np.ndarray | None = None) -> Mask:
        """The cells that show the items of these numbers; when: (T, k) bool, of a mosaic's frames."""
        scene, numbers = self.scene, frame_numbers(self.frames)
        if sense == "high_fps":
            points = (self._points[0] // TILE, self._points[1] // TILE)
            fast = self._fast_numbers
            owners = draw_owners(scene.items, fast.flatten(), points, (scene.flasher, lit_frames(scene)))
            if when is not None:
                owners[~when.flatten()] = -1
            return self._cells(owners, chosen, TILE)
        items = scene.items
        if sense == "multi_view":
            items = from_behind(scene).items  # the same shapes, in another order
        elif sense == "depth":
            items = tuple(sorted(items, key=lambda item: -item.depth))
        depths = {scene.items[number].depth for number in chosen}
        drawn = [place for place, item in enumerate(items) if item.depth in depths]
        return self._cells(draw_owners(items, numbers, self._points), drawn)

    def _cells(self, owners: np.ndarray, chosen: Collection[int], tile: int = 1) -> Mask:
        """Owners (T * tile^2, H, W) of points -> the cells of which a patch shows enough of one of these."""
        rows, columns = self.grid
        shape = (self.frames, rows, PATCHES, SAMPLES, columns, PATCHES, SAMPLES)
        shown = np.zeros((self.frames, rows, columns), dtype=bool)
        for number in chosen:
            seen = owners == number
            least = np.minimum(seen.sum((1, 2)), SAMPLES**2).clip(min=1)  # points of a patch, or of the shape
            share = seen / least[:, None, None]
            share = share.reshape(self.frames, tile, tile, *seen.shape[1:]).transpose(0, 1, 3, 2, 4)
            shown |= (share.reshape(shape).sum((3, 6)) >= SHOWS).any((2, 4))
        return shown


def draw_owners(
    items: Iterable[Item],
    frames: np.ndarray,
    points: tuple[int, int],
    lit: tuple[int, frozenset[int]] = (-1, frozenset()),
) -> np.ndarray:
    """Which item is seen at each point of these frames (numbers at `FPS`), -1 for none: (T, *points) int.

    Items are painted in order, later ones over earlier ones. lit: an item's number and its lit frames.
    """
    rows, columns = ((np.arange(count) + 0.5) / count for count in points)
    owners = np.full((len(frames), *points), -1)
    for number, item in enumerate(items):
        for picture, frame in zip(owners, frames, strict=True):
            x, y = item.position(frame / FPS)
            radius = LIT if number == lit[0] and int(frame) in lit[1] else item.radius
            inside = FIELDS[item.shape]((columns[None] - x) / radius, (rows[:, None] - y) / radius) < 0
            picture[inside] = number
    return owners


def places(asked: Asked, clip: Clip) -> Places:
    """For each sense that a question needs, the cells that show what it asks; {} where nothing can."""
    found = _PLACES[asked.turn.type](clip, asked.slots, asked.turn.answer) if has_places(asked) else {}
    return found if all(mask.any() for mask in found.values()) else {}


def has_places(asked: Asked) -> bool:
    """Whether the world knows where what a question asks for is shown."""
    kind, answer = asked.turn.type, asked.turn.answer
    return kind in _PLACES and answer not in ABSENT.get(kind, ())


def _item(sense: str) -> "Finder":
    """The shape that is asked about."""
    return lambda clip, slots, answer: {sense: clip.shapes(sense, lambda item: item is slots["item"])}


def _where(clip: Clip, slots: Slots, answer: str) -> Places:
    """The shape while it is on the side that it is on at the start, or at the end."""
    item = slots["item"]
    assert isinstance(item, Item)
    sides = np.array([side_of(x) for x in item.position(clip.times)[:, 0]])
    return {"video": clip.shapes("video", lambda other: other is item, sides == answer)}


def _thing(clip: Clip, slots: Slots, answer: str) -> Places:
    """All shapes that are such a thing: "circle", "red shape", "red circle"."""
    words = str(slots["thing"]).split()

    def wanted(item: Item) -> bool:
        return all(word in (item.shape, item.color, "shape") for word in words)

    return {"video": clip.shapes("video", wanted)}


def _burst(clip: Clip, slots: Slots, answer: str) -> Places:
    """The sounds of the kind that is asked about, or answered; of all kinds where there is none."""
    kinds = {slots.get("kind", answer)} & {event.kind for event in clip.scene.sounds}
    return {"audio": clip.sounds(e for e in clip.scene.sounds if e.kind in kinds)}


def _at_sound(clip: Clip, slots: Slots, answer: str) -> Places:
    """The shape at the moments of a sound, and the sound."""
    events = [event for event in clip.scene.sounds if event.kind == slots["kind"]]
    near = min(clip.scene.items, key=lambda item: item.depth)
    item = slots.get("item", near)
    return {
        "video": clip.shapes("video", lambda other: other is item, clip.heard_at(events)),
        "audio": clip.sounds(events),
    }


def _sound_at_side(clip: Clip, slots: Slots, answer: str) -> Places:
    """The shape while it is on that side, and the sound that is heard then."""
    item = slots["item"]
    assert isinstance(item, Item)
    sides = np.array([side_of(x) for x in item.position(clip.times)[:, 0]])
    return {
        "video": clip.shapes("video", lambda other: other is item, sides == slots["side"]),
        "audio": clip.sounds(event for event in clip.scene.sounds if event.kind == answer),
    }


def _nearest(*senses: str) -> "Finder":
    """The nearest shape."""

    def find(clip: Clip, slots: Slots, answer: str) -> Places:
        near = min(clip.scene.items, key=lambda item: item.depth)
        return {sense: clip.shapes(sense, lambda item: item is near) for sense in senses}

    return find


def _both(*finders: "Finder") -> "Finder":
    def find(clip: Clip, slots: Slots, answer: str) -> Places:
        found: Places = {}
        for finder in finders:
            found |= finder(clip, slots, answer)
        return found

    return find


Finder = Callable[[Clip, Slots, str], Places]
_FLASH: Finder = lambda clip, slots, answer: {"high_fps": clip.flashes()}  # noqa: E731
_ALL_SOUNDS: Finder = lambda clip, slots, answer: {"audio": clip.sounds(clip.scene.sounds)}  # noqa: E731
_HIDDEN: Finder = lambda clip, slots, answer: {"multi_view": clip.hidden()}  # noqa: E731
_PLACES: Mapping[str, Finder] = {
    **{name: _item("video") for name in ("color", "shape", "motion", "moves", "size")},
    "count": lambda clip, slots, answer: {"video": clip.shapes("video", lambda item: True)},
    "exist": _thing,
    "mover": lambda clip, slots, answer: {
        "video": clip.shapes("video", lambda item: item.motion == slots["way"])
    },
    "where": _where,
    "beside": lambda clip, slots, answer: {
        "video": clip.shapes("video", lambda item: item is slots["item"] or item is slots["other"])
    },
    "sound": _ALL_SOUNDS,
    **{name: _burst for name in ("sound_count", "loudness", "sound_time", "heard")},
    **{name: _burst for name in ("first_sound", "last_sound")},
    **{name: _at_sound for name in ("where_at_sound", "sound_while_side")},
    "sound_at_side": _sound_at_side,
    "distance": _item("depth"),
    "nearest": _nearest("depth"),
    **{name: _FLASH for name in ("flashes", "flasher", "flash_color", "flashing")},
    "back": _item("multi_view"),
    "hidden_shape": _HIDDEN,
    "hidden_color": _HIDDEN,
    "nearest_color": _nearest("video", "depth"),
    "nearest_at_sound": _both(_nearest("depth"), _at_sound),
    "nearest_and_sound": _both(_nearest("video", "depth"), _ALL_SOUNDS),
}
ABSENT: Mapping[str, tuple[str, ...]] = {
    "exist": ("no",),
    "sound": ("nothing",),
    "heard": ("no",),
    "flashes": ("zero",),
    "flashing": ("no",),
}
"""Answers, by type, that say that something is absent."""
