"""Qwen2.5-VL: a tower with windows, two frames a token, positions in time, height and width.

The RGB video keeps its shape (the stock processor's `smart_resize`); guidance and pseudo-frames have one
square resolution, since mean keys and values belong to one grid. Positions are computed here and always
passed: the stock model cannot place two grids one after the other, and keeps state between requests.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lynx import compat
from lynx.backbones.attention import PACKED
from lynx.backbones.base import Backbone
from lynx.backbones.sizes import VisionSizes
from lynx.errors import MediaError
from lynx.types import PLACEMENTS, Stream, TokenLayout


class Qwen25VL(Backbone):
    """`Qwen2_5_VLForConditionalGeneration` in every size."""

    family = "qwen2_5_vl"
    vision_targets = r".*visual\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)|merger\.mlp\.[02])"
    output_projection = "proj"
    unquantized = ("lm_head", "model.visual")
    placements: ClassVar[tuple[str, ...]] = PLACEMENTS
    axes = (3,)

    def __init__(self, model: PreTrainedModel, *arguments: Any, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        # Set here: transformers would look for a kernel of this name while it loads the weights.
        compat.use_attention(self.model.model.visual.config, PACKED)

    @classmethod
    def vision_sizes(cls, config: Any) -> VisionSizes:
        """The tower's sizes: a patch covers two frames, and its feed-forward layers are gated."""
        vision = config.vision_config
        sizes = (vision.hidden_size, vision.intermediate_size, vision.patch_size)
        return VisionSizes(*sizes, frames_per_patch=vision.temporal_patch_size, gated=True)

    @property
    def placeholder(self) -> int:
        """The id of `<|video_pad|>`."""
        return int(self.model.config.video_token_id)

    @property
    def merged(self) -> int:
        """Pixels on a side of one token: 28 in the real ones."""
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    @property
    def square(self) -> int:
        """Pixels on a side of a pseudo-frame: 448, or what the checkpoint's largest frame leaves."""
        # A multiple of the window, so that no window is cut at the edge: guidance keeps mean keys and values
        # of each window, and one attention call can take equal windows as a batch.
        window = self.model.config.vision_config.window_size
        return max(1, min(448, math.isqrt(self.preprocessing.pixels[1])) // window) * window

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of one pseudo-frame."""
        side = self.square // self.merged
        return side, side

    def tokens(self, frames: int, size: tuple[int, int] | None = None) -> int:
        """Tokens of a clip: two frames each, the last one alone where their number is odd."""
        steps = math.ceil(frames / self._temporal)
        return steps * self.frame_pixels(size, frames) // self.merged**2

    def frame_pixels(self, size: tuple[int, int] | None, frames: int) -> int:
        """Pixels of a frame of the video's own shape, or of the pseudo-frames' square."""
        return math.prod(self.video_size(size, frames)) if size is not None else self.square**2

    def pixels(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> (T', 3, square, square)."""
        return self.resize(frames, (self.square, self.square))

    def video_pixels(self, frames: Tensor, total: int | None = None) -> Tensor:
        """(T, 3, H, W) uint8 -> (T', 3, h, w), sides multiples of `merged` and close to the video's shape."""
        height, width = frames.shape[-2:]
        return self.resize(frames, self.video_size((height, width), total or len(frames)))

    def video_size(self, size: tuple[int, int], frames: int) -> tuple[int, int]:
        """(height, width) that a frame of so many gets, of a video of that size, as stock has it.

        Raises: MediaError: stock refuses such a shape.
        """
        try:
            return self._stock_size(size, frames)
        except ValueError as error:
            raise MediaError(
                f"the video's frames are {size[1]} x {size[0]} pixels, which {self.source} does not take "
                f"({error}): give a video that is cropped or padded to a shape less narrow"
            ) from error

    def resize(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """(T, 3, H, W) uint8 -> (T', 3, *size), T' even: the last frame twice where T is odd."""
        pixels = super().resize(frames, size)
        missing = -len(pixels) % self._temporal
        return torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)]) if missing else pixels

    @property
    def _temporal(self) -> int:
        return int(self.model.config.vision_config.temporal_patch_size)

    @property
    def video_tokens(self) -> int:
        """The limit of tokens that `capped` is about: of a whole clip."""
        return self.preprocessing.video_tokens or 128_000

    def _stock_size(self, size: tuple[int, int], frames: int) -> tuple[int, int]:
        least, most = self.preprocessing.pixels
        if self.preprocessing.capped:  # as stock; 90 % and 5 % are its own
            total = int(0.9 * self.video_tokens * self.merged**2)
            most = max(min(most, total * self._temporal // frames), int(1.05 * least))
        return compat.qwen_video_size(*size, self.merged, least, most)

    def encode(self, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
        """(T', 3, h, w) -> tokens (T' / 2 * rows * cols, R)."""
        parts = [
            self._tokens_of(self.model.model.get_video_features(*self._patches(part)))
            for part in pixels.split(self.frames_per_pass)
        ]
        grid = (pixels.shape[2] // self.merged, pixels.shape[3] // self.merged)
        return torch.cat(parts), TokenLayout.of(len(pixels) // self._temporal, grid, self._temporal)

    def _patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(T', 3, h, w) -> patches as rows, those of one token one after the other, and their grid (1, 3)."""
        vision, frames = self.model.config.vision_config, self._temporal
        patch, merge = vision.patch_size, vision.spatial_merge_size
        steps, (rows, cols) = len(pixels) // frames, (side // patch for side in pixels.shape[-2:])
        patches = pixels.view(steps, frames, 3, rows // merge, merge, patch, cols // merge, merge, patch)
        # (steps, rows/m, cols/m, m, m | C, frames, patch, patch)
        flat = patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(steps * rows * cols, -1)
        return flat, torch.tensor([[steps, rows, cols]], device=pixels.device)

    def stock_inputs(self, pixels: Tensor, stream: Stream, ids: Tensor) -> dict[str, Tensor]:
        """Patches, their grid, seconds between tokens, and which ids are the video's.

        Without the last stock gives every token a position of text, silently.
        """
        patches, grid = self._patches(pixels)
        spacing = torch.tensor([round(stream.spacing, 6)], device=pixels.device)
        kinds = (ids == self.placeholder).int() * 2
        known = {"pixel_values_videos": patches, "video_grid_thw": grid, "mm_token_type_ids": kinds}
        return {**known, "second_per_grid_ts": spacing}

    def _tokens_of(self, output: Any) -> Tensor:
        """What the tower gives of one clip -> its tokens (n, R)."""
        tokens: Tensor = output.pooler_output[0]
        return tokens

    def inner_positions(self, stream: Stream, places: Tensor) -> Tensor:
        """(3, n): time, row and column of every token.

        Time runs in the checkpoint's own steps a second, from the seconds between the stream's moments.
        """
        # Stock multiplies, then cuts the fraction off; rounding keeps 0.9999999 s from losing a tick.
        ticks = self.model.config.vision_config.tokens_per_second * round(stream.spacing, 6)
        time = (torch.arange(stream.steps) * ticks).long()  # (steps,)
        rows, cols = (torch.arange(side) for side in stream.grid)
        return torch.stack(torch.meshgrid(time, rows, cols, indexing="ij")).flatten(1)

    def extent(self, stream: Stream, places: Tensor) -> int:
        """The larger side of the grid: stock lets text go on there, even where the time axis is longer."""
        return max(stream.grid)

    def vision_attention_modules(self) -> list[nn.Module]:
        """The tower's attention modules, first layer first."""
        return [block.attn for block in self.model.model.visual.blocks]

    def windows(self, layer: int) -> int:
        """1 in a layer with full attention, else as many windows as a pseudo-frame has."""
        vision = self.model.config.vision_config
        return 1 if layer in vision.fullatt_block_indexes else (self.square // vision.window_size) ** 2

    def even_queries(self, length: int) -> Tensor:
        """The first patch of every 2 x 2 block: the tower keeps the patches of a token together."""
        return torch.arange(0, length, self.model.config.vision_config.spatial_merge_size**2)

    def interface_weights(self) -> list[Tensor]:
        """The merger's weights, its norm included, without the LoRAs that it may have."""
        named = self.model.model.visual.merger.named_parameters()
        return [weight for name, weight in named if ".lora_" not in name]
