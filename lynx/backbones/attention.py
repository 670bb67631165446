"""One attention function for guidance, alignment and evidence: stock sdpa, plus what a recorder asks for.

transformers' registry hands query, key and value of every layer of every family to `lynx_attention`. It calls
the stock sdpa function, so its outputs are bit-identical to it, recording or not. Recorders are put on the
attention modules for the length of a `with` (`recording`): no forward hooks, no eager attention, no global
state, and whichever thread runs the model meets them. The output projection belongs to the module
(`out_proj`, `o_proj`), so that calling it includes its LoRA.

Axis letters: B batch, Hq query heads, Hkv key heads, d width of a head, n queries, S keys (cache included).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lynx import compat
from lynx.backbones.base import Backbone

ATTENTION = "lynx"
"""Name under which transformers knows `lynx_attention` (`config._attn_implementation`)."""

PACKED = "lynx_flash"
"""Name of `packed_attention`, for towers that pack frames and windows into one sequence: only with "flash" in
the name does transformers make one call a layer and say where each sequence begins."""

VisionCallback = Callable[[int, nn.Module, Tensor, Tensor, Tensor, Tensor], None]
"""(layer, module, query (B, H, n, d), key, value, output (B, n, H, d)), before the output projection."""

Queries = tuple[Tensor, tuple[int, ...]]
"""(1, Hq, n, d), and how many keys each of the n may see."""

RECORDER = "lynx_attention_recorder"
"""Attribute of an attention module that is being recorded: called with the tensors of each of its calls."""

stock_attention = compat.stock_attention()


def lynx_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Stock sdpa attention; then the recorder of `module`, if it has one.

    query: (B, Hq, n, d); key, value: (B, Hkv, S, d); returns (B, n, Hq, d).
    """
    output, _ = stock_attention(module, query, key, value, attention_mask, **kwargs)
    if record := module.__dict__.get(RECORDER):
        record(module, query, key, value, output, scaling=kwargs.get("scaling"))
    return output, None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`lynx_attention` within each of several sequences that are packed into one call.

    query, key, value: (1, H, total, d); cu_seq_lens_q: where each begins, and the end. Sequences of one
    length, such as equal windows, become one batch, which equals stock's loop over them bit for bit.
    Returns (1, total, H, d).
    """
    for flash_only in ("cu_seq_lens_k", "max_length_q", "max_length_k"):
        kwargs.pop(flash_only, None)
    lengths = cu_seq_lens_q.diff().tolist()
    if len(set(lengths)) == 1:
        # (1, H, total, d) -> (sequences, H, n, d)
        q, k, v = (x[0].unflatten(1, (-1, lengths[0])).transpose(0, 1) for x in (query, key, value))
        output, _ = lynx_attention(module, q, k, v, attention_mask, **kwargs)  # (sequences, n, H, d)
        return output.flatten(0, 1)[None], None
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    outputs = [lynx_attention(module, q, k, v, attention_mask, **kwargs)[0] for q, k, v in parts]
    return torch.cat(outputs, dim=1), None


compat.register_attention(ATTENTION, lynx_attention)
compat.register_attention(PACKED, packed_attention, masked=False)


class RowRecorder:
    """The attention row of the last query of every call of the LLM: one row for each generated token.

    While the model runs only those queries are kept (a few kilobytes a token) and the last key tensor of each
    layer, which holds all earlier ones. The rows are computed once, when asked for. Batch size 1.

    positions: of the prompt, whose rows are recorded too, unless one of them comes from a KV cache.
    """

    def __init__(self, positions: Sequence[int] = ()) -> None:
        self.positions = list(positions)
        self._steps: dict[int, list[Queries]] = {}  # per layer
        self._prompt: dict[int, list[Queries]] = {}  # the same of `positions`
        self._keys: dict[int, tuple[Tensor, float]] = {}  # per layer: (1, Hkv, S, d), scaling

    def record(
        self, layer: int, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, output: Tensor, *,
        scaling: float | None,
    ) -> None:
        """Keep what the rows need of one layer's call; for a decoding step two references, no copies."""
        n, total = query.shape[2], key.shape[2]
        self._keys[layer] = (key, scaling if scaling is not None else query.shape[-1] ** -0.5)
        steps = self._steps.setdefault(layer, [])
        if n == 1:
            steps.append((query, (total,)))
            return
        # Copied from a whole prompt: a view would keep all of its queries alive.
        steps.append((query[:, :, -1:].clone(), (total,)))
        local = [position - (total - n) for position in self.positions]  # the first total - n are cached
        if local and 0 <= min(local) and max(local) < n:
            visible = tuple(position + 1 for position in self.positions)
            self._prompt[layer] = [(query[:, :, local], visible)]

    def rows(self, layers: Sequence[int] | None = None) -> Tensor:
        """Attention of each step, the mean over heads and layers: (steps, S) float32; rows sum to 1.

        A key that a step could not see yet (the tokens generated after it) has 0. layers: all if not given.
        """
        return self._mean(self._steps, layers)

    def prompt_rows(self, layers: Sequence[int] | None = None) -> Tensor | None:
        """The rows (positions, S); None where there are no positions or one of them came from a cache."""
        return self._mean(self._prompt, layers) if self._prompt else None

    @torch.no_grad()
    def _mean(self, queries: dict[int, list[Queries]], layers: Sequence[int] | None) -> Tensor:
        """Mean attention (steps, S) float32, on the CPU, of each query over the keys that it may see."""
        if not queries:
            raise RuntimeError("no attention was recorded: run the model inside `with recording(...)`")
        total = torch.zeros(())
        layers = list(queries) if layers is None else layers
        for layer in layers:
            total = total + self._weights(layer, queries[layer]).mean(dim=(0, 2)).cpu()  # (steps, S)
        return total / len(layers)

    def _weights(self, layer: int, queries: list[Queries]) -> Tensor:
        """Attention of one layer, its heads in groups that share keys: (Hkv, steps, group, S) float32."""
        key, scaling = self._keys[layer]
        n_kv, n_keys, width = key.shape[1:]
        stacked = torch.cat([query for query, _ in queries], dim=2)[0].transpose(0, 1)  # (steps, Hq, d)
        grouped = stacked.float().unflatten(1, (n_kv, -1)).transpose(0, 1)  # (Hkv, steps, group, d)
        scores = grouped.reshape(n_kv, -1, width) @ key[0].float().transpose(1, 2) * scaling
        scores = scores.view(n_kv, len(stacked), -1, n_keys)  # (Hkv, steps, group, S)
        visible = torch.tensor([n for _, each in queries for n in each], device=key.device)
        hidden = torch.arange(n_keys, device=key.device) >= visible[:, None]  # (steps, S)
        return scores.masked_fill(hidden[None, :, None], float("-inf")).softmax(dim=-1)


