"""Attention times its gradient: attention counts where more of it would make the answer more likely.

H. Chefer, S. Gur, L. Wolf, "Generic Attention-Model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers", 2021 (arXiv 2103.15679), Eq. 5: max(0, A * dy/dA). Here y is the
log-probability of the explained tokens and A their rows; it is summed over heads and layers.

sdpa never makes A. But its output is A V, so the gradient of a weight is that of the output times the value.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lynx.backbones.attention import RowRecorder, recording
from lynx.backbones.memory import free_bytes, gradient_bytes
from lynx.errors import BackboneError
from lynx.evidence.attention import AttentionRows, predicted_at
from lynx.evidence.integrated_gradients import ADVICE
from lynx.evidence.replay import Replay


class GradientRecorder(RowRecorder):
    """A recorder of rows that keeps values and outputs too, with their graph."""

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__(positions)
        self._values: dict[int, tuple[Tensor, Tensor]] = {}  # (1, Hkv, S, d); output (1, S, Hq, d)

    def record(
        self, layer: int, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, output: Tensor, *,
        scaling: float | None,
    ) -> None:
        """Keep what the rows and their gradients need of one layer's call over the whole prompt."""
        super().record(layer, module, query, key, value, output, scaling=scaling)
        self._values[layer] = (value, output)

    def relevance(self, score: Tensor, layers: Sequence[int]) -> Tensor:
        """max(0, A * d score / dA), the sum over heads, layers and the rows of `positions`: (S,) float32."""
        total = torch.zeros(())
        gradients = torch.autograd.grad(score, [self._values[layer][1] for layer in layers])
        for layer, gradient in zip(layers, gradients, strict=True):
            with torch.no_grad():
                value = self._values[layer][0][0].float()  # (Hkv, S, d)
                weights = self._weights(layer, self._prompt[layer])  # (Hkv, rows, group, S)
                slope = gradient[0, self.positions].float().unflatten(1, (len(value), -1))
                slope = slope.transpose(0, 1) @ value[:, None].mT  # (Hkv, rows, group, d) @ (Hkv, 1, d, S)
                total = total + (weights * slope).clamp(min=0).sum((0, 1, 2)).cpu()
        return total


def gradient_x_attention(
    replay: Replay, recorded: AttentionRows, tokens: Sequence[int], layers: Sequence[int]
) -> AttentionRows:
    """One row for the answer tokens at these indices together; what is no sink sums to 1.

    Raises: BackboneError where memory does not suffice.
    """
    needed = gradient_bytes(replay.backbone, replay.start + max(tokens))
    free = free_bytes(replay.backbone.device)
    # A process that takes too much of a CPU's memory is ended without a word; a GPU says so itself.
    if free is not None and needed > free and replay.backbone.device.type == "cpu":
        raise BackboneError(f"{ADVICE} ({needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free)")
    recorder = GradientRecorder(predicted_at(replay, tokens))
    inputs = replay.inputs.clone().requires_grad_()
    with torch.enable_grad(), recording(replay.backbone, text_rows=recorder):
        score = replay.log_probs(inputs, tokens).sum()
    row = recorder.relevance(score, layers)
    sinks = recorded.sinks[: len(row)]
    row = row.masked_fill(sinks, 0)
    return replace(recorded, rows=row[None] / row.sum().clamp(min=1e-30), sinks=sinks, baseline=None)
