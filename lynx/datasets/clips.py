"""A clip's media as (pseudo-)frames at common moments: the same in all stages, and as a chat does it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lynx.datasets.base import Example
from lynx.errors import DataError, MediaError
from lynx.modalities import Modality
from lynx.streams.budget import part_of
from lynx.streams.key import media_key
from lynx.types import VIDEO, Frames, Moments


def render_clip(modalities: Mapping[str, Modality], example: Example, frames: int) -> dict[str, Frames]:
    """Every sense of `modalities`, at the middles of `frames` equal parts of the clip, or of its part.

    The video says how long the clip is; where there is none, the longest sense does.

    Raises: DataError: the example has no medium for one of the senses. MediaError, naming the example: a
    medium that cannot be read, or a part that the clip does not have.
    """
    if missing := sorted(set(modalities) - set(example.media)):
        raise DataError(
            f"example {example.id!r} has no {missing[0]}; it has {', '.join(example.media) or 'no media'}"
        )
    media: dict[str, Any] = {sense: example.media[sense] for sense in modalities}
    with naming(example):
        known = {VIDEO} if VIDEO in media else media
        lasts = {sense: modalities[sense].duration(media[sense]) for sense in known}
        duration = lasts[leading(lasts)]
        moments = Moments(start=example.start, end=example.end)
        times = moments.times(duration, frames)
    if not moments.whole:
        media = part_of(media, moments.part(duration), duration)
    with naming(example):
        return {sense: modality.render(media[sense], times) for sense, modality in modalities.items()}


def leading(lasts: Mapping[str, float]) -> str:
    """The sense that says how long a clip is, of senses that last so many seconds."""
    return VIDEO if VIDEO in lasts else max(lasts, key=lasts.__getitem__)


@contextmanager
def naming(example: Example) -> Iterator[None]:
    """Inside the `with`, an error of a medium says of which example it is."""
    try:
        yield
    except MediaError as error:
        raise MediaError(f"example {example.id!r}: {error}") from error


def content_key(example: Example) -> str:
    """32 hex digits that identify an example's media and part: from its `key`, else from the bytes."""
    key = media_key(example.media, example.key)
    if example.start == 0 and example.end is None:
        return key
    part = json.dumps([key, float(example.start), example.end if example.end is None else float(example.end)])
    return hashlib.blake2b(part.encode(), digest_size=16).hexdigest()
