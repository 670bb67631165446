"""One decoded frame as the picture a player shows: upright, with square pixels, SDR, opaque, in RGB.

What is done to a frame: an interlaced one is deinterlaced, transparent parts are laid over black, pixels are
made square, high dynamic range is tone-mapped, and the display matrix turns and mirrors. An ordinary frame is
converted by one call of the scaler. What had to be assumed is noted. Sizes are (width, height) in pixels.
"""

from dataclasses import replace
from fractions import Fraction
from math import atan2, degrees
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.filter import Graph

from lynx.config import LIMITS
from lynx.media.tone import HLG, PQ, TO_BT709, to_sdr
from lynx.types import VideoTrack

MAX_ASPECT = 8
"""Maximum ratio of the sides of a stored pixel; beyond it the number in the file is taken for a mistake."""
UNNAMED = (28, 29, 30, 31)
"""FFmpeg's numbers of data of a frame that PyAV has no name for: LCEVC, what spatial video says of its views
and displays, and EXIF, which cameras write into motion JPEG."""
Size = tuple[int, int]

TRANSFERS = {16: PQ, 18: HLG}
"""Transfer functions of high dynamic range by their numbers in ITU-T H.273."""
UNKNOWN = (0, 2, 3)
"""Numbers of H.273 for a transfer function or matrix that is not named."""
BT2020, BT2020_CONSTANT = 9, 10
"""Numbers of H.273 for the primaries and matrices of BT.2020."""
CONVERTED = (0, 1, 2, 4, 5, 6, 7, BT2020)
"""Matrices of H.273 that the scaler converts to RGB."""
SIMILAR = {BT2020_CONSTANT: BT2020, 14: BT2020, 15: BT2020}
"""Matrices used in place of some that it does not convert: constant luminance and ICtCp."""


def fit(width: int, height: int, max_side: int | None) -> Size:
    """(width, height) in which a picture of that size is read: its longer side at most `max_side` pixels."""
    scale = min(1.0, (max_side or LIMITS.max_side) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """How the stored picture is turned, in quarters counter-clockwise, after it was mirrored left to right.

    From the display matrix (a b u; c d v; x y w), which maps a pixel (p, q) to (a p + c q, b p + d q).
    """
    try:  # a frame and its side data hold each other until Python's garbage collection: a small copy does
        frame = frame.reformat(8, 8, "gray")
    except FFmpegError:  # of a matrix that the scaler does not convert
        pass
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # there is a kind that PyAV does not know, so it gives none
        known = filtered(frame, *(("sidedata", f"delete:type={kind}") for kind in UNNAMED))
        matrix = known.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).astype(float).tolist()
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(degrees(atan2(-b, a)) / 90) % 4, mirrored


def turned(frame: av.VideoFrame, track: VideoTrack) -> tuple[int, bool]:
    """`orientation` of a frame: its track's, unless the frame says that it is turned otherwise."""
    known = track.rotation + 180 * track.mirrored  # what a frame calls its rotation, which knows no mirror
    if (round(frame.rotation) - known) % 360:
        return orientation(frame)
    return track.rotation // 90 % 4, track.mirrored


def hdr_of(frame: av.VideoFrame) -> str | None:
    """PQ or HLG, None for standard range. Ten bits of BT.2020 colors without a transfer function are PQ."""
    transfer = int(frame.color_trc)
    wide = int(frame.colorspace) in (BT2020, BT2020_CONSTANT) or int(frame.color_primaries) == BT2020
    if transfer in UNKNOWN and wide and frame.format.components[0].bits >= 10:
        return PQ
    return TRANSFERS.get(transfer)


def sample_aspect(stream: av.VideoStream) -> Fraction:
    """Width to height of a stored pixel as the file says, 1 where it says nothing."""
    return Fraction(stream.sample_aspect_ratio or 1)


def believed(aspect: Fraction) -> Fraction:
    """The aspect, or 1 where it is beyond MAX_ASPECT."""
    return aspect if Fraction(1, MAX_ASPECT) <= aspect <= MAX_ASPECT else Fraction(1)


