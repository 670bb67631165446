"""Integrated gradients of an answer's log-probability, from blank media to the real ones.

M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", 2017 (arXiv 1703.01365): the
gradient with respect to a token, averaged over the straight way from the blank token to the real one, times
their difference. All values sum to log p(answer | media) - log p(answer | blank), in nats.

An LLM's log-probability changes abruptly on that way, so that evenly spaced points do not add up (eight are
off by half of the sum). But how much it changes between two points is known exactly from the same passes.
So, first, an interval's gradient is that mean of the gradients at its ends which explains the change; only
where the change lies outside of both is something *missed*: it is shared out among the tokens whose values
there have its sign, in proportion to them. And second, the way is divided where that mean is most in doubt
(adaptive quadrature).

Measured on words of `lynx-tiny` about 30 validation clips of the world, 8 intervals: what is missed falls
from 39 % of the change (median; 121 % at the 90th percentile) to 0.4 % (4 %), and the distance of all values
to those of 64 even intervals from 21 to 8 %.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lynx.backbones.memory import (
    checkpointed,
    free_bytes,
    gradient_bytes,
    retry_with_more_room,
    weight_bytes,
)
from lynx.config import Checkpointing
from lynx.errors import BackboneError
from lynx.evidence.replay import Replay

STEPS = 8
"""Intervals between blank and real media."""
ENOUGH = 0.01
"""Doubt, as part of the change or in nats if that is more, at which no further points are needed."""
BATCH = 3
"""Maximum points in one pass; on a CPU several take as long together as one by one."""
SMALL = 64 * 2**20
"""Bytes that gradients may take of however small a model."""
ADVICE = (
    "explaining this word ran out of memory: ask about fewer frames or a smaller part of the clip, or choose "
    "another method, such as attention"
)
"""Message of the BackboneError where not even one point fits."""

Progress = Callable[[int, int], None]
"""Told how many points are done, and of how many."""


@dataclass(frozen=True)
class Integral:
    """values: (S + n,) float32 nats, of each position; 0 outside of the media. They sum to real - blank.

    blank, real: log-probability of the explained tokens with blank media and with the real ones, nats.
    missed: nats of the change that the gradients did not explain, before they were shared out: the sum over
    the intervals, in which misses of opposite signs do not cancel.
    points: at which gradients were taken.
    """

    values: Tensor
    blank: float
    real: float
    missed: float
    points: int


def integrated_gradients(
    replay: Replay,
    tokens: Sequence[int],
    steps: int = STEPS,
    progress: Progress | None = None,
    enough: float = ENOUGH,
) -> Integral:
    """What each position adds to the log-probability of the answer tokens at these indices.

    steps: maximum of intervals, at least 2; gradients are taken at one point more. enough: see ENOUGH.
    Raises: BackboneError where memory does not suffice, LynxError where the adapters have changed.
    """
    if not tokens:  # of an empty answer
        return Integral(torch.zeros(replay.inputs.shape[1]), 0.0, 0.0, 0.0, 0)
    gradients = _Gradients(replay, tokens)
    points: dict[float, tuple[Tensor, Tensor]] = {}  # part of the way -> slopes (S + n,), log-probability ()
    wanted = [0.0, 0.5, 1.0]
    while wanted:
        while wanted:
            now, wanted = wanted[: gradients.batch], wanted[gradients.batch :]
            points |= gradients(now)
            if progress is not None:
                progress(len(points), steps + 1)
        ends, values, missed, doubt = _intervals(points)
        change = abs(float(points[1.0][1] - points[0.0][1]))
        if float(doubt.sum()) <= enough * max(1.0, change):
            break
        # One at a time is the most accurate; of many intervals some are divided together.
        count = min(max(1, len(ends) // 4), steps - len(ends))
        worst = doubt.topk(max(0, count)).indices.tolist()
        wanted = [sum(ends[i]) / 2 for i in sorted(worst)]
    if progress is not None and len(points) <= steps:  # of a run that ends early, so that its bar is full
        progress(steps + 1, steps + 1)
    same = (values * missed.sign()[:, None]).clamp(min=0)  # (steps, S + n)
    values = values + same / same.sum(1, keepdim=True).clamp(min=1e-30) * missed[:, None]
    blank, real = (float(points[part][1]) for part in (0.0, 1.0))
    return Integral(values.sum(0).cpu(), blank, real, float(missed.abs().sum()), len(points))


class _Gradients:
    """Gradients of the log-probability on the way from blank to real media, in the memory there is.

    They may take as much memory as the model's weights, so that the peak stays below twice that of an
    answer. Where one point needs more, or memory runs out, activations are computed twice (checkpointing).

    batch: points in one pass.
    """

    def __init__(self, replay: Replay, tokens: Sequence[int]) -> None:
        self.replay, self.tokens = replay, tokens
        backbone, length = replay.backbone, replay.start + max(tokens)
        free = free_bytes(backbone.device)
        room = max(SMALL, weight_bytes(backbone.model))
        fits = (room if free is None else min(room, free)) // gradient_bytes(backbone, length)
        self.batch = min(max(1, fits), BATCH)
        self.checkpointing: Checkpointing = "off" if fits else "non-reentrant"
        least = gradient_bytes(backbone, length, self.checkpointing)
        ends_process = backbone.device.type == "cpu"  # which is never told that memory ran out
        if free is not None and least > free and ends_process:
            raise BackboneError(f"{ADVICE} ({least / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free)")

    def __call__(self, parts: Sequence[float]) -> dict[float, tuple[Tensor, Tensor]]:
        """At each of these parts of the way: gradient times change (S + n,), and the log-probability ()."""

        def found() -> dict[float, tuple[Tensor, Tensor]]:
            points: dict[float, tuple[Tensor, Tensor]] = {}
            for at in range(0, len(parts), self.batch):
                points |= self._pass(parts[at : at + self.batch])
                time.sleep(0.001)  # whoever waits for the model gets it now
            return points

        return retry_with_more_room(found, (self._one_by_one, self._checkpoint), ADVICE)

    def _pass(self, parts: Sequence[float]) -> dict[float, tuple[Tensor, Tensor]]:
        replay = self.replay
        start, change = replay.blank.float(), (replay.inputs - replay.blank).float()  # (1, S + n, D)
        part = torch.tensor(parts, device=start.device)[:, None, None]
        inputs = (start + part * change).to(replay.inputs.dtype).requires_grad_()  # (B, S + n, D)
        with (
            replay.alone(),
            checkpointed(replay.backbone.model, self.checkpointing),
            torch.enable_grad(),
        ):
            scores = replay.log_probs(inputs, self.tokens)  # (B,)
            (gradient,) = torch.autograd.grad(scores.sum(), inputs)
        slopes = (gradient.float() * change).sum(-1)  # (B, S + n)
        return dict(zip(parts, zip(slopes, scores.detach(), strict=True), strict=True))

    def _one_by_one(self) -> bool:
        before, self.batch = self.batch, 1
        return before > 1

    def _checkpoint(self) -> bool:
        before, self.checkpointing = self.checkpointing, "non-reentrant"
        return before == "off"


def _intervals(
    points: dict[float, tuple[Tensor, Tensor]],
) -> tuple[list[tuple[float, float]], Tensor, Tensor, Tensor]:
    """Ends of each interval, its values (steps, S + n), what they miss (steps,), and its doubt (steps,) >= 0.

    Doubt is what the values miss, what plain means of both ends would miss, and a tenth of how much the
    slopes of all tokens differ between the ends: where it is greatest a point in the middle tells most.
    """
    parts = sorted(points)
    ends = list(pairwise(parts))
    slopes, scores = (torch.stack([points[part][i] for part in parts]) for i in (0, 1))
    widths = torch.tensor(parts, device=slopes.device).diff()  # (steps,)
    before, after, change = slopes[:-1], slopes[1:], scores.diff()
    total, turn = before.sum(1), (after - before).sum(1)  # d log p / d part at the beginning; its change
    weight = ((change / widths - total) / torch.where(turn == 0, torch.inf, turn)).clamp(0, 1)  # of the end
    values = (before + weight[:, None] * (after - before)) * widths[:, None]
    missed = change - values.sum(1)
    trapezoid = change - (total + turn / 2) * widths
    doubt = missed.abs() + trapezoid.abs() + 0.1 * widths * (after - before).abs().sum(1)
    return ends, values, missed, doubt
