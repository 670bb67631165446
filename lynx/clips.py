"""A clip's media as (pseudo-)frames at common moments: the same in all stages, and as a chat does it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lynx.data import Example, Source
from lynx.errors import DataError
from lynx.media import Frames, Waveform, sample_times
from lynx.modalities import Modality

VIDEO = "video"


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
    else:
        with Path(source).open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())


def _feed_tensor(digest: "hashlib.blake2b", tensor: Tensor) -> None:
    digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
