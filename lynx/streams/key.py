"""What a cached stream is named by: everything that decides its tokens.

A stream is named by all that decides it (backbone, precision, rendering, vision LoRA, pooling, moments, and
the content of the media), so one that is found is the one that would be encoded. Files are known by their
bytes: one that was written anew is another one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lynx.modalities.multi_view import views_of
from lynx.types import VIDEO, DepthClip, Frames, MediaSource, Waveform

if TYPE_CHECKING:
    from lynx.adapters.registry import AdaptedBackbone


def stream_key(model: "AdaptedBackbone", sense: str, source: Any, times: Tensor) -> bytes:
    """The name of the stream of a source at `times` (T,) seconds, as `model` would encode it now."""
    digest = sense_digest(model, sense, sense=sense, placement=model.placement(sense), times=times.tolist())
    digest.update(media_key({sense: source}).encode())
    if (embedding := model.type_embedding(sense)) is not None:
        digest.update(_bytes(embedding))
    return digest.digest()


def sense_digest(model: "AdaptedBackbone", sense: str, /, **more: Any) -> "hashlib.blake2b":
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


def lora_digest(model: "AdaptedBackbone", lora: str) -> bytes:
    """A digest of a LoRA: its scale and every one of its tensors."""
    settings = model.lora.settings[lora]
    digest = hashlib.blake2b(repr(settings.alpha / settings.rank).encode(), digest_size=16)
    for name, tensor in sorted(model.lora.tensors(lora).items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.digest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def media_key(media: Mapping[str, MediaSource], known: str = "") -> str:
    """What the media of a clip are, in 32 hex digits: `known` where given, else a digest of the bytes."""
    digest = hashlib.blake2b(json.dumps([known, sorted(media)]).encode(), digest_size=16)
    for sense in sorted(media) if not known else ():
        _feed(digest, media[sense])
    return digest.hexdigest()


def _feed(digest: "hashlib.blake2b", source: MediaSource) -> None:
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
        for index in range(source.count):
            _feed_tensor(digest, torch.from_numpy(source.measure([index])))
    elif isinstance(source, Mapping):
        for name, view in views_of(source).items():
            digest.update(repr((name, view.offset)).encode())
            _feed(digest, view.clip)
    else:
        _feed_files(digest, Path(source))


def _feed_files(digest: "hashlib.blake2b", path: Path) -> None:
    """A file's bytes; of a folder those of all its files, with their names."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode() if file != path else b"")
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "blake2b").digest())


def _feed_tensor(digest: "hashlib.blake2b", tensor: Tensor) -> None:
    digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
