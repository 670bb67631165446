"""The losses of stage 2 as pure functions of tensors. Axis letters: B frames, H heads, n keys, q queries."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lynx.config import LayerReduction

Projection = Callable[[Tensor], Tensor]
"""An affine map of the last axis, such as an attention module's output projection with its LoRA."""


def response_distance(
    query: Tensor,
    response: Tensor,
    keys: Tensor,
    values: Tensor,
    project: Projection,
    queries: Tensor | None = None,
) -> tuple[Tensor, int]:
    """How far a layer's responses are from those its queries get of the video's mean keys and values.

    The L1 norm between both responses after the output projection. The projection is affine, so it is applied
    once, to their difference; its bias cancels, and a dropout inside it falls on both alike.

    query: (B, H, n, d); response: (B, n, H, d), before the projection; keys, values: (W, H, n, d), the
    guidance of each of the W windows of a frame (1 where attention is over the whole frame), B being frames
    times W; queries: indices of the queries that count, all if None. Returns (sum of absolute differences,
    how many).
    """
    if queries is not None:
        query, response = query[:, :, queries], response[:, queries]
    keys, values = (mean.to(query).repeat(len(query) // len(mean), 1, 1, 1) for mean in (keys, values))
    reference = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2)  # (B, q, H, d)
    difference = (response - reference).flatten(2)  # (B, q, H * d)
    offset = project(torch.zeros_like(difference[:1, :1]))
    distance = project(difference) - offset  # (B, q, D)
    return distance.abs().sum(dtype=torch.float32), distance.numel()


def attention_loss(distances: Sequence[Tensor], reduction: LayerReduction = "mean") -> Tensor:
    """L_attn from one mean distance a layer: their mean (released code) or their sum (paper)."""
    stacked = torch.stack(list(distances))
    return stacked.mean() if reduction == "mean" else stacked.sum()


def statistics_loss(tokens: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """L_stat = ||mean(tokens) - mean||_2 + ||var(tokens) - var||_2, variances biased.

    tokens: (n, D) projected tokens of a batch; mean, var: (D,) of the video's.
    """
    tokens = tokens.float()
    return (tokens.mean(0) - mean).norm() + (tokens.var(0, correction=0) - var).norm()
