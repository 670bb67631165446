"""Files of meshes that are small and declare much: refused at once, in a process with little memory."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import trimesh

from lynx.config import Limits
from lynx.errors import MediaError
from lynx.media.depth import open_depth
from lynx.media.mesh import load_shape

POINTS = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 1]]).tobytes()
BINARY = POINTS + np.uint32([0, 1, 2]).tobytes()
PLY = "ply\nformat {}\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\n"
CHILD = """
import resource, sys, trimesh
from lynx.media.mesh import load_shape
from lynx.errors import MediaError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
for path in sys.argv[1:]:
    try:
        load_shape(path)
        print("read", path)
    except MediaError as error:
        print("refused", error)
"""


def write_glb(path, **changes):
    """One triangle; changes replace parts of its description."""
    accessor = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
    whole = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [accessor, {"bufferView": 1, "componentType": 5125, "count": 3, "type": "SCALAR"}],
        "bufferViews": [
            {"buffer": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 12},
        ],
        "buffers": [{"byteLength": 48}],
    } | changes
    text = json.dumps(whole).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", 48, b"BIN\0") + BINARY
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    return path


def hostile(folder):
    """Files by what their refusal says."""
    corners = {"bufferView": 1, "componentType": 5125, "count": 3, "type": "SCALAR"}
    sparse = {"count": 1, "indices": {"bufferView": 1, "componentType": 5125}, "values": {"bufferView": 0}}
    points = {"componentType": 5126, "count": 3, "type": "VEC3"}
    many = {"componentType": 5126, "count": 10**8, "type": "VEC3"}
    part = {"attributes": {"POSITION": 0}, "indices": 1}
    views = [{"buffer": 0, "byteLength": 48, "byteOffset": 0}] * 60_000
    doubled = [{"children": [i + 1, i + 1]} for i in range(40)] + [{"mesh": 0}]
    made = {
        "100,000,000 values in a sparse": {"accessors": [many | {"sparse": sparse}, corners]},
        "100,000,000 values in a sparse or empty": {"accessors": [many, corners]},
        "declares 33,333,333 points": {"accessors": [many | {"bufferView": 0}, corners]},
        "declares 3,000 values in 36 bytes": {
            "accessors": [points | {"bufferView": 0, "count": 3000}, corners]
        },
        "more bytes in its views": {"bufferViews": views},
        "cannot be read": {"bufferViews": [{"buffer": 0, "byteLength": 72}, {"buffer": 0, "byteLength": 12}]},
        "nodes with two parents": {"nodes": doubled},
        "has nodes with two parents": {"nodes": [{"mesh": 0, "children": [0]}]},
        "holds 5,000 nodes": {"nodes": [{"mesh": 0}] * 5000},
        "holds 4,097 parts": {"meshes": [{"primitives": [part] * 4097}]},
        "in other files": {"buffers": [{"byteLength": 48, "uri": "secret.bin"}]},
        "compressed with Draco": {"extensionsRequired": ["KHR_draco_mesh_compression"]},
    }
    files = {what: write_glb(folder / f"{i}.glb", **change) for i, (what, change) in enumerate(made.items())}
    (folder / "nested.glb").write_bytes(struct.pack("<4s4I", b"glTF", 2, 0, 10**6, 0) + b"[" * 10**6)
    stl = bytes(80) + struct.pack("<I", 10**9) + bytes(100)
    texts = {
        "nested too deeply": (folder / "nested.glb", None),
        "declares 1,000,000,000 points": (
            folder / "a.ply",
            PLY.format("ascii 1.0", 10**9) + "end_header\n1 2 3\n",
        ),
        "declares 9,000,000 of 'vertex'": (
            folder / "b.ply",
            PLY.format("binary_little_endian 1.0", 9 * 10**6) + "end_header\n123",
        ),
        "declares 3 points and -1 faces": (
            folder / "c.ply",
            PLY.format("binary_little_endian 1.0", 3) + "element face -1\nend_header\n" + 36 * "a",
        ),
        "header of up to 64 kB": (folder / "d.ply", PLY.format("ascii 1.0", 3) + "comment a\n" * 10_000),
        "cut off or of another kind": (folder / "a.off", "OFF\n1000000000 1000000000 0\n0 0 0\n"),
        "declares 1,000,000,000 faces": (folder / "a.stl", stl.decode("latin-1")),
        "holds 2,000 solids": (folder / "b.stl", "solid a\nendsolid a\n" * 2000),
        "not rows of 3 numbers": (folder / "axis.obj", "v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n"),
        "damaged, cut off": (
            folder / "unbound.ply",
            PLY.format("ascii 1.0", 3) + "property list uchar int vertex_ind ces\nend_header\n0 0 0\n",
        ),
    }
    for path, text in texts.values():
        if text is not None:
            path.write_text(text, encoding="latin-1", newline="\n")
    return files | {what: path for what, (path, _) in texts.items()}


def test_files_that_declare_much_are_refused_with_little_memory(tmp_path):
    files = hostile(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, files.values())],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == len(files), run.stderr
    wrong = [(what, said) for what, said in zip(files, lines, strict=True) if what not in said]
    assert not wrong and all(line.startswith("refused") for line in lines)


def test_an_obj_of_many_groups_is_one_mesh(tmp_path):
    """A group, object and material for each of 10^5 faces: a minute, when each is a mesh."""
    count = 100_000
    lines = [
        f"v {i} 0 0\nv {i} 1 0\nv {i} 0 1\no x{i}\ng g{i}\nusemtl m{i}\n"
        f"f {3 * i + 1}/1/1 {3 * i + 2}//2 {3 * i + 3}\n"
        for i in range(count)
    ]
    (tmp_path / "groups.obj").write_text("".join(lines))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "groups.obj")],
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.stdout.startswith("read"), done.stdout
    shape = load_shape(tmp_path / "groups.obj")
    assert shape.faces.shape == (count, 3) and len(shape.points) == 3 * count


def test_placed_meshes_of_a_glb_are_where_trimesh_puts_them(tmp_path):
    """Nodes in nodes with each form of placement, three hundred deep; a mesh that is drawn twice."""
    turn = [0.1, -0.3, 0.2, 0.9]
    matrix = trimesh.transformations.rotation_matrix(0.4, [1, 1, 0], [2, 0, 1])
    nodes = [
        {"translation": [1, 2, 3], "rotation": list(np.array(turn) / np.linalg.norm(turn)), "children": [1]},
        {"scale": [1, 2, 0.5], "mesh": 0, "name": "world", "children": [2]},
        {"matrix": matrix.T.ravel().tolist(), "mesh": 0},
    ]
    path = write_glb(tmp_path / "tree.glb", nodes=nodes)
    expected = np.concatenate([part.vertices for part in trimesh.load_scene(path).dump()])
    found = load_shape(path).points
    assert len(found) == 6 and np.abs(np.sort(found, axis=0) - np.sort(expected, axis=0)).max() < 1e-6
    deep = [{"translation": [1, 0, 0], "children": [i + 1]} for i in range(300)] + [{"mesh": 0}]
    assert load_shape(write_glb(tmp_path / "deep.glb", nodes=deep)).points[:, 0].min() == 300


@pytest.mark.parametrize("ending", [".ply", ".off", ".stl", ".obj"])
def test_more_faces_than_are_read_are_refused(tmp_path, monkeypatch, ending):
    trimesh.creation.box().export(tmp_path / f"box{ending}")
    monkeypatch.setattr("lynx.media.mesh_limits.LIMITS", Limits(max_faces=11))
    with pytest.raises(MediaError, match=r"12 faces; .* and 11 faces \(LYNX_MAX_FACES\) are read: reduce"):
        load_shape(tmp_path / f"box{ending}")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (6, 2",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (10000000000000000000000, 4, 4), }",
        b"[" * 9000,
    ],
)
def test_headers_of_npy_that_are_none(tmp_path, header):
    path = tmp_path / "depth.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(64))
    with pytest.raises(MediaError, match="cannot be read as a .npy"):
        open_depth(path)


def test_an_archive_called_npy_is_none(tmp_path):
    np.savez(tmp_path / "depth.npz", np.ones((2, 3, 4)))
    (tmp_path / "depth.npz").rename(tmp_path / "depth.npy")
    with pytest.raises(MediaError, match="cannot be read as a .npy"):
        open_depth(tmp_path / "depth.npy")
