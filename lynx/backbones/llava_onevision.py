"""LLaVA-OneVision: SigLIP, a two-layer projector with 2x2 pooling, Qwen2. Also the family of `lynx-tiny`.

`get_video_features` gives T * rows * cols tokens and one newline token at the very end; frames of any size
are squashed to the tower's square.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lynx.backbones.base import Backbone
from lynx.backbones.sizes import VisionSizes
from lynx.errors import BackboneError
from lynx.types import TokenLayout


@dataclass(frozen=True)
class Tower:
    """Names inside a class of vision towers, which LLaVA-OneVision takes any of."""

    layers: str  # path of the list of layers
    attention: str  # of a layer
    output: str  # of an attention module: the linear that mixes the heads at the end
    linears: str  # regex of a layer's linears
    leading_tokens: int = 0  # in front of the patches, such as a class token

    @property
    def targets(self) -> str:
        """The regex of the full names of all linears."""
        layers = self.layers.replace(".", r"\.")
        return rf".*vision_tower\.(vision_model\.)?{layers}\.\d+\.({self.linears})"


TOWERS = {
    "siglip_vision_model": Tower(
        "encoder.layers", "self_attn", "out_proj", r"self_attn\.(q|k|v|out)_proj|mlp\.fc[12]"
    ),
    "dinov2": Tower(
        "encoder.layer", "attention", "o_proj",
        r"attention\.[qkvo]_proj|mlp\.(fc[12]|gate_proj|up_proj|down_proj)", leading_tokens=1,
    ),
}  # fmt: skip
"""By the tower's `model_type`; the first is that of the published checkpoints."""


class LlavaOnevision(Backbone):
    """`LlavaOnevisionForConditionalGeneration` in every size."""

    family = "llava_onevision"
    tower = TOWERS["siglip_vision_model"]
    vision_targets = tower.targets
    output_projection = tower.output
    relatives = {
        "llava": "of LLaVA-OneVision take the transformers-native repositories, llava-hf/llava-onevision-*"
    }
    unquantized = ("lm_head", "model.vision_tower", "model.multi_modal_projector")
    frames_per_pass = 32

    def __init__(self, model: PreTrainedModel, *arguments: Any, **options: Any) -> None:
        kind = model.config.vision_config.model_type
        if kind not in TOWERS:
            raise BackboneError(
                f"this LLaVA-OneVision has a tower of type {kind!r}: lynx knows the names inside "
                f"{', '.join(TOWERS)} (lynx.backbones.llava_onevision.TOWERS)"
            )
        self.tower = TOWERS[kind]
        self.vision_targets, self.output_projection = self.tower.targets, self.tower.output
        super().__init__(model, *arguments, **options)

    @classmethod
    def vision_sizes(cls, config: Any) -> VisionSizes:
        """The tower's sizes; DINOv2 says that of its feed-forward layers as a ratio."""
        vision = config.vision_config
        inner = getattr(vision, "intermediate_size", None) or int(vision.hidden_size * vision.mlp_ratio)
        gated = getattr(vision, "use_swiglu_ffn", False)
        return VisionSizes(vision.hidden_size, inner, vision.patch_size, gated=gated)

    @property
    def placeholder(self) -> int:
        """The id of `<video>`."""
        return int(self.model.config.video_token_id)

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of one frame, after pooling."""
        rows, cols = self.patch_grid
        return math.ceil(rows / 2), math.ceil(cols / 2)  # 27 x 27 patches are pooled to 14 x 14 tokens

    def tokens(self, frames: int, size: tuple[int, int] | None = None) -> int:
        """Tokens of a clip of that many frames of any size, its newline included."""
        rows, cols = self.token_grid
        return frames * rows * cols + 1

    def encode(self, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
        """(T, 3, h, w) -> tokens (T * rows * cols + 1, D), newline last."""
        parts = [  # each (part's frames * rows * cols + 1, D)
            self.model.model.get_video_features(part[None]).pooler_output[0]
            for part in pixels.split(self.frames_per_pass)
        ]
        # Stock ends every call with a newline token. A clip has one, so all parts but the last lose theirs.
        tokens = torch.cat([part[:-1] for part in parts[:-1]] + [parts[-1]])
        return tokens, self.layout(len(pixels))

    def layout(self, frames: int) -> TokenLayout:
        """Where the tokens of a clip of that many frames come from, its newline included."""
        layout = TokenLayout.of(frames, self.token_grid)
        newline = torch.tensor([-1])  # of no frame, in no cell
        cell = torch.cat([layout.cell, newline.expand(1, 2)])
        return replace(layout, frame=torch.cat([layout.frame, newline]), cell=cell)

    def vision_attention_modules(self) -> list[nn.Module]:
        """The attention modules of the tower's layers that are used, first layer first."""
        layers: Any = self.model.model.vision_tower.get_submodule(self.tower.layers)
        return [getattr(layer, self.tower.attention) for layer in layers[: self.used_layers]]

    def even_queries(self, length: int) -> Tensor:
        """Indices (ceil(rows / 2) * ceil(cols / 2),) of patches at even rows and columns, as released."""
        rows, cols = self.patch_grid
        even = (torch.arange(0, rows, 2)[:, None] * cols + torch.arange(0, cols, 2)).flatten()
        return even + self.tower.leading_tokens
