"""Recordings opened and probed: their tracks, their clock, their length, and decoded frames one by one.

Only real recording formats are opened: no playlists, no pictures, nothing that makes FFmpeg open other files.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import EOFError as AvEndOfFile
from av.error import FFmpegError, InvalidDataError

from lynx.errors import MediaError
from lynx.media.file_cache import cached_by_file
from lynx.media.rare_codecs import is_rare, only_common
from lynx.media.worker import call
from lynx.types import AudioTrack, FileSource, MediaInfo, Recording, Track, VideoTrack

logger = logging.getLogger(__name__)

FORMATS = "mov,matroska,avi,mpegts,mpeg,ogg,flac,wav,w64,mp3,aac,gif,flv,asf,aiff,caf,amr"
"""FFmpeg's names of the containers that are opened."""
HEADER_KNOWS_DURATION = ("mov", "matroska")
"""Containers whose header states the duration; elsewhere it may be a guess from the bit rate."""
MAX_SIDE = 8192
"""Maximum width and height of a picture, in pixels."""


@contextmanager
def open_recording(path: str | Path) -> Iterator[InputContainer]:
    """The opened recording; errors of FFmpeg inside the block become one sentence for the user."""
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"There is no file {str(path)!r}; give the path of a video or sound file.")
    if path.stat().st_size == 0:
        raise MediaError(f"{path.name!r} is empty (0 bytes); give a video or sound file.")
    try:
        with av.open(str(path), options={"format_whitelist": FORMATS, **only_common()}) as container:
            yield container
    except (FFmpegError, ValueError, IndexError) as error:
        raise MediaError(
            f"{path.name!r} cannot be read as video or sound: it is damaged, cut off or of another kind."
        ) from error


def video_streams(container: InputContainer) -> list[av.VideoStream]:
    """Picture tracks, without the cover pictures that music files carry."""
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def start_of(container: InputContainer) -> float:
    """Seconds on the container's clock at which a player shows 0:00."""
    return (container.start_time or 0) / av.time_base


def _last_moment(container: InputContainer, start_from: float) -> float:
    """The end of the last packet, in seconds; reads (does not decode) from `start_from` on."""
    container.seek(round((start_from + start_of(container)) * av.time_base))
    end = 0.0
    try:
        for packet in container.demux():
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except (InvalidDataError, AvEndOfFile):
        pass  # what could be read until here is the answer
    return end - start_of(container)


@cached_by_file
def probe(source: FileSource) -> MediaInfo:
    """Tracks and duration of a file. Raises MediaError if it is missing, empty, cut off or without tracks."""
    path = Recording.of(source).path
    with open_recording(path) as container:
        name = path.name
        videos, audios = video_streams(container), list(container.streams.audio)
        if not videos and not audios:
            raise MediaError(f"{name!r} has neither a picture nor a sound track.")
        if is_rare(stream.codec_context.name for stream in (*videos, *audios) if stream.codec_context):
            return call(probe, source, about=repr(name))
        if container.duration is None or container.duration <= 0:
            duration = _last_moment(container, 0.0)
        else:
            duration = container.duration / av.time_base
            if container.format.name.startswith(HEADER_KNOWS_DURATION):
                end = _last_moment(container, duration)
                if end < duration - max(1.0, 0.02 * duration):
                    raise MediaError(
                        f"{name!r} is cut off: it should last {duration:.1f} s but its data ends early."
                    )
        if duration <= 0:
            raise MediaError(f"{name!r} holds no moment of video or sound.")
        best = container.streams.best("audio")
        default = av.stream.Disposition.default
        audio = tuple(
            AudioTrack(
                s.rate, c.channels, c.name, s.index, c.layout.name, bool(s.disposition & default), duration
            )
            for s in audios
            if (c := s.codec_context)
        )
        sound = next((track for track in audio if best is not None and track.index == best.index), None)
        taken = {stream.index for stream in (*videos[:1], *((best,) if best else ()))}
        tracks = tuple(
            Track(
                s.index, s.type, s.codec_context.name if s.codec_context else "",
                bool(s.disposition & default), s.index in taken,
            )
            for s in container.streams
        )
        video = _video_track(container, videos[0]) if videos else None
        return MediaInfo(path, duration, video, audio, tracks, sound=sound)


def _video_track(container: InputContainer, stream: av.VideoStream) -> VideoTrack:
    """A picture track; the rotation is a property of its frames, so one is decoded."""
    name = Path(container.name).name
    container.seek(0)
    if (first := next(decode(container, stream), None)) is None:
        raise MediaError(f"{name!r} has a picture track without a picture.")
    width, height = stream.codec_context.width, stream.codec_context.height
    if max(width, height) > MAX_SIDE:
        raise MediaError(f"{name!r} is {width}x{height}; sides of up to {MAX_SIDE} pixels are read.")
    if round(first.rotation) % 180:
        width, height = height, width
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return VideoTrack(width, height, rate, stream.codec_context.name, round(first.rotation))


def decode(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> Iterator[Any]:
    """Decoded frames from the current position on; single damaged packets are skipped and said in the log.

    Raises MediaError when nothing can be decoded.
    """
    good = broken = 0
    for packet in container.demux(stream):
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
