"""Media to streams: a sense is rendered, encoded through its vision LoRA, pooled, and kept in memory."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

from lynx.adapters.registry import AdaptedBackbone
from lynx.backbones import Backbone
from lynx.backbones.kv_cache import KvCaches
from lynx.errors import AdapterError
from lynx.media.thumbnails import thumbnails
from lynx.streams.key import stream_key
from lynx.types import VIDEO, Frames, Stream, TokenLayout

MAX_BYTES = 512 * 2**20
"""Maximum bytes of all streams a model keeps, on whichever device they are."""


class StreamEncoder(AdaptedBackbone):
    """A backbone with adapters that turns recordings into streams of interface tokens."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.streams: LRUCache[str, Stream] = LRUCache(MAX_BYTES, getsizeof=lambda stream: stream.nbytes)
        self.kv_caches = KvCaches()  # of the conversations about them
        self.blank_tokens: LRUCache[bytes, Tensor] = LRUCache(64)  # see `lynx.evidence.replay.blank_token`

    def encode(self, sense: str, frames: Frames) -> Stream:
        """(Pseudo-)frames of one clip -> the stream of that sense, through its vision LoRA; no gradients."""
        return self._placed(sense, frames, *self._encode_pixels(sense, frames.pixels, len(frames)))

    def encode_clips(self, sense: str, clips: Sequence[Frames]) -> list[Stream]:
        """The streams of a sense in several clips, as `encode` gives them to rounding.

        Clips of fewer frames than go through the tower at once go through it together.
        """
        found: dict[int, tuple[Tensor, TokenLayout]] = {}
        waiting: dict[torch.Size, list[tuple[int, Tensor]]] = {}  # by the shape of a frame's pixels
        most = self.backbone.frames_per_pass

        def encode(together: list[tuple[int, Tensor]]) -> None:
            with self.sensing(sense), torch.no_grad():
                encoded = self.backbone.encode(torch.cat([pixels for _, pixels in together]))
            parts = split(*encoded, [len(pixels) for _, pixels in together])
            found.update(zip((number for number, _ in together), parts, strict=True))
            together.clear()

        for number, frames in enumerate(clips):
            if 2 * len(frames) > most:  # which leaves no room for another of this length
                found[number] = self._encode_pixels(sense, frames.pixels, len(frames))
                continue
            pixels = self._pixels_of(sense, frames.pixels, len(frames))
            together = waiting.setdefault(pixels.shape[1:], [])
            if sum(len(others) for _, others in together) + len(pixels) > most:
                encode(together)
            together.append((number, pixels))
        for together in filter(None, waiting.values()):
            encode(together)
        return [self._placed(sense, frames, *found[number]) for number, frames in enumerate(clips)]

    def stream_key(self, sense: str, source: Any, times: Tensor) -> str:
        """The key of a source's stream under the current adapters: see `lynx.streams.key`."""
        with self.lock:
            return stream_key(self, sense, source, times)

    def stream(self, sense: str, source: Any, times: Tensor, key: str | None = None) -> Stream:
        """The stream of a sense in a recording at `times` (T,) seconds; its frames are thumbnails.

        A stream that is still in `streams` is returned as it is, or with the placement and type embedding of
        its sense by now. key: its `stream_key`, if that is known.
        Raises: MediaError, AdapterError: the source cannot be that sense.
        """
        with self.lock:
            name = (key or self.stream_key(sense, source, times)).partition("-")[0]
            if (kept := self.streams.get(name)) is not None:
                return self._marked(kept, name)
            # In parts: only one part of a long clip's full-size frames is in memory at a time.
            encoded, small = [], []
            total = len(times)  # of the video, which has one picture a moment
            for frames in self.modality(sense).parts(source, times, self.backbone.frames_per_pass):
                encoded.append(self._encode_pixels(sense, frames.pixels, total))
                small.append(thumbnails(frames))
                del frames  # before the next ones are made
            whole = replace(  # the last part has the notes and the duration of all
                small[-1],
                pixels=torch.cat([part.pixels for part in small]),
                times=torch.cat([part.times for part in small]),
                labels=sum((part.labels for part in small), ()),
            )
            stream = self._placed(sense, whole, *join(encoded, len(small[0])))
            with suppress(ValueError):  # larger than the whole cache: not kept
                self.streams[name] = stream
            return stream

    def drop_kept(self, in_use: int) -> bool:
        """Drop cached streams, KV caches and decoding steps; False if nothing but `in_use` streams was."""
        with self.lock:
            kept = any((self.kv_caches, self.backbone.steps, len(self.streams) > in_use))
            self.kv_caches.clear()
            self.backbone.steps.clear()
            self.streams.clear()
        return kept

    def _encode_pixels(self, sense: str, frames: Tensor, total: int) -> tuple[Tensor, TokenLayout]:
        """Frames (T, 3, H, W) uint8 -> interface tokens (n, R), through the sense's vision LoRA.

        total: how many frames the whole video has.
        """
        size, encode = self.backbone.frames_per_pass, self.backbone.encode
        with self.sensing(sense), torch.no_grad():
            return join([encode(self._pixels_of(sense, part, total)) for part in frames.split(size)], size)

    def _pixels_of(self, sense: str, frames: Tensor, total: int) -> Tensor:
        """Frames (T, 3, H, W) uint8, of a video of so many in all -> what the tower takes (T', 3, h, w)."""
        backbone = self.backbone
        return backbone.video_pixels(frames, total) if sense == VIDEO else backbone.pixels(frames)

    def _marked(self, stream: Stream, name: str) -> Stream:
        """A kept stream with the placement and the type embedding that its sense has now."""
        placement, embedding = self.placement(stream.sense), self.type_embedding(stream.sense)
        if stream.placement != placement or stream.type_embedding is not embedding:
            self.streams[name] = stream = replace(stream, placement=placement, type_embedding=embedding)
        return stream

    def _placed(self, sense: str, frames: Frames, tokens: Tensor, layout: TokenLayout) -> Stream:
        """The stream of tokens (n, R): pooled, with their seconds, cells, placement and type embedding."""
        times, marks = layout.seconds(frames.times), (self.placement(sense), self.type_embedding(sense))
        stream = Stream(sense, tokens, times, layout.cell, layout.grid, frames, *marks, frames.duration)
        return stream if sense == VIDEO else pool(stream, self.adapter(sense).token_pooling)

    def tokens(
        self, sense: str, frames: int, size: tuple[int, int] | None = None, pictures: int = 1
    ) -> int:
        """Number of tokens of a stream of that many frames; size: (H, W) of the video's.

        pictures: pseudo-frames for each frame of the video.
        """
        if sense == VIDEO:
            return self.backbone.tokens(frames, size)
        rows, columns = self.backbone.token_grid
        steps, newlines = divmod(self.backbone.tokens(frames * pictures), rows * columns)
        pooling = self.adapter(sense).token_pooling
        if pooling in ("halves", "bands"):
            steps = min(2, steps)
        elif pooling == "moments":
            steps = min(frames, steps)
        return steps * {"space": 1, "bands": rows}.get(pooling, rows * columns) + newlines


