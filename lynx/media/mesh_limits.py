"""Limits on mesh files, checked before parsing: what a file declares, against maxima and its own size.

A few hundred bytes can declare 10 GB or a tree of 2^40 nodes. What is not needed for points and faces
(materials, groups, textures, names) does not reach the parser: a group may cost more than its faces.
"""

import re
from pathlib import Path
from struct import error as StructError
from tokenize import TokenError

from lynx.config import LIMITS, amount
from lynx.errors import MediaError

BROKEN = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError, RuntimeError),
    *(NameError, AssertionError, EOFError, MemoryError, StructError, SyntaxError, TokenError),
)
"""What trimesh and numpy raise for files that are damaged or of another kind."""
SMALLER = "reduce or split it, for example with Blender or MeshLab"
PLAIN = bytes(byte if byte in b"\n\r" or 32 <= byte < 127 else 32 for byte in range(256))
PLY_BYTES = {"char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2}
PLY_BYTES |= {"float16": 2, "double": 8, "float64": 8, "int64": 8, "uint64": 8}  # all others 4


def read_within_limits(path: Path) -> bytes:
    """The file of a mesh, reduced to its points and faces where that is simple.

    Raises MediaError when it is above a limit or declares more than it holds; damaged content raises
    LookupError, TypeError, ValueError, AttributeError, RecursionError or struct.error.
    """
    name, kind, data = path.name, path.suffix.lower(), read_bytes(path)
    if kind == ".ply":
        return _ply(data, name)
    if kind == ".stl":
        faces = int.from_bytes(data[80:84], "little")
        fits = len(data) == 84 + 50 * faces  # some binary files begin with "solid", too
        if fits or not data[:6].lstrip().lower().startswith(b"solid"):
            if not fits:
                raise less(name, f"{faces:,} faces, {84 + 50 * faces:,} bytes")
            check_counts(name, 3 * faces, faces)
            return data
    text = plain_text(data, name)
    if kind == ".obj":
        return _obj(text, name)
    if kind == ".stl" and (solids := text.lower().count(b"endsolid")) > LIMITS.max_solids:
        raise above(name, f"holds {solids:,} solids", "max_solids")
    return text


def read_bytes(path: Path) -> bytes:
    """The whole file of a mesh. Raises MediaError when it is too large."""
    if (size := path.stat().st_size) > LIMITS.max_mesh_bytes:
        raise above(path.name, f"is {amount(size, 'bytes')}", "max_mesh_bytes")
    return path.read_bytes()


def check_counts(name: str, points: int, faces: int) -> None:
    """Raises MediaError when a shape has more points or faces than are read."""
    if min(points, faces) < 0:
        raise less(name, f"{points:,} points and {faces:,} faces")
    if points > LIMITS.max_points or faces > LIMITS.max_faces:
        raise above(name, f"declares {points:,} points and {faces:,} faces", "max_points", "max_faces")


def above(name: str, given: str, *limits: str) -> MediaError:
    """The refusal of a file that is above limits, fields of LIMITS."""
    most = " and ".join(map(LIMITS.say, limits))
    return MediaError(f"{name!r} {given}; at most {most} are read: {SMALLER}.")


def less(name: str, declared: str) -> MediaError:
    """The refusal of a file that declares more than it holds."""
    what = f"{declared}, which is not what it holds"
    return MediaError(f"{name!r} declares {what}. It is damaged: export it again.")


def plain_text(data: bytes, name: str) -> bytes:
    """Text with plain line ends and without what is not ASCII, which stands in names and comments alone."""
    if len(data) > LIMITS.max_text_bytes:
        raise above(name, f"is {amount(len(data), 'bytes')} of text", "max_text_bytes")
    text = data.translate(PLAIN).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines, words = text.count(b"\n"), text.count(b" ")
    if lines > LIMITS.max_text_lines or words > LIMITS.max_text_words:
        raise above(name, f"has {lines:,} lines of {words:,} words", "max_text_lines", "max_text_words")
    return text


def _obj(text: bytes, name: str) -> bytes:
    """The lines of points and faces, faces with the numbers of their points alone.

    Each material and each texture corner costs the parser more than a face: 10^5 groups took it a minute.
    """
    lines = re.findall(rb"^[vf] .*", text.lstrip().replace(b"\\\n", b""), re.MULTILINE)
    faces = [re.sub(rb"/\S*", b"", line) for line in lines if line.startswith(b"f")]
    points = [line for line in lines if line.startswith(b"v")]
    check_counts(name, len(points), sum(max(0, len(face.split()) - 3) for face in faces))
    return b"\n".join(points + faces)


def _ply(data: bytes, name: str) -> bytes:
    """Raises MediaError for a header without an end, or with more elements than the rest could hold."""
    head = data[: LIMITS.max_header_bytes].replace(b"\r", b"\n")
    end = re.search(rb"^end_header[ \t]*\r?\n?", head, re.MULTILINE)
    if end is None:
        most = LIMITS.say("max_header_bytes")
        raise MediaError(f"{name!r} cannot be read: a .ply has a header of up to {most} that ends.")
    header = data[: end.end()].decode("ascii", "replace").replace("\r", "\n")
    text = "ascii" in header.lower().splitlines()[1]
    counts: dict[str, int] = {}
    bytes_of: dict[str, int] = {}
    smallest = 4
    for words in filter(None, map(str.split, header.splitlines())):
        if words[0] == "element":
            kind, counts[words[1]], bytes_of[words[1]] = words[1], int(words[2]), 0
        elif words[0] == "property":
            bytes_of[kind] += PLY_BYTES.get(words[2] if words[1] == "list" else words[1], 4)
            if words[1] == "list":
                smallest = min(smallest, PLY_BYTES.get(words[3], 4))
    declared = " and ".join(f"{count:,} of {kind!r}" for kind, count in counts.items())
    check_counts(name, counts.get("vertex", 0), counts.get("face", 0))
    rest = len(data) - end.end()
    # a row of text takes two bytes at least; an element without properties takes none in a binary file
    least = sum(count * (2 if text else max(1, bytes_of[kind])) for kind, count in counts.items())
    if min(counts.values(), default=0) < 0 or least > rest + 2:
        raise less(name, declared)
    if text:
        return plain_text(data, name)
    if rest // smallest > LIMITS.max_mesh_bytes // 4:  # the parser makes 4 bytes of each
        corners = f"has room for {rest // smallest:,} corners of faces, 4 bytes each"
        raise above(name, corners, "max_mesh_bytes")
    return data
