"""Where the tracks of a recording end, and its packets where the format has no index.

Unusual here: the header is trusted only where it is exact. The tail of the file is read after a
seek; formats that have no exact header, or that seek by guessing (MP3, MPEG-TS, FLV ...), are read packet by
packet, without decoding. Seconds are those of the container's clock.
"""

import logging
import math
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import Container, InputContainer
from av.error import EOFError as AvEndOfFile
from av.error import FFmpegError, InvalidDataError
from av.stream import Stream
from tqdm import tqdm

from lynx.config import LIMITS
from lynx.errors import MediaError

logger = logging.getLogger(__name__)

WALKED = ("mpegts", "mpeg", "mp3", "aac", "amr", "ac3", "eac3", "dts", "ogg", "flv", "asf", "gif")
"""FFmpeg's names of the formats whose packets are all read, since their headers may only guess the length."""
WITHOUT_INDEX = ("mpegts", "mpeg")
"""Formats in which a seek lands anywhere, and in which the first timestamps after it may be wrong."""
JOINED = (*WITHOUT_INDEX, "ogg")
"""Formats of which files are joined end to end, so that the clock begins anew in mid-file."""
RESET = 1
"""Seconds by which a clock has to fall back to count as one that begins anew."""
SLOW = 1.0
"""Seconds of reading after which a progress bar is shown."""
SEVERAL = 1000  # packets between two updates of the bar
SECONDS_BEFORE_END = 2.0  # a seek to the very end of PCM finds no packet
EXACT = ("mov", "mp3", "ogg", "flac")
"""Formats in which the header can say which of the last samples are padding."""
PADDING = 0.1
"""Maximum seconds that an encoder pads at the end; a header that is further off is wrong."""
FRAME = 0.04  # seconds of a last frame that says nothing of its length
FEW = 0.5
"""Share of frames without a timestamp above which the timestamps of MPEG-PS are evenly spaced instead."""
TRUSTED_JUMP = 0.25
"""Seconds by which a timestamp of MPEG-PS may differ from an even rate before it is a gap."""
ADTS_RATES = 96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350
"""Sample rates in Hz by their number in the header of an AAC packet (ISO/IEC 13818-7, ADTS)."""
ADTS_SAMPLES = 1024  # of one block of a packet, at that rate
NONE = np.iinfo(np.int64).min  # no timestamp


@dataclass(frozen=True, eq=False)
class Packets:
    """All packets of a picture track in the order of the file: (n,) each. It takes the place of an index."""

    pts: np.ndarray  # int64, in the stream's time base
    key: np.ndarray  # bool
    pos: np.ndarray  # int64 byte in the file, -1 where it is not known
    size: np.ndarray  # int32 bytes


@dataclass(frozen=True, eq=False)
class Walk:
    """What reading all packets of a file tells: the ends of its tracks, and the picture's packets."""

    ends: dict[int, float]  # seconds, of each stream by its index
    packets: Packets | None = None
    joined: bool = False  # whether the clock begins anew in mid-file


def has_format(container: Container, names: tuple[str, ...]) -> bool:
    """Whether the container is of one of these formats."""
    return not set(names).isdisjoint(container.format.name.split(","))


def timestamp(packet: av.Packet) -> int | None:
    """When a packet is shown, in its time base. AVI knows only when it is decoded, and guesses the rest."""
    vague = packet.pts is None or has_format(packet.stream.container, ("avi",))
    return packet.dts if vague else packet.pts


