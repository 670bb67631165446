"""SQA3D, questions of someone who stands somewhere in a scanned room (ScanNet).

v1_balanced_questions_<split>_scannetv2.json with v1_balanced_sqa_annotations_<split>_scannetv2.json, or
SQA_<split>.json, or llava3d_sqa3d_test_question.json with llava3d_sqa3d_test_answer.json; scans as in
ScanQA
"""

from collections.abc import Sequence
from pathlib import Path

from lynx.datasets.annotations import Row, read_rows
from lynx.datasets.base import Example, Turn
from lynx.datasets.public import BARE, PublicDataset, by_clip, scan

KINDS = ("What", "Is", "How", "Can", "Which")
"""Kinds of questions, by their first word."""


def kind_of(question: str) -> str:
    """The kind of a question."""
    first = question.split()[0].capitalize()
    return first if first in KINDS else "Other"


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    if len(files) == 1:
        rows = [_turn(row, row.text("question"), row.texts("answers")) for row in read_rows(files[0])]
    elif files[0].name.startswith("llava3d"):
        answers = {row.name("question_id"): row for row in read_rows(files[1])}
        rows = [_converted(row, _joined(row, answers, files[1])) for row in read_rows(files[0])]
    else:
        answers = {row.name("question_id"): row for row in read_rows(files[1], "annotations")}
        rows = [
            _turn(row, row.text("question"), _texts(_joined(row, answers, files[1])))
            for row in read_rows(files[0], "questions")
        ]
    return by_clip(rows, lambda scene: scan(folder, scene))


def _joined(row: Row, answers: dict[str, Row], file: Path) -> Row:
    if (found := answers.get(row.name("question_id"))) is None:
        raise row.error("question_id", f"one of those in {file.name}")
    return found


def _texts(row: Row) -> tuple[str, ...]:
    return tuple(each.text("answer") for each in row.rows("answers"))


def _turn(row: Row, question: str, answers: tuple[str, ...]) -> tuple[str, Turn]:
    """The scene and the question, which the situation stands before."""
    text = f"{row.text('situation')} {question}"
    asked = Turn(text, answers[0], kind_of(question), answers=answers, id=row.name("question_id"))
    return row.text("scene_id"), asked


def _converted(row: Row, answer: Row) -> tuple[str, Turn]:
    """The same of LLaVA-3D's form: the text has both, and the kind is a number."""
    kind = answer.values.get("type")
    if type(kind) is not int or not 0 <= kind <= len(KINDS):
        raise answer.error("type", f"a number from 0 to {len(KINDS)}")
    asked = Turn(row.text("text"), answer.text("text"), (*KINDS, "Other")[kind], id=row.name("question_id"))
    return row.text("scene_id"), asked


def _split(name: str) -> list[tuple[str, ...]]:
    files = ("v1_balanced_questions", "v1_balanced_sqa_annotations")
    return [tuple(f"{file}_{name}_scannetv2.json" for file in files), (f"SQA_{name}.json",)]


SQA3D = PublicDataset(
    "sqa3d",
    {
        "test": [*_split("test"), ("llava3d_sqa3d_test_question.json", "llava3d_sqa3d_test_answer.json")],
        "val": _split("val"),
        "train": _split("train"),
    },
    _read,
    {"released": BARE},
)
