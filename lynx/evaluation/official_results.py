"""Files of results in the form that a benchmark's own scorer reads."""

from collections.abc import Sequence
from typing import Any

from lynx.datasets.base import LETTERS
from lynx.evaluation.predictions import Prediction


def video_mme(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Of each video its questions with their responses."""
    videos: dict[str, dict[str, Any]] = {}
    for each in predictions:
        row = each.answered
        video = {"video_id": row.id.rpartition("-")[0], **dict(row.groups), "questions": []}
        videos.setdefault(row.clip, video)["questions"].append(
            {
                "question_id": row.id,
                "task_type": row.type,
                "question": each.prompt,
                "options": [f"{letter}. {text}" for letter, text in zip(LETTERS, row.options, strict=False)],
                "answer": row.answers[0],
                "response": row.prediction,
            }
        )
    return list(videos.values())
