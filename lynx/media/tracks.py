"""The tracks of a file: which can be decoded, which are taken, and what the user should know about the rest.

As in a player, the track flagged default is taken, else the first. A cover picture is no picture track.
"""

import re
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar, cast

import av
import av.logging
from av.container import InputContainer
from av.stream import Disposition, Stream

from lynx.types import AudioTrack, Track, VideoTrack

S = TypeVar("S", bound=Stream)

IMPAIRED = Disposition.hearing_impaired | Disposition.visual_impaired
COVERS = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
DIFFERENCE = 0.5
"""Seconds by which sound and picture may differ in length without a note."""
ONE_LOG_AT_A_TIME = Lock()


def video_streams(container: InputContainer) -> list[av.VideoStream]:
    """Picture tracks that can be decoded, the one that is taken first; cover pictures are none."""
    pictures = [s for s in container.streams.video if _can_be_decoded(s) and not s.disposition & COVERS]
    return _best_first(pictures)


def audio_streams(container: InputContainer) -> list[av.AudioStream]:
    """Sound tracks that can be decoded, in the file's order."""
    return [s for s in container.streams.audio if _can_be_decoded(s)]


def default_sound(container: InputContainer) -> av.AudioStream | None:
    """The sound track that is heard unless another is asked for."""
    return next(iter(_best_first(audio_streams(container))), None)


def _best_first(streams: list[S]) -> list[S]:
    def rank(stream: S) -> int:
        return -bool(stream.disposition & Disposition.default) - (not stream.disposition & IMPAIRED)

    return sorted(streams, key=rank)  # a stable order: of equals the first in the file


def _can_be_decoded(stream: Stream) -> bool:
    """Whether there is a decoder, and the file says what it needs to begin."""
    context: Any = stream.codec_context  # None where there is no decoder
    if context is None:
        return False
    return not isinstance(stream, av.AudioStream) or bool(context.sample_rate and context.channels)


def undecoded(container: InputContainer) -> list[tuple[int, str, str]]:
    """(index, type, why) of each sound and picture track that cannot be decoded."""
    return [
        (s.index, s.type, _lacks(s, codec_of(container, s)))
        for s in container.streams
        if s.type in ("audio", "video") and not _can_be_decoded(s)
    ]


def _lacks(stream: Stream, codec: str) -> str:
    context: Any = stream.codec_context  # None where there is no decoder
    if context is None:
        return "its codec is unknown" if codec == "unknown" else f"no decoder for {codec}"
    return f"{codec} with a damaged header"


def codec_of(container: InputContainer, stream: Stream) -> str:
    """FFmpeg's name of the codec, or else the four letters that stand in the file."""
    context: Any = stream.codec_context
    if context is not None:
        return str(context.name)
    with ONE_LOG_AT_A_TIME:  # PyAV gives the names of codecs without a decoder in this report only
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            report = cast(Any, container).dumps_format()
        finally:
            av.logging.set_level(level)
    found = re.search(rf"Stream #0:{stream.index}\b.*?: \w+: (\w+)(?: \(([^()/]+) /)?", report)
    name, letters = found.groups() if found else ("none", None)
    return letters or "unknown" if name == "none" else name


def list_tracks(
    container: InputContainer, video: VideoTrack | None, sound: AudioTrack | None, asked: bool
) -> tuple[Track, ...]:
    """All tracks of a file, each with why it is taken or left. asked: the sound track was chosen by hand."""
    listed = []
    for s in container.streams:
        default = bool(s.disposition & Disposition.default)
        taken = s.index in [track.index for track in (video, sound) if track is not None]
        codec = codec_of(container, s)
        why = _why(s, codec, taken, sound, asked)
        listed.append(Track(s.index, s.type, codec, default, taken, why))
    return tuple(listed)


def _why(stream: Stream, codec: str, taken: bool, sound: AudioTrack | None, asked: bool) -> str:
    kind, default = stream.type, bool(stream.disposition & Disposition.default)
    if kind not in ("audio", "video"):
        return {"subtitle": "subtitles are not read"}.get(kind, f"a track of type {kind} is not read")
    if kind == "video" and stream.disposition & COVERS:
        return "a cover picture"
    if not _can_be_decoded(stream):
        return _lacks(stream, codec)
    if kind == "video":
        return "the picture" if taken else "another picture track is seen"
    sounds = stream.container.streams.audio
    if taken and (asked or len(sounds) == 1):
        return "the sound track asked for" if asked else "the sound"
    if taken:
        first = "the first sound track" if stream is sounds[0] else "the first of the other sound tracks"
        return "the default sound track" if default else first
    if asked:
        return "another sound track is asked for"
    return f"another sound track is {'the default' if sound and sound.default else 'heard'}"


def picture_notes(container: InputContainer, video: VideoTrack | None) -> tuple[str, ...]:
    """What the user should know of the picture tracks: those left out."""
    notes, pictures = [], len(video_streams(container))
    missing = "" if video else ", so there is no picture"
    for index, kind, lacks in undecoded(container):
        if kind == "video":
            notes.append(f"the picture track #{index} cannot be decoded: {lacks}{missing}")
    if pictures > 1 and video is not None:
        notes.append(f"{pictures} picture tracks; #{video.index} is seen")
    return tuple(notes)


def sound_notes(
    container: InputContainer, sound: AudioTrack | None, label: Callable[[AudioTrack], str]
) -> tuple[str, ...]:
    """What the user should know of the sound tracks: which is heard, and those left out."""
    notes, sounds = [], len(audio_streams(container))
    if sounds > 1 and sound is not None:
        notes.append(f"{sounds} sound tracks; {label(sound)} is heard")
    missing = "" if sound else ", so there is no sound"
    for index, kind, lacks in undecoded(container):
        if kind == "audio":
            notes.append(f"the sound track #{index} cannot be decoded: {lacks}{missing}")
    return tuple(notes)


def length_notes(video: VideoTrack | None, sound: AudioTrack | None) -> tuple[str, ...]:
    """That the sound is longer or shorter than the picture."""
    if video is None or sound is None:
        return ()
    longer = sound.duration - video.duration
    lengths = f"the sound lasts {sound.duration:.1f} s, the picture {video.duration:.1f} s"
    if longer > DIFFERENCE:
        return (f"{lengths}: {longer:.1f} s of sound are not heard",)
    if longer < -DIFFERENCE:
        return (f"{lengths}: silent after {sound.duration:.1f} s",)
    return ()
