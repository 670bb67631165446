"""Point clouds of the Point Cloud Library (.pcd): the columns x, y and z, in text or binary."""

import re
from pathlib import Path

import numpy as np

from lynx.config import LIMITS
from lynx.errors import MediaError
from lynx.media.mesh_limits import check_counts, less, plain_text, read_bytes

TYPES = {"F": "f", "I": "i", "U": "u"}


def read_pcd(path: Path) -> np.ndarray:
    """Points (n, 3) float64, NaN where nothing returned.

    Raises MediaError when it declares more than it holds, or is compressed; damaged files raise LookupError,
    ValueError or TypeError.
    """
    data, name = read_bytes(path), path.name
    end = re.search(rb"^DATA[ \t]+(\w+)[ \t]*\r?\n", data[: LIMITS.max_header_bytes], re.MULTILINE)
    if end is None:
        most = LIMITS.say("max_header_bytes")
        raise MediaError(f"{name!r} cannot be read: a .pcd has a header of up to {most}, up to DATA.")
    lines = (line.split() for line in data[: end.start()].decode("ascii", "replace").splitlines())
    header = {words[0].upper(): words[1:] for words in lines if words}
    names = [field.lower() for field in header["FIELDS"]]
    counts = [int(count) for count in header.get("COUNT", ["1"] * len(names))]
    width, height = (int(header[size][0]) for size in ("WIDTH", "HEIGHT"))
    count = int(header["POINTS"][0]) if "POINTS" in header else width * height
    check_counts(name, count, 0)
    if len(counts) != len(names) or min(counts, default=0) < 0 or sum(counts) > LIMITS.max_header_bytes:
        raise ValueError("its fields and their counts differ")
    if not {"x", "y", "z"} <= set(names):
        raise MediaError(f"{name!r} has no fields x, y and z: it holds no points.")
    how, rest = end[1].lower(), data[end.end() :]
    first = dict(zip(names, np.cumsum([0, *counts]).tolist(), strict=False))
    if how == b"ascii":
        words = plain_text(rest, name).split()
        if len(words) < count * sum(counts):
            raise less(name, f"{count:,} points")
        table = np.array(words[: count * sum(counts)], dtype=object).reshape(count, -1)
        return table[:, [first[axis] for axis in "xyz"]].astype(np.float64)
    if how != b"binary":
        raise MediaError(
            f"{name!r} is compressed ({how.decode()[:40]}), which is not read: save it with DATA binary."
        )
    sizes = [int(size) for size in header["SIZE"]]
    kinds = [TYPES[kind.upper()] for kind in header["TYPE"]]
    rows = [
        (str(i), f"<{kind}{size}", (number,))
        for i, (kind, size, number) in enumerate(zip(kinds, sizes, counts, strict=True))
    ]
    row = np.dtype(rows)
    if count * row.itemsize > len(rest):
        raise less(name, f"{count:,} points of {row.itemsize} bytes")
    table = np.frombuffer(rest, row, count)
    columns = [table[str(names.index(axis))][:, 0].astype(np.float64) for axis in "xyz"]
    return np.stack(columns, axis=1)
