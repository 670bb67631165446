"""Which moments of a clip are used and how many tokens that takes, known before it is decoded."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lynx.errors import BackboneError
from lynx.modalities.video import Video
from lynx.types import VIDEO, DepthClip, FileSource, Frames, Moments, Recording, Waveform

if TYPE_CHECKING:
    from lynx.streams.encoder import StreamEncoder


APART = 0.5
"""Seconds by which the lengths of two senses may differ before that is said."""
ROUNDED = 0.05
"""Seconds by which an end may lie behind a recording's without a word: lengths are shown to a tenth."""


@dataclass(frozen=True)
class Plan:
    """The moments that are looked at, and the tokens of every sense."""

    times: Tensor  # (T,) seconds of the recording
    duration: float  # seconds of the whole recording
    start: float  # first and last second of what is looked at
    end: float
    tokens: Mapping[str, int]  # of each sense
    context: int  # maximum tokens of the LLM
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Number of moments."""
        return len(self.times)

    @property
    def whole(self) -> bool:
        """Whether all of the recording is looked at, also where its two ends were asked for."""
        return (self.start, self.end) == (0, self.duration)


def plan(model: "StreamEncoder", media: Mapping[str, Any], moments: Moments | None = None) -> Plan:
    """Choose the moments, spread evenly over the clip or a part of it, and count the tokens of every sense.

    moments: by default as many as the first adapter to state a number was trained with, else the backbone's
    own number; fewer if they do not fit the context. A note names adapters that were trained with another
    number, since they may answer worse, and senses that are longer or shorter than the clip.
    Raises: MediaError, AdapterError: a sense that cannot be used, or a part that begins behind the clip's
    end. BackboneError: more frames than fit.
    """
    moments = moments or Moments()
    durations = {sense: model.modality(sense).duration(source) for sense, source in media.items()}
    duration = durations.get(VIDEO, max(durations.values(), default=0.0))
    start, end = moments.part(duration)
    notes = _length_notes(model, media, durations, moments)
    trained = {sense: model.adapter(sense).frames for sense in media if sense != VIDEO}
    default = next((number for number in trained.values() if number), model.backbone.default_frames)
    n = limit = moments.count(duration, default)
    if moments.fps:  # a moment has a token at least: a long clip at many a second is not tried out
        n = min(n, model.backbone.media_context)
    fitting, tokens = _fit(model, media, n, lambda frames: moments.times(duration, frames))
    explicit = moments.frames is not None
    context, source = model.backbone.context, model.backbone.source
    if not fitting or (fitting < n and explicit):
        raise BackboneError(
            f"{n} frames of {', '.join(media)} do not fit {source} ({context} tokens): "
            f"use at most {fitting} frames"
        )
    notes += [
        f"{sense} was trained with {number} moments; {fitting} {'is' if fitting == 1 else 'are'} used"
        for sense, number in trained.items()
        if number not in (None, fitting)
    ]
    if moments.fps and fitting < (wanted := round(moments.fps * (end - start))):
        used = f"{fitting} {'is' if fitting == 1 else 'are'} used"
        why = f": more do not fit the model's {context} tokens" if fitting < limit else ""
        notes.insert(0, f"{moments.fps:g} frames a second would be {wanted}; {used}{why}")
    elif fitting < n:
        notes.insert(0, f"{fitting} frames instead of {n}: more do not fit the model's {context} tokens")
    times = moments.times(duration, fitting)
    return Plan(times, duration, start, end, tokens, context, tuple(notes))


def _fit(
    model: "StreamEncoder", media: Mapping[str, Any], n: int, times: Callable[[int], Tensor]
) -> tuple[int, dict[str, int]]:
    """How many of n moments fit the context, and the tokens of each sense at so many.

    times: the seconds (T,) of so many moments.
    """
    backbone, size = model.backbone, Video().size(media[VIDEO]) if VIDEO in media else None
    pictures = {sense: model.modality(sense).pictures(source) for sense, source in media.items()}  # a moment

    def tokens(frames: int) -> dict[str, int]:
        return {sense: model.tokens(sense, frames, size, count) for sense, count in pictures.items()}

    def length(frames: int) -> int:
        return sum(tokens(frames).values()) + (backbone.captions(times(frames)) if VIDEO in media else 0)

    # All are tried first: where more frames are smaller ones, fewer may have more tokens.
    fits = length(n) <= backbone.media_context
    fitting = n if fits else bisect_right(range(1, n), backbone.media_context, key=length)
    return fitting, tokens(fitting)


def _length_notes(
    model: "StreamEncoder", media: Mapping[str, Any], durations: Mapping[str, float], moments: Moments
) -> list[str]:
    """Where the part ends before it should, and which senses are longer or shorter than the clip."""
    leader = VIDEO if VIDEO in media else max(durations, key=durations.__getitem__, default="")
    whole = durations.get(leader, 0.0)
    start, end = moments.part(whole)
    notes = []
    if moments.end is not None and moments.end > whole + ROUNDED:
        notes.append(f"the recording lasts {whole:.1f} s: its part ends there, not at {moments.end:g} s")
    for sense, source in media.items():
        modality = model.modality(sense)
        if (lasts := modality.clock(source)) is None:
            continue
        clip = "video" if leader == VIDEO else model.modality(leader).label
        if sense == leader:  # sound of a file whose picture is not looked at, and yet says how long it is
            clip = "picture"
        both = f"the {modality.label} lasts {lasts:.1f} s, the {clip} {whole:.1f} s"
        if moments.end is None and lasts > whole + APART:
            unused = "heard" if modality.takes == "audio" else "looked at"
            notes.append(f"{both}: the last {lasts - whole:.1f} s are not {unused}")
        elif lasts < end - APART:
            there = "the part looked at" if lasts <= start else f"the last {end - lasts:.1f} s"
            notes.append(f"{both}: there is no {modality.label} in {there}")
    return notes


def same_file(one: Any, other: Any) -> bool:
    """Whether two sources are one file, maybe of different tracks."""
    if not (isinstance(one, FileSource) and isinstance(other, FileSource)):
        return False
    return Recording.of(one).path.absolute() == Recording.of(other).path.absolute()


def part_of(media: Mapping[str, Any], part: tuple[float, float], duration: float) -> dict[str, Any]:
    """The media for a part of a clip of `duration` seconds: each source with what a sense must know of it.

    A file is told the part and how long the clip is, over which what has no clock is spread. Media in memory
    are silenced outside the part, or given that clock. The video needs neither: it is asked at moments.
    """
    start, end = part

    def told(source: Any) -> Any:
        if isinstance(source, FileSource):
            recording = Recording.of(source)
            return replace(recording, part=part, lasts=recording.lasts or duration)
        if isinstance(source, Waveform):
            samples, rate = source.samples.clone(), source.sample_rate
            samples[: round(start * rate)] = 0
            samples[round(end * rate) :] = 0
            return Waveform(samples, rate)
        if isinstance(source, Frames):
            first, last = torch.searchsorted(source.times.double(), torch.tensor(part).double(), right=True)
            there = slice(max(0, int(first) - 1), max(1, int(last)))
            pixels, times, labels = source.pixels[there], source.times[there], source.labels[there]
            return replace(source, pixels=pixels, times=times, labels=labels)
        if isinstance(source, DepthClip) and source.times is None:
            clock = (np.arange(source.count) + 0.5) * (duration / source.count)
            return replace(source, times=clock, duration=duration)
        return source

    return {sense: source if sense == VIDEO else told(source) for sense, source in media.items()}
