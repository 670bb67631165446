"""From the plain record of an answer to what is drawn and said of it: lanes, curves, sentences. No model."""

import math
from collections.abc import Mapping

import torch

from lynx.evidence.attribution import TEXT
from lynx.evidence.record import Record
from lynx.types import Frames
from lynx.visualization.drawing import Curve, Lane, add_moments, strongest
from lynx.visualization.heat import THRESHOLD

NATS, SHARE = "nats", "share"
CURVE_LABELS = {NATS: "nats at each moment", SHARE: "attention"}
WORDS = {NATS: "the words alone", SHARE: "the words"}
"""What the part of TEXT is called beside the senses' names."""
MILLION = 1e6


def lanes_of(
    record: Record, found: Record, frames: Mapping[str, Frames], threshold: float | None = None
) -> list[Lane]:
    """A lane for each sense that has frames, with the heat of `found`, one of the record's attributions.

    Evidence in nats has one scale for all senses; attention one a sense. threshold: part of the strongest
    value below which evidence is not drawn; by default THRESHOLD.
    """
    maps = {sense: torch.tensor(values) for sense, values in found["values"].items()}  # (T, rows, cols)
    signed = found["unit"] == NATS
    full = strongest(maps.values()) if signed else 0.0
    lanes = []
    for sense, about in record["senses"].items():
        if sense in frames and sense in maps:
            count = len(frames[sense])
            heat = maps[sense][torch.arange(count) // -(-count // len(maps[sense]))]  # (frames, rows, cols)
            label, fill = about["label"], about["spectrogram"]
            cut = THRESHOLD if threshold is None else threshold
            lanes.append(Lane(sense, label, frames[sense], heat, fill, 0.0, full, signed, cut * signed))
    return lanes


def curves_of(record: Record, found: Record) -> list[Curve]:
    """What the words rest on in each sense over time."""
    curves = []
    for sense, values in found["values"].items():
        times = torch.tensor(record["senses"][sense]["times"], dtype=torch.float64)
        curves.append(add_moments(sense, times, torch.tensor(values).sum(dim=(1, 2))))
    return curves


def labels_of(record: Record, unit: str = NATS) -> dict[str, str]:
    """The senses' names for people, that of the words included."""
    return {sense: about["label"] for sense, about in record["senses"].items()} | {TEXT: WORDS[unit]}


def heading(found: Record) -> str:
    """What is drawn, as a title."""
    word = "the whole answer" if found["text"] is None else f"“{found['text']}”"
    start, end = ("What makes", " more likely") if found["unit"] == NATS else ("Attention during", "")
    return f"{start} {word}{end}"


def factor(nats: float) -> str:
    """So many nats as a factor, for people: "4,800 times", "over a million times"."""
    times = math.exp(min(abs(nats), 100.0))
    if times >= MILLION:
        return "over a million times"
    return f"{float(f'{times:.2g}'):,.0f} times" if times >= 9.95 else f"{times:.1f} times"


def gained_sentence(found: Record) -> str | None:
    """How much more likely the media make the words; None for attention, which cannot say it."""
    if found["gained"] is None:
        return None
    what, gained = "the answer" if found["text"] is None else "this word", found["gained"]
    if abs(gained) < 0.05:
        return f"With the clip {what} is as likely as with nothing to see or hear."
    more = "more" if gained > 0 else "less"
    missed = abs(found["missed"] or 0.0)
    estimated = f", {missed:.1f} of them placed by estimate" if missed >= 0.05 else ""
    return (
        f"The clip makes {what} {factor(gained)} {more} likely than nothing to see or hear would "
        f"({gained:+.1f} nats{estimated})."
    )


def said_sentence(record: Record, found: Record) -> str | None:
    """How probable the word was where it was said, and what else might have stood there; None if unknown."""
    if found["word"] is None or "probability" not in record["words"][found["word"]]:
        return None
    word = record["words"][found["word"]]
    said = f"It was said with a probability of {percent(word['probability'])}"
    others = [
        f"{other['text'].strip() or other['text']!r} {percent(other['probability'])}"
        for other in record["tokens"][word["tokens"][0]]["others"][:3]
        if other["probability"] >= 0.005
    ]
    return f"{said}; next came {', '.join(others)}." if others else f"{said}."


def percent(part: float) -> str:
    """A probability for people."""
    if part >= 0.995:
        return "over 99 %"
    return f"{100 * part:.0f} %" if part >= 0.01 else "under 1 %"


def is_drawn(lane: Lane) -> bool:
    """Whether any heat of a lane is strong enough to be seen."""
    scaled = lane.scaled()
    return scaled is not None and bool((scaled.abs() > max(lane.threshold, 0.01)).any())
