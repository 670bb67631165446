"""LLaVA-OneVision: SigLIP, a two-layer projector with 2x2 pooling, Qwen2. Also the family of `lynx-tiny`.

`get_video_features` gives T * rows * cols tokens and one newline token at the very end; frames of any size
are squashed to the tower's square.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lynx.backbones.base import Backbone, TokenLayout

FRAMES_PER_PASS = 32
"""Longer clips go through the tower in parts, so that memory does not grow with them."""


class LlavaOnevision(Backbone):
    """`LlavaOnevisionForConditionalGeneration` in every size."""

    family = "llava_onevision"
    vision_targets = (
        r".*vision_tower\.(vision_model\.)?encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
    )
    llm_targets = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    unquantised = ("lm_head", "model.vision_tower", "model.multi_modal_projector")

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
        return math.ceil(rows / 2), math.ceil(cols / 2)

    def tokens(self, frames: int) -> int:
        """Tokens of a clip of that many frames, its newline included."""
        rows, cols = self.token_grid
        return frames * rows * cols + 1

    def pixels(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> (T, 3, h, w) float in the model's precision, on its device.

        The resize works on uint8 on the CPU, as the stock video processor's does.
        """
        size = self.preprocessing.size
        frames = frames.cpu()
        if tuple(frames.shape[-2:]) != size:
            frames = F.interpolate(frames, size, mode="bicubic", align_corners=False, antialias=True)
        mean = torch.tensor(self.preprocessing.mean).view(3, 1, 1) * 255
        std = torch.tensor(self.preprocessing.std).view(3, 1, 1) * 255
        return ((frames.float() - mean) / std).to(self.device, self.dtype)

    def encode(self, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
        """(T, 3, h, w) -> tokens (T * rows * cols + 1, D), newline last."""
        parts = [
            self.model.model.get_video_features(part[None]).pooler_output[0]
            for part in pixels.split(FRAMES_PER_PASS)
        ]
        tokens = torch.cat([part[:-1] for part in parts[:-1]] + [parts[-1]])
        return tokens, self._layout(len(pixels))

    def _layout(self, frames: int) -> TokenLayout:
        rows, cols = self.token_grid
        frame, row, col = torch.meshgrid(
            torch.arange(frames), torch.arange(rows), torch.arange(cols), indexing="ij"
        )
        newline = torch.tensor([-1])
        cell = torch.stack([torch.cat([row.flatten(), newline]), torch.cat([col.flatten(), newline])], dim=1)
        return TokenLayout(torch.cat([frame.flatten(), newline]), cell, (rows, cols))

    def vision_attention_modules(self) -> list[nn.Module]:
        """SigLIP's attention modules, first layer first."""
        return [layer.self_attn for layer in self.model.model.vision_tower.encoder.layers]

    def text_attention_modules(self) -> list[nn.Module]:
        """Qwen2's attention modules, first layer first."""
        return [layer.self_attn for layer in self.model.model.language_model.layers]

    def even_queries(self) -> Tensor:
        """(ceil(rows/2) * ceil(cols/2),) indices: the patches that survive the released code's subset."""
        rows, cols = self.patch_grid
        return (torch.arange(0, rows, 2)[:, None] * cols + torch.arange(0, cols, 2)).flatten()

    def interface_weights(self) -> list[Tensor]:
        """Weight and bias of both layers of the projector."""
        return list(self.model.model.multi_modal_projector.parameters())
