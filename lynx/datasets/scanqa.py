"""ScanQA, questions about scanned rooms (ScanNet), each with several answers.

ScanQA_v1.0_train.json, ScanQA_v1.0_val.json (the benchmark), or llava-3d-scanqa_val_question.json with
llava3d_scanqa_val_answer.json; frames_square/<scene>/ or scans/<scene>/ with color/N.jpg, depth/N.png,
pose/N.txt and intrinsic_depth.txt or intrinsic/intrinsic_depth.txt
"""

import re
from collections.abc import Sequence
from pathlib import Path

from lynx.datasets.annotations import Row, read_rows
from lynx.datasets.base import Example, Turn
from lynx.datasets.public import BARE, PublicDataset, by_clip, scan

KINDS = {
    "Place": "Where",
    "Number": "How many",
    "Color": "What color|What is the color",
    "Object nature": "What shape|What type|What kind",
    "Object": "What is",
}
"""Kinds of questions, by how they begin; the first that fits."""


def kind_of(question: str) -> str:
    """The kind of a question, as the official repository has it."""
    return next((name for name, begins in KINDS.items() if re.match(begins, question, re.I)), "Other")


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    if len(files) == 1:
        turns = [_turn(row, "question", row.texts("answers")) for row in read_rows(files[0])]
    else:
        answers = {row.name("question_id"): row.texts("text") for row in read_rows(files[1])}
        turns = []
        for row in read_rows(files[0]):
            if (id := row.name("question_id")) not in answers:
                raise row.error("question_id", f"one of those in {files[1].name}")
            turns.append(_turn(row, "text", answers[id]))
    return by_clip(turns, lambda scene: scan(folder, scene))


def _turn(row: Row, key: str, answers: tuple[str, ...]) -> tuple[str, Turn]:
    """The scene and the question."""
    question, id = row.text(key), row.name("question_id")
    return row.text("scene_id"), Turn(question, answers[0], kind_of(question), answers=answers, id=id)


SCANQA = PublicDataset(
    "scanqa",
    {
        "val": [
            ("ScanQA_v1.0_val.json",),
            ("llava-3d-scanqa_val_question.json", "llava3d_scanqa_val_answer.json"),
        ],
        "train": [("ScanQA_v1.0_train.json",)],
    },
    _read,
    {"released": BARE},
    "val",
)