def describe(frame: av.VideoFrame, stream: av.VideoStream, name: str) -> VideoTrack:
    """A track as it is displayed, by its first frame; `name` is the file's, for the notes."""
    quarters, mirrored = orientation(frame)
    aspect = believed(sample_aspect(stream))
    width, height = max(1, round(frame.width * aspect)), frame.height
    if quarters % 2:
        width, height = height, width
    rate, codec = stream.average_rate or stream.guessed_rate or 0, stream.codec_context.name
    track = VideoTrack(
        width, height, float(rate), codec, (0, 90, 180, -90)[quarters], stream.index, mirrored,
        f"{aspect.numerator}:{aspect.denominator}", hdr_of(frame), bool(frame.interlaced_frame),
    )  # fmt: skip
    converter = Converter(track, None, stream, name)
    converter.remark(frame)
    if _has_alpha(frame):
        converter.opaque(frame)
    return replace(track, notes=tuple(converter.notes))


class Converter:
    """Makes pictures of one size of a track's frames, and collects what had to be assumed as `notes`.

    A frame of another shape stands between black bars, as in a player.
    """

    def __init__(
        self, track: VideoTrack, max_side: int | None, stream: av.VideoStream, name: str
    ) -> None:
        self.track, self.displayed = track, (track.width, track.height)
        self.size = fit(*self.displayed, max_side)  # of the pictures
        self.stream, self.name = stream, name
        self.notes: dict[str, None] = {}  # in the order found
        self.transparent = any(key.lower() == "alpha_mode" for key in stream.metadata)
        self.aspect = sample_aspect(stream)
        # what the container says of its pixels stands; else the codec may say otherwise in mid-stream
        self.fixed = self.aspect != (stream.codec_context.sample_aspect_ratio or 1)

    def note(self, clause: str) -> None:
        """Keep a note, once."""
        self.notes[f"{self.name}: {clause}"] = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB of `size`."""
        self.remark(frame)
        quarters, mirrored = turned(frame, self.track)
        hdr, primaries = hdr_of(frame), int(frame.color_primaries)
        if hdr and primaries in UNKNOWN:  # high dynamic range that names none has those of BT.2020
            primaries = BT2020
        size = self._inside(frame, quarters)
        if frame.interlaced_frame:
            frame = deinterlaced(frame)
        if _has_alpha(frame):
            frame = self.opaque(frame)
        if hdr or primaries in TO_BT709:
            rgb = to_sdr(_rgb(frame, size, "rgb48le"), hdr, primaries)
        else:
            rgb = _rgb(frame, size, "rgb24")
        return framed(oriented(rgb, quarters, mirrored), self.size)

    def remark(self, frame: av.VideoFrame) -> None:
        """Note what is known of a frame before it is converted."""
        if hdr := hdr_of(frame):
            assumed = hdr == PQ and int(frame.color_trc) in UNKNOWN
            why = ", assumed since its BT.2020 colors name no transfer function" if assumed else ""
            self.note(f"HDR ({hdr}) tone-mapped to SDR{why}")
        if frame.interlaced_frame:
            self.note("interlaced frames are deinterlaced")
        if believed(self.aspect) != self.aspect:
            self.note(f"pixels of {self.aspect.numerator}:{self.aspect.denominator} are shown as square ones")
        if self.transparent and not _has_alpha(frame):  # FFmpeg's own decoders of VP8 and VP9 leave it out
            self.note("its transparency is not read, the colors behind it are shown")
        if abs(frame.rotation - 90 * round(frame.rotation / 90)) > 1:
            self.note(f"its display matrix turns it by {frame.rotation:.0f} degrees, shown to a quarter turn")
        if _matrix(frame) not in CONVERTED:
            self.note(f"colors of matrix {_matrix(frame)} of ITU-T H.273 are shown only roughly")

    def opaque(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame over black where it is transparent; itself where it is not."""
        rgba = frame.reformat(format="rgba").to_ndarray()
        if (rgba[..., 3] == 255).all():
            return frame
        color, clause = over_black(rgba)
        self.note(clause)
        return av.VideoFrame.from_ndarray(color, "rgb24")

    def _inside(self, frame: av.VideoFrame, quarters: int) -> Size:
        """The size, before it is turned, in which a frame fills the picture with its aspect kept."""
        if not self.fixed:
            self.aspect = Fraction(self.stream.codec_context.sample_aspect_ratio or 1)
        size = max(1, round(frame.width * believed(self.aspect))), frame.height
        room, displayed = self.size, self.displayed
        if quarters % 2:
            room, displayed = room[::-1], displayed[::-1]
        if size != displayed:
            self.note(f"its pictures change size, all are shown at {self.displayed[0]}x{self.displayed[1]}")
        return inside(size, room)


