"""Recordings opened and probed: their tracks, their clock, their length, and decoded frames one by one.

Only real recording formats are opened: no playlists, no pictures, nothing that makes FFmpeg open other files.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError, PatchWelcomeError
from av.stream import Disposition

from lynx.config import LIMITS
from lynx.errors import MediaError
from lynx.media import lengths, worker
from lynx.media.downmix import placed
from lynx.media.file_cache import cached_by_file
from lynx.media.frame_folder import FrameFolder
from lynx.media.picture import describe
from lynx.media.rare_codecs import is_rare, only_common
from lynx.media.refusals import reason
from lynx.media.tracks import (
    audio_streams,
    codec_of,
    default_sound,
    length_notes,
    list_tracks,
    picture_notes,
    sound_notes,
    undecoded,
    video_streams,
)
from lynx.media.worker import call
from lynx.types import AudioTrack, FileSource, MediaInfo, Recording, VideoTrack

logger = logging.getLogger(__name__)

FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,ogg,flac,wav,w64,mp3,aac,gif,flv,asf,aiff,caf,amr,ac3,eac3,dts,wv,tta,au,apng"
)
"""FFmpeg's names of the containers that are opened."""
PROTOCOLS = "file"
"""FFmpeg's names of the protocols by which bytes are read: no network, no pipe, no other file."""
HEADER_KNOWS_DURATION = ("mov", "matroska")
"""Containers whose header states the duration; what ends long before it is cut off."""


@contextmanager
def open_recording(path: str | Path) -> Iterator[InputContainer]:
    """The opened recording; errors of FFmpeg inside the block become one sentence for the user."""
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"There is no file {str(path)!r}; give the path of a video or sound file.")
    if path.stat().st_size == 0:
        raise MediaError(f"{path.name!r} is empty (0 bytes); give a video or sound file.")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS, **only_common()}
    try:
        # an absolute path, since FFmpeg takes what stands before a colon for a protocol
        with av.open(os.path.abspath(path), options=options) as container:
            for stream in container.streams:
                if stream.codec_context is not None:  # else it is of data
                    stream.codec_context.thread_count = worker.decoder_threads
            yield container
    except PatchWelcomeError as error:  # such as Ogg files joined although their sample rates differ
        problem = f"{path.name!r} changes in mid-file in a way that FFmpeg cannot read; convert it first."
        raise MediaError(problem) from error
    except (FFmpegError, ValueError, IndexError) as error:
        raise MediaError(f"{path.name!r} {reason(path)}") from error


def start_of(container: InputContainer) -> float:
    """Seconds on the container's clock at which a player shows 0:00; may be negative."""
    return (container.start_time or 0) / av.time_base


def rewind(container: InputContainer) -> None:
    """Go back to the first packet, also where the clock begins below zero."""
    if lengths.has_format(container, lengths.WITHOUT_INDEX):
        container.seek(0, unsupported_byte_offset=True)
        return
    begin = min(0, container.start_time or 0)
    try:
        container.seek(begin)
    except FFmpegError:  # in FLV, where the first key frame comes later
        container.seek(begin, backward=False)


@cached_by_file
def probe(source: FileSource) -> MediaInfo:
    """Tracks and duration of a file. Raises MediaError if it is missing, empty, cut off or without tracks.

    The duration is the picture's, or that of the heard track where there is no picture. A progress bar shows
    where no header says it and the file has to be read.
    """
    recording = Recording.of(source)
    path, name, asked = recording.path, recording.path.name, recording.track is not None
    if path.is_dir():
        return FrameFolder.open(source).info()
    with open_recording(path) as container:
        pictures, sounds = video_streams(container), audio_streams(container)
        if not pictures and not sounds:
            raise MediaError(_nothing_to_read(container, name))
        if is_rare(stream.codec_context.name for stream in (*pictures, *sounds)):
            return call(probe, source, about=repr(name))
        heard = _sound_asked_for(container, recording) if asked else default_sound(container)
        ends, start = _ends(container, [*pictures[:1], *sounds]), start_of(container)
        video = None
        if pictures:
            rewind(container)
            video = replace(_video_track(container, pictures[0]), duration=_length(ends, pictures[0], start))
        audio = tuple(_audio_track(stream, _length(ends, stream, start)) for stream in sounds)
        sound = next((track for track in audio if heard is not None and track.index == heard.index), None)
        taken = video or sound
        duration = taken.duration if taken else 0.0
        if duration <= 0:
            raise MediaError(f"{name!r} holds no moment of video or sound.")
        tracks = list_tracks(container, video, sound, asked)
        seen = (*picture_notes(container, video), *(video.notes if video else ()))
        noted = sound_notes(container, sound, lambda track: _label(container, track.index))
        lasting = length_notes(video, sound)
        return MediaInfo(path, duration, video, audio, tracks, sound, seen, noted, lasting)


