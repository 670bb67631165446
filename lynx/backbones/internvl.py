"""InternVL in its transformers-native classes: InternViT with a class token, pixel shuffle, a Qwen LLM.

A frame is 256 tokens between `<img>` and `</img>`, and a video names its frames ("Frame1: "), so the media of
a prompt are tokens with words between them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lynx.backbones.base import Backbone
from lynx.types import VIDEO, Stream, TokenLayout


class InternVL(Backbone):
    """`InternVLForConditionalGeneration` in every size."""

    family = "internvl"
    vision_targets = (
        r".*vision_tower\.encoder\.layer\.\d+\.(attention\.([qkv]_proj|projection_layer)|mlp\.fc[12])"
    )
    output_projection = "projection_layer"
    relatives = {
        "internvl_chat": "this is InternVL's original layout, which needs code of its own, and code from the "
        "Hub is never run: transformers-native repositories end in -hf or -HF"
    }
    unquantized = ("lm_head", "model.vision_tower", "model.multi_modal_projector")
    original_names = {
        f"vision_model.encoder.layers.*.{theirs}": tuple(f"vision_tower.encoder.layer.*.{x}" for x in ours)
        for theirs, ours in {
            "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            "attn.proj": ("attention.projection_layer",),
            "mlp.fc1": ("mlp.fc1",),
            "mlp.fc2": ("mlp.fc2",),
        }.items()
    }

    @property
    def placeholder(self) -> int:
        """The id of `<IMG_CONTEXT>`."""
        return int(self.model.config.image_token_id)

    @property
    def marker(self) -> int:
        """The id of `<video>`."""
        found: Any = self.tokenizer.convert_tokens_to_ids(self.tokenizer.video_token)
        return int(found)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches in the vision tower."""
        config: Any = self.model.config.vision_config  # sizes are pairs here
        (height, width), (patch_h, patch_w) = config.image_size, config.patch_size
        return height // patch_h, width // patch_w

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of one frame, after pixel shuffle."""
        rows, cols = self.patch_grid
        ratio = self.model.config.downsample_ratio  # 0.5: pixel shuffle joins 2 x 2 patches in one token
        return int(rows * ratio), int(cols * ratio)

    def tokens(self, frames: int, size: tuple[int, int] | None = None) -> int:
        """Tokens of a clip of that many frames of any size, without the words between them."""
        return frames * math.prod(self.token_grid)

    def captions(self, times: Tensor) -> int:
        """Names of frames and the marks around each."""
        numbers = range(1, len(times) + 1)
        return sum(len(self.text_ids(f"\nFrame{number}: ")) + 2 for number in numbers)

    def encode(self, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
        """(T, 3, h, w) -> tokens (T * rows * cols, D)."""
        # Stock drops the class token before pixel shuffle, so that all tokens are of a cell of the grid.
        parts = [  # (frames, rows * cols, D) -> (frames * rows * cols, D)
            self.model.model.get_image_features(part).pooler_output.flatten(0, 1)
            for part in pixels.split(self.frames_per_pass)
        ]
        return torch.cat(parts), TokenLayout.of(len(pixels), self.token_grid)

    def stock_inputs(self, pixels: Tensor, stream: Stream, ids: Tensor) -> dict[str, Tensor]:
        """The pixels: to stock every frame is a picture."""
        return {"pixel_values": pixels}

    def media_ids(self, streams: Sequence[Stream]) -> tuple[list[int], dict[str, list[int]]]:
        """Frames of the video with their names, then every other stream between one pair of marks."""
        marks = self.tokenizer.start_image_token, self.tokenizer.end_image_token
        begin, end = map(self.text_ids, marks)
        ids: list[int] = []
        places: dict[str, list[int]] = {}
        for stream in streams:
            count = stream.steps if stream.sense == VIDEO else 1
            size = len(stream.tokens) // count
            for number in range(1, count + 1):
                name = f"Frame{number}: " if stream.sense == VIDEO else ""
                ids += self.text_ids(("\n" if ids else "") + name) + begin
                places.setdefault(stream.sense, []).extend(range(len(ids), len(ids) + size))
                ids += [self.placeholder] * size + end
        return ids, places

    def vision_attention_modules(self) -> list[nn.Module]:
        """The attention modules of InternViT's layers that are used, first layer first."""
        layers = self.model.model.vision_tower.encoder.layer
        return [layer.attention for layer in layers[: self.used_layers]]

    def even_queries(self, length: int) -> Tensor:
        """Patches at even rows and columns: one of each 2 x 2 that become a token."""
        rows, cols = self.patch_grid  # the 1 below: in the tower, the class token stands before the patches
        return (1 + torch.arange(0, rows, 2)[:, None] * cols + torch.arange(0, cols, 2)).flatten()
