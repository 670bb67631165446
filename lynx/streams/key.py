"""The key that names a stream: digests of everything that determines its tokens and, behind a dash, of its
marks, made here alone. Tokens that are only marked otherwise are not encoded again.

| part | where it is hashed |
|---|---|
| media: the bytes of every file that the sense reads (`Modality.files`), or what is in memory | `media_key` |
| backbone, precision, rendering, pooling, weights of the vision LoRA | `sense_digest` |
| the sense's name, moments; behind the dash placement and type embedding | `stream_key` |

The cache on disk holds tokens before they are placed and marked: it names its folders by `sense_digest` and
the clips in them by `media_key`. LoRAs are identified by their weights, not by their names.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lynx import modalities
from lynx.errors import DataError
from lynx.modalities.base import Modality
from lynx.modalities.multi_view import View, views_of
from lynx.modalities.video import Video
from lynx.types import VIDEO, DepthClip, Frames, MediaSource, Recording, Waveform, tensor_bytes

if TYPE_CHECKING:
    from lynx.adapters.registry import AdaptedBackbone

FILE_DIGESTS = 1024
"""Number of files whose digests are remembered while they stay unchanged."""
SETTLED = 2.0
"""Seconds since its last change after which a file's digest is remembered: a second change within one step of
the file system's clock would not be noticed."""


def stream_key(model: "AdaptedBackbone", sense: str, source: MediaSource, times: Tensor) -> str:
    """The name of the stream of a source at `times` (T,) seconds, as `model` would encode it now."""
    digest = sense_digest(model, sense, sense=sense, times=times.tolist())
    _feed(digest, model.modality(sense).files, source)
    marks = hashlib.blake2b(model.placement(sense).encode(), digest_size=8)
    if (embedding := model.type_embedding(sense)) is not None:
        marks.update(tensor_bytes(embedding))
    return f"{digest.hexdigest()}-{marks.hexdigest()}"


def sense_digest(model: "AdaptedBackbone", sense: str, /, **more: Any) -> "hashlib.blake2b":
    """A digest of everything but the media that determines a sense's tokens; `more`: JSON values."""
    precision, rendering = str(model.backbone.dtype), model.modality(sense).to_dict()
    settings = {"backbone": model.fingerprint, "precision": precision, "rendering": rendering, **more}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    if sense != VIDEO:
        adapter = model.adapter(sense)
        digest.update(adapter.token_pooling.encode())
        if "vision" in model.parts(adapter.name):
            digest.update(model.lora.digest(model.lora_name(adapter.name, "vision")))
    return digest


def media_key(media: Mapping[str, MediaSource], known: str = "") -> str:
    """32 hex digits that identify a clip's media: from `known` where given, else from the bytes."""
    digest = hashlib.blake2b(json.dumps([known, sorted(media)]).encode(), digest_size=16)
    for sense in sorted(media) if not known else ():
        try:
            files = modalities.get(sense).files
        except DataError:  # a medium that no sense here reads
            files = Modality.files
        _feed(digest, files, media[sense])
    return digest.hexdigest()


def _feed(digest: "hashlib.blake2b", files: Callable[[Path], list[Path]], source: MediaSource) -> None:
    if isinstance(source, Frames):
        _feed_tensor(digest, source.pixels)
        _feed_tensor(digest, source.times)
        digest.update(repr(source.duration).encode())
    elif isinstance(source, Waveform):
        _feed_tensor(digest, source.samples)
        digest.update(repr(source.sample_rate).encode())
    elif isinstance(source, DepthClip):
        for array in (source.times, source.intrinsics, source.poses):
            _feed_tensor(digest, torch.as_tensor(array) if array is not None else torch.empty(0))
        digest.update(repr((source.duration, source.background)).encode())
        for index in range(source.count):
            _feed_tensor(digest, torch.from_numpy(source.measure([index])))
    elif isinstance(source, Mapping | View):
        for name, view in views_of(source).items():
            digest.update(repr((name, view.offset)).encode())
            _feed(digest, Video.files, view.clip)  # a folder is the pictures of one view, not several views
    else:
        _feed_files(digest, files, Recording.of(source))


def _feed_files(
    digest: "hashlib.blake2b", files: Callable[[Path], list[Path]], recording: Recording
) -> None:
    known = {k: v for k, v in asdict(recording).items() if k != "path" and v is not None}
    if known:
        digest.update(json.dumps(known, sort_keys=True).encode())
    for file in files(path := recording.path):
        # the path relative to the source: a folder that was moved or renamed is the same media
        digest.update(os.path.relpath(file, path).encode())
        if file.is_file():
            state = file.stat()
            changed = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            fresh = time.time() - max(state.st_mtime, state.st_ctime) < SETTLED
            digest.update(_file_digest.__wrapped__(file, ()) if fresh else _file_digest(file, changed))


def _feed_tensor(digest: "hashlib.blake2b", tensor: Tensor) -> None:
    digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
    digest.update(tensor_bytes(tensor))


@lru_cache(FILE_DIGESTS)
def _file_digest(path: Path, state: tuple[int, ...]) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
