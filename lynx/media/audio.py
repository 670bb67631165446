"""Sound tracks as mono samples on the recording's own clock."""

import math
from collections.abc import Iterator

import av
import numpy as np
import torch

from lynx.errors import MediaError
from lynx.media.container import decode, open_recording, probe, start_of
from lynx.media.rare_codecs import codecs_of, in_worker_if_rare, is_rare
from lynx.types import FileSource, MediaInfo, Waveform

MAX_SECONDS = 2 * 3600.0
"""Maximum seconds of sound that are read at once: 0.5 GB at 16 kHz."""
LAST_PACKET = 1.0
"""Seconds by which a sound may exceed MAX_SECONDS, since encoders pad the last packet."""
READ = f"sound of up to {MAX_SECONDS / 3600:.0f} h is read"
MAX_CHANNELS = 64
"""Maximum channels of a track; FFmpeg's resampler takes no more."""
PREROLL = 0.2
"""Seconds before a moment that a decoder needs to get the sound at that moment right."""


def read_audio(
    source: FileSource, sample_rate: int, track: int = 0, window: tuple[float, float] = (0.0, math.inf)
) -> Waveform:
    """One sound track as mono at sample_rate Hz from the recording's time zero on (silence until it begins).

    window: only what lies between these seconds; sample 0 is then the first of them.
    Raises MediaError when the file cannot be read, has no such track, or spans more than MAX_SECONDS.
    """
    (start, end), parts = window, list(iter_audio(source, sample_rate, track, *window))
    begin = parts[-1][0] if parts else 0.0
    sound = np.concatenate([np.zeros(0, np.float32), *(samples for _, samples in parts)])
    sound = sound[round((start - begin) * sample_rate) :]
    return Waveform(torch.from_numpy(sound[: round(min(end - start, 1e9) * sample_rate)]), sample_rate)


def iter_audio(
    source: FileSource, sample_rate: int, track: int = 0, start: float = 0.0, end: float = math.inf
) -> Iterator[tuple[float, np.ndarray]]:
    """The same, a few samples (n,) at a time, with the second at which the first began: `start` or before.

    Long silence before `start` is skipped, which moves that second forward.
    """
    info = probe(source)
    if is_rare(codecs_of(info)):
        yield from _parts(source, sample_rate, track, start, end)
        return
    _check_track(info, track, min(end, info.duration) - start)
    resampler = av.AudioResampler(format="flt", rate=sample_rate)
    found = False
    clock = begin = lead = max(0.0, start - PREROLL)  # seconds; the sound so far is from `begin` to `clock`
    with open_recording(info.path) as container:
        offset = start_of(container)
        if begin:
            container.seek(round((begin + offset) * av.time_base))
        for frame in decode(container, container.streams.audio[track]):
            time, length = frame.time - offset, frame.samples / frame.sample_rate
            if time >= end:
                break
            if time < clock == begin and begin:  # the first packet found is an earlier one
                clock = begin = time
            # the timestamps may exceed the header's duration
            if (span := max(time, clock) + length - start) > MAX_SECONDS + LAST_PACKET:
                raise MediaError(
                    f"The sound of {info.path.name!r} spans {span / 3600:.1f} h or more by its timestamps, "
                    f"gaps included; {READ}: cut it, or encode it anew without the gaps."
                )
            gap = time - clock
            if gap > (0.001 if clock == begin else 0.1):  # a gap in the timestamps is a silence
                unasked = max(0.0, min(time, lead) - clock)  # the part before `start`, maybe hours, is cut
                begin += unasked
                yield begin, np.zeros(round((gap - unasked) * sample_rate), np.float32)
                clock += gap
            clock += length
            yield from ((begin, _mono(out)) for out in resampler.resample(frame))
            found = True
        if not found and not begin:
            raise MediaError(f"The audio track of {info.path.name!r} holds no sound.")
        yield from ((begin, _mono(out)) for out in resampler.resample(None))


@in_worker_if_rare(probe)
def _parts(
    source: FileSource, sample_rate: int, track: int, start: float, end: float
) -> list[tuple[float, np.ndarray]]:
    return list(iter_audio(source, sample_rate, track, start, end))


def _check_track(info: MediaInfo, track: int, seconds: float) -> None:
    """Raises MediaError when there is no such track, or it has more channels or seconds than are read."""
    name, count = info.path.name, len(info.audio)
    if not count:
        raise MediaError(f"{name!r} has no audio track; give a separate sound file or switch sound off.")
    if not 0 <= track < count:
        raise MediaError(f"{name!r} has {count} audio tracks (0..{count - 1}), no track {track}.")
    if (channels := info.audio[track].channels) > MAX_CHANNELS:
        raise MediaError(
            f"Track {track} of {name!r} has {channels} channels; sound of up to {MAX_CHANNELS} is read: "
            "mix it down first."
        )
    if seconds > MAX_SECONDS + LAST_PACKET:
        raise MediaError(f"{name!r} lasts {info.duration / 3600:.1f} h; {READ}: cut it.")


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """The mean of the channels of packed samples: (n,) float32 in [-1, 1].

    Packed, because PyAV miscounts the planes of eight and more channels and reads past the last of them.
    """
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(1).clip(-1, 1)
