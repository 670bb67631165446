"""Limits on mesh files, checked before parsing: what a file declares, against maxima and its own size.

A few hundred bytes can declare 10 GB or a tree of 2^40 nodes. What is not needed for points and faces
(materials, groups, textures, names) does not reach the parser: a group may cost more than its faces.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lynx.errors import MediaError

MAX_FACES = 4_000_000
MAX_POINTS = 3 * MAX_FACES  # some formats give each face its own
MAX_BYTES = 256 * 2**20  # of a file
MAX_TEXT = 128 * 2**20  # of a file in text, whose numbers are strings for a while
MAX_LINES = 4_000_000
MAX_WORDS = 20_000_000
MAX_HEADER = 64 * 2**10  # of a .ply
MAX_JSON = 8 * 2**20  # of a .glb
MAX_PARTS = 4096  # meshes and nodes
MAX_SOLIDS = 1024
SMALLER = "reduce or split it, for example with Blender or MeshLab"
PLAIN = bytes(byte if byte in b"\n\r" or 32 <= byte < 127 else 32 for byte in range(256))
PLY_BYTES = {"char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2}
PLY_BYTES |= {"float16": 2, "double": 8, "float64": 8, "int64": 8, "uint64": 8}  # all others 4
GLB_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
GLB_VALUES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
COMPRESSED = {"KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt"}
STRIP = 5  # the mode of a .glb's primitive in which each further point makes a face


def read_within_limits(path: Path) -> bytes:
    """The file of a mesh, reduced to its points and faces where that is simple.

    Raises MediaError when it is above a limit or declares more than it holds; damaged content raises
    LookupError, TypeError, ValueError, AttributeError, RecursionError or struct.error.
    """
    size, name, kind = path.stat().st_size, path.name, path.suffix.lower()
    if size > MAX_BYTES:
        raise _above(name, f"is {size / 2**20:,.0f} MB", f"{MAX_BYTES // 2**20} MB")
    data = path.read_bytes()
    if kind == ".glb":
        return _glb(data, name)
    if kind == ".ply":
        return _ply(data, name)
    if kind == ".stl":
        faces = int.from_bytes(data[80:84], "little")
        fits = size == 84 + 50 * faces  # some binary files begin with "solid", too
        if fits or not data[:6].lstrip().lower().startswith(b"solid"):
            if not fits:
                raise _less(name, f"{faces:,} faces, {84 + 50 * faces:,} bytes,")
            check_counts(name, 3 * faces, faces)
            return data
    text = _text(data, name)
    if kind == ".obj":
        return _obj(text, name)
    if kind == ".stl" and (solids := text.lower().count(b"endsolid")) > MAX_SOLIDS:
        raise _above(name, f"holds {solids:,} solids", f"{MAX_SOLIDS:,}")
    return text


def check_counts(name: str, points: int, faces: int) -> None:
    """Raises MediaError when a shape has more points or faces than are read."""
    if not (0 <= points <= MAX_POINTS and 0 <= faces <= MAX_FACES):
        declared, limit = f"{points:,} points and {faces:,} faces", f"{MAX_POINTS:,} and {MAX_FACES:,}"
        raise _above(name, f"declares {declared}", limit)


def _above(name: str, given: str, limit: str) -> MediaError:
    return MediaError(f"{name!r} {given}; at most {limit} are read: {SMALLER}.")


def _less(name: str, declared: str) -> MediaError:
    what = f"{declared}, which is not what it holds"
    return MediaError(f"{name!r} declares {what}. It is damaged: export it again.")


def _text(data: bytes, name: str) -> bytes:
    """Text with plain line ends and without what is not ASCII, which stands in names and comments alone."""
    if len(data) > MAX_TEXT:
        raise _above(name, f"is {len(data) / 2**20:,.0f} MB of text", f"{MAX_TEXT // 2**20} MB")
    text = data.translate(PLAIN).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines, words = text.count(b"\n"), text.count(b" ")
    if lines > MAX_LINES or words > MAX_WORDS:
        raise _above(name, f"has {lines:,} lines of {words:,} words", f"{MAX_LINES:,} of {MAX_WORDS:,}")
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
    end = re.search(rb"^end_header[ \t]*\r?\n?", data[:MAX_HEADER].replace(b"\r", b"\n"), re.MULTILINE)
    if end is None:
        raise MediaError(
            f"{name!r} cannot be read: a .ply has a header of up to {MAX_HEADER // 1024} kB that ends."
        )
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
        raise _less(name, declared)
    if text:
        return _text(data, name)
    if rest // smallest > MAX_BYTES // 4:
        raise _above(name, f"has room for {rest // smallest:,} corners of faces", f"{MAX_BYTES // 4:,}")
    return data


def _glb(data: bytes, name: str) -> bytes:
    """The file with positions, faces and the places of meshes alone: no materials, pictures or names."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise MediaError(f"{name!r} cannot be read: a .glb begins with 'glTF', this one with {data[:4]!r}.")
    (size,) = struct.unpack("<I", data[12:16])
    if size > min(MAX_JSON, len(data) - 20):
        raise _above(name, f"has a description of {size / 2**20:,.1f} MB", f"{MAX_JSON // 2**20} MB")
    whole = json.loads(data[20 : 20 + size])
    if packed := COMPRESSED.keys() & {*whole.get("extensionsRequired", ())}:
        how = " and ".join(sorted(COMPRESSED[extension] for extension in packed))
        what = f"compressed with {how}, which is not read"
        raise MediaError(f"{name!r} is {what}: export it without compression.")
    if any("uri" in buffer for buffer in whole.get("buffers", ())):
        raise MediaError(f"{name!r} keeps its points in other files: export it as one .glb.")
    meshes = [
        [
            {"attributes": {"POSITION": given["attributes"]["POSITION"]}}
            | {key: given[key] for key in ("indices", "mode") if key in given}
            for given in mesh["primitives"]
        ]
        for mesh in whole.get("meshes", ())
    ]
    primitives = [primitive for mesh in meshes for primitive in mesh]
    accessors = _used_accessors(whole, primitives, len(data) - 20 - size, name)
    costs = [_cost(mesh, accessors) for mesh in meshes]
    placed = list(_placed_meshes(whole, name))
    instances = [costs[mesh] for mesh, _ in placed]
    for used in (costs, instances):  # each is read once, and drawn once for each node
        check_counts(name, sum(cost[0] for cost in used), sum(cost[1] for cost in used))
        if (parts := sum(cost[2] for cost in used)) > MAX_PARTS:
            raise _above(name, f"holds {parts:,} parts", f"{MAX_PARTS:,}")
    kept: dict[str, Any] = {key: whole[key] for key in ("asset", "buffers", "bufferViews") if key in whole}
    kept["scenes"] = [{"nodes": list(range(len(placed)))}]
    kept |= {"accessors": accessors, "meshes": [{"primitives": mesh} for mesh in meshes]}
    # without nodes in nodes, whose product takes the parser the cube of their depth
    kept["nodes"] = [{"mesh": mesh, "matrix": matrix.T.ravel().tolist()} for mesh, matrix in placed]
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    head = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON")
    return head + text + rest


