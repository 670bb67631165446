"""Mixup (arXiv 1710.09412) of clips that are asked the same: their tokens in shares, and both answers.

Tokens halfway between two clips are to give half the weight to either answer. A language model that has seen
few clips then keeps to straight lines between them, instead of learning them by heart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lynx.datasets.base import Turn
from lynx.types import Stream


@dataclass(frozen=True)
class WeightedClip:
    """A clip in a batch: its streams, and its questions, each with its weight in the loss.

    A question that has two answers stands there twice.
    """

    streams: list[Stream]
    turns: list[Turn]
    weights: list[float]

    @property
    def kind(self) -> list[tuple[Any, ...]]:
        """Kind of a clip: only clips of one kind have tokens at the same places and can be mixed."""
        return [(stream.sense, stream.grid, stream.tokens.shape) for stream in self.streams]


def mixed(
    batch: Sequence[WeightedClip], known: Sequence[Sequence[Turn]], alpha: float
) -> tuple[list[WeightedClip], float]:
    """Every clip with another of the batch, in shares drawn from Beta(alpha, alpha) by torch's generator.

    known: all that can be asked of each clip. A clip stays as it is where no other has answers, from what is
    shown of it, to all of its questions, and streams of the same senses, grids and lengths.
    Returns the clips, and the share of them that were mixed.
    """
    answers = [
        {turn.question: turn for turn in turns if set(turn.senses) <= {s.sense for s in clip.streams}}
        for clip, turns in zip(batch, known, strict=True)
    ]
    shares = torch.distributions.Beta(alpha, alpha).sample((len(batch),)).tolist()
    found, count = [], 0
    for i, (one, share) in enumerate(zip(batch, shares, strict=True)):
        partners = (
            j
            for j in torch.randperm(len(batch)).tolist()
            if j != i and batch[j].kind == one.kind and all(turn.question in answers[j] for turn in one.turns)
        )
        other = next(partners, None)
        found.append(one if other is None else _mix(one, batch[other], answers[other], share))
        count += other is not None
    return found, count / len(batch)


def _mix(one: WeightedClip, other: WeightedClip, answers: Mapping[str, Turn], share: float) -> WeightedClip:
    streams = [
        replace(mine, tokens=share * mine.tokens + (1 - share) * theirs.tokens)
        for mine, theirs in zip(one.streams, other.streams, strict=True)
    ]
    turns, weights = [], []
    for turn, weight in zip(one.turns, one.weights, strict=True):
        theirs = answers[turn.question]
        same = theirs.answer == turn.answer
        turns += [turn] if same else [turn, theirs]
        weights += [weight] if same else [share * weight, (1 - share) * weight]
    return WeightedClip(streams, turns, weights)
