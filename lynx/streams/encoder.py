"""Media to streams: a sense is rendered, encoded through its vision LoRA, pooled, and kept in memory."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lynx.adapters.registry import AdaptedBackbone
from lynx.backbones import Backbone
from lynx.media.thumbnails import thumbnails
from lynx.streams.key import stream_key
from lynx.streams.store import StreamStore
from lynx.types import VIDEO, Frames, Stream, TokenLayout


class StreamEncoder(AdaptedBackbone):
    """A backbone with adapters that turns recordings into streams of interface tokens."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.streams = StreamStore()

    def encode(self, sense: str, frames: Frames) -> Stream:
        """(Pseudo-)frames of one clip -> the stream of that sense, through its vision LoRA; no gradients."""
        return self._stream(sense, frames, *self._tokens(sense, frames.pixels))

    def stream_key(self, sense: str, source: Any, times: Tensor) -> str:
        """The name of the stream of a source as it would be now: see `lynx.streams.key`."""
        with self.lock:
            return stream_key(self, sense, source, times)

    def stream(self, sense: str, source: Any, times: Tensor) -> Stream:
        """The stream of a sense in a recording at `times` (T,) seconds; its frames are thumbnails.

        The last ones are kept in `streams`: what is there is neither read nor encoded again.
        Raises: MediaError, AdapterError: the source cannot be that sense.
        """
        with self.lock:
            key = self.stream_key(sense, source, times)
            stream = self.streams.get(key)
            if stream is None:
                stream = self._sense(sense, source, times)
                self.streams.put(key, stream)
            return stream

    def _sense(self, sense: str, source: Any, times: Tensor) -> Stream:
        """Read, draw and encode in parts: of a long clip no two parts of large frames are held at once."""
        parts, seen = [], []
        for frames in self.modality(sense).parts(source, times, self.backbone.frames_per_pass):
            parts.append(self._tokens(sense, frames.pixels))
            seen.append(thumbnails(frames))
            del frames  # before the next ones are made
        whole = replace(
            seen[-1],
            pixels=torch.cat([part.pixels for part in seen]),
            times=torch.cat([part.times for part in seen]),
            labels=sum((part.labels for part in seen), ()),
        )
        return self._stream(sense, whole, *join(parts, len(seen[0])))

    def _tokens(self, sense: str, frames: Tensor) -> tuple[Tensor, TokenLayout]:
        """Of frames (T, 3, H, W) uint8, whose pixels are made part by part."""
        pixels, size = self.backbone.pixels, self.backbone.frames_per_pass
        if sense == VIDEO:
            pixels = self.backbone.video_pixels
        with self.sensing(sense), torch.no_grad():
            return join([self.backbone.encode(pixels(part)) for part in frames.split(size)], size)

    def _stream(self, sense: str, frames: Frames, tokens: Tensor, layout: TokenLayout) -> Stream:
        times, marks = layout.seconds(frames.times), (self.placement(sense), self.type_embedding(sense))
        stream = Stream(sense, tokens, times, layout.cell, layout.grid, frames, *marks)
        return stream if sense == VIDEO else pool(stream, self.adapter(sense).token_pooling)

    def tokens(self, sense: str, frames: int, size: tuple[int, int] | None = None) -> int:
        """How many tokens a stream of that many (pseudo-)frames will have; size: (H, W) of the video's."""
        if sense == VIDEO:
            return self.backbone.tokens(frames, size)
        rows, columns = self.backbone.token_grid
        steps, newlines = divmod(self.backbone.tokens(frames), rows * columns)
        pooling = self.adapter(sense).token_pooling
        if pooling in ("halves", "bands"):
            steps = min(2, steps)
        return steps * {"space": 1, "bands": rows}.get(pooling, rows * columns) + newlines


def pool(stream: Stream, how: str) -> Stream:
    """A stream pooled in one of POOLINGS; newlines stay.

    space: one token a moment, the mean over its cells. halves: the means of every cell over the earlier and
    over the later half of the moments, of which the earlier has one more if they are odd. bands: of these
    the means over every row of cells, which in a spectrogram is a band of frequencies.
    """
    if how == "none":
        return stream
    newline = stream.times.isnan()
    tokens = stream.tokens[~newline.to(stream.tokens.device)].unflatten(0, (-1, math.prod(stream.grid)))
    times, cells = (part[~newline].unflatten(0, tokens.shape[:2]) for part in (stream.times, stream.cells))
    grid = stream.grid
    if how == "space":
        tokens, times = tokens.mean(dim=1, keepdim=True), times[:, :1]
        cells, grid = torch.zeros_like(cells[:, :1]), (1, 1)
    else:
        tokens, times = (
            torch.stack([half.mean(dim=0) for half in part.tensor_split(min(2, len(part)))])
            for part in (tokens, times)
        )
        cells = cells[: len(tokens)]
    if how == "bands":
        tokens = tokens.unflatten(1, grid).mean(dim=2)
        times, cells = times[:, :: grid[1]], cells[:, :: grid[1]]
        grid = (grid[0], 1)
    return replace(
        stream,
        tokens=torch.cat([tokens.flatten(0, 1), stream.tokens[newline.to(stream.tokens.device)]]),
        times=torch.cat([times.flatten(), stream.times[newline]]),
        cells=torch.cat([cells.flatten(0, 1), stream.cells[newline]]),
        grid=grid,
    )


def join(parts: Sequence[tuple[Tensor, TokenLayout]], frames: int) -> tuple[Tensor, TokenLayout]:
    """Tokens and layouts of consecutive parts of a clip, `frames` frames each, as if encoded in one.

    Tokens of no frame, such as a newline, end a clip: those of the last part stay.
    """
    tokens, moments, cells = [], [], []
    for number, (encoded, layout) in enumerate(parts):
        there = layout.frame >= (0 if number < len(parts) - 1 else -1)
        tokens.append(encoded[there.to(encoded.device)])
        moments.append(torch.where(layout.frame < 0, -1, layout.frame + number * frames)[there])
        cells.append(layout.cell[there])
    last = parts[-1][1]
    layout = TokenLayout(torch.cat(moments), torch.cat(cells), last.grid, last.frames_a_token)
    return torch.cat(tokens), layout
