"""One attention function for guidance, alignment and evidence: stock sdpa, plus what a recorder asks for.

transformers' registry hands query, key and value of every layer of every family to `lynx_attention`. It calls
the stock sdpa function, so its outputs are bit-identical to it, recording or not. A recorder is a *tap* that
lies on the attention modules for the length of a `with`: no forward hooks, no eager attention, no global
state, and whichever thread runs the model meets it. The output projection belongs to the module (`out_proj`,
`o_proj`), LoRA included.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lynx import compat

ATTENTION = "lynx"
"""The name under which transformers knows the function (`config._attn_implementation`)."""

PACKED = "lynx_flash"
"""The name for towers that pack frames and windows into one sequence: with "flash" in the name of its
implementation such a tower makes one call a layer, and says where each sequence begins."""

VisionCallback = Callable[[int, nn.Module, Tensor, Tensor, Tensor, Tensor], None]
"""(layer, module, query (B, H, n, d), key, value, output (B, n, H, d)), before the output projection."""

_TAP = "lynx_tap"

stock_attention = compat.stock_attention()


class HasAttention(Protocol):
    """What `recording` needs of a backbone."""

    def vision_attention_modules(self) -> list[nn.Module]: ...  # noqa: D102

    def text_attention_modules(self) -> list[nn.Module]: ...  # noqa: D102


def lynx_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Stock sdpa attention; then the tap on `module`, if there is one.

    query: (B, Hq, n, d); key, value: (B, Hkv, n_total, d), cache included; returns (B, n, Hq, d).
    """
    output, _ = stock_attention(module, query, key, value, attention_mask, **kwargs)
    tap = module.__dict__.get(_TAP)
    if tap is not None:
        tap(module, query, key, value, attention_mask, kwargs.get("scaling"), output)
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
    """`lynx_attention` over sequences that lie behind one another in one call, each for itself.

    query, key, value: (1, H, total, d); cu_seq_lens_q: where each begins, and the end. Sequences of one
    length, such as equal windows, become one batch, which equals stock's loop over them bit for bit.
    """
    for flash_only in ("cu_seq_lens_k", "max_length_q", "max_length_k"):
        kwargs.pop(flash_only, None)
    lengths = cu_seq_lens_q.diff().tolist()
    if len(set(lengths)) == 1:
        q, k, v = (x[0].unflatten(1, (-1, lengths[0])).transpose(0, 1) for x in (query, key, value))
        output, _ = lynx_attention(module, q, k, v, attention_mask, **kwargs)  # (sequences, n, H, d)
        return output.flatten(0, 1)[None], None
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    outputs = [lynx_attention(module, q, k, v, attention_mask, **kwargs)[0] for q, k, v in parts]
    return torch.cat(outputs, dim=1), None


compat.register_attention(ATTENTION, lynx_attention)
compat.register_attention(PACKED, packed_attention, masked=False)