def walk(container: InputContainer, picture: int | None = None) -> Walk:
    """All packets of a container that was just opened; those of stream `picture` are listed."""
    path = Path(container.name)
    total, since, read, said = path.stat().st_size, time.monotonic(), 0, False
    columns = tuple(array("q") for _ in range(6))
    found, clock, resets = _Ends(), _Clock(), has_format(container, JOINED)
    shape = {"total": total, "unit": "B", "unit_scale": True, "leave": False}
    with tqdm(desc=f"read {path.name!r}", delay=SLOW, disable=None, **shape) as bar:
        for i, packet in enumerate(timed(container, _readable(container))):
            shift = clock.shift(packet) if resets else 0
            found.extend(packet, shift)
            if packet.stream_index == picture and packet.size:
                pts, dts = (NONE if x is None else x + shift for x in (timestamp(packet), packet.dts))
                pos = -1 if packet.pos is None else packet.pos
                row = (pts, dts, packet_length(packet), packet.is_keyframe, pos, packet.size)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
                if len(columns[0]) > LIMITS.max_pictures:
                    raise MediaError(f"{path.name!r} has over {LIMITS.say('max_pictures')}; cut it.")
            if i % SEVERAL == 0 and packet.pos and packet.pos > read:
                bar.update(packet.pos - read)
                read = packet.pos
                if bar.disable and not said and time.monotonic() - since > SLOW:
                    said = True
                    logger.info("%r does not say its length: all %.0f MB are read.", path.name, total / 1e6)
    ends = found.seconds()
    if not columns[0] or picture is None:
        return Walk(ends, joined=clock.began_anew)
    times, coded, lasts, key, at, size = (np.array(column, np.int64) for column in columns)
    seldom = (at < 0).mean() > FEW and NONE not in (times.min(), coded.min())
    base = float(container.streams[picture].time_base or 1)
    if seldom and has_format(container, ("mpeg",)):
        times = evenly_timed(times, coded, lasts, TRUSTED_JUMP / base)
        ends[picture] = float(times.max() + lasts[-1]) * base
        shown = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        if 0 <= ends[picture] - shown <= TRUSTED_JUMP:  # players show the length without the last B-frames
            ends[picture] = shown
    return Walk(ends, Packets(times, key != 0, at, size.astype(np.int32)), clock.began_anew)


def evenly_timed(pts: np.ndarray, dts: np.ndarray, length: np.ndarray, jump: float) -> np.ndarray:
    """Timestamps (n,) of an MPEG program stream whose frames are many to a PES packet: (n,) int64 each.

    Only the first frame of such a packet has a timestamp, which writers often take from its neighbor. MPEG
    video has a constant rate, so frames follow one another by their lengths unless a timestamp is off by more
    than `jump`, which is a gap. A B-frame is shown when it is decoded, the others when the next of them is.
    """
    even = dts.copy()
    for i in range(1, len(even)):
        follows = even[i - 1] + length[i - 1]
        even[i] = follows if abs(dts[i] - follows) <= jump else dts[i]
    anchors = np.flatnonzero(pts != dts)
    shown = even.copy()
    if len(anchors):
        shown[anchors[:-1]] = even[anchors[1:]]
        shown[anchors[-1]] = even[-1] + length[-1]
    return shown


def tail(container: InputContainer, streams: Iterable[Stream]) -> dict[int, float]:
    """The ends of the tracks, from the packets after a seek to the end; `streams` are sought one by one.

    A stream of which no packet is found is not in the answer.
    """
    start, found = (container.start_time or 0) / av.time_base, _Ends()
    end = start + (container.duration or 0) / av.time_base
    if not container.streams.video:
        end = max(start, end - SECONDS_BEFORE_END)
    try:
        container.seek(round(end * av.time_base))
        for packet in _readable(container):
            found.extend(packet)
        for stream in streams:
            if stream.index not in found.last and stream.time_base:
                container.seek(math.floor(end / stream.time_base), stream=stream)
                for packet in _readable(container, stream):
                    found.extend(packet)
    except FFmpegError:
        pass  # what cannot be sought is read from the beginning by the caller
    return found.seconds()


def end_in_header(stream: Stream, measured: float) -> float:
    """The end of a track in seconds: the header's, where it only leaves out the sound that was padded."""
    known = isinstance(stream, av.AudioStream) and has_format(stream.container, EXACT)
    if not known or not stream.duration or not stream.time_base:
        return measured
    end = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return end if 0 <= measured - end <= PADDING else measured


