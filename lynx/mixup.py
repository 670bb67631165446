"""Mixup (arXiv 1710.09412) of clips that are asked the same: their tokens in shares, and both answers.

What a clip's tokens are halfway to another's is asked to have that much of the other's answer. A language
model that has seen few clips keeps to straight lines between them, instead of learning them by heart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lynx.backbones import Stream
from lynx.data import Turn


@dataclass(frozen=True)
class Shown:
    """A clip in a batch: what is seen and heard of it, and the questions, each with its weight in the loss.

    A question that has two answers stands there twice.
    """

    streams: list[Stream]
    turns: list[Turn]
    weights: list[float]


def mixed(batch: Sequence[Shown], answers: Sequence[Mapping[str, Turn]], alpha: float) -> list[Shown]:
    """Every clip with another of the batch, in shares drawn from Beta(alpha, alpha) by torch's generator.

    answers: what each clip could be asked, by question. A clip stays as it is where no other has answers to
    all of its questions and streams of the same senses and lengths.
    """
    shares = torch.distributions.Beta(alpha, alpha).sample((len(batch),)).tolist()
    found = []
    for i, (one, share) in enumerate(zip(batch, shares, strict=True)):
        order = torch.randperm(len(batch)).tolist()
        other = next((j for j in order if j != i and _fits(one, batch[j], answers[j])), None)
        found.append(one if other is None else _mix(one, batch[other], answers[other], share))
    return found


def _fits(one: Shown, other: Shown, answers: Mapping[str, Turn]) -> bool:
    kinds = ([(s.sense, s.tokens.shape) for s in clip.streams] for clip in (one, other))
    return len({tuple(kind) for kind in kinds}) == 1 and all(turn.question in answers for turn in one.turns)


def _mix(one: Shown, other: Shown, answers: Mapping[str, Turn], share: float) -> Shown:
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
    return Shown(streams, turns, weights)
