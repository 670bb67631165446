"""What a training step of the embedded backbone sees; it follows from the number of the step alone."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lynx.datasets.base import Turn
from lynx.world.pretraining.dense import dense_targets
from lynx.world.pretraining.model import FRAMES, IMAGE_SIZE, PATCH_SIZE
from lynx.world.pretraining.packing import Packed, Packer
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


def pixels_of(frames: np.ndarray) -> Tensor:
    """The backbone's preprocessing of drawn frames `(T, H, W, 3)` uint8: `(T, 3, 64, 64)` in -1..1."""
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    small = F.interpolate(
        tensor, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False, antialias=True
    )
    return (small.float() - 127.5) / 127.5


def frame_numbers() -> np.ndarray:
    """Numbers of the frames displayed at the middles of `FRAMES` equal parts of a clip."""
    times = (np.arange(FRAMES) + 0.5) * DURATION / FRAMES
    return np.floor(times * FPS + 1e-6).astype(int)


def vision_batch(step: int, frames: int = 96) -> tuple[Tensor, Tensor, Tensor]:
    """Single frames with dense labels: pixels `(T, 3, 64, 64)`, classes, places."""
    pixels, classes, places = [], [], []
    for index in range(frames // 2):
        scene = draw_scene("train", SCENES["vision"], step * frames + index)
        numbers = np.random.default_rng([step, index]).integers(0, int(DURATION * FPS), 2)
        pixels.append(pixels_of(draw_frames(scene, numbers, DRAWN)))
        one, other = dense_targets(scene, numbers, GRID)
        classes.append(torch.from_numpy(one))
        places.append(torch.from_numpy(other))
    return torch.cat(pixels), torch.cat(classes), torch.cat(places)


def text_batch(step: int, packer: Packer, scenes: int = 24, rank: int = 0) -> Packed:
    """Told scenes with questions; every fourth batch as conversations."""
    prefixes, turns = [], []
    for index in range(scenes):
        rng = np.random.default_rng([step, index, rank])
        text, asked = tell(draw_scene("train", SCENES["text"], (step * 8 + rank) * scenes + index), rng)
        prefixes.append(
            packer.tokens("<|im_start|>user") + packer.tokenizer(text, add_special_tokens=False).input_ids
        )
        turns.append(_choose(asked, rng, 10))
    return packer.pack(prefixes, turns, conversation=step % 4 == 3)


def _choose(turns: list[Turn], rng: np.random.Generator, count: int) -> list[Turn]:
    return [turns[i] for i in rng.permutation(len(turns))[:count]]


def joint_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Questions about the video, most of them about places, which are learned last, and one it cannot answer.

    That one is about a sense that the video does not show, and its answer is drawn at random.
    """
    seen = ask(scene, rng, ("video",), per_type=3)
    placed = [turn for turn in seen if turn.type in PLACES]
    others = [turn for turn in seen if turn.type not in PLACES]
    blind = [turn for turn in ask(scene, rng, ("video", *SENSES)) if turn.senses != ("video",)]
    guesses = [guess(turn, rng) for turn in _choose(blind, rng, 1)]
    return _choose(_choose(placed, rng, 9) + _choose(others, rng, 3) + guesses, rng, 13)


def joint_batch(
    step: int, rank: int, processes: int, packer: Packer, clips: int = 16
) -> tuple[Tensor, Packed, Tensor, Tensor]:
    """Clips with questions: pixels `(B, T, 3, 64, 64)`, the packed questions, dense targets."""
    numbers = frame_numbers()
    pixels, turns, classes, places = [], [], [], []
    for index in range(clips):
        scene = draw_scene("train", SCENES["joint"], (step * processes + rank) * clips + index)
        rng = np.random.default_rng([step, rank, index])
        pixels.append(pixels_of(draw_frames(scene, numbers, DRAWN)))
        one, other = dense_targets(scene, numbers, GRID)
        classes.append(torch.from_numpy(one))
        places.append(torch.from_numpy(other))
        turns.append(joint_turns(scene, rng))
    tokens = FRAMES * math.ceil(GRID / 2) ** 2 + 1
    prefix = packer.tokens("<|im_start|>user") + packer.tokens("<video>") * tokens
    batch = packer.pack([prefix] * clips, turns, conversation=step % 4 == 3)
    return torch.stack(pixels), batch, torch.cat(classes), torch.cat(places)
