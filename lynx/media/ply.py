"""Binary .ply meshes whose faces have different numbers of corners, as Blender writes them.

The parser of all others takes every face for as long as the first. https://paulbourke.net/dataformats/ply/
"""

import re
from typing import Literal

import numpy as np

TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
CORNERS = ("vertex_indices", "vertex_index")

Property = tuple[str, str, str]  # name, type, and type of its length where it is a list, else ""


def read_polygons(data: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Points (n, 3) float64 and triangles (m, 3) of a binary .ply with faces of different lengths.

    None where they are alike, or of another form. Damaged files raise ValueError or LookupError.
    """
    end = re.search(rb"^end_header[ \t]*\r?\n", data[: 2**16], re.MULTILINE)
    lines = data[: end.end()].decode("ascii", "replace").split("\n") if end else []
    words = [line.split() for line in lines if line.strip()]
    if end is None or "ascii" in words[1]:
        return None
    order = ">" if "binary_big_endian" in words[1] else "<"
    elements: list[tuple[str, int, list[Property]]] = []
    for word in words:
        if word[0] == "element":
            elements.append((word[1], int(word[2]), []))
        elif word[:2] == ["property", "list"]:
            elements[-1][2].append((word[4], order + TYPES[word[3]], order + TYPES[word[2]]))
        elif word[0] == "property":
            elements[-1][2].append((word[2], order + TYPES[word[1]], ""))
    if [name for name, *_ in elements[:2]] != ["vertex", "face"]:
        return None
    (_, points, fields), (_, faces, columns) = elements[:2]
    lists = [number for number, (name, _, of) in enumerate(columns) if of and name in CORNERS]
    if any(of for *_, of in fields) or len(lists) != 1 or sum(bool(of) for *_, of in columns) != 1:
        return None
    row = np.dtype([(name, kind) for name, kind, _ in fields])
    table = np.frombuffer(data, row, points, end.end())
    before, after = (
        sum(np.dtype(kind).itemsize for _, kind, _ in part)
        for part in (columns[: lists[0]], columns[lists[0] + 1 :])
    )
    _, kind, of = columns[lists[0]]
    corners = _corners(data[end.end() + points * row.itemsize :], faces, (before, after), (kind, of))
    if corners is None:
        return None
    vertices = np.stack([table[axis].astype(np.float64) for axis in "xyz"], axis=1)
    return vertices, corners


def _corners(data: bytes, faces: int, around: tuple[int, int], kinds: tuple[str, str]) -> np.ndarray | None:
    """Triangles (m, 3) of faces; None where all have as many corners. around: bytes before and after them."""
    index, of = np.dtype(kinds[0]), np.dtype(kinds[1])
    order: Literal["big", "little"] = "big" if kinds[0][0] == ">" else "little"
    length_at = slice(around[0], around[0] + of.itemsize)
    first = int.from_bytes(data[length_at], order)
    length = around[0] + of.itemsize + first * index.itemsize + around[1]
    if faces * length <= len(data):
        rows = np.frombuffer(data, np.uint8, faces * length).reshape(faces, length)
        if (rows[:, length_at] == rows[:1, length_at]).all():  # the parser of all others reads these
            return None
    counts, starts, place = [], [], 0
    for _ in range(faces):
        place += around[0]
        count = int.from_bytes(data[place : place + of.itemsize], order)
        place += of.itemsize
        counts.append(count)
        starts.append(place)
        place += count * index.itemsize + around[1]
        if place > len(data):
            raise ValueError("faces are cut off")
    sizes, begins = np.array(counts), np.array(starts)
    bytes_of = np.frombuffer(data, np.uint8)
    triangles = []
    for size in np.unique(sizes[sizes > 2]).tolist():
        at = begins[sizes == size][:, None] + np.arange(size * index.itemsize)  # (faces of that size, bytes)
        polygon = np.ascontiguousarray(bytes_of[at]).view(index).astype(np.int64)  # (faces, size)
        first_corner = np.repeat(polygon[:, :1], size - 2, axis=1)
        fan = np.stack([first_corner, polygon[:, 1:-1], polygon[:, 2:]], axis=2)  # (faces, size - 2, 3)
        triangles.append(fan.reshape(-1, 3))
    return np.concatenate(triangles) if triangles else np.empty((0, 3), np.int64)
