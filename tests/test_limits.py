"""What is read at most: one table, set by environment variables, said in refusals, shown in the docs."""

import base64
import dataclasses
import json
import os
import re
import subprocess
import sys
import wave

import numpy as np
import pytest
import torch
from PIL import Image

from lynx.config import LIMITS, Limits, amount, limits_table
from lynx.errors import DataError, MediaError
from lynx.media.audio import read_audio
from lynx.media.depth import open_depth
from lynx.media.mesh import load_shape
from lynx.media.writer import write_video

FIELDS = [field.name for field in dataclasses.fields(Limits)]


def lynx_env(**variables):
    command = [sys.executable, "-m", "lynx", "env", "--json"]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_page_on_hosting_has_the_table_of_all_limits(root):
    page = (root / "docs" / "hosting.md").read_text(encoding="utf-8")
    assert limits_table() in page, "write what lynx.config.limits_table() gives into docs/hosting.md"
    assert all(Limits.variable(name) in limits_table() for name in FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_each_limit_is_set_by_the_variable_of_its_name(name):
    changed = Limits.of({f"LYNX_{name.upper()}": "17"})
    assert getattr(changed, name) == 17
    assert dataclasses.replace(changed, **{name: getattr(Limits(), name)}) == Limits()
    assert f"(LYNX_{name.upper()})" in changed.say(name)


def test_bytes_may_end_in_powers_of_1024():
    assert Limits.of({"LYNX_MAX_SHELF_BYTES": "4G"}).max_shelf_bytes == 4 * 2**30
    assert Limits.of({"LYNX_MAX_SHELF_BYTES": " 5_000k "}).max_shelf_bytes == 5000 * 1024


@pytest.mark.parametrize("text", ["", "abc", "-1", "0", "1.5", "nan", "inf", "1e3", "9" * 40, "4 GB", "٣"])
def test_a_value_that_is_no_limit_is_refused_by_the_name_of_its_variable(text):
    with pytest.raises(DataError, match="LYNX_MAX_FACES .* expected a whole number of faces"):
        Limits.of({"LYNX_MAX_FACES": text})


def test_the_command_line_takes_them_and_says_a_wrong_one_in_one_line():
    shown = json.loads(lynx_env(LYNX_MAX_SECONDS="600").stdout)["limits"]
    assert shown["LYNX_MAX_SECONDS"] == 600 and shown["LYNX_MAX_FACES"] == LIMITS.max_faces
    failed = lynx_env(LYNX_MAX_SECONDS="long")
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("lynx: LYNX_MAX_SECONDS is 'long'")


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (2**31, "bytes", "2 GB"),
        (1500, "bytes", "1.465 kB"),
        (7200, "seconds", "2 h"),
        (600, "seconds", "600 s"),
        (4_000_000, "faces", "4,000,000 faces"),
    ],
)
def test_amounts_are_said_as_people_read_them(value, unit, said):
    assert amount(value, unit) == said


def test_every_limit_is_kept_somewhere(root):
    code = "".join(file.read_text(encoding="utf-8") for file in (root / "lynx").rglob("*.py"))
    read = set(re.findall(r"LIMITS\.(max_\w+)", code))
    assert read == set(FIELDS)


FACES = ((0, 1, 2), (1, 2, 3))
POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)


def write_tone(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((4, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 4 * 8000 * 2))


def write_maps(path):
    path.mkdir()
    for number in range(2):
        Image.fromarray(np.full((20, 30), 1500, np.uint16)).save(path / f"{number}.png")
    (path / "times.txt").write_text("0\n0.1\n")


def write_gray(path):
    write_video(path, torch.full((4, 3, 16, 16), 90, dtype=torch.uint8), 4)


def write_ply(path):
    head = ["ply", "format ascii 1.0", "element vertex 4", *(f"property float {axis}" for axis in "xyz")]
    head += ["element face 2", "property list uchar int vertex_indices", "end_header"]
    rows = [" ".join(map(str, row)) for row in (*POINTS.tolist(), *((3, *face) for face in FACES))]
    path.write_text("\n".join([*head, *rows, ""]))


def write_stl(path):
    for name in "ab":
        lines = [f"solid {name}", "facet normal 0 0 1", "outer loop"]
        lines += [f"vertex {x} {y} {z}" for x, y, z in POINTS[:3]]
        with path.open("a") as file:
            file.write("\n".join([*lines, "endloop", "endfacet", f"endsolid {name}", ""]))


def write_gltf(path):
    data = base64.b64encode(POINTS[list(FACES)].tobytes()).decode()
    accessor = {"bufferView": 0, "componentType": 5126, "count": 6, "type": "VEC3"}
    scene = {"asset": {"version": "2.0"}, "nodes": [{"mesh": 0}, {"mesh": 0}], "scenes": [{"nodes": [0, 1]}]}
    scene |= {"meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}], "accessors": 2 * [accessor]}
    scene |= {"bufferViews": [{"buffer": 0, "byteLength": 72}]}
    path.write_text(json.dumps(scene | {"buffers": [{"byteLength": 72, "uri": f"data:;base64,{data}"}]}))


def heard(path):
    return read_audio(path, 8000)


def seen(path):
    return open_depth(path).measure([0])


KINDS = {
    "tone.wav": (write_tone, heard),
    "maps": (write_maps, seen),
    "gray.mp4": (write_gray, seen),
    **{f"a.{write.__name__[6:]}": (write, load_shape) for write in (write_ply, write_stl, write_gltf)},
}


@pytest.mark.parametrize(
    ("kind", "name", "most"),
    [
        ("tone.wav", "max_seconds", 1),
        ("tone.wav", "max_channels", 2),
        ("maps", "max_side", 29),
        ("maps", "max_pixels", 599),
        ("maps", "max_map_bytes", 40),
        ("maps", "max_times_bytes", 5),
        ("gray.mp4", "max_side", 15),
        ("gray.mp4", "max_maps", 3),
        ("a.ply", "max_mesh_bytes", 50),
        ("a.ply", "max_points", 3),
        ("a.ply", "max_faces", 1),
        ("a.ply", "max_header_bytes", 50),
        ("a.ply", "max_text_bytes", 50),
        ("a.ply", "max_text_lines", 5),
        ("a.ply", "max_text_words", 5),
        ("a.stl", "max_solids", 1),
        ("a.gltf", "max_parts", 1),
        ("a.gltf", "max_accessors", 1),
        ("a.gltf", "max_scene_bytes", 50),
    ],
)
def test_what_is_above_a_limit_is_refused_with_its_variable(tmp_path, monkeypatch, kind, name, most):
    (write, read), path = KINDS[kind], tmp_path / kind
    write(path)
    read(path)
    later = path.with_name(f"later_{kind}")  # another file: what is known of the first is kept
    path.rename(later)
    lower = dataclasses.replace(LIMITS, **{name: most})
    for module in [found for place, found in sys.modules.items() if place.startswith("lynx.media.")]:
        monkeypatch.setattr(module, "LIMITS", lower, raising=False)
    with pytest.raises(MediaError) as refusal:
        read(later)
    assert f"{amount(most, Limits.unit(name))} (LYNX_{name.upper()})" in str(refusal.value)
