"""MLVU dev, four choices about long videos, in seven tasks; the two that are judged by GPT-4 are left out.

json/1_plotQA.json ... 7_topic_reasoning.json; video/1_plotQA/<name> (or video/plotQA/<name>)
"""

from collections.abc import Sequence
from pathlib import Path

from lynx.datasets.annotations import Row, letter_of, read_rows
from lynx.datasets.base import Example, Prompt, Turn
from lynx.datasets.public import PublicDataset, by_clip, clip_file, watched
from lynx.types import MediaSource

TASKS = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    rows = []
    for file in files:
        for number, row in enumerate(read_rows(file)):
            rows.append((f"{file.stem}/{row.text('video')}", _turn(row, file.stem, number)))

    def media(clip: str) -> dict[str, MediaSource]:
        task, name = clip.split("/", 1)
        places = (f"video/{task}", f"video/{task.split('_', 1)[1]}", task, "video", "")
        return watched(clip_file(folder, places, str(Path(name).with_suffix(""))))

    return by_clip(rows, media)


def _turn(row: Row, task: str, number: int) -> Turn:
    """A question; in two rows of 2_needle the answer is not among the candidates, and nobody can be right."""
    options = row.texts("candidates")
    kind = task.split("_", 1)[1]
    return Turn(
        row.text("question"), letter_of(row.text("answer"), options), kind, options=options,
        id=f"{task}-{number}",
    )  # fmt: skip


MLVU = PublicDataset(
    "mlvu",
    {"test": [tuple(f"{task}.json" for task in TASKS)]},
    _read,
    {
        "lmms": Prompt(
            "{question}\n{options}\nOnly give the best option.\nBest option: (", "({letter}) {text}"
        ),
        "official": Prompt(
            "Question: {question}\nOptions:\n{options}\nOnly give the best option.\nBest Option: (",
            "({letter}) {text}",
            "Carefully watch this video and pay attention to every detail. Based on your observations, "
            "select the best option that accurately addresses the question.",
        ),
        "released": Prompt(
            "Select the best answer to the following multiple-choice question based on the video. Respond "
            "with only the letter (A, B, C, or D) of the correct option.\n{question}\n{options}\nAnswer:",
            "({letter}) {text}",
        ),
    },
)