class RowRecorder:
    """The attention row of the last query of every call of the LLM, one row for each generated token.

    While the model runs only the queries are kept (a few kilobytes a token) and the last key tensor of each
    layer, which holds all earlier ones: the rows are computed once, at the end, by `rows`. Batch size 1.

    positions: positions in the prompt whose rows are wanted as well (where they are not taken from a cache).
    """

    def __init__(self, positions: Sequence[int] = ()) -> None:
        self.positions = tuple(positions)
        self._queries: dict[int, list[tuple[Tensor, int]]] = {}  # per layer: (Hq, d) and the keys it sees
        self._extra: dict[int, dict[int, Tensor]] = {}
        self._keys: dict[int, tuple[Tensor, float]] = {}

    def tap(
        self,
        layer: int,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        output: Tensor,
    ) -> None:
        """Keep what `rows` needs of one call of one layer; of a decoding step, two references."""
        n_query, n_total = query.shape[2], key.shape[2]
        self._keys[layer] = (key, scaling if scaling is not None else query.shape[-1] ** -0.5)
        queries = self._queries.setdefault(layer, [])
        if n_query == 1:
            queries.append((query, n_total))
            return
        # of a whole prompt copies: a view would keep all of its queries alive
        queries.append((query[:, :, -1:].clone(), n_total))
        for position in self.positions:
            local = position - (n_total - n_query)
            if 0 <= local < n_query:
                self._extra.setdefault(layer, {})[position] = query[:, :, local : local + 1].clone()

    def rows(self) -> Tensor:
        """Attention of each step, the mean over layers and heads: (steps, n_total) float32; rows sum to 1.

        A key that a step could not see yet (the tokens generated after it) has 0.
        """
        return self._mean_rows(self._queries)

    def row_at(self, position: int) -> Tensor | None:
        """The row (n_total,) of one of `positions`; None where that position came from a cache."""
        if any(position not in self._extra.get(layer, {}) for layer in self._keys) or not self._keys:
            return None
        return self._mean_rows({k: [(v[position], position + 1)] for k, v in self._extra.items()})[0]

    def _mean_rows(self, queries: dict[int, list[tuple[Tensor, int]]]) -> Tensor:
        if not queries:
            raise RuntimeError("no attention was recorded: run the model inside `with recording(...)`")
        total = torch.zeros(())
        for layer, steps in queries.items():
            key, scaling = self._keys[layer]
            stacked = torch.cat([query for query, _ in steps], dim=2)[0].transpose(0, 1)  # (steps, Hq, d)
            total = total + attention_rows(stacked, key[0], [n for _, n in steps], scaling)
        return total / len(queries)


@torch.no_grad()
def attention_rows(queries: Tensor, key: Tensor, visible: Sequence[int], scaling: float) -> Tensor:
    """Attention of single queries over the keys they may see, the mean over heads, in float32.

    queries: (steps, Hq, d); key: (Hkv, n, d), query heads grouped by key head; visible: how many of the first
    keys each step sees. Returns (steps, n) on the CPU.
    """
    steps, n_heads, width = queries.shape
    n_kv, n_keys, _ = key.shape
    grouped = queries.float().reshape(steps, n_kv, n_heads // n_kv, width).permute(1, 0, 2, 3)
    scores = grouped.reshape(n_kv, -1, width) @ key.float().transpose(1, 2) * scaling
    scores = scores.view(n_kv, steps, -1, n_keys)  # (Hkv, steps, group, n)
    hidden = torch.arange(n_keys, device=key.device) >= torch.tensor(visible, device=key.device)[:, None]
    scores = scores.masked_fill(hidden[None, :, None], float("-inf"))
    return scores.softmax(dim=-1).mean(dim=(0, 2)).cpu()


@contextmanager
def recording(
    backbone: HasAttention, vision: VisionCallback | None = None, text_rows: RowRecorder | None = None
) -> Iterator[None]:
    """Record attention of `backbone` inside the `with`; outputs do not change by a bit.

    vision: called for every vision layer with its tensors before the output projection, gradients attached.
    text_rows: collects the last query's row of every LLM layer.

    Raises: RuntimeError where a module is being recorded already.
    """
    taps: list[tuple[nn.Module, Callable[..., None]]] = []
    if vision is not None:
        modules = backbone.vision_attention_modules()
        taps += [(module, partial(_vision_tap, vision, layer)) for layer, module in enumerate(modules)]
    if text_rows is not None:
        modules = backbone.text_attention_modules()
        taps += [(module, partial(text_rows.tap, layer)) for layer, module in enumerate(modules)]
    if any(_TAP in module.__dict__ for module, _ in taps):
        raise RuntimeError(
            "this model's attention is being recorded already: leave the other `recording` first"
        )
    for module, tap in taps:
        module.__dict__[_TAP] = tap
    try:
        yield
    finally:
        for module, _ in taps:
            module.__dict__.pop(_TAP, None)


def _vision_tap(
    callback: VisionCallback,
    layer: int,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    output: Tensor,
) -> None:
    callback(layer, module, query, key, value, output)
