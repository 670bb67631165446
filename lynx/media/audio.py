"""Sound tracks as mono samples on the recording's own clock.

What is unusual here: channels are mixed after they are resampled, so that mono and stereo are the plain mean;
and a few seconds are held back until it is known that the channels do not cancel out in that mix.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError

from lynx.config import LIMITS
from lynx.errors import MediaError
from lynx.media.container import decode, open_recording, probe, rewind, start_of, walked
from lynx.media.downmix import Downmix
from lynx.media.lengths import JOINED, has_format, timed
from lynx.media.rare_codecs import codecs_of, is_rare
from lynx.media.worker import call
from lynx.types import AudioTrack, FileSource, Recording, Waveform

LAST_PACKET = 1.0
"""Seconds by which a sound may exceed LIMITS.max_seconds, since encoders pad the last packet."""
PREROLL = 0.5
"""Seconds before a moment that a decoder needs to get the sound at that moment right; MP3 needs the most."""
TAIL = 0.05
"""Seconds after the last moment that the resampler's filter needs."""
SILENCE = 2**16
"""Samples of a silence that are made at once."""
GAP = 0.1
"""Seconds without a timestamp that are a silence; less is jitter."""
LEAST_PART = 0.1
"""Seconds for which a sample rate or layout must last to be named in a note: decoders stumble at changes."""
SILENT, FAINT = 1e-6, 1e-4
"""Amplitudes (-120 and -80 dBFS) below which a note calls a whole recording silent, or all but silent."""
MAX_CLIPPED = 0.01
"""Share of samples beyond full scale from which on a note says so."""
MAX_NOTES = 4
"""Maximum notes of one kind."""
MAX_FORMATS = 16
"""Maximum sample rates and layouts that are told apart in a note."""
WITHOUT_INDEX = ("mp3", "aac", "amr", "ac3", "eac3", "dts")
"""Raw streams: timestamps after a seek are guesses, so packets are read from the first one on."""


def heard_track(source: FileSource) -> AudioTrack:
    """The track of a recording that is heard: the one asked for, else the default one.

    Raises MediaError when there is no such track, none that can be decoded, or one of too many channels.
    """
    info = probe(source)
    name, track = info.path.name, info.sound
    if track is None:
        codecs = ", ".join(each.codec or "an unknown codec" for each in info.tracks if each.type == "audio")
        kind = f"no audio track that can be decoded (only {codecs})" if codecs else "no audio track"
        raise MediaError(f"{name!r} has {kind}; give a separate sound file or switch sound off.")
    if track.channels > LIMITS.max_channels:
        raise MediaError(
            f"Track {track.index} of {name!r} has {track.channels} channels; at most "
            f"{LIMITS.say('max_channels')} are read: mix it down first."
        )
    return track


def read_audio(
    source: FileSource, sample_rate: int, window: tuple[float, float] = (0.0, math.inf)
) -> Waveform:
    """The heard track as mono at sample_rate Hz from the recording's time zero on (silence until it begins).

    window: only what lies between these seconds; sample 0 is then the first of them.
    Raises MediaError when the file cannot be read, has no such track, or spans more than LIMITS.max_seconds.
    """
    return Sound(source, sample_rate, *window).waveform()


def iter_audio(
    source: FileSource, sample_rate: int, start: float = 0.0, end: float = math.inf
) -> Iterator[tuple[float, np.ndarray]]:
    """The same, a few samples (n,) at a time, each with the second of the first sample of all."""
    return ((max(0.0, start), samples) for samples in Sound(source, sample_rate, start, end))


