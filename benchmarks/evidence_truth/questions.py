"""The questions that are measured, and the model that is asked: each task asks one type, about clips that no
other task looks at."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

import lynx
from benchmarks import ROOT
from lynx.evidence.evidence import Evidence
from lynx.model import Lynx
from lynx.session import Session
from lynx.types import VIDEO
from lynx.world.balanced_sampling import split_evenly
from lynx.world.dataset import RENDERERS
from lynx.world.places import ABSENT, Clip, Places, places
from lynx.world.questions.asking import Asked, ask_instances
from lynx.world.questions.types import QUESTION_TYPES
from lynx.world.scene.scene import COLORS, Scene, draw_scene, scene_rng

ADAPTERS = ("audio", "depth", "high_fps", "multi_view")
SPLIT = "test"
USE = 103
"""Last part of the questions' seeds: they are independent of training's and of other evaluations'."""
FRAMES, SIZE = 8, 128
"""Moments, and pixels of a side, of the clips, which are drawn in memory as in training."""
SENSES = {
    "picture": "video", "sound": "audio", "depth": "depth", "high_fps": "high_fps",
    "multi_view": "multi_view",
}
"""Groups of questions by the one sense that they need."""
TYPES: Mapping[str, tuple[str, ...]] = {
    "picture": (
        "color", "shape", "size", "motion", "where", "moves", "mover", "exist", "beside", "count",
    ),
    "sound": (
        "sound", "first_sound", "last_sound", "sound_time", "sound_count", "loudness", "heard",
    ),
    "depth": ("nearest", "distance"),
    "high_fps": ("flasher", "flash_color", "flashing", "flashes"),
    "multi_view": ("back", "hidden_shape", "hidden_color"),
    "both_senses": (
        "where_at_sound", "sound_at_side", "sound_while_side", "nearest_color", "nearest_at_sound",
        "nearest_and_sound",
    ),
}
PATIENCE = 60
"""Clips looked at for one question before its type's answers need no longer be balanced."""


@lru_cache(maxsize=1)
def load() -> Lynx:
    """The model with the adapters of all four senses, as a user has it."""
    torch.set_num_threads(1)
    return lynx.load("lynx-tiny", [ROOT / "adapters" / sense for sense in ADAPTERS])


@dataclass(frozen=True)
class Task:
    """`count` questions of a type that are answered right, about the clips `first`, `first` + `step`, ..."""

    group: str
    type: str
    count: int
    seed: int
    first: int
    step: int

    @property
    def name(self) -> str:
        """For files and the progress bar."""
        return f"{self.group}.{self.type}"


@dataclass(frozen=True)
class Case:
    """A question with its answer's evidence and its truth: cells (T, rows, columns) bool by sense."""

    index: int
    asked: Asked
    clip: Clip
    answer: str
    evidence: Evidence
    truth: Places

    @property
    def needed(self) -> tuple[str, ...]:
        """The senses that it needs; the picture too where it names a color that no other sense shows."""
        senses = self.asked.turn.senses
        named = VIDEO not in senses and set(self.asked.turn.question.split()) & set(COLORS)
        return (VIDEO, *senses) if named and senses != ("high_fps",) else senses

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.answer == self.asked.turn.answer


def tasks(n: int, seed: int, groups: Sequence[str]) -> list[Task]:
    """`n` questions of each group, a third as many of those that need several senses, as evenly as possible
    over its types; the same whatever else is run."""
    every = [(group, kind) for group, kinds in TYPES.items() for kind in kinds]
    amounts = {group: n // 3 + 1 if group == "both_senses" else n for group in TYPES}
    counts = {group: split_evenly(amounts[group], kinds) for group, kinds in TYPES.items()}
    return [
        Task(group, kind, counts[group][kind], seed, place, len(every))
        for place, (group, kind) in enumerate(every)
        if group in groups and counts[group][kind]
    ]


def ask_task(model: Lynx, task: Task, done: Sequence[Mapping[str, Any]] = ()) -> Iterator[Case]:
    """Ask until so many answers are right; yields wrong ones too.

    done: rows of an earlier run, with "index", "expected" and "right": it goes on behind them.
    """
    kind = QUESTION_TYPES[task.type]
    wanted = set(kind.answers) - set(ABSENT.get(task.type, ()))
    right = Counter(row["expected"] for row in done if row["right"])
    index = max((row["index"] for row in done), default=task.first - task.step) + task.step
    while right.total() < task.count:
        patient = index < task.step * PATIENCE * task.count
        scene = draw_scene(SPLIT, task.seed, index)

        def allowed(answer: str, patient: bool = patient) -> bool:
            ahead = right[answer] - min(right[each] for each in wanted)
            return answer in wanted and (not patient or ahead <= task.count // len(wanted) // 4)

        for asked in ask_instances(kind, scene, scene_rng(scene.key, USE), 1, allowed):
            clip = Clip(scene, FRAMES, model.backbone.token_grid)
            if truth := places(asked, clip):
                session = open_session(model, scene, kind.senses)
                answer = session.ask(asked.turn.question).strip()
                assert session.evidence is not None
                case = Case(index, asked, clip, answer, session.evidence, truth)
                right[asked.turn.answer] += case.right
                yield case
                model.drop_kept(in_use=0)
        index += task.step


def open_session(model: Lynx, scene: Scene, needed: Sequence[str]) -> Session:
    """A conversation as a user has it: video and what is needed; beside video alone, sound."""
    senses = dict.fromkeys((VIDEO, *needed)) if set(needed) != {VIDEO} else (VIDEO, "audio")
    return model.chat(**{sense: RENDERERS[sense](scene, FRAMES, SIZE) for sense in senses})
