"""OpenEXR pictures with one channel of depth, as renderers and cv2 write them: numpy and zlib read them.

Scan lines in one part, uncompressed or packed with RLE, ZIPS or ZIP; anything else is refused by its name.
https://openexr.com/en/latest/OpenEXRFileLayout.html
"""

import struct
import zlib
from collections.abc import Callable

import numpy as np

from lynx.errors import MediaError

MAGIC = 20000630
PACKINGS = {0: 1, 1: 1, 2: 1, 3: 16}
"""Scan lines in a block, by the number of the packing: none, RLE, ZIPS, ZIP."""
OTHER_PACKINGS = ("PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
TYPES = ("<u4", "<f2", "<f4")
FLAGS = {0x200: "tiles", 0x800: "deep pixels", 0x1000: "several parts"}
NOTHING = 1e9
"""Renderers store 1e10 where a ray hits nothing."""
CONVERT = "save it as scan lines with ZIP, or as a .npy in meters"

Header = dict[str, bytes]


def read_exr(data: bytes, name: str, check_size: Callable[[str, int, int], None]) -> np.ndarray:
    """The depth (H, W) of an .exr: its only channel, or that called Z, depth, V or Y; or equal R, G and B.

    check_size: called with name, height and width before anything is decoded. Raises MediaError for what is
    not read; damaged files raise ValueError, LookupError, struct.error or zlib.error.
    """
    magic, version = struct.unpack_from("<II", data)
    if magic != MAGIC:
        raise ValueError("no EXR")
    for flag, what in FLAGS.items():
        if version & flag:
            raise MediaError(f"{name!r} has {what}, which are not read: {CONVERT}.")
    header, place = _header(data)
    channels = _channels(header["channels"])
    packing = header["compression"][0]
    if packing not in PACKINGS:
        other = dict(enumerate(OTHER_PACKINGS, 4)).get(packing, f"method {packing}")
        raise MediaError(f"{name!r} is packed with {other}, which is not read: {CONVERT}.")
    left, top, right, bottom = struct.unpack("<4i", header["dataWindow"])
    height, width = bottom - top + 1, right - left + 1
    check_size(name, height, width)
    wanted = _wanted(channels, name)
    sizes = {channel: width * np.dtype(kind).itemsize for channel, kind in channels.items()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    row = sum(sizes.values())
    read = {channel: np.zeros((height, width), channels[channel]) for channel in wanted}
    lines = PACKINGS[packing]
    blocks = -(-height // lines)
    for offset in struct.unpack_from(f"<{blocks}Q", data, place):
        y, packed = struct.unpack_from("<iI", data, offset)
        first = y - top
        count = min(lines, height - first)
        if not 0 <= first < height or offset + 8 + packed > len(data):
            raise ValueError("a block lies outside")
        block = _unpack(data[offset + 8 : offset + 8 + packed], packing, count * row)
        rows = np.frombuffer(block, np.uint8).reshape(count, row)
        for channel, values in read.items():
            part = np.ascontiguousarray(rows[:, starts[channel] : starts[channel] + sizes[channel]])
            values[first : first + count] = part.view(channels[channel])
    depth, *others = read.values()
    if any(not np.array_equal(depth, other) for other in others):
        raise MediaError(f"{name!r} is no depth map but a picture in color: one channel of meters is read.")
    if depth.dtype.kind != "f":
        return depth
    meters = depth.astype(np.float32)
    with np.errstate(invalid="ignore"):
        return np.where(meters < NOTHING, meters, np.float32(0))


def _header(data: bytes) -> tuple[Header, int]:
    """The attributes by name, and where the table of blocks begins."""
    header: Header = {}
    place = 8
    while data[place] != 0:
        name_end = data.index(b"\0", place, place + 256)
        type_end = data.index(b"\0", name_end + 1, name_end + 257)
        (size,) = struct.unpack_from("<I", data, type_end + 1)
        begin = type_end + 5
        header[data[place:name_end].decode("latin-1")] = data[begin : begin + size]
        place = begin + size
    return header, place + 1


def _channels(data: bytes) -> dict[str, str]:
    """The types of channels by name, in the order in which they are stored."""
    channels: dict[str, str] = {}
    place = 0
    while data[place] != 0:
        end = data.index(b"\0", place, place + 256)
        kind, x_step, y_step = struct.unpack_from("<I4xII", data, end + 1)
        if (x_step, y_step) != (1, 1):
            raise ValueError("channels of different sizes")
        channels[data[place:end].decode("latin-1")] = TYPES[kind]
        place = end + 17
    return channels


def _wanted(channels: dict[str, str], name: str) -> list[str]:
    if len(channels) == 1:
        return list(channels)
    last = {channel: channel.rpartition(".")[2].lower() for channel in channels}
    for known in ("z", "depth", "v", "y"):
        if len(found := [channel for channel in channels if last[channel] == known]) == 1:
            return found
    if {"R", "G", "B"} <= channels.keys():
        return ["R", "G", "B"]
    raise MediaError(
        f"{name!r} has {len(channels)} channels ({', '.join(channels)[:100]}), none clearly depth: "
        "save one channel of meters."
    )


def _unpack(data: bytes, packing: int, size: int) -> bytes:
    """The bytes of a block, which is stored as it is where packing would not make it smaller."""
    stored = packing == 0 or len(data) == size
    if not stored and packing == 1:
        data = _run_lengths(data, size)
    elif not stored:
        data = zlib.decompressobj().decompress(data, size)
    if len(data) != size:
        raise ValueError("a block is cut off")
    if stored:
        return data
    # each byte is stored as the difference from the last one, plus 128; first all even bytes, then all odd
    steps = np.frombuffer(data, np.uint8).astype(np.int64)
    steps[1:] -= 128
    plain = (np.cumsum(steps) & 255).astype(np.uint8)
    result = np.empty(size, np.uint8)
    half = (size + 1) // 2
    result[0::2], result[1::2] = plain[:half], plain[half:]
    return result.tobytes()


def _run_lengths(data: bytes, size: int) -> bytes:
    """A count up to 127 repeats the next byte count + 1 times; above, 256 - count bytes are copied."""
    result, place = bytearray(), 0
    while place < len(data) and len(result) <= size:
        count = data[place]
        if count > 127:
            result += data[place + 1 : place + 257 - count]
            place += 257 - count
        else:
            result += data[place + 1 : place + 2] * (count + 1)
            place += 2
    return bytes(result)