class Sound:
    """The sound of a recording from `start` to `end`: iterate for samples (n,) float32, then read `notes`."""

    def __init__(
        self, source: FileSource, sample_rate: int, start: float = 0.0, end: float = math.inf
    ) -> None:
        self.info = info = probe(source)
        self.track, self.path = heard_track(source), info.path
        self.sample_rate, self.start, self.end = sample_rate, max(0.0, start), end
        lasts = max(self.track.duration, info.duration if info.video is None else 0.0)
        if min(end, lasts) - start > LIMITS.max_seconds + LAST_PACKET:
            raise MediaError(f"{info.path.name!r} lasts {lasts / 3600:.1f} h; {_limit()}: cut it.")
        self._forget()

    def _forget(self) -> None:
        self.begins: float | None = None  # seconds at which the first sound was found, if any was
        self.ends: float | None = None  # seconds at which the track ended, if it was read so far
        self._formats: dict[str, list[float]] = {}  # first second and length of each rate and layout
        self._mixes: dict[str, None] = {}  # notes on channels
        self._lead = 0  # samples that are read before `start`
        self._not_numbers = self._clipped = self._count = 0
        self._peak = 0.0

    def waveform(self) -> Waveform:
        """All of it at once."""
        samples = np.concatenate([np.zeros(0, np.float32), *self])
        return Waveform(torch.from_numpy(samples), self.sample_rate)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on the sound as it was last read."""
        notes = list(self._mixes)
        formats = {name: first for name, (first, seconds) in self._formats.items() if seconds >= LEAST_PART}
        if len(formats) > 1:
            changed = list(formats.values())[1]
            notes.append(f"the sound changes at {changed:.1f} s: {', then '.join(list(formats)[:MAX_NOTES])}")
        if self._not_numbers:
            one = self._not_numbers == 1
            kind = "sample is not a number and is" if one else "samples are not numbers and are"
            notes.append(f"{self._not_numbers} {kind} heard as silence")
        if self._clipped > MAX_CLIPPED * self._count:
            share = 100 * self._clipped / self._count
            notes.append(f"{share:.0f} % of the sound is beyond full scale and is clipped")
        if self._count and self._peak < FAINT and self.begins is not None:
            silent = "silent" if self._peak < SILENT else "all but silent, below -80 dBFS"
            notes.append(f"the sound is {silent}")
        return tuple(notes)

    def __iter__(self) -> Iterator[np.ndarray]:
        self._forget()
        if is_rare(codecs_of(self.info)):
            state, heard = call(_hear, self, about=repr(self.path.name))
            self.__dict__.update(state)
            yield heard
            return
        most = math.inf if self.end == math.inf else round(max(0.0, self.end - self.start) * self.sample_rate)
        dropped = 0
        for found in self._from_lead():
            first = min(len(found), self._lead - dropped)  # before `start`
            dropped += first
            samples = found[first : int(min(len(found), first + most - self._count))]
            if len(samples):
                self._count += len(samples)
                peak = max(float(samples.max()), -float(samples.min()))
                self._peak = max(self._peak, peak)
                if peak > 1:
                    self._clipped += int((np.abs(samples) > 1).sum())
                    samples = samples.clip(-1, 1)
                yield samples if samples.flags.writeable else samples.copy()

    def _from_lead(self) -> Iterator[np.ndarray]:
        """Samples from `_lead` samples before `start` on, to a little after `end`; not yet clipped."""
        rate = self.sample_rate
        clock = max(0.0, self.start - PREROLL)  # seconds; the sound so far ends here
        mix, began = None, clock
        with open_recording(self.path) as container:
            offset = start_of(container)
            for frame in _frames(container, self.track.index, clock + offset, self.start + offset):
                time, length = float(frame.time or 0) - offset, frame.samples / frame.sample_rate
                least = GAP
                if self.begins is None:
                    self.begins, least = max(0.0, time), 0.001
                if time >= self.end + TAIL:
                    break
                if mix is None:
                    if clock:  # the first packet found is an earlier one, or the sound begins later
                        clock = min(time, self.start)
                    self._lead = round((self.start - clock) * rate)
                elif clock + length < self.start and 0.001 < abs(time - clock) < GAP:
                    self._lead -= round((time - clock) * rate)  # the first timestamps after a seek may be off
                    clock = time
                self._check_span(max(time, clock) + length)
                if (gap := time - clock) > least:  # in the timestamps: a silence
                    yield from mix.flush() if mix else ()
                    yield from _silence(round(gap * rate))
                    clock += gap
                if mix is None or not mix.fits(frame):
                    yield from self._finish(mix, began, clock)
                    mix, began = Downmix(frame, rate), clock
                clock += length
                yield from mix.push(frame)
            else:
                self.ends = clock if self.begins is not None else None
            if self.begins is None and not self.start:
                raise MediaError(f"The audio track of {self.path.name!r} holds no sound.")
            yield from self._finish(mix, began, clock)

    def _check_span(self, end: float) -> None:
        """Raises MediaError where the timestamps, which may exceed the header's duration, span too much."""
        if (span := end - self.start) > LIMITS.max_seconds + LAST_PACKET:
            raise MediaError(
                f"The sound of {self.path.name!r} spans {span / 3600:.1f} h or more by its timestamps, "
                f"gaps included; {_limit()}: cut it, or encode it anew without the gaps."
            )

    def _finish(self, mix: Downmix | None, began: float, ended: float) -> Iterator[np.ndarray]:
        """The rest of a mix; its notes are kept."""
        if mix is not None:
            yield from mix.flush()
            if mix.name in self._formats or len(self._formats) < MAX_FORMATS:
                self._formats.setdefault(mix.name, [began, 0.0])[1] += ended - began
            self._not_numbers += mix.not_numbers
            for note in mix.notes[: MAX_NOTES - len(self._mixes)]:
                self._mixes[note] = None


def _silence(count: int) -> Iterator[np.ndarray]:
    """`count` samples, a few at a time, since a silence may last hours."""
    for left in range(count, 0, -SILENCE):
        yield np.zeros(min(SILENCE, left), np.float32)


def _limit() -> str:
    return f"at most {LIMITS.say('max_seconds')} of sound are read"


def _hear(sound: Sound) -> tuple[dict[str, Any], np.ndarray]:
    """The state of a sound after reading it, and all its samples (n,); runs in a worker."""
    heard = sound.waveform().samples.numpy()
    return sound.__dict__, heard


def _frames(container: InputContainer, index: int, moment: float, needed: float) -> Iterator[av.AudioFrame]:
    """Frames of a stream from `moment` on, or from earlier; seconds on the container's clock.

    Some containers find a position after the one sought: where the first frame comes after `needed`, an
    earlier one is tried. Where the clock begins anew in mid-file no moment can be sought: all is read.
    """
    stream = container.streams[index]
    assert isinstance(stream, av.AudioStream)
    start = start_of(container)
    joined = has_format(container, JOINED) and walked(Recording(Path(container.name))).joined
    if moment <= start or joined:
        yield from decode(container, stream, timed(container, container.demux(stream)))
        return
    if container.format.name in WITHOUT_INDEX:
        packets = timed(container, container.demux(stream))
        for packet in packets:
            if packet.pts is None or packet.pts * packet.time_base >= moment:
                break
        yield from decode(container, stream, packets)
        return
    for back in (0.0, 3.0, 30.0, math.inf):
        target = max(start, moment - back)
        try:
            container.seek(round(target * av.time_base))
        except FFmpegError:  # the index begins later
            rewind(container)
        frames = decode(container, stream)
        first = next(frames, None)
        if first is not None and (first.time <= needed or target == start):
            yield first
            yield from frames
            return
