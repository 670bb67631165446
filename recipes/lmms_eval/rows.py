"""How lmms-eval reads and scores the rows of `rows.jsonl`; their clips lie in the checkout."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def visuals(row: dict[str, Any]) -> list[str]:
    """What a row shows: its clip, whose sound is in the same file."""
    return [str(ROOT / row["clip"])]


def score(row: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Whether the answer is the right word."""
    return {"accuracy": float(answers[0].strip().lower() == row["answer"])}
