"""Integrated gradients of an answer's log-probability, from blank media to the real ones.

M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", 2017 (arXiv 1703.01365): the
gradient with respect to a token, averaged over the straight way from the blank token to the real one, times
their difference. All values sum to log p(answer | media) - log p(answer | blank), in nats.

An LLM's log-probability changes abruptly on that way, so that evenly spaced points do not add up (eight are
off by half of the sum). But how much it changes between two points is known exactly from the same passes. So
the way is divided where the gradients miss most of the change (adaptive quadrature); what they still miss in
an interval is shared out among the tokens whose values there have its sign, in proportion to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lynx.evidence.replay import Replay

STEPS = 8
"""Intervals between blank and real media."""
AT_ONCE = 2
"""Minimum number of intervals that are divided in one round."""


@dataclass(frozen=True)
class Integral:
    """values: (S + n,) float32 nats, of each position; 0 outside of the media. They sum to real - blank.

    blank, real: log-probability of the explained tokens with blank media and with the real ones, nats.
    missed: nats of the change that the gradients did not explain, before they were shared out.
    """

    values: Tensor
    blank: float
    real: float
    missed: float


def integrated_gradients(
    replay: Replay, tokens: Sequence[int], steps: int = STEPS, batch: int = 3
) -> Integral:
    """What each position adds to the log-probability of the answer tokens at these indices.

    steps: intervals, at least 2; gradients are taken at one point more. batch: maximum points in one pass.
    """
    points: dict[float, tuple[Tensor, Tensor]] = {}  # part of the way -> slopes (S + n,), log-probability ()
    wanted = [0.0, 0.5, 1.0]
    while wanted:
        for at in range(0, len(wanted), batch):
            points |= _gradients(replay, tokens, wanted[at : at + batch])
        ends, values, missed = _intervals(points)
        count = min(max(AT_ONCE, len(ends) // 3), steps - len(ends))
        worst = missed.abs().topk(max(0, count)).indices.tolist()
        wanted = [sum(ends[i]) / 2 for i in sorted(worst)]
    same = (values * missed.sign()[:, None]).clamp(min=0)  # (steps, S + n)
    values = values + same / same.sum(1, keepdim=True).clamp(min=1e-30) * missed[:, None]
    return Integral(
        values.sum(0).cpu(), float(points[0.0][1]), float(points[1.0][1]), float(missed.sum())
    )


def _gradients(
    replay: Replay, tokens: Sequence[int], parts: Sequence[float]
) -> dict[float, tuple[Tensor, Tensor]]:
    """At each of these parts of the way: gradient times change (S + n,), and the log-probability ()."""
    start, change = replay.blank.float(), (replay.inputs - replay.blank).float()  # (1, S + n, D)
    part = torch.tensor(parts, device=start.device)[:, None, None]
    inputs = (start + part * change).to(replay.inputs.dtype).requires_grad_()  # (B, S + n, D)
    with torch.enable_grad():
        scores = replay.log_probs(inputs, tokens)  # (B,)
        (gradient,) = torch.autograd.grad(scores.sum(), inputs)
    slopes = (gradient.float() * change).sum(-1)  # (B, S + n)
    return dict(zip(parts, zip(slopes, scores.detach(), strict=True), strict=True))


def _intervals(
    points: dict[float, tuple[Tensor, Tensor]],
) -> tuple[list[tuple[float, float]], Tensor, Tensor]:
    """Ends of each interval, its values (steps, S + n) by the trapezoid rule, and what they miss (steps,)."""
    parts = sorted(points)
    ends = list(pairwise(parts))
    slopes, scores = (torch.stack([points[part][i] for part in parts]) for i in (0, 1))
    widths = torch.tensor(parts, device=slopes.device).diff()[:, None]
    values = (slopes[1:] + slopes[:-1]) / 2 * widths
    return ends, values, scores.diff() - values.sum(1)
