"""The losses of stage 2 (arXiv 2606.00508, interface alignment) as functions of tensors.

Axis letters: B frames times windows, W windows a frame, H heads, n keys, q queries, d and D widths.
"""

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
    """L1 distance between a layer's response O_m(l) and its reference response O~_m(l).

    O_m(l) = P(Attn(Q_m, K_m, V_m)) is the layer's response to a sense's pseudo-frames. The reference
    O~_m(l) = P(Attn(Q_m, K_v, V_v)) is that of the same queries to the mean keys and values of video. P is
    the output projection.

    query: (B, H, n, d); response: (B, n, H, d), before P; keys, values: (W, H, n, d), of each of the windows
    into which the layer divides a frame; queries: (q,) indices of the queries to compare, all if None.
    Returns (sum of absolute differences, how many): the caller takes the mean over all calls.
    """
    if queries is not None:
        query, response = query[:, :, queries], response[:, queries]  # (B, H, q, d), (B, q, H, d)
    # Frame by frame the windows come in the same order, so the guidance repeats once a frame.
    keys, values = (mean.to(query).repeat(len(query) // len(mean), 1, 1, 1) for mean in (keys, values))
    reference = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2)  # (B, q, H, d)
    difference = (response - reference).flatten(2)  # (B, q, H * d)
    # P is affine, so P(a) - P(b) = P(a - b) - P(0): one pass of the projection in place of two, and a dropout
    # inside its LoRA falls on both responses alike, where two passes would differ by the dropout itself.
    offset = project(torch.zeros_like(difference[:1, :1]))  # (1, 1, D): P(0), the bias
    distance = project(difference) - offset  # (B, q, D)
    return distance.abs().sum(dtype=torch.float32), distance.numel()


def attention_loss(distances: Sequence[Tensor], reduction: LayerReduction = "mean") -> Tensor:
    """L_attn from the mean distance of each layer: their mean (released code) or their sum (paper)."""
    stacked = torch.stack(list(distances))  # (L,)
    return stacked.mean() if reduction == "mean" else stacked.sum()


def statistics_loss(tokens: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """L_stat = ||mu_m - mu_v||_2 + ||var_m - var_v||_2, variances biased.

    tokens: (n, D) projected tokens of a batch, over which mu_m and var_m are taken; mean, var: (D,) of video.
    """
    tokens = tokens.float()
    return (tokens.mean(0) - mean).norm() + (tokens.var(0, correction=0) - var).norm()
