"""What happens in a clip: shapes that move, sounds, flashes, distances, and what only a second camera sees.

A scene is drawn from `(split, seed, index)`, so the splits can never share a clip. What one sense shows is
drawn independently of what the others show: no question about sound can be answered from the picture. Space
is the unit square, x to the right and y down; time is seconds; distance is meters.
"""

import math
from dataclasses import dataclass, replace
from itertools import combinations, groupby

import numpy as np

DURATION = 4.0
"""Length of every clip, seconds."""
FPS = 24
"""Frame rate of the rendered files. The grids of 2, 4 and 8 sampled frames a second fall on whole frames."""

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLORS = {
    "red": (222, 50, 47), "green": (52, 178, 82), "blue": (45, 105, 230),
    "yellow": (246, 207, 60), "pink": (240, 112, 200), "white": (246, 246, 242),
}
SIZES = {"small": 0.09, "big": 0.155}
"""Radius of a shape as a fraction of the frame."""
MOTIONS = ("left", "right", "up", "down", "still")
SIDES = {"left": (0.15, 0.27), "middle": (0.43, 0.57), "right": (0.73, 0.85)}
"""The thirds in which a shape may be at the start and at the end, with clear gaps between them."""
DISTANCES = {"near": (1.2, 2.0), "far": (4.0, 5.5)}
MOMENTS = {"start": (0.42, 0.54), "middle": (1.8, 2.1), "end": (3.26, 3.36)}
"""Middle of a burst's onsets, seconds: one range for each third of the clip."""
SOUNDS = ("bell", "drum", "siren", "chirp", "hum")
SOUND_SPACING, SOUND_LENGTH = 0.34, 0.3
"""Seconds from one sound of a burst to the next, and of each."""
GAINS = {"quiet": 0.09, "loud": 0.6}
TEXTURES = ("plain", "stripes", "checks", "dots", "clouds")
SPLITS = {"train": 0, "validation": 1, "test": 2}
FAST_FRAMES = 3
"""A flash lies between two frames of a 4-per-second grid: it starts one frame after a multiple of this."""


@dataclass(frozen=True)
class Item:
    """One shape and its path, which is linear, over the whole clip."""

    shape: str
    color: str
    size: str
    motion: str
    start: tuple[float, float]
    end: tuple[float, float]
    depth: float
    back: str  # color of its back
    scale: float = 1.0  # of its radius; the second camera sees a shape smaller

    @property
    def radius(self) -> float:
        """As a fraction of the frame."""
        return SIZES[self.size] * self.scale

    @property
    def distance(self) -> str:
        """`near` or `far`."""
        return "near" if self.depth <= DISTANCES["near"][1] else "far"

    def position(self, time: float | np.ndarray) -> np.ndarray:
        """Center at `time` seconds: `(..., 2)` of x, y."""
        part = np.clip(np.asarray(time, dtype=np.float64) / DURATION, 0, 1)[..., None]
        return (1 - part) * np.array(self.start) + part * np.array(self.end)

    def side(self, moment: str) -> str:
        """Third of the frame at the `start` or the `end`."""
        return side_of((self.start if moment == "start" else self.end)[0])


@dataclass(frozen=True)
class SoundEvent:
    """One sound: its kind, its onset in seconds and its peak amplitude."""

    kind: str
    onset: float
    gain: float


@dataclass(frozen=True)
class Background:
    """A texture in two muted colors; `angle` in radians, `period` a fraction of the frame."""

    texture: str
    colors: tuple[tuple[int, int, int], tuple[int, int, int]]
    angle: float
    period: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """A whole clip. `flashes` are frame numbers at which `items[flasher]` grows for two frames."""

    key: tuple[str, int, int]
    items: tuple[Item, ...]
    background: Background
    sounds: tuple[SoundEvent, ...]
    flasher: int
    flashes: tuple[int, ...]
    hidden: Item

    @property
    def bursts(self) -> tuple[tuple[SoundEvent, ...], ...]:
        """The sounds grouped into runs of one kind, in order of time."""
        return tuple(tuple(run) for _, run in groupby(self.sounds, lambda event: event.kind))


def side_of(x: float) -> str:
    """Name of the third that `x` in 0..1 lies in."""
    return ("left", "middle", "right")[min(int(x * 3), 2)]


def moment_of(onset: float) -> str:
    """Name of the third of the clip that a time in seconds lies in."""
    return ("start", "middle", "end")[min(int(onset / DURATION * 3), 2)]