@contextmanager
def stock(model: nn.Module) -> Iterator[None]:
    """Inside, every attention of a loaded model is transformers' own."""
    configs = {id(c): c for module in model.modules() if (c := getattr(module, "config", None)) is not None}
    before = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        compat.use_attention(config, "sdpa")
    try:
        yield
    finally:
        for key, config in configs.items():
            compat.use_attention(config, before[key])


@contextmanager
def recording(
    backbone: Backbone, vision: VisionCallback | None = None, text_rows: RowRecorder | None = None
) -> Iterator[None]:
    """Record attention of `backbone` inside the `with`; outputs do not change by a bit.

    vision: called for every vision layer with its tensors before the output projection, gradients attached.
    text_rows: collects the last query's row of every LLM layer.

    Raises: RuntimeError where a module is being recorded already.
    """
    recorders: list[tuple[nn.Module, Callable[..., None]]] = []
    if vision is not None:

        def record(layer: int, *tensors: Any, scaling: float | None) -> None:
            vision(layer, *tensors)

        # Vision modules do not know their layer's number, so the recorder gets it.
        modules = backbone.vision_attention_modules()
        recorders += [(module, partial(record, layer)) for layer, module in enumerate(modules)]
    if text_rows is not None:
        modules = backbone.text_attention_modules()
        recorders += [(module, partial(text_rows.record, layer)) for layer, module in enumerate(modules)]
    if any(RECORDER in module.__dict__ for module, _ in recorders):
        raise RuntimeError("this model's attention is being recorded already: leave that `recording` first")
    for module, recorder in recorders:
        module.__dict__[RECORDER] = recorder
    try:
        yield
    finally:
        for module, _ in recorders:
            module.__dict__.pop(RECORDER, None)
