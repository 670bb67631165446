"""Which moments of a clip are used and how many tokens that takes, known before it is decoded."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lynx.errors import BackboneError
from lynx.modalities.video import Video
from lynx.types import VIDEO, sample_times

if TYPE_CHECKING:
    from lynx.streams.encoder import StreamEncoder


@dataclass(frozen=True)
class Plan:
    """The moments that are looked at, and the tokens of every sense."""

    times: Tensor  # (T,) seconds
    duration: float  # seconds
    tokens: Mapping[str, int]  # of each sense
    context: int  # maximum tokens of the LLM
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Number of moments."""
        return len(self.times)


def plan(model: "StreamEncoder", media: Mapping[str, Any], frames: int | None = None) -> Plan:
    """Choose the moments, spread evenly over the clip, and count the tokens of every sense.

    frames: how many moments. By default the number that the first adapter to state one was trained with, else
    the backbone's own; fewer if they do not fit the context. A note names adapters that were trained with
    another number, since they may answer worse.
    Raises: MediaError, AdapterError: a sense that cannot be used. BackboneError: more frames than fit.
    """
    durations = {sense: model.modality(sense).duration(source) for sense, source in media.items()}
    duration = durations.get(VIDEO, max(durations.values(), default=0.0))
    backbone, size = model.backbone, Video().size(media[VIDEO]) if VIDEO in media else None
    trained = {sense: model.adapter(sense).frames for sense in media if sense != VIDEO}
    default = next((number for number in trained.values() if number), backbone.default_frames)
    n = default if frames is None else frames
    if n < 1:
        raise BackboneError(f"frames is {n}: at least one moment has to be looked at")
    pictures = {sense: model.modality(sense).pictures(source) for sense, source in media.items()}  # a moment

    def tokens(frames: int) -> dict[str, int]:
        return {sense: model.tokens(sense, frames * count, size) for sense, count in pictures.items()}

    def length(frames: int) -> int:
        return sum(tokens(frames).values()) + (backbone.captions(frames) if VIDEO in media else 0)

    fitting = bisect_right(range(1, n + 1), backbone.media_context, key=length)
    if not fitting or (fitting < n and frames is not None):
        raise BackboneError(
            f"{n} frames of {', '.join(media)} do not fit {backbone.source} ({backbone.context} tokens): "
            f"use at most {fitting} frames"
        )
    notes = [
        f"{sense} was trained with {number} moments; {fitting} {'is' if fitting == 1 else 'are'} used"
        for sense, number in trained.items()
        if number not in (None, fitting)
    ]
    if fitting < n:
        limit = f"the model's {backbone.context} tokens"
        notes.insert(0, f"{fitting} frames instead of {n}: more do not fit {limit}")
    return Plan(sample_times(duration, fitting), duration, tokens(fitting), backbone.context, tuple(notes))
