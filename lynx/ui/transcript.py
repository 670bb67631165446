"""A conversation as plain data: what `/ask` returns on request, and what is saved. No Gradio.

`docs/app.md` describes every key. A change of their meaning raises VERSION.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lynx.evidence.methods import ATTRIBUTION
from lynx.evidence.record import find_attribution
from lynx.ui.types import ChatTurn, EvidenceView, Setup

FORMAT, VERSION = "lynx-conversation", 1
Record = dict[str, Any]
"""Of strings, numbers, lists and None only."""
KEPT = ("method", "unit", "gained", "missed", "totals")
"""What is kept of an attribution: sums, and no values of single places."""


def transcript(turns: Sequence[ChatTurn]) -> Record:
    """The record of a conversation."""
    return {"format": FORMAT, "version": VERSION, "turns": [turn_record(turn) for turn in turns]}


def transcript_json(turns: Sequence[ChatTurn]) -> str:
    """The same as text, with a line end."""
    return json.dumps(transcript(turns), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def turn_record(turn: ChatTurn) -> Record:
    """A question and its answer, with the model, the clip's names, and what the answer rests on."""
    moments = turn.clip.moments
    return {
        "question": turn.question,
        "answer": turn.answer,
        "stopped": turn.stopped,
        "model": model_record(turn.setup),
        "clip": {
            "files": [Path(path).name for path in turn.clip.paths],
            "start": moments.start,
            "end": moments.end,
        },
        "senses": {
            name: {"label": turn.labels.get(name, name), "frames": frames, "seconds": seconds}
            for name, (frames, seconds) in turn.used.items()
        },
        "notes": list(turn.notes),
        **_evidence(turn.evidence),
    }


def model_record(setup: Setup) -> Record:
    """A setup by names: of a folder the last part of its path, so that a record can be given away."""
    return {
        "backbone": source_name(setup.backbone),
        "precision": setup.precision,
        "adapters": [source_name(source) for source in setup.adapters],
    }


def source_name(source: str) -> str:
    """The name of a backbone or adapter, for people: of a folder its last part, a Hub id as it is."""
    path = Path(source)
    is_folder = path.is_absolute() or path.parts[:1] in (("adapters",), ("..",), ("~",))
    return path.name if is_folder else source


def _evidence(view: EvidenceView | None) -> Record:
    """The words with their probabilities, and each sense's part in the whole answer, as far as known."""
    words: list[Record] = []
    found: Mapping[str, Any] | None = None
    if view is not None:
        said = view.record["words"]
        words = [{"text": word["text"], "probability": word.get("probability")} for word in said]
        found = find_attribution(view.record, view.first[0], ATTRIBUTION)
    return {"words": words, "evidence": {key: found[key] for key in KEPT} if found else None}