def _used_accessors(
    whole: Mapping[str, Any], primitives: list[dict[str, Any]], held: int, name: str
) -> list[Any]:
    """The accessors, empty where no primitive needs them. Raises MediaError for more values than are held."""
    used = {primitive["attributes"]["POSITION"] for primitive in primitives}
    used |= {primitive["indices"] for primitive in primitives if "indices" in primitive}
    accessors, views = whole.get("accessors", []), whole.get("bufferViews", [])
    if len(accessors) > 16 * MAX_PARTS or len(views) > 16 * MAX_PARTS:
        raise _above(name, f"holds {len(accessors):,} accessors", f"{16 * MAX_PARTS:,}")
    if sum(abs(view["byteLength"]) for view in views) > 2 * held:  # each is copied, and they may overlap
        raise _less(name, "more bytes in its views")
    empty = {"componentType": 5126, "count": 0, "type": "SCALAR"}
    result, total = [], 0
    for index, accessor in enumerate(accessors):
        if index not in used:
            result.append(empty)
            continue
        if "sparse" in accessor or "bufferView" not in accessor:
            raise MediaError(
                f"{name!r} declares {accessor['count']:,} values in a sparse or empty accessor: "
                "such values are not read. Export it without sparse accessors."
            )
        count, view = accessor["count"], views[accessor["bufferView"]]
        check_counts(name, count // GLB_VALUES["VEC3"], 0)
        each = GLB_BYTES[accessor["componentType"]] * GLB_VALUES[accessor["type"]]
        needed = (count - 1) * view.get("byteStride", each) + each if count else 0
        if needed + accessor.get("byteOffset", 0) > view["byteLength"]:
            raise _less(name, f"{count:,} values in {view['byteLength']:,} bytes")
        total += count * each
        result.append(accessor)
    if total > MAX_BYTES:
        raise _above(name, f"declares {total / 2**20:,.0f} MB of points", f"{MAX_BYTES // 2**20} MB")
    return result


def _cost(mesh: list[dict[str, Any]], accessors: list[Any]) -> tuple[int, int, int]:
    """Points, faces and parts of a mesh."""
    points = faces = 0
    for primitive in mesh:
        count = accessors[primitive["attributes"]["POSITION"]]["count"]
        points += count
        corners = accessors[primitive["indices"]]["count"] if "indices" in primitive else count
        faces += corners if primitive.get("mode") == STRIP else corners // 3
    return points, faces, len(mesh)


def _placed_meshes(whole: Mapping[str, Any], name: str) -> Iterator[tuple[int, np.ndarray]]:
    """The mesh of each node in the scene that has one, and the (4, 4) matrix that takes it to the scene.

    Raises MediaError unless the nodes are a tree, as glTF demands.
    """
    nodes, scenes = whole.get("nodes", []), whole.get("scenes", [])
    if len(nodes) > MAX_PARTS:
        raise _above(name, f"holds {len(nodes):,} nodes", f"{MAX_PARTS:,}")
    roots = scenes[whole.get("scene", 0)].get("nodes", []) if scenes else []
    waiting = [(root, np.eye(4)) for root in roots]
    seen: set[int] = set()
    while waiting:
        index, parent = waiting.pop()
        if index in seen:  # shared children would double with each level
            raise MediaError(f"{name!r} has nodes with two parents, which are not read: export it as a tree.")
        seen.add(index)
        node = nodes[index]
        if "matrix" in node:  # stored column by column
            matrix = np.asarray(node["matrix"], dtype=np.float64).reshape(4, 4).T
        else:  # a translation of a rotation (x, y, z, w) of a scale
            x, y, z, w = np.asarray(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
            length = x * x + y * y + z * z + w * w
            cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            turn = np.eye(3) + 2 * (w * cross + cross @ cross) / length if length else np.eye(3)
            matrix = np.eye(4)
            matrix[:3, :3] = turn * np.asarray(node.get("scale", (1, 1, 1)), dtype=np.float64)
            matrix[:3, 3] = node.get("translation", (0, 0, 0))
        matrix = parent @ matrix
        if "mesh" in node:
            yield node["mesh"], matrix
        waiting += [(child, matrix) for child in node.get("children", ())]
