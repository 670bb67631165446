"""The maps that are compared: the library's own methods, and others computed here.

adaptive_N: as the library's attribution, with N intervals at most.
log_odds: as the library's attribution, of the log-odds of the answer instead of its log-probability.
rollout: S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", 2020 (arXiv 2005.00928).
relevance: H. Chefer, S. Gur, L. Wolf, "Generic Attention-model Explainability", 2021 (arXiv 2103.15679).
midpoints_START_N: integrated gradients at N evenly spaced midpoints of the way from START to the real tokens:
blank media, the mean of each sense's real tokens, or zero.

Letters: S positions of the prompt and the answer, H heads, d width of a head, k tokens of a sense.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lynx.adapters.registry import AdaptedBackbone
from lynx.backbones.attention import RowRecorder, recording
from lynx.compat import PEFT_PREFIX
from lynx.evidence import methods as library
from lynx.evidence.evidence import Evidence
from lynx.evidence.integrated_gradients import integrated_gradients
from lynx.evidence.replay import Replay

BATCH = 8
"""Prompts in one pass."""
Maps = dict[str, Tensor]
"""By sense: (k,) float32, newlines included."""
Layer = tuple[Tensor, Tensor]
"""Attention (H, S, S) of a layer and the gradient of the answer's log-probability with respect to it."""


class LayerRecorder(RowRecorder):
    """Keeps what each layer's attention was computed from, and its output, in the graph of gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, tuple[Tensor, Tensor, Tensor, Tensor, float]] = {}

    def record(
        self, layer: int, module: nn.Module, query: Tensor, key: Tensor, *more: Tensor, scaling: float | None
    ) -> None:
        """Keep references."""
        value, output = more
        self.kept[layer] = (query, key, value, output, scaling or query.shape[-1] ** -0.5)


def record_layers(replay: Replay, tokens: Sequence[int]) -> list[Layer]:
    """Every layer's attention and its gradient.

    The output O = A V of a layer's heads gives the gradient of A without eager attention: dO V^T.
    """
    recorder, inputs = LayerRecorder(), replay.inputs.clone().requires_grad_()
    with torch.enable_grad(), recording(replay.backbone, text_rows=recorder):
        score = replay.log_probs(inputs, tokens).sum()
    kept = [recorder.kept[layer] for layer in sorted(recorder.kept)]
    gradients = torch.autograd.grad(score, [output for *_, output, _ in kept])
    layers = []
    with torch.no_grad():
        for (query, *grouped, _, scaling), gradient in zip(kept, gradients, strict=True):
            groups = query.shape[1] // grouped[0].shape[1]
            key, value = (each[0].float().repeat_interleave(groups, 0) for each in grouped)  # (H, S, d)
            scores = query[0].float() @ key.transpose(1, 2) * scaling
            later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
            attention = scores.masked_fill(later, float("-inf")).softmax(-1)
            layers.append((attention, gradient[0].transpose(0, 1).float() @ value.transpose(1, 2)))
    return layers


def rollout(layers: Sequence[Layer]) -> Tensor:
    """The product of all layers' mean attention, half of each the residual connection: (S, S)."""
    flow = torch.eye(layers[0][0].shape[-1])
    for attention, _ in layers:
        flow = (attention.mean(0) + torch.eye(len(flow))) / 2 @ flow
    return flow


def relevance(layers: Sequence[Layer]) -> Tensor:
    """Chefer's rule for self-attention, R <- R + mean over heads of (gradient * attention)+ R: (S, S)."""
    flow = torch.eye(layers[0][0].shape[-1])
    for attention, gradient in layers:
        flow = flow + (gradient * attention).clamp(min=0).mean(0) @ flow
    return flow


def gradient_x_attention(layers: Sequence[Layer]) -> Tensor:
    """The sum over layers and heads of gradient times attention, where it is above 0: (S, S)."""
    return torch.stack([(gradient * attention).clamp(min=0).sum(0) for attention, gradient in layers]).sum(0)


ATTENTION_RULES: Mapping[str, Callable[[Sequence[Layer]], Tensor]] = {
    "rollout": rollout, "relevance": relevance, "gradient_x_attention": gradient_x_attention,
}


def midpoints(replay: Replay, tokens: Sequence[int], start: str, steps: int) -> Tensor:
    """Integrated gradients at evenly spaced midpoints: (S,)."""
    real = replay.inputs.float()
    begin = real.clone()
    for sense, span in replay.spans.items():
        seen = span[~replay.streams[sense].times.isnan()]
        if start == "blank":
            begin[0, span] = replay.blank[0, span].float()
        else:
            begin[0, seen] = real[0, seen].mean(0) * (start == "mean")
    change, total = real - begin, torch.zeros(real.shape[1])
    for parts in ((torch.arange(steps) + 0.5) / steps).split(BATCH):
        inputs = (begin + parts[:, None, None] * change).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(replay.log_probs(inputs, tokens).sum(), inputs)
        total += (gradient * change).sum((0, 2)) / steps
    return total


