"""The figures of one answer: pointing, mass, needed share, deletion and insertion."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.evidence_truth.maps import BATCH, Maps
from lynx.evidence.attribution import TEXT
from lynx.evidence.replay import Replay
from lynx.types import Stream

FRACTIONS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)
"""Shares of the needed senses' tokens at which p(answer) is taken: most answers rest on few tokens."""


def on_cells(values: Tensor, stream: Stream) -> np.ndarray:
    """Values (k,) of a stream's tokens without newlines: (T, rows, columns)."""
    return values[~stream.times.isnan()].view(-1, *stream.grid).float().numpy()


def pointing(cells: np.ndarray, truth: np.ndarray) -> float:
    """1 where the strongest cell is true, else 0."""
    return float(truth.flat[int(cells.argmax())])


def mass(cells: np.ndarray, truth: np.ndarray) -> float:
    """Share of the values above 0 that lies on true cells, 0..1; 0 where there are none."""
    above = cells.clip(min=0)
    return float(above[truth].sum() / total) if (total := above.sum()) > 0 else 0.0


def needed_nats(totals: Mapping[str, float], needed: Sequence[str]) -> tuple[float, float]:
    """Nats for the answer of the needed senses, and of all senses; what speaks against it counts as 0."""
    above = {sense: max(0.0, nats) for sense, nats in totals.items() if sense != TEXT}
    return sum(above[sense] for sense in needed), sum(above.values())


@torch.no_grad()
def curves(replay: Replay, tokens: Sequence[int], maps: Maps) -> dict[str, list[float]]:
    """p(answer), 0..1, at FRACTIONS, while the strongest tokens of all needed senses together become blank
    (deletion), or come back into blank needed senses (insertion); the other senses stay as they are."""
    spans = {sense: replay.spans[sense][~replay.streams[sense].times.isnan()] for sense in maps}
    every = torch.cat(list(spans.values()))
    values = torch.cat([maps[sense][~replay.streams[sense].times.isnan()] for sense in maps])
    order = every[values.argsort(descending=True, stable=True)]
    bare = replay.inputs.clone()
    bare[0, every] = replay.blank[0, every]
    found = {}
    for name, begin, end in (("deletion", replay.inputs, bare), ("insertion", bare, replay.inputs)):
        prompts = begin.repeat(len(FRACTIONS), 1, 1)
        for prompt, fraction in zip(prompts, FRACTIONS, strict=True):
            changed = order[: round(fraction * len(order))]
            prompt[changed] = end[0, changed]
        scores = torch.cat([replay.log_probs(part, tokens) for part in prompts.split(BATCH)])
        found[name] = [round(p, 4) for p in scores.exp().tolist()]
    return found


def area(curve: Sequence[float]) -> float:
    """Area under a curve at FRACTIONS, by the trapezoid rule."""
    return float(np.trapezoid(curve, FRACTIONS))
