"""The batch of a training step of the embedded backbone, a function of the step's number alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lynx.backbones import Backbone
from lynx.datasets.base import Turn
from lynx.training.packing import Packed, Packer
from lynx.world.dataset import frame_numbers
from lynx.world.pretraining.dense import dense_targets
from lynx.world.pretraining.model import FRAMES, IMAGE_SIZE, PATCH_SIZE
from lynx.world.pretraining.text import SENSES, guess, tell
from lynx.world.questions.asking import ask
from lynx.world.scene.picture import draw_frames
from lynx.world.scene.scene import DURATION, FPS, Scene, draw_scene

GRID = IMAGE_SIZE // PATCH_SIZE
DRAWN = 128
"""Frames are drawn at this size and made small as the backbone's preprocessing does."""
SCENES = {"vision": 0, "text": 1, "joint": 2}
"""The seed of each phase's scenes, within the training split."""
PLACES = ("where", "motion", "moves", "mover", "beside")
"""The types of questions that rest on where things are."""


@dataclass(frozen=True)
class FrameBatch:
    """Frames with what every patch of them shows, see `dense_targets`."""

    pixels: Tensor  # (T, 3, H, W) preprocessed
    classes: Tensor  # (T, N, 2)
    places: Tensor  # (T, N, 3)


def _frame_batch(backbone: Backbone, shown: Sequence[tuple[Scene, np.ndarray]]) -> FrameBatch:
    """The frames of these numbers of each scene, drawn and preprocessed."""
    frames = [torch.from_numpy(draw_frames(*each, DRAWN)).permute(0, 3, 1, 2) for each in shown]
    targets = [map(torch.from_numpy, dense_targets(*each, GRID)) for each in shown]
    classes, places = (torch.cat(parts) for parts in zip(*targets, strict=True))
    return FrameBatch(torch.cat([backbone.pixels(each) for each in frames]), classes, places)


def vision_batch(backbone: Backbone, step: int, frames: int = 96) -> FrameBatch:
    """Single frames, two of a scene."""
    shown = []
    for index in range(frames // 2):
        numbers = np.random.default_rng([step, index]).integers(0, int(DURATION * FPS), 2)
        shown.append((draw_scene("train", SCENES["vision"], step * frames + index), numbers))
    return _frame_batch(backbone, shown)


def text_batch(packer: Packer, step: int, scenes: int = 24, rank: int = 0) -> Packed:
    """Told scenes with questions; every fourth batch as conversations."""
    texts, turns = [], []
    for index in range(scenes):
        rng = np.random.default_rng([step, index, rank])
        text, asked = tell(draw_scene("train", SCENES["text"], (step * 8 + rank) * scenes + index), rng)
        texts.append(text)
        turns.append(_choose(asked, rng, 10))
    return packer.pack([()] * scenes, turns, conversation=step % 4 == 3, contexts=texts)


def _choose(turns: list[Turn], rng: np.random.Generator, count: int) -> list[Turn]:
    return [turns[i] for i in rng.permutation(len(turns))[:count]]


def joint_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Questions about the video, most of them about places, which are learned last, and one it cannot answer.

    That one is about a sense that the video does not show; its answer is drawn at random.
    """
    seen = ask(scene, rng, ("video",), per_type=3)
    placed = [turn for turn in seen if turn.type in PLACES]
    others = [turn for turn in seen if turn.type not in PLACES]
    blind = [turn for turn in ask(scene, rng, ("video", *SENSES)) if turn.senses != ("video",)]
    guesses = [guess(turn, rng) for turn in _choose(blind, rng, 1)]
    return _choose(_choose(placed, rng, 9) + _choose(others, rng, 3) + guesses, rng, 13)


def joint_batch(
    backbone: Backbone, step: int, rank: int, processes: int, clips: int = 16
) -> tuple[FrameBatch, list[list[Turn]]]:
    """Clips of FRAMES frames each, one after the other, and the questions about each."""
    shown, turns = [], []
    for index in range(clips):
        scene = draw_scene("train", SCENES["joint"], (step * processes + rank) * clips + index)
        shown.append((scene, frame_numbers(FRAMES)))
        turns.append(joint_turns(scene, np.random.default_rng([step, rank, index])))
    return _frame_batch(backbone, shown), turns
