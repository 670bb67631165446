"""Encoded streams: what makes two of them the same, and those that a model keeps in memory.

A stream is named by all that decides it (backbone, precision, rendering, vision LoRA, pooling, moments, and
the content of the media), so one that is found is the one that would be encoded. Files are known by their
bytes: one that was written anew is another one.
"""

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lynx.datasets.base import Example
from lynx.datasets.clips import content_key
from lynx.types import VIDEO, Frames, Stream, TokenLayout

if TYPE_CHECKING:
    from lynx.model import Lynx

BYTES_KEPT = 512 * 2**20
"""Of all streams that one model keeps, on whichever device they are."""
SHOWN_PIXELS = 480 * 270
"""Of a frame that is kept to be shown: more than a page or a figure draws of it."""


class StreamStore:
    """The streams that a model encoded last, at most `limit` bytes of them; use it under the model's lock."""

    def __init__(self, limit: int = BYTES_KEPT) -> None:
        self.limit = limit
        self._kept: OrderedDict[bytes, Stream] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Of everything that is kept."""
        return sum(map(size_of, self._kept.values()))

    def get(self, key: bytes) -> Stream | None:
        """The stream of that key, which becomes the last to go."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: bytes, stream: Stream) -> None:
        """Keep a stream; those that were asked for least recently make room."""
        self._kept[key] = stream
        self._kept.move_to_end(key)
        while self.nbytes > self.limit:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()


def size_of(stream: Stream) -> int:
    """Bytes of a stream with its frames."""
    return sum(x.nbytes for x in (stream.tokens, stream.times, stream.cells, stream.frames.pixels))


def stream_key(model: "Lynx", sense: str, source: Any, times: Tensor) -> bytes:
    """The name of the stream of a source at `times` (T,) seconds, as `model` would encode it now."""
    digest = sense_digest(model, sense, sense=sense, placement=model.placement(sense), times=times.tolist())
    digest.update(content_key(Example("", {sense: source})).encode())
    if (embedding := model.type_embedding(sense)) is not None:
        digest.update(_bytes(embedding))
    return digest.digest()


def sense_digest(model: "Lynx", sense: str, /, **more: Any) -> "hashlib.blake2b":
    """A digest of all that decides what the tokens of a sense are, beside the media; `more`: JSON values."""
    settings: Mapping[str, Any] = {
        "backbone": model.backbone.fingerprint(),
        "precision": str(model.backbone.dtype),
        "rendering": model.modality(sense).to_dict(),
        **more,
    }
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    if sense != VIDEO:
        adapter = model.adapter(sense)
        digest.update(adapter.token_pooling.encode())
        if "vision" in model.parts(adapter.name):
            digest.update(lora_digest(model, model.lora_name(adapter.name, "vision")))
    return digest


def lora_digest(model: "Lynx", lora: str) -> bytes:
    """A digest of a LoRA: its scale and every one of its tensors."""
    settings = model.lora.settings[lora]
    digest = hashlib.blake2b(repr(settings.alpha / settings.rank).encode(), digest_size=16)
    for name, tensor in sorted(model.lora.tensors(lora).items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.digest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


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


def shown(frames: Frames) -> Frames:
    """The same frames with at most SHOWN_PIXELS pixels each: all that people look at."""
    height, width = frames.pixels.shape[-2:]
    scale = math.sqrt(SHOWN_PIXELS / (height * width))
    if scale >= 1:
        return frames
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = [
        F.interpolate(part, size, mode="bilinear", align_corners=False, antialias=True)
        for part in frames.pixels.split(16)
    ]
    return Frames(torch.cat(small), frames.times, frames.duration, frames.labels, frames.notes)
