"""Which frame of a picture track is on the screen at a moment.

Unusual here: every frame is found by its container timestamp, never by an index or a frame rate, and by
seeking, so that sixteen frames of a ten-minute clip do not decode it all. Time zero is the container's own
start, as in a player.
"""

from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer

from lynx.errors import MediaError
from lynx.media.container import decode, start_of
from lynx.types import EPSILON


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
        """Go to the last key frame before the moment; some containers need a second, earlier try."""
        for back in (0.0, 3.0, 30.0, moment):
            target = max(0.0, moment - back)
            self.container.seek(int(target / float(self.stream.time_base or 1)), stream=self.stream)
            self.frames = decode(self.container, self.stream)
            self.shown, self.ahead = None, next(self.frames, None)
            if target == 0.0 or (self.ahead is not None and self.ahead.time <= moment):
                break
        if self.ahead is not None:
            self.longest_run = max(self.longest_run, moment - self.ahead.time)
