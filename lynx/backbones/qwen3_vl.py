"""Qwen3-VL: features of inner layers beside the tokens (deepstack), and its second before every two frames.

The tower gives the LLM more than tokens: what its inner layers see is added to the hidden states of the LLM's
first layers, at the tokens' places (arXiv 2406.04334). So a token here is a row of R = (1 + k) D numbers, the
token and k features, from the tower to the LLM: cached, pooled, aligned and hidden as one. Stock takes such
rows apart as the output of its own tower, in place of pixels.

Every two frames are a grid of their own in which time stands still; when they were is said in words before
them. The limits of pixels are of all frames of a clip together, so a longer clip has smaller frames.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lynx import compat
from lynx.backbones.qwen2_5_vl import Qwen25VL
from lynx.backbones.sizes import VisionSizes
from lynx.types import VIDEO, Stream, TokenLayout

_RUNNING_STATE = (
    "three of four layers of its LLM keep a running state in place of keys and values: see docs/backbones.md"
)


class Qwen3VL(Qwen25VL):
    """`Qwen3VLForConditionalGeneration` in every size but those of experts."""

    family = "qwen3_vl"
    vision_targets = (
        r".*visual\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])"
        r"|(merger|deepstack_merger_list\.\d+)\.linear_fc[12])"
    )
    relatives = {
        "qwen3_5": _RUNNING_STATE,
        "qwen3_5_moe": _RUNNING_STATE,
        "qwen3_vl_moe": "its LLM's experts are not linear layers, on which LoRAs are: take a dense size",
    }
    placements = ("continue", "parallel")  # not "share": a moment's time is in words, not in positions

    @classmethod
    def vision_sizes(cls, config: Any) -> VisionSizes:
        """The tower's sizes: its feed-forward layers have no gate."""
        return replace(super().vision_sizes(config), gated=False)

    @property
    def token_width(self) -> int:
        """The token's D numbers, and D for each layer of the tower whose features go to the LLM."""
        return self.width * (1 + len(self.model.config.vision_config.deepstack_visual_indexes))

    @property
    def square(self) -> int:
        """Pixels on a side of a pseudo-frame: 448, or what the checkpoint's largest pair of frames leaves."""
        most = math.isqrt(self.preprocessing.pixels[1] // self._temporal)
        return max(1, min(448, most) // self.merged) * self.merged

    @property
    def video_tokens(self) -> int:
        """The limit of tokens that `capped` is about: of a frame."""
        return self.preprocessing.video_tokens or 768

    def _stock_size(self, size: tuple[int, int], frames: int) -> tuple[int, int]:
        frames = max(frames, self._temporal)  # one alone, which stock refuses, is shown twice
        least, most = self.preprocessing.pixels
        if self.preprocessing.capped:  # as stock; the 5 % are its own
            share = min(self.video_tokens * self.merged**2, most // frames)
            most = frames * max(share, int(1.05 * least))
        return compat.qwen3_video_size(frames, *size, self.merged, least, most)

    def encode(self, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
        """(T', 3, h, w) -> tokens (T' / 2 * rows * cols, R)."""
        tokens, layout = super().encode(pixels)
        # The second that is said before a last frame without a partner is its own.
        return tokens, replace(layout, last_alone=True)

    def _tokens_of(self, output: Any) -> Tensor:
        features = (layer[0] for layer in output.deepstack_features)
        return torch.cat([output.pooler_output[0], *features], dim=1)

    def stock_inputs(self, pixels: Tensor, stream: Stream, ids: Tensor) -> dict[str, Tensor]:
        """Patches, their grid, and which ids are the video's; seconds are in the prompt."""
        given = super().stock_inputs(pixels, stream, ids)
        return {name: value for name, value in given.items() if name != "second_per_grid_ts"}

    def inputs(self, ids: Tensor, embeds: Tensor, cached: int = 0) -> dict[str, Any]:
        """Ids, and interface tokens and features as the output of stock's tower for what is not cached.

        Stock finds their places by the ids; embeddings it would compare with the placeholder's.
        """
        tokens, *features = embeds[:, cached:][ids[:, cached:] == self.placeholder].split(self.width, dim=1)
        if not len(tokens):  # (n, D)
            return {"input_ids": ids}
        return {"input_ids": ids, "mm_encoder_outputs": {VIDEO: compat.deepstack_output(tokens, features)}}

    def decoder_inputs(self, ids: Tensor, embeds: Tensor) -> dict[str, Any]:
        """The rows' first D numbers as embeddings, and beside them the features and where they belong."""
        tokens, *features = embeds.split(self.width, dim=-1)  # (B, S, D) each
        places = ids == self.placeholder
        deep = [layer[places] for layer in features]  # (n, D) each
        return {"inputs_embeds": tokens, "visual_pos_masks": places, "deepstack_visual_embeds": deep}

    def captions(self, times: Tensor) -> int:
        """Seconds of every two frames and the marks around them."""
        frames, steps = self._temporal, math.ceil(len(times) / self._temporal)
        moments = TokenLayout.of(steps, (1, 1), frames, last_alone=True).seconds(times).tolist()
        captions = [_caption(moment) for moment in moments]
        # Digits are tokens of their own, so that captions of one length have as many.
        one = {len(caption): caption for caption in captions}
        tokens = {length: len(self.text_ids(caption)) for length, caption in one.items()}
        return sum(tokens[len(caption)] + 2 for caption in captions)

    def media_ids(self, streams: Sequence[Stream]) -> tuple[list[int], dict[str, list[int]]]:
        """Every two frames of the video behind their second; every other stream between one pair of marks.

        The template's own pair of marks stays around all of it, as in what the stock processor writes.
        """
        config = self.model.config
        ids: list[int] = []
        places: dict[str, list[int]] = {}
        for stream in streams:
            words: list[list[int]] = [[]]
            if stream.sense == VIDEO:
                moments = stream.times[:: math.prod(stream.grid)].tolist()
                words = [self.text_ids(_caption(moment)) for moment in moments]
            size = len(stream.tokens) // len(words)
            for caption in words:
                ids += [*caption, config.vision_start_token_id]
                places.setdefault(stream.sense, []).extend(range(len(ids), len(ids) + size))
                ids += [*([self.placeholder] * size), config.vision_end_token_id]
        return ids, places

    def inner_positions(self, stream: Stream, places: Tensor) -> Tensor:
        """(3, n): time, row and column, which all begin anew behind the grid and the words before."""
        size, starts = math.prod(stream.grid), self._starts(stream, places)
        first, last = places[::size], places[size - 1 :: size]  # (steps,) of each grid
        index = torch.arange(int(places[-1]) + 1)
        grid = torch.searchsorted(last.contiguous(), index)  # which grid a place is in, or leads to
        positions = (starts[grid] + index - first[grid]).repeat(3, 1)  # of words
        rows, cols = (torch.arange(side) for side in stream.grid)
        axes = torch.meshgrid(torch.zeros(1, dtype=torch.long), rows, cols, indexing="ij")
        cells = torch.stack(axes).flatten(1)  # (3, size)
        positions[:, places] = starts.repeat_interleave(size) + cells.repeat(1, len(starts))
        return positions

    def extent(self, stream: Stream, places: Tensor) -> int:
        """Grids, each its larger side, and the words between them."""
        return int(self._starts(stream, places)[-1]) + max(stream.grid)

    def _starts(self, stream: Stream, places: Tensor) -> Tensor:
        """The position (steps,) at which each grid begins."""
        size = math.prod(stream.grid)
        words = places[size::size] - places[size - 1 : -1 : size] - 1  # (steps - 1,) between two grids
        return F.pad((words + max(stream.grid)).cumsum(0), (1, 0))

    def windows(self, layer: int) -> int:
        """1: attention is over both frames of a pair in every layer."""
        return 1

    def interface_weights(self) -> list[Tensor]:
        """The weights of the merger and of the deepstack mergers, without the LoRAs that they may have."""
        visual = self.model.model.visual
        named = [*visual.merger.named_parameters(), *visual.deepstack_merger_list.named_parameters()]
        return [weight for name, weight in named if ".lora_" not in name]


def _caption(second: float) -> str:
    return f"<{second:.1f} seconds>"
