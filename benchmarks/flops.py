"""Floating point operations of a backbone's parts, from the shapes on the meta device.

A product of (n, a) and (a, b) is 2nab. What is not a product (norms, softmax, activations) is left out.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from lynx.backbones import Backbone

RANK = 64


@dataclass(frozen=True)
class Flops:
    """Of one pass of a part. linear: frozen linears; attention: both its products; lora: of one LoRA.

    Backward there are twice as many in the products of two activations (attention) and of LoRAs, whose
    weights are trained, and as many again in frozen linears, which pass a gradient on and keep none.
    """

    linear: float
    attention: float
    lora: float

    @property
    def forward(self) -> float:
        """A LoRA on, or without one: it is some percent."""
        return self.linear + self.attention + self.lora

    def step(self, recomputed: bool = False) -> float:
        """Forward and backward of a training step; recomputed: activations are computed twice."""
        return self.forward * (1 + recomputed) + self.linear + 2 * self.attention + 2 * self.lora


def _lora(backbone: Backbone, part: str) -> int:
    return sum(map(math.prod, backbone.lora_shapes(part, RANK).values()))


def encoder(backbone: Backbone) -> Flops:
    """Of the vision tower and the projector, for one pseudo-frame."""
    sizes = backbone.vision_sizes(backbone.model.config)
    patches = (math.isqrt(backbone.frame_pixels(None, 1)) // sizes.patch) ** 2  # of a square
    model: Any = backbone.model.model
    modules = [*model.vision_tower.modules(), *model.multi_modal_projector.modules()]
    weights = sum(m.weight.numel() for m in modules if isinstance(m, nn.Linear | nn.Conv2d))
    layers = len(backbone.vision_attention_modules())
    attention = 4 * patches**2 * sizes.hidden * layers
    return Flops(2 * weights * patches, attention, 2 * _lora(backbone, "vision") * patches)


def llm(backbone: Backbone, tokens: int, answers: int) -> Flops:
    """Of the LLM, for one packed clip of so many tokens, of which so many are answers' and get logits.

    Attention is counted whole: a mask of which question sees what is computed in full.
    """
    decoder: Any = backbone.model.get_decoder()
    weights = sum(m.weight.numel() for m in decoder.layers.modules() if isinstance(m, nn.Linear))
    config = backbone.model.config.get_text_config()
    width = backbone.text_sizes(backbone.model.config).head_dim * config.num_attention_heads
    attention = 4 * tokens**2 * width * config.num_hidden_layers
    head = 2 * answers * config.hidden_size * config.vocab_size
    return Flops(2 * weights * tokens + head, attention, 2 * _lora(backbone, "llm") * tokens)
