"""The methods by which evidence is computed, by name: a table, and what each of them calls.

A name may end in ":" and the layers that are looked at, "attention:late" or "attention:3". Thirds of the
layers overlap by one where their number is no multiple of three.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lynx.errors import LynxError
from lynx.evidence.attention import AttentionRows, replayed_attention
from lynx.evidence.attribution import TEXT, Attribution
from lynx.evidence.gradient_attention import gradient_x_attention
from lynx.evidence.hiding import PASSES, hide_each
from lynx.evidence.integrated_gradients import STEPS, Progress, integrated_gradients
from lynx.evidence.replay import Answered, Replay


@dataclass(frozen=True)
class Method:
    """A way to tell what a word rests on.

    label: its name for people; shows: one sentence on what it shows. unit: see `Attribution`.
    """

    name: str
    label: str
    shows: str
    unit: str = "share"


ATTRIBUTION, ATTENTION = "attribution", "attention"
GRADIENT_X_ATTENTION, HIDING = "gradient_x_attention", "hiding"
THIRDS = ("early", "middle", "late")

_LOOKED = "Where the model looked as it wrote the word"
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            ATTRIBUTION,
            "attribution",
            "What makes the word more likely, or less, than if there were nothing to see or hear.",
            "nats",
        ),
        Method(ATTENTION, "attention", f"{_LOOKED}, which hardly tells what it rests on."),
        *(
            Method(f"{ATTENTION}:{third}", f"attention, {third} layers", f"{_LOOKED}, in its {third} layers.")
            for third in THIRDS
        ),
        Method(
            GRADIENT_X_ATTENTION,
            "gradient x attention",
            f"{_LOOKED}, counted only where looking there more would make the word more likely.",
        ),
        Method(
            HIDING,
            "hide each",
            "How much less likely the word becomes when this part alone is hidden.",
            "nats",
        ),
    )
}
"""By name; "attention:N" and "gradient_x_attention:N" look at one layer, from 0: see `find_method`."""


def find_method(name: str) -> Method:
    """The method of a name. Raises: LynxError where there is none; it names those there are."""
    if name in METHODS:
        return METHODS[name]
    base, _, part = name.partition(":")
    if base in (ATTENTION, GRADIENT_X_ATTENTION) and (part in THIRDS or (part.isdecimal() and len(part) < 5)):
        which = f"{part} layers" if part in THIRDS else f"layer {part}"
        return replace(METHODS[base], name=name, label=f"{METHODS[base].label}, {which}")
    raise LynxError(
        f"there is no method {name!r} of evidence: expected one of {', '.join(METHODS)}, or one layer as in "
        f"{ATTENTION}:0"
    )


def explain(
    answered: Answered, recorded: AttentionRows, tokens: Sequence[int], name: str,
    progress: Progress | None = None,
) -> Attribution:
    """What the tokens at these indices of the answer's ids rest on, by the method of this name.

    recorded: the answer's own attention. Of no tokens everything is 0. progress: told of the passes done,
    between which others may use the model; methods of one pass tell nothing.
    Raises: LynxError: no such method or layer; the adapters have changed.
    """
    method = find_method(name)
    if not tokens:
        values = {sense: torch.zeros(len(stream.times)) for sense, stream in answered.streams.items()}
        totals = dict.fromkeys((*values, TEXT), 0.0)
        gained = 0.0 if method.unit == "nats" else None
        return Attribution(name, method.unit, values, answered.streams, totals, gained)
    base, _, part = name.partition(":")
    with answered.replay(shared=base in (ATTRIBUTION, HIDING)) as replay:
        if base == ATTRIBUTION:
            return _integrated(replay, tokens, progress)
        if base == HIDING:
            return _hidden(replay, tokens, progress)
        layers = layers_of(part, len(replay.backbone.text_attention_modules()))
        if base == ATTENTION:
            rows = replayed_attention(replay, recorded, tokens, layers)
        else:
            rows = gradient_x_attention(replay, recorded, tokens, layers)
    return rows.attribution(range(len(rows.rows)), name)


def parameters_of(name: str) -> dict[str, Any]:
    """What a method is computed with, as plain data."""
    base, _, part = name.partition(":")
    if base == ATTRIBUTION:
        return {"steps": STEPS, "from": "blank media"}
    if base == HIDING:
        return {"parts": PASSES, "behind": "blank media"}
    return {"layers": int(part) if part.isdecimal() else part or "all"}


def layers_of(part: str, count: int) -> Sequence[int]:
    """The layers that the end of a method's name means, of `count`."""
    if not part:
        return range(count)
    if part in THIRDS:  # rounded outwards, so that none is empty
        third = THIRDS.index(part)
        return range(third * count // 3, -(-(third + 1) * count // 3))
    if int(part) >= count:
        raise LynxError(f"there is no layer {int(part)}: this model has {count}, 0 to {count - 1}")
    return [int(part)]


def _integrated(replay: Replay, tokens: Sequence[int], progress: Progress | None) -> Attribution:
    found = integrated_gradients(replay, tokens, progress=progress)
    values = {sense: found.values[span] for sense, span in replay.spans.items()}
    totals = {sense: float(mine.sum()) for sense, mine in values.items()}
    totals[TEXT] = _above_chance(replay, tokens, found.blank)
    return Attribution(
        ATTRIBUTION, "nats", values, replay.streams, totals, found.real - found.blank, found.missed
    )


def _hidden(replay: Replay, tokens: Sequence[int], progress: Progress | None) -> Attribution:
    found = hide_each(replay, tokens, progress=progress)
    totals = {**found.whole, TEXT: _above_chance(replay, tokens, found.blank)}
    return Attribution(HIDING, "nats", found.values, replay.streams, totals, found.real - found.blank)


def _above_chance(replay: Replay, tokens: Sequence[int], score: float) -> float:
    """Nats by which a log-probability of the tokens exceeds that of tokens drawn from the vocabulary."""
    return score + len(tokens) * math.log(replay.backbone.model.get_input_embeddings().num_embeddings)