@torch.no_grad()
def hiding(replay: Replay, tokens: Sequence[int], positions: Tensor) -> Tensor:
    """How much the answer's log-probability falls where one of these positions (k,) is blank: (k,)."""
    whole, falls = replay.log_probs(replay.inputs, tokens), []
    for part in positions.split(BATCH):
        inputs = replay.inputs.repeat(len(part), 1, 1)
        rows = torch.arange(len(part))
        inputs[rows, part] = replay.blank[0, part]
        falls.append(whole - replay.log_probs(inputs, tokens))
    return torch.cat(falls)


class OddsReplay(Replay):
    """A replay that scores an answer by its log-odds, log p - log(1 - p), which do not level off near 1."""

    def __init__(self, replay: Replay) -> None:
        self.__dict__.update(replay.__dict__)

    def log_probs(self, inputs: Tensor, tokens: Sequence[int]) -> Tensor:
        """Log-odds (B,) of the answer tokens, together."""
        score = super().log_probs(inputs, tokens).clamp(max=-1e-7)
        return score - torch.log(-torch.expm1(score))


STARTS, STEPS = ("blank", "mean", "zero"), (4, 8, 16)
GRID = tuple(f"midpoints_{start}_{steps}" for start in STARTS for steps in STEPS)
ADAPTIVE = ("adaptive_4", "adaptive_16")
OWN = (*ATTENTION_RULES, "hiding", "log_odds", *ADAPTIVE, *GRID)
COSTLY = tuple(name for name in GRID if "blank" not in name and not name.endswith("_8"))
"""Measured on a third of the answers."""


def method_names() -> list[str]:
    """The library's methods first, then those that it does not have."""
    return list(dict.fromkeys((*library.METHODS, *OWN)))


@contextmanager
def merged(model: AdaptedBackbone) -> Iterator[None]:
    """Inside the `with` the LoRAs that are on are a part of the weights, which makes many passes faster;
    behind it the weights are the same bit for bit."""
    bank, before = model.lora, {}
    try:
        for name in bank.on:
            scale, tensors = bank.settings[name].alpha / bank.settings[name].rank, bank.tensors(name)
            for key, a in tensors.items():
                if key.endswith(".lora_A.weight"):
                    layer = key.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
                    weight = model.backbone.model.get_parameter(f"{layer}.weight")
                    before.setdefault(weight, weight.detach().clone())
                    weight.data += scale * tensors[key.replace("lora_A", "lora_B")] @ a
        with bank.active():
            yield
    finally:
        for weight, values in before.items():
            weight.data.copy_(values)


def all_maps(evidence: Evidence, names: Collection[str], needed: Collection[str]) -> dict[str, Maps]:
    """The maps of the whole answer by these methods, of the needed senses."""
    found: dict[str, Maps] = {}
    for name in names:
        if name in library.METHODS:
            values = evidence.attribution(None, name).values
            found[name] = {sense: values[sense] for sense in needed}
    own = [name for name in names if name not in found]
    if not own or evidence.answered is None:
        return found
    steps = list(evidence.steps)
    with evidence.answered.replay() as replay, merged(evidence.answered.model):
        spans = {sense: replay.spans[sense] for sense in needed}
        layers = record_layers(replay, steps) if set(own) & set(ATTENTION_RULES) else []
        rows = torch.tensor(steps) + replay.start - 1
        for name in own:
            if name == "hiding":
                found[name] = {sense: hiding(replay, steps, span) for sense, span in spans.items()}
                continue
            if name in ATTENTION_RULES:
                values = ATTENTION_RULES[name](layers)[rows].sum(0)  # (S,)
            else:
                values = own_gradients(name, replay, steps)
            found[name] = {sense: values[span] for sense, span in spans.items()}
    return found


def own_gradients(name: str, replay: Replay, tokens: Sequence[int]) -> Tensor:
    """The values (S,) of a kind of integrated gradients that is not the library's default."""
    if name == "log_odds":
        return integrated_gradients(OddsReplay(replay), tokens).values
    kind, *start, count = name.split("_")
    if kind == "adaptive":
        return integrated_gradients(replay, tokens, int(count)).values
    return midpoints(replay, tokens, start[0], int(count))
