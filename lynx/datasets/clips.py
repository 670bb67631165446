"""A clip's media as (pseudo-)frames at common moments: the same in all stages, and as a chat does it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lynx.datasets.base import Example, Source
from lynx.errors import DataError
from lynx.modalities import Modality
from lynx.modalities.multi_view import views_of
from lynx.types import VIDEO, DepthClip, Frames, Waveform, sample_times


def render_clip(modalities: Mapping[str, Modality], example: Example, frames: int) -> dict[str, Frames]:
    """Every sense of `modalities`, at the middles of `frames` equal parts of the clip.

    The video says how long the clip is; where there is none, the first sense does.

    Raises:
        DataError: the example has no medium for one of the senses.
    """
    missing = sorted(set(modalities) - set(example.media))
    if missing:
        raise DataError(
            f"example {example.id!r} has no {missing[0]}; it has {', '.join(example.media) or 'no media'}"
        )
    media = {sense: example.media[sense] for sense in modalities}
    leader = VIDEO if VIDEO in media else next(iter(media))
    times = sample_times(modalities[leader].duration(media[leader]), frames)
    return {sense: modality.render(media[sense], times) for sense, modality in modalities.items()}


def content_key(example: Example) -> str:
    """What the media of an example are, in 32 hex digits: its own `key`, else a digest of the bytes."""
    digest = hashlib.blake2b(json.dumps([example.key, sorted(example.media)]).encode(), digest_size=16)
    for sense in sorted(example.media) if not example.key else ():
        _feed(digest, example.media[sense])
    return digest.hexdigest()


def _feed(digest: "hashlib.blake2b", source: Source) -> None:
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
