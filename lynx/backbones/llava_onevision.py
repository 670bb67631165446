"""LLaVA-OneVision: SigLIP, a two-layer projector with 2x2 pooling, Qwen2. Also the family of `lynx-tiny`.

`get_video_features` gives T * rows * cols tokens and one newline token at the very end; frames of any size
are squashed to the tower's square.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from lynx.backbones.base import Backbone
from lynx.types import TokenLayout


class LlavaOnevision(Backbone):
    """`LlavaOnevisionForConditionalGeneration` in every size."""

    family = "llava_onevision"
    vision_targets = (
        r".*vision_tower\.(vision_model\.)?encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
    )
    output_projection = "out_proj"
    relatives = {
        "llava": "of LLaVA-OneVision take the transformers-native repositories, llava-hf/llava-onevision-*"
    }
    unquantized = ("lm_head", "model.vision_tower", "model.multi_modal_projector")
    frames_per_pass = 32

    @property
    def placeholder(self) -> int:
        """The id of `<video>`."""
        return int(self.model.config.video_token_id)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches in the vision tower."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

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
        """SigLIP's attention modules, first layer first."""
        return [layer.self_attn for layer in self.model.model.vision_tower.encoder.layers]

    def even_queries(self, length: int) -> Tensor:
        """Indices (ceil(rows / 2) * ceil(cols / 2),) of patches at even rows and columns, as released."""
        rows, cols = self.patch_grid
        return (torch.arange(0, rows, 2)[:, None] * cols + torch.arange(0, cols, 2)).flatten()
