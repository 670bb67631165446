"""The key that names a stream: digests of everything that determines its tokens and, behind a dash, of its
marks, made here alone. Tokens that are only marked otherwise are not encoded again.

| part | where it is hashed |
|---|---|
| media: the bytes of every file that the sense reads (`Modality.files`), or what is in memory | `media_key` |
| backbone, precision, rendering, pooling, weights of the vision LoRA | `sense_digest` |
| the sense's name, moments; behind the dash placement and type embedding | `stream_key` |

What a clip is made from, apart from how it is looked at, is told by `recording_digests`.

The cache on disk holds tokens before they are placed and marked: it names its folders by `sense_digest` and
the clips in them by `media_key`. LoRAs are identified by their weights, not by their names.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
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
from lynx.types import (
    VIDEO,
    DepthClip,
    FileSource,
    Frames,
    MediaSource,
    Recording,
    Waveform,
    tensor_bytes,
)

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
        _feed(digest, _files_of(sense), media[sense])
    return digest.hexdigest()


def recording_digests(media: Mapping[str, MediaSource], known: str = "") -> frozenset[int]:
    """Numbers of 64 bits that identify the recordings of a clip, whatever senses they are used as.

    Of a file they are made of its bytes, so that its name and its tracks do not matter. known: as in
    `media_key`.
    """
    if known:
        return frozenset([_number(hashlib.blake2b(known.encode()))])
    return frozenset(
        _number(digest) for sense, source in media.items() for digest in _recordings(sense, source)
    )


def _recordings(sense: str, source: MediaSource) -> "Iterator[hashlib.blake2b]":
    if isinstance(source, Mapping | View):
        for view in views_of(source).values():
            yield from _recordings(VIDEO, view.clip)
        return
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(source, FileSource):
        path = Recording.of(source).path
        if not path.exists():
            return
        _feed_files(digest, _files_of(sense) if path.is_dir() else lambda file: [file], Recording(path))
    else:
        _feed(digest, Modality.files, source)
    yield digest


def _number(digest: "hashlib.blake2b") -> int:
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


def _files_of(sense: str) -> Callable[[Path], list[Path]]:
    """Which files a sense reads of a path; of one that is not installed here, the path itself."""
    try:
        return modalities.get(sense).files
    except DataError:
        return Modality.files


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