@cached_by_file
def walked(source: FileSource) -> lengths.Walk:
    """All packets of a file, read once; those of the picture track that is taken are listed."""
    with open_recording(Recording.of(source).path) as container:
        pictures = video_streams(container)
        return lengths.walk(container, pictures[0].index if pictures else None)


def _ends(container: InputContainer, streams: list[av.stream.Stream]) -> dict[int, float]:
    """The ends of the tracks on the container's clock, in seconds. Raises MediaError when it is cut off."""
    path, exact = Path(container.name), lengths.has_format(container, HEADER_KNOWS_DURATION)
    if lengths.has_format(container, lengths.WALKED) or not container.duration or container.duration < 0:
        return walked(Recording(path)).ends
    ends, duration = lengths.tail(container, streams), container.duration / av.time_base
    least = duration - max(1.0, 0.02 * duration)  # an earlier end is a file that was cut off
    begin, matroska = start_of(container), lengths.has_format(container, ("matroska",))
    if matroska:  # some programs write its length from the first moment on, others from the clock's zero
        begin = min(begin, 0.0)
    last = max(ends.values(), default=0.0) - begin
    if any(stream.index not in ends for stream in streams) or (exact and last < least):
        ends = {**ends, **walked(Recording(path)).ends}
        last = max(ends.values(), default=0.0) - begin
    if exact and last < least:
        raise MediaError(
            f"{path.name!r} is cut off: it should last {duration:.1f} s but its data ends early."
        )
    if matroska and last > duration + max(1.0, 0.02 * duration):
        ends = {index: min(end, start_of(container) + duration) for index, end in ends.items()}
    return ends


def _length(ends: dict[int, float], stream: av.stream.Stream, start: float) -> float:
    """Seconds from the recording's time zero to the track's end; 0 where it has no packet."""
    if stream.index not in ends:
        return 0.0
    return max(0.0, lengths.end_in_header(stream, ends[stream.index]) - start)


def _sound_asked_for(container: InputContainer, recording: Recording) -> av.AudioStream:
    sounds = audio_streams(container)
    for stream in sounds:
        if stream.index == recording.track:
            return stream
    there = ", ".join(f"{_label(container, s.index)}: {codec_of(container, s)}" for s in sounds)
    raise MediaError(
        f"Track {recording.track} of {recording.path.name!r} is no sound track that can be heard; "
        + (f"give one of these: {there}." if there else "the file has none.")
    )


def _label(container: InputContainer, index: int) -> str:
    """'#2 (default, eng)': a track by its number, with what the file says of it."""
    stream = container.streams[index]
    language = stream.metadata.get("language", "")
    words = ["default"] if stream.disposition & Disposition.default else []
    words += [language] if language.isalnum() and language != "und" else []
    return f"#{index}" + (f" ({', '.join(words)})" if words else "")


def _nothing_to_read(container: InputContainer, name: str) -> str:
    if reasons := dict.fromkeys(lacks for _, _, lacks in undecoded(container)):
        return f"{name!r} cannot be decoded ({', '.join(reasons)}); convert it to a common format first."
    texts = any(stream.type == "subtitle" for stream in container.streams)
    ending = "." if texts else ": it is damaged or cut off."
    return f"{name!r} has neither a picture nor a sound track{ending}"


def _audio_track(stream: av.AudioStream, duration: float) -> AudioTrack:
    context, default = stream.codec_context, bool(stream.disposition & Disposition.default)
    layout = placed(context.layout).name
    return AudioTrack(stream.rate, context.channels, context.name, stream.index, layout, default, duration)


def _video_track(container: InputContainer, stream: av.VideoStream) -> VideoTrack:
    """A picture track as a player shows it; how it is turned is said in its frames, so one is decoded."""
    name = Path(container.name).name
    if (first := next(decode(container, stream), None)) is None:
        raise MediaError(f"{name!r} has a picture track without a picture.")
    if max(first.width, first.height) > LIMITS.max_side:
        size = f"{first.width}x{first.height}"
        raise MediaError(f"{name!r} is {size}; sides of up to {LIMITS.say('max_side')} are read.")
    return describe(first, stream, name)


def decode(
    container: InputContainer,
    stream: av.VideoStream | av.AudioStream,
    packets: Iterable[av.Packet] | None = None,
) -> Iterator[Any]:
    """Decoded frames from the current position on; single damaged packets are skipped and said in the log.

    packets: of the stream, decoded instead of those from here on. Raises MediaError when none can be decoded.
    """
    good = broken = 0
    for packet in container.demux(stream) if packets is None else packets:
        try:
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame | av.AudioFrame)  # the stream is one of these two
                good += 1
                frame.pts = frame.dts if frame.pts is None else frame.pts  # in AVI there may be no others
                if frame.pts is not None:
                    yield frame
        except InvalidDataError:
            broken += 1
    name = Path(container.name).name
    if not good and broken:
        raise MediaError(f"No {stream.type} of {name!r} can be decoded: the file is damaged.")
    if broken:
        logger.warning("%s: %d damaged %s packets were skipped.", name, broken, stream.type)