def scene_rng(key: tuple[str, int, int], *use: int) -> np.random.Generator:
    """The random numbers of a scene, or of one use of it: of its sound, or of questions about it."""
    split, seed, index = key
    return np.random.default_rng([SPLITS[split], seed, index, *use])


def draw_scene(split: str, seed: int, index: int) -> Scene:
    """Draw the scene `index` of a split; the same key always gives the same scene.

    Raises: KeyError for an unknown split.
    """
    # Whoever changes the order in which random numbers are taken changes every clip.
    rng = scene_rng(key := (split, seed, index))
    items = _draw_items(rng)
    # A flash is over before the next frame of a grid of 4 frames a second.
    slots = np.arange(1, math.floor(DURATION * FPS / FAST_FRAMES) - 1, 2)
    chosen = rng.permutation(slots)[: int(rng.integers(0, 4))]
    flashes = tuple(int(slot) * FAST_FRAMES + 1 for slot in sorted(chosen))
    base = rng.integers(52, 104, size=3)
    base = (base + base.mean() * 1.5) / 2.5
    shift = rng.choice([-1, 1]) * rng.uniform(8, 20)
    first, second = (tuple(int(v) for v in np.clip(base + d, 20, 130)) for d in (0.0, shift))
    background = Background(
        texture=str(rng.choice(TEXTURES)),
        colors=(first, second),  # type: ignore[arg-type]
        angle=float(rng.uniform(0, math.pi)),
        period=float(rng.uniform(0.12, 0.3)),
        seed=int(rng.integers(2**31)),
    )
    sounds = _draw_sounds(rng)
    flasher = int(rng.integers(len(items)))
    hidden = _draw_item(rng, str(rng.choice(SHAPES)), str(rng.choice(list(COLORS))))
    hidden = replace(hidden, size="big", motion="still", start=(0.5, 0.16), end=(0.5, 0.16))
    return Scene(key, items, background, sounds, flasher, flashes, hidden)


def _draw_items(rng: np.random.Generator) -> tuple[Item, ...]:
    """One to three shapes of different shape and color that keep clear of each other the whole time."""
    count = int(rng.integers(1, 4))
    shapes = rng.permutation(SHAPES)[:count]
    colors = rng.permutation(list(COLORS))[:count]
    times = np.linspace(0, DURATION, 13)
    while True:
        items = tuple(_draw_item(rng, str(s), str(c)) for s, c in zip(shapes, colors, strict=True))
        if all(
            np.linalg.norm(one.position(times) - other.position(times), axis=-1).min()
            >= 0.95 * (one.radius + other.radius)
            for one, other in combinations(items, 2)
        ):
            return items


def _draw_item(rng: np.random.Generator, shape: str, color: str) -> Item:
    motion = str(rng.choice(MOTIONS))
    low, high = (float(rng.uniform(*SIDES[side])) for side in ("left", "right"))
    across = float(rng.uniform(0.17, 0.83))
    if motion in ("left", "right"):
        ends = ((low, across), (high, across))
    else:
        x = float(rng.uniform(*SIDES[str(rng.choice(list(SIDES)))]))
        ends = ((x, across), (x, across)) if motion == "still" else ((x, low), (x, high))
    start, end = reversed(ends) if motion in ("left", "up") else ends
    near, far = DISTANCES[str(rng.choice(list(DISTANCES)))]
    size = str(rng.choice(list(SIZES)))
    depth, back = float(rng.uniform(near, far)), str(rng.choice(list(COLORS)))
    return Item(shape, color, size, motion, start, end, depth, back)


def _draw_sounds(rng: np.random.Generator) -> tuple[SoundEvent, ...]:
    """Silence, a burst of one to three equal sounds, or two different sounds in different thirds."""
    plan = rng.random()
    gain = GAINS[str(rng.choice(list(GAINS)))] * float(rng.uniform(0.9, 1.1))
    kinds = [str(kind) for kind in rng.permutation(SOUNDS)[:2]]
    moments = sorted(rng.permutation(3)[:2])
    if plan < 0.12:
        return ()
    if plan < 0.7:
        count = int(rng.integers(1, 4))
        onset = float(rng.uniform(*MOMENTS[str(rng.choice(list(MOMENTS)))])) - SOUND_SPACING * (count - 1) / 2
        return tuple(SoundEvent(kinds[0], onset + i * SOUND_SPACING, gain) for i in range(count))
    onsets = [float(rng.uniform(*list(MOMENTS.values())[moment])) for moment in moments]
    return tuple(SoundEvent(kind, onset, gain) for kind, onset in zip(kinds, onsets, strict=True))
