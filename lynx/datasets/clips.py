"""A clip's media as (pseudo-)frames at common moments: the same in all stages, and as a chat does it."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from lynx.datasets.base import Example
from lynx.errors import DataError, MediaError
from lynx.modalities import Modality
from lynx.streams.budget import part_of
from lynx.streams.key import media_key
from lynx.types import VIDEO, Frames, Moments


def render_clip(
    modalities: Mapping[str, Modality], example: Example, frames: int, only: Collection[str] | None = None
) -> dict[str, Frames]:
    """Every sense of `modalities`, at the example's moments: `frames` of them unless it says how many.

    The video says how long the clip is; where there is none, the longest sense does. only: the senses that
    are drawn, at the moments of all.

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
        moments = example.moments
        times = moments.times(duration, moments.count(duration, frames))
    if (part := moments.part(duration)) != (0, duration):
        media = part_of(media, part, duration)
    with naming(example):
        return {
            sense: modality.render(media[sense], times)
            for sense, modality in modalities.items()
            if only is None or sense in only
        }


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


def recording_key(example: Example) -> str:
    """32 hex digits that identify an example's media: from its `key`, else from the bytes."""
    return media_key(example.media, example.key)


def content_key(example: Example, recording: str | None = None) -> str:
    """32 hex digits that identify an example's media and moments. recording: the media's, where known."""
    key = recording_key(example) if recording is None else recording
    if example.moments == Moments():
        return key
    given = {name: value and float(value) for name, value in asdict(example.moments).items()}
    part = json.dumps([key, given])
    return hashlib.blake2b(part.encode(), digest_size=16).hexdigest()
