"""Video and sound in codecs that few files have are decoded in a worker, where a crash harms nobody.

FFmpeg has some 400 decoders. Most files need one of about a dozen, which browsers and others have tried on
millions of strange files; these run in this process, so that an ordinary clip costs no more. All others run
in a worker.

Opening a file also decodes its first frames: `only_common` restricts FFmpeg to the common decoders there. The
formats of files (`lynx.media.container.FORMATS`) are few, and are read in this process.
"""

from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, TypeVar, cast

from lynx.media.worker import call, separate
from lynx.types import FileSource, MediaInfo, Recording

Reader = TypeVar("Reader", bound=Callable[..., Any])

COMMON = frozenset(
    "h264 hevc av1 libdav1d vp8 libvpx vp9 libvpx-vp9 mpeg4 mpeg2video mpeg1video h263 mjpeg ffv1 gif prores "
    "png rawvideo theora aac aac_fixed mp3 mp3float mp2 mp2float opus libopus vorbis flac alac ac3 eac3 "
    "wavpack amrnb amrwb libopencore_amrnb libopencore_amrwb pcm_alaw pcm_mulaw pcm_u8 pcm_s8 pcm_s16le "
    "pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_f32le pcm_f32be pcm_f64le pcm_f64be "
    "pcm_s16le_planar".split()
)
"""FFmpeg's names of the decoders that run in this process."""


def needs_worker(codec: str) -> bool:
    """Whether this decoder, as FFmpeg names it, runs in a worker; "" is one that nobody has."""
    return bool(codec) and codec not in COMMON


def only_common() -> dict[str, str]:
    """Options for opening a file in this process: FFmpeg tries no other decoder on it."""
    return {"codec_whitelist": ",".join(sorted(COMMON))} if separate() else {}


def is_rare(codecs: Iterable[str]) -> bool:
    """Whether a file with picture and sound tracks of these codecs is read in a worker, from this process."""
    return separate() and any(map(needs_worker, codecs))


def codecs_of(info: MediaInfo) -> list[str]:
    """The codecs of all picture and sound tracks; none of a folder, whose pictures FFmpeg does not read."""
    tracks = () if info.path.is_dir() else info.tracks
    return [track.codec for track in tracks if track.type in ("video", "audio")]


def in_worker_if_rare(probe: Callable[[FileSource], MediaInfo]) -> Callable[[Reader], Reader]:
    """Decorator of a reader, a function of a recording: it runs in a worker if that has a rare codec.

    probe: gives the tracks of a recording. What the reader returns can be pickled: no generator.
    """

    def decorate(function: Reader) -> Reader:
        @wraps(function)
        def read(source: FileSource, *args: Any, **kwargs: Any) -> Any:
            if not is_rare(codecs_of(probe(source))):
                return function(source, *args, **kwargs)
            about = repr(Recording.of(source).path.name)
            return call(partial(read, source, *args, **kwargs), about=about)  # pickled by its name

        return cast(Reader, read)

    return decorate
