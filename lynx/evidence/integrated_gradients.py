"""Integrated gradients of an answer's log-probability, from blank media to the real ones.

M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", 2017 (arXiv 1703.01365): the
gradient with respect to a token, averaged over a straight way from the blank token to the real one, times
their difference. All values sum to log p(answer | media) - log p(answer | blank), in nats.

An LLM's log-probability changes abruptly on that way, so that few points do not add up (with eight the sum is
off by half of it). But how much it changes between two points is known exactly from the passes that give the
gradients: what the gradients of an interval miss of it is shared out among the tokens in proportion to the
size of their values in this interval.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lynx.evidence.replay import Replay

STEPS = 8
"""Intervals between blank and real media."""


def integrated_gradients(
    replay: Replay, tokens: Sequence[int], steps: int = STEPS, batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """What each position adds to the log-probability of the answer tokens at these indices.

    batch: points of the way in one pass.
    Returns values (S + n,) float32 in nats, 0 outside of the media; and the log-probability at each of the
    steps + 1 points, from blank to real.
    """
    start, change = replay.blank.float(), (replay.inputs - replay.blank).float()  # (1, S + n, D)
    slopes, scores = [], []
    for part in (torch.arange(steps + 1, device=start.device) / steps).split(batch or steps + 1):
        inputs = (start + part[:, None, None] * change).to(replay.inputs.dtype).requires_grad_()
        with torch.enable_grad():
            score = replay.log_probs(inputs, tokens)  # (B,)
            (gradient,) = torch.autograd.grad(score.sum(), inputs)
        slopes.append((gradient.float() * change).sum(-1))  # (B, S + n)
        scores.append(score.detach())
    slope, score = torch.cat(slopes), torch.cat(scores)
    values = (slope[1:] + slope[:-1]) / 2 / steps  # (steps, S + n), of each interval
    missed = score.diff() - values.sum(1)  # (steps,)
    size = values.abs()
    values = values + size / size.sum(1, keepdim=True).clamp(min=1e-30) * missed[:, None]
    return values.sum(0).cpu(), score.cpu()