def _readable(container: InputContainer, *streams: Stream) -> Iterable[av.Packet]:
    """The packets from here on, until the file ends or breaks off."""
    try:
        yield from container.demux(*streams)
    except (InvalidDataError, AvEndOfFile):
        return  # what could be read until here is the answer


def timed(container: InputContainer, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """Packets from a file's first one on; those of raw AAC with the timestamps that their own headers give.

    FFmpeg takes each of them for as long as the first, which is wrong where the sample rate changes.
    """
    if not has_format(container, ("aac",)):
        yield from packets
        return
    clock: int | None = None
    for packet in packets:
        if packet.pts is not None:
            clock = packet.pts if clock is None else clock
            seconds = _adts_seconds(bytes(memoryview(packet)[:7]))
            duration = round(seconds / packet.time_base) if seconds else packet.duration or 0
            packet.pts = packet.dts = clock
            packet.duration = duration
            clock += duration
        yield packet


def _adts_seconds(header: bytes) -> Fraction | None:
    """How long an AAC packet lasts by the 7 bytes of its header; None where it has none."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return None
    rate, blocks = header[2] >> 2 & 15, (header[6] & 3) + 1
    return Fraction(ADTS_SAMPLES * blocks, ADTS_RATES[rate]) if rate < len(ADTS_RATES) else None


def packet_length(packet: av.Packet) -> int:
    """How long a packet lasts in its time base; 0 where it does not say.

    Below 0 for the last packet of an Ogg track that is all padding, and where the one before is so in part:
    the track ends before it begins. FFmpeg adds 2^32 to such a length.
    """
    length = packet.duration or 0
    return length - 2**32 if 2**31 <= length < 2**32 else length


class _Clock:
    """Keeps the clock of each track running where files were joined and it begins anew."""

    def __init__(self) -> None:
        self.shifts: dict[int, int] = {}  # index -> what is added to its timestamps
        self.next: dict[int, int] = {}  # index -> expected timestamp of decoding
        self.began_anew = False

    def shift(self, packet: av.Packet) -> int:
        """What is added to the timestamps of this packet, in its time base."""
        index, shift = packet.stream_index, self.shifts.get(packet.stream_index, 0)
        if packet.dts is None:
            return shift
        jump = packet.dts + shift - self.next.get(index, packet.dts + shift)
        if jump < -RESET / packet.time_base:
            shift -= jump
            self.began_anew = True
        elif jump > RESET / packet.time_base:
            shift = max(0, shift - jump)  # a single wrong timestamp is over
        self.shifts[index] = shift
        self.next[index] = packet.dts + shift + packet_length(packet)
        return shift


class _Ends:
    """The end of each track by the packet that is shown last.

    Not the latest end of any packet: where frames are reordered, MP4 counts a length from one decoding to the
    next, which in front of a gap is longer than the frame is shown.
    """

    def __init__(self) -> None:
        self.last: dict[int, tuple[float, float]] = {}  # index -> second shown, length

    def extend(self, packet: av.Packet, shift: int = 0) -> None:
        """Take one packet into account, unless it is not shown (outside of an edit list)."""
        shown = timestamp(packet)
        if shown is None or packet.is_discard:
            return
        stream, base = packet.stream, packet.time_base
        length = float(packet_length(packet) * base)
        if not length and isinstance(stream, av.VideoStream):
            rate = stream.average_rate or stream.guessed_rate
            length = float(1 / rate) if rate and 1 <= rate <= 1000 else FRAME
        second = float((shown + shift) * base)
        reordered = isinstance(stream, av.VideoStream)
        previous = self.last.get(stream.index, (-math.inf, 0.0))
        padding = length < 0 and second >= previous[0]
        if padding or (second >= previous[0] if reordered else second + length >= sum(previous)):
            self.last[stream.index] = second, length

    def seconds(self) -> dict[int, float]:
        """The end of each track found, by its index."""
        return {index: sum(shown_and_length) for index, shown_and_length in self.last.items()}