def inside(size: Size, room: Size) -> Size:
    """The largest size of that aspect with room inside; the room itself where a pixel is left at most."""
    scale = min(room[0] / size[0], room[1] / size[1])
    width, height = (max(1, round(side * scale)) for side in size)
    return room if max(room[0] - width, room[1] - height) <= 1 else (width, height)


def framed(rgb: np.ndarray, size: Size) -> np.ndarray:
    """A picture (H, W, 3) between black bars where it does not fill `size`."""
    height, width = rgb.shape[:2]
    if (width, height) == size:
        return np.ascontiguousarray(rgb)
    across, down = size[0] - width, size[1] - height
    return np.pad(rgb, ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)))


def over_black(rgba: np.ndarray) -> tuple[np.ndarray, str]:
    """A picture (H, W, 4) uint8 that is not opaque -> (H, W, 3) uint8, and a note on what was done."""
    color, alpha = rgba[..., :3], rgba[..., 3:]
    if not alpha.any() and np.ptp(color):  # written by programs that leave the fourth byte 0
        return np.ascontiguousarray(color), "its transparency is 0 everywhere and is ignored"
    mixed = (color * alpha.astype(np.uint16) + 127) // 255
    return mixed.astype(np.uint8), "transparent parts are shown over black"


def oriented(pixels: np.ndarray, quarters: int, mirrored: bool) -> np.ndarray:
    """A stored picture (H, W, ...) as it is displayed: mirrored left to right, then turned."""
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)


def deinterlaced(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame with the lines of its second field interpolated where the fields differ.

    By FFmpeg's yadif on the frame alone, so that it never depends on which frames were decoded before.
    """
    if min(frame.width, frame.height) < 3:
        return frame
    return filtered(frame, ("yadif", "mode=send_frame:deint=interlaced"))


def filtered(frame: av.VideoFrame, *filters: tuple[str, str]) -> av.VideoFrame:
    """What FFmpeg's filters, names with options, make of one frame."""
    graph = Graph()
    chain = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        ),
        *(graph.add(name, options) for name, options in filters),
        graph.add("buffersink"),
    ]
    for one, other in zip(chain, chain[1:], strict=False):
        one.link_to(other)
    graph.configure()
    chain[0].push(frame)
    chain[0].push(None)
    pulled = chain[-1].pull()
    assert isinstance(pulled, av.VideoFrame)  # what goes into a graph of pictures
    return pulled


def _has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _matrix(frame: av.VideoFrame) -> int:
    return 0 if frame.format.is_rgb or frame.format.has_palette else int(frame.colorspace)


def _rgb(frame: av.VideoFrame, size: Size, layout: str) -> np.ndarray:
    """(H, W, 3) of `size`, uint8 or uint16."""
    smaller = "AREA" if size != (frame.width, frame.height) else None
    if _matrix(frame) not in CONVERTED:
        frame.colorspace = SIMILAR.get(_matrix(frame), 2)
    return frame.reformat(*size, layout, interpolation=smaller).to_ndarray()
