"""glTF meshes within limits: a .glb, or a .gltf with all data in itself, as a small .glb for the parser.

No other file is ever opened: a `uri` is data in base64, or refused.
"""

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lynx.config import LIMITS, amount
from lynx.errors import MediaError
from lynx.media.mesh_limits import above, check_counts, less, read_bytes

GLB_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
GLB_VALUES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
COMPRESSED = {"KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt"}
STRIP = 5  # the mode of a .glb's primitive in which each further point makes a face
EMBEDDED = ("data:application/octet-stream;base64,", "data:application/gltf-buffer;base64,", "data:;base64,")


def read_gltf(path: Path) -> bytes:
    """A .glb with positions, faces and the places of meshes alone, from a .glb or a .gltf.

    Raises MediaError when it is above a limit, declares more than it holds, is compressed, or keeps points in
    other files; damaged content raises LookupError, TypeError, ValueError, AttributeError, RecursionError or
    struct.error.
    """
    data, name = read_bytes(path), path.name
    if path.suffix.lower() == ".gltf":
        _check_description(name, len(data), 4 * LIMITS.max_mesh_bytes)
        whole = json.loads(data.decode("utf-8-sig"))
        return _reduced(whole, _embedded(whole, name), name)
    if len(data) < 20 or data[:4] != b"glTF":
        raise MediaError(f"{name!r} cannot be read: it is damaged, or no .glb, which begins with 'glTF'.")
    version, size = struct.unpack("<I4xI", data[4:16])
    if version != 2:
        raise MediaError(f"{name!r} is glTF {version}: version 2 is read. Export it again.")
    _check_description(name, size, len(data) - 20)
    whole = json.loads(data[20 : 20 + size])
    if any("uri" in buffer for buffer in whole.get("buffers", ())):
        raise MediaError(f"{name!r} keeps its points in other files: export it as one .glb.")
    chunk = data[20 + size :]
    (length,) = struct.unpack("<I", chunk[:4]) if len(chunk) >= 8 else (0,)
    return _reduced(whole, chunk[8 : 8 + length], name)


def _check_description(name: str, size: int, held: int) -> None:
    if size > LIMITS.max_scene_bytes:
        raise above(name, f"has a description of {amount(size, 'bytes')}", "max_scene_bytes")
    if size > held:
        raise less(name, f"a description of {size:,} bytes")


def _embedded(whole: dict[str, Any], name: str) -> bytes:
    """The data of all buffers, and the views moved to where it lies now. Raises MediaError for files."""
    parts, starts, size = [], [], 0
    for buffer in whole.get("buffers", ()):
        kind = next((kind for kind in EMBEDDED if buffer.get("uri", "").startswith(kind)), None)
        if kind is None:
            raise MediaError(f"{name!r} keeps its points in other files: export it as one .glb.")
        part = base64.b64decode(buffer["uri"][len(kind) :])
        parts.append(part + bytes(-len(part) % 4))
        starts.append(size)
        size += len(parts[-1])
    for view in whole.get("bufferViews", ()):
        view["byteOffset"] = view.get("byteOffset", 0) + starts[view.get("buffer", 0)]
        view["buffer"] = 0
    whole["buffers"] = [{"byteLength": size}]
    return b"".join(parts)


def _reduced(whole: dict[str, Any], held: bytes, name: str) -> bytes:
    """The .glb of a description and its data: no materials, pictures or names."""
    primitives = [given for mesh in whole.get("meshes", ()) for given in mesh["primitives"]]
    extensions = {*whole.get("extensionsRequired", ())}
    extensions |= {key for given in primitives for key in given.get("extensions", ())}
    extensions |= {key for view in whole.get("bufferViews", ()) for key in view.get("extensions", ())}
    if packed := COMPRESSED.keys() & extensions:
        how = " and ".join(sorted(COMPRESSED[extension] for extension in packed))
        what = f"compressed with {how}, which is not read"
        raise MediaError(f"{name!r} is {what}: export it without compression.")
    meshes = [
        [
            {"attributes": {"POSITION": given["attributes"]["POSITION"]}}
            | {key: given[key] for key in ("indices", "mode") if key in given}
            for given in mesh["primitives"]
        ]
        for mesh in whole.get("meshes", ())
    ]
    primitives = [primitive for mesh in meshes for primitive in mesh]
    accessors = _used_accessors(whole, primitives, len(held), name)
    costs = [_cost(mesh, accessors) for mesh in meshes]
    placed = list(_placed_meshes(whole, name))
    instances = [costs[mesh] for mesh, _ in placed]
    for used in (costs, instances):  # each is read once, and drawn once for each node
        check_counts(name, sum(cost[0] for cost in used), sum(cost[1] for cost in used))
        if (parts := sum(cost[2] for cost in used)) > LIMITS.max_parts:
            raise above(name, f"holds {parts:,} parts", "max_parts")
    kept: dict[str, Any] = {key: whole[key] for key in ("asset", "buffers", "bufferViews") if key in whole}
    kept["scenes"] = [{"nodes": list(range(len(placed)))}]
    kept |= {"accessors": accessors, "meshes": [{"primitives": mesh} for mesh in meshes]}
    # without nodes in nodes, whose product takes the parser the cube of their depth
    kept["nodes"] = [{"mesh": mesh, "matrix": matrix.T.ravel().tolist()} for mesh, matrix in placed]
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 4)
    data = held + bytes(-len(held) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(data), len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(data), b"BIN\0") + data


def _used_accessors(
    whole: Mapping[str, Any], primitives: list[dict[str, Any]], held: int, name: str
) -> list[Any]:
    """The accessors, empty where no primitive needs them. Raises MediaError for more values than are held."""
    used = {primitive["attributes"]["POSITION"] for primitive in primitives}
    used |= {primitive["indices"] for primitive in primitives if "indices" in primitive}
    accessors, views = whole.get("accessors", []), whole.get("bufferViews", [])
    if (count := max(len(accessors), len(views))) > LIMITS.max_accessors:
        raise above(name, f"holds {count:,} accessors or views of buffers", "max_accessors")
    if sum(abs(view["byteLength"]) for view in views) > 2 * held:  # each is copied, and they may overlap
        raise less(name, "more bytes in its views")
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
            raise less(name, f"{count:,} values in {view['byteLength']:,} bytes")
        total += count * each
        result.append(accessor)
    if total > LIMITS.max_mesh_bytes:
        raise above(name, f"declares {amount(total, 'bytes')} of points", "max_mesh_bytes")
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
    if len(nodes) > LIMITS.max_parts:
        raise above(name, f"holds {len(nodes):,} nodes", "max_parts")
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
