"""The world as a data set: clips drawn in memory when they are looked at, with their questions."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from lynx.datasets.base import Example, Wanted
from lynx.errors import DataError
from lynx.types import DepthClip, Frames, MediaSource, Waveform, sample_times
from lynx.world.questions.asking import ask
from lynx.world.questions.types import QUESTION_TYPES
from lynx.world.scene.animation import draw_clip
from lynx.world.scene.picture import draw_frames
from lynx.world.scene.scene import DURATION, FPS, SPLITS, Scene, draw_scene, scene_rng
from lynx.world.scene.sound import SAMPLE_RATE, render_sound
from lynx.world.scene.views import draw_depth, draw_second_view, intrinsics

RENDERER = 4
"""Version of the world's looks and sounds: raise it with every change, so that caches are made again."""
SCENES_PER_CLIP = 400
"""Scenes searched for a clip that allows a certain type of question; no two clips share any."""
QUESTIONS, EVALUATION = 101, 102
"""Last parts of the questions' seeds, so that training questions are independent of the scenes and of
evaluations."""


def check_key(split: str, seed: int) -> None:
    """Raise DataError where no clip has such a split or seed."""
    if split not in SPLITS:
        raise DataError(f"the world has no split {split!r}; its splits are {', '.join(SPLITS)}")
    if seed < 0:
        raise DataError(f"the seed of a clip is a number from 0 on, not {seed}")


def frame_numbers(frames: int) -> np.ndarray:
    """Numbers (at FPS) of the frames displayed at the middles of that many equal parts of a clip."""
    return np.floor(sample_times(DURATION, frames).numpy() * FPS + 1e-6).astype(int)


Renderer = Callable[[Scene, int, int], MediaSource]


def _frames(pictures: np.ndarray, times: torch.Tensor) -> Frames:
    return Frames(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), times, DURATION)


def _pictures(draw: Callable[[Scene, np.ndarray, int], np.ndarray]) -> Renderer:
    return lambda scene, frames, size: _frames(
        draw(scene, frame_numbers(frames), size), sample_times(DURATION, frames)
    )


def _depth(scene: Scene, frames: int, size: int) -> DepthClip:
    maps, poses = draw_depth(scene, frame_numbers(frames), size), np.repeat(np.eye(4)[None], frames, axis=0)
    times, matrix = sample_times(DURATION, frames).numpy(), intrinsics(size)[:3, :3]
    return DepthClip.of(maps, times=times, duration=DURATION, intrinsics=matrix, poses=poses)


def _high_fps(scene: Scene, frames: int, size: int) -> Frames:
    """Every frame that the clip's file has; the sense takes what it needs."""
    clip = draw_clip(scene, size)
    return _frames(clip, torch.arange(len(clip), dtype=torch.float64) / FPS)


RENDERERS: dict[str, Renderer] = {
    "video": _pictures(draw_frames),
    "audio": lambda scene, frames, size: Waveform(torch.from_numpy(render_sound(scene)), SAMPLE_RATE),
    "depth": _depth,
    "high_fps": _high_fps,
    "multi_view": _pictures(draw_second_view),
}
"""A sense's medium of a scene, in memory: from the scene, the number of frames and their size in pixels."""


@dataclass(frozen=True)
class SceneMedia(Mapping[str, MediaSource]):
    """The media of one scene, rendered when they are asked for."""

    scene: Scene
    senses: tuple[str, ...]
    frames: int
    size: int

    def __getitem__(self, sense: str) -> MediaSource:
        if sense not in self.senses:
            raise KeyError(sense)
        return RENDERERS[sense](self.scene, self.frames, self.size)

    def __iter__(self) -> Iterator[str]:
        return iter(self.senses)

    def __len__(self) -> int:
        return len(self.senses)


@dataclass(frozen=True)
class WorldDataset(Sequence[Example]):
    """Clips of the world with questions that their senses can answer, each drawn when it is looked at."""

    split: str  # "train", "validation" or "test": these share no clip, whatever the seed
    seed: int  # which clips of the split; 0 or more
    n: int  # number of clips
    senses: tuple[str, ...] = ("video", "audio")  # the media of every clip, and what its questions may need
    frames: int = 8  # at the middles of as many equal parts; sound and fast motion come whole
    size: int = 128  # width and height of the pictures, pixels
    types: Collection[str] | None = None  # types of questions that are kept; None: all
    per_type: int = 1  # maximum number of questions of one type about a clip
    focus: Sequence[str] = ()
    """Types of questions that clips are chosen for in turn, so that rare ones are asked often enough."""

    def __post_init__(self) -> None:
        check_key(self.split, self.seed)
        if unknown := [sense for sense in self.senses if sense not in RENDERERS]:
            raise DataError(f"the world has no {unknown[0]!r} in memory; it has {', '.join(RENDERERS)}")
        if unknown := [name for name in (*(self.types or ()), *self.focus) if name not in QUESTION_TYPES]:
            raise DataError(f"no question type {unknown[0]!r}; there are {', '.join(QUESTION_TYPES)}")

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(self.n)[index]]
        index = range(self.n)[index]
        scene = draw_scene(self.split, self.seed, index * SCENES_PER_CLIP if self.focus else index)
        if self.focus:
            kind = QUESTION_TYPES[self.focus[index % len(self.focus)]]
            numbers = range(index * SCENES_PER_CLIP, (index + 1) * SCENES_PER_CLIP)
            block = (draw_scene(self.split, self.seed, number) for number in numbers)
            scene = next((each for each in block if any(True for _ in kind.candidates(each))), scene)
        turns = ask(scene, scene_rng(scene.key, QUESTIONS), self.senses, self.per_type)
        name = f"{self.split}-{self.seed}-{scene.key[2]}"
        media = SceneMedia(scene, self.senses, self.frames, self.size)
        kept = tuple(turn for turn in turns if self.types is None or turn.type in self.types)
        return Example(name, media, kept, key=f"world{RENDERER}-{name}-{self.frames}x{self.size}")


def open_world(name: str, path: str | Path | None, wanted: Wanted) -> WorldDataset:
    """The world as a source of examples (`lynx.datasets.sources`): 1000 clips if no number is wanted."""
    if path is not None:
        raise DataError(f"the {name} is drawn, not read: it takes no path (given: {path})")
    more: dict[str, Any] = {"senses": wanted.senses} if wanted.senses is not None else {}
    n, types = wanted.n if wanted.n is not None else 1000, wanted.types or None
    return WorldDataset(wanted.split, wanted.seed, n, types=types, per_type=3, focus=wanted.focus, **more)
