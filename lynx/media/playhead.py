"""Which frame of a picture track is on the screen at a moment.

Unusual here: every frame is found by its container timestamp, never by a frame rate, and by seeking, so that
sixteen frames of a ten-minute clip do not decode it all. Time zero is the container's own start, as in a
player, and may be negative. After a seek only frames from a key frame on count, since the frames before it
may be broken. Two kinds of file need more:
- AVI knows no display times. Its frames come out of the decoder in the order of display, each with the slot
  of the packet that pushed it out; that is a constant number of slots late.
- MPEG-TS and MPEG-PS have no index, and timestamps right behind a seek may be wrong. All their packets have
  been listed once (without decoding); after a seek they are recognized by place and size.
"""

from collections.abc import Iterator
from itertools import chain, dropwhile
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from lynx.errors import MediaError
from lynx.media.container import decode, rewind, start_of, walked
from lynx.media.lengths import NONE, WITHOUT_INDEX, Packets, has_format
from lynx.types import EPSILON, Recording

BACK = (0.0, 3.0, 30.0)
"""Seconds before a moment that are sought one after another, until a key frame lies before the moment."""
BACK_PACKETS = (8, 64, 512)
"""The same without an index: packets before the key frame; at last the beginning of the file."""


class Playhead:
    """Walks a picture track forwards and answers which frame is on the screen at a moment.

    Seeks when the next moment lies further ahead than any key frame has lain behind a moment so far; so
    neither a file full of key frames nor one with a single key frame is decoded more than about twice.
    """

    def __init__(self, container: InputContainer, stream: av.VideoStream) -> None:
        self.container, self.stream = container, stream
        self.frames: Iterator[av.VideoFrame] = iter(())
        self.shown: av.VideoFrame | None = None
        self.ahead: av.VideoFrame | None = None  # decoded, but not yet on the screen
        self.longest_run = 0.0  # seconds from a key frame to the moment it was sought for
        self.packets: Packets | None = None  # all of the track, where there is no index
        self.key: int | None = None  # timestamp of the key frame behind the last seek
        self.late: int | None = None  # slots by which frames leave the decoder, in AVI
        if has_format(container, WITHOUT_INDEX):
            self.packets = walked(Recording(Path(container.name))).packets
        elif has_format(container, ("avi",)):
            self.late = self._lateness()

    def show(self, time: float) -> av.VideoFrame:
        """The frame displayed at `time` seconds; times ascend from call to call."""
        moment = time + start_of(self.container) + EPSILON
        if self.shown is None or moment - self.shown.time > self.longest_run:
            self._seek(moment)
        while self.ahead is not None and self.ahead.time <= moment:
            self.shown, self.ahead = self.ahead, next(self.frames, None)
        if self.shown is None:  # the track begins after this moment: its first frame stands in
            self.shown = self.ahead
        if self.shown is None:
            name = Path(self.container.name).name
            raise MediaError(f"{name!r} has no picture at {time:.2f} s: it is cut off.")
        return self.shown

    def _seek(self, moment: float) -> None:
        """Go to a key frame before the moment; the first frame of all stands in where there is none."""
        for frames in self._runs(moment):
            self.frames = frames
            self.shown, self.ahead = None, next(frames, None)
            if self.ahead is not None and self.ahead.time <= moment:
                self.longest_run = max(self.longest_run, moment - self.ahead.time)
                break

    def _runs(self, moment: float) -> Iterator[Iterator[av.VideoFrame]]:
        """Decoded frames from a key frame on, again and again, each time from one further back."""
        base = float(self.stream.time_base or 1)
        if self.packets is not None:
            shown = (self.packets.pts <= moment / base) & (self.packets.pts != NONE)
            keys = np.flatnonzero(self.packets.key & shown)[::-1].tolist()
            first = int(np.argmax(self.packets.key))  # the first key frame, or else the first packet
            for key in [*keys[:3], first]:
                yield self._clean(decode(self.container, self.stream, self._listed(self.packets, key)))
            return
        for back in (*BACK, None):
            try:
                if back is None:
                    rewind(self.container)
                else:
                    self.container.seek(int((moment - back) / base), stream=self.stream)
            except FFmpegError:
                continue  # the index begins later
            yield self._clean(decode(self.container, self.stream, self._from_key_frame()))
        if self.ahead is None:  # no packet is marked as a key frame
            rewind(self.container)
            yield decode(self.container, self.stream)

    def _from_key_frame(self) -> Iterator[av.Packet]:
        """The packets of the track from here on, without those in front of the first key frame."""
        found = False
        for packet in self.container.demux(self.stream):
            if not found and packet.is_keyframe and packet.size:
                self.key = packet.dts if self.late is not None else packet.pts
                found = True
            if found:
                yield packet

    def _listed(self, listed: Packets, key: int) -> Iterator[av.Packet]:
        """The packets from the one numbered `key` on, each with its timestamp in the list."""
        self.key = int(listed.pts[key])
        for back in (*BACK_PACKETS, key):
            known = np.flatnonzero(listed.pos[: max(0, key - back) + 1] >= 0)
            start = int(known[-1]) if len(known) else 0
            self.container.seek(max(0, int(listed.pos[start])), unsupported_byte_offset=True)
            if (packets := self._synchronized(listed, start, key)) is not None:
                yield from packets
                return

    def _synchronized(self, listed: Packets, start: int, key: int) -> Iterator[av.Packet] | None:
        """The packets from number `key` on, if one from `start` to `key` is recognized on the way there."""
        packets, number = self.container.demux(self.stream), -1
        for packet in packets:
            if number < 0:
                part = slice(start, key + 1)
                same = (listed.pos[part] == packet.pos) & (listed.size[part] == packet.size)
                if packet.pos is None or not same.any():
                    continue
                number = start + int(np.argmax(same))
            else:
                number += 1
            if number > key or listed.size[number] != packet.size:
                return None  # the seek went too far
            if number == key:
                return self._with_times(listed, key, chain([packet], packets))
        return None

    def _with_times(
        self, listed: Packets, number: int, packets: Iterator[av.Packet]
    ) -> Iterator[av.Packet]:
        for packet in packets:
            if packet.size and number < len(listed.pts):
                packet.pts = None if listed.pts[number] == NONE else int(listed.pts[number])
                number += 1
            yield packet

    def _clean(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The frames from the key frame on: those shown before it may rest on frames never decoded."""
        if self.late is not None:
            frames = self._by_slot(dropwhile(lambda frame: not frame.key_frame, frames), self.late)
        for frame in frames:
            if self.key is None or frame.pts is None or frame.pts >= self.key:
                yield frame

    def _by_slot(self, frames: Iterator[av.VideoFrame], late: int) -> Iterator[av.VideoFrame]:
        """Frames of an AVI, each timed by the packet that pushed it out of the decoder."""
        slot: int | None = None
        for frame in frames:
            if frame.dts is not None:
                slot = frame.dts - late
            else:  # pushed out by the end of the file
                slot = self.key if slot is None else slot + 1
            frame.pts = slot
            yield frame

    def _lateness(self) -> int:
        """Slots from the first packet of an AVI to the one that pushes its frame out."""
        self.late = 0
        rewind(self.container)
        first = next(decode(self.container, self.stream, self._from_key_frame()), None)
        return 0 if first is None or first.dts is None or self.key is None else first.dts - self.key
