"""A clip's media as (pseudo-)frames at common moments: the same in all stages, and as a chat does it."""

from collections.abc import Mapping

from lynx.datasets.base import Example
from lynx.errors import DataError
from lynx.modalities import Modality
from lynx.streams.key import media_key
from lynx.types import VIDEO, Frames, sample_times


def render_clip(modalities: Mapping[str, Modality], example: Example, frames: int) -> dict[str, Frames]:
    """Every sense of `modalities`, at the middles of `frames` equal parts of the clip.

    The video says how long the clip is; where there is none, the first sense does.

    Raises: DataError: the example has no medium for one of the senses.
    """
    if missing := sorted(set(modalities) - set(example.media)):
        raise DataError(
            f"example {example.id!r} has no {missing[0]}; it has {', '.join(example.media) or 'no media'}"
        )
    media = {sense: example.media[sense] for sense in modalities}
    leader = VIDEO if VIDEO in media else next(iter(media))
    times = sample_times(modalities[leader].duration(media[leader]), frames)
    return {sense: modality.render(media[sense], times) for sense, modality in modalities.items()}


def content_key(example: Example) -> str:
    """32 hex digits that identify an example's media: from its `key`, else from the bytes."""
    return media_key(example.media, example.key)