def pool(stream: Stream, how: str) -> Stream:
    """A stream pooled in one of POOLINGS; newlines stay.

    space: one token a moment, the mean over its cells.
    halves: the mean of every cell over the earlier half of the moments, and that over the later half; of an
    odd number the earlier half has one more.
    bands: of these halves the mean of every row of cells, which in a spectrogram is a band of frequencies.
    moments: the mean of every cell over the pictures of a moment, which `Frames.labels` tell apart.
    Raises: AdapterError: a token stands for pictures of two moments.
    """
    kinds = max(1, len(set(stream.frames.labels)))
    if how == "none" or (how == "moments" and kinds == 1):
        return stream
    newline, grid = stream.times.isnan(), stream.grid
    tokens = stream.tokens[~newline.to(stream.tokens.device)].unflatten(0, (-1, math.prod(grid)))  # (T, N, D)
    times = stream.times[~newline].unflatten(0, tokens.shape[:2])  # (T, N)
    cells = stream.cells[~newline].unflatten(0, tokens.shape[:2])  # (T, N, 2)
    if how == "space":
        tokens, times = tokens.mean(dim=1, keepdim=True), times[:, :1]  # (T, 1, D), (T, 1)
        cells, grid = torch.zeros_like(cells[:, :1]), (1, 1)
    elif how == "moments":
        each, rest = divmod(len(tokens), len(stream.frames) // kinds)
        if rest:
            raise AdapterError(
                f"{stream.sense} has {kinds} pictures of a moment, of which this backbone joins two of "
                "different moments: they cannot be averaged"
            )
        tokens, times = (x.unflatten(0, (-1, each)).mean(dim=1) for x in (tokens, times))
        cells = cells[: len(tokens)]
    else:
        halves = min(2, len(tokens))  # a single moment has no later half
        tokens = torch.stack([half.mean(dim=0) for half in tokens.tensor_split(halves)])  # (2, N, D)
        times = torch.stack([half.mean(dim=0) for half in times.tensor_split(halves)])  # (2, N)
        cells = cells[:halves]
    if how == "bands":
        tokens = tokens.unflatten(1, grid).mean(dim=2)  # (2, rows, columns, D) -> (2, rows, D)
        times, cells = times[:, :: grid[1]], cells[:, :: grid[1]]  # those of each row's first cell
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

    Tokens of no frame, such as a newline, end a clip: only those of the last part are kept.
    """
    tokens, frame, cells = [], [], []
    for number, (encoded, layout) in enumerate(parts):
        kept = layout.frame >= (0 if number < len(parts) - 1 else -1)  # (n,) bool
        tokens.append(encoded[kept.to(encoded.device)])
        frame.append(torch.where(layout.frame < 0, -1, layout.frame + number * frames)[kept])
        cells.append(layout.cell[kept])
    last = parts[-1][1]
    return torch.cat(tokens), replace(last, frame=torch.cat(frame), cell=torch.cat(cells))


def split(
    tokens: Tensor, layout: TokenLayout, lengths: Sequence[int]
) -> list[tuple[Tensor, TokenLayout]]:
    """Tokens and layouts of clips that were encoded together, of so many frames each, as if encoded alone.

    Tokens of no frame, such as a newline, end every one of them.
    """
    clips = []
    for begin, end in pairwise(accumulate(lengths, initial=0)):
        of_none = layout.frame < 0  # (n,) bool, as the next one
        kept = of_none | ((layout.frame >= begin) & (layout.frame < end))
        frame = torch.where(of_none, -1, layout.frame - begin)[kept]
        mine = replace(layout, frame=frame, cell=layout.cell[kept])
        clips.append((tokens[kept.to(tokens.device)], mine))
    return clips
