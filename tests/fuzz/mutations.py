"""Plain mutations of bytes, and of the numbers that a file's text or header holds."""

import random
import re
import struct

ODD_BYTES = (0, 1, 127, 128, 255)
ODD_NUMBERS = (
    *("0", "-1", "1", "2", "255", "65535", "65536", "2147483647", "4294967295", "9223372036854775808"),
    *("1e308", "-1e308", "1e-320", "NaN", "Infinity", "-Infinity", "inf", "nan", "0.5", "null", "true"),
    *('""', "[]", "{}", "99999999", "1" * 400),
)
ODD_FIELDS = (0, 1, 2**15 - 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
NUMBER = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
HEAD = 2048
"""Bytes at a file's beginning in which most of its structure lies."""


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The file with one to four changes; `others` are valid files of its kind."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = rng.choice(MUTATIONS)(data, others, rng) if data else b"\0"
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """A position, mostly near the beginning or the end, where the structure is described."""
    where = rng.random()
    size = len(data)
    if where < 0.5:
        return rng.randrange(min(size, HEAD))
    return rng.randrange(max(0, size - HEAD), size) if where < 0.7 else rng.randrange(size)


def _flip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 16, 64))):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _run(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.choice((1, 2, 4, 8, 32, 256))
    fill = bytes([rng.choice(ODD_BYTES)]) * size if rng.random() < 0.7 else rng.randbytes(size)
    return data[:at] + fill + data[at + size :]


def _cut(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return data[: rng.randrange(len(data))]
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 3, 16, 200)) :]


def _double(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at, size, times = _place(data, rng), rng.choice((1, 4, 20, 200, 2000)), rng.choice((1, 1, 2, 50))
    return data[:at] + data[at : at + size] * times + data[at:]


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    start, at = rng.randrange(len(other)), _place(data, rng)
    piece = other[start : start + rng.choice((4, 64, 1000, len(other)))]
    return data[:at] + piece + data[at + (len(piece) if rng.random() < 0.5 else 0) :]


def _number(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One number of a text, in it or in a header of text."""
    found = list(NUMBER.finditer(data[: 64 * HEAD]))
    if not found:
        return _field(data, others, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(ODD_NUMBERS).encode() + data[match.end() :]


def _field(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One integer or float of a binary header."""
    kind = rng.choice(("<I", ">I", "<H", ">H", "<Q", ">Q", "<f", "<d"))
    value: float = rng.choice(ODD_FIELDS)
    if kind[1] in "fd":
        value = rng.choice((float("nan"), float("inf"), -1e30, 1e30, 0.0, 1e-40))
    else:
        value = int(value) % 2 ** (8 * struct.calcsize(kind))
    at = _place(data, rng) & ~3 if rng.random() < 0.7 else _place(data, rng)
    return data[:at] + struct.pack(kind, value) + data[at + struct.calcsize(kind) :]


MUTATIONS = (_flip, _run, _cut, _double, _splice, _number, _number, _field, _field)
