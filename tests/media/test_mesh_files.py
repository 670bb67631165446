"""Meshes and point clouds as people have them: axes, units, places, kinds of files, and hostile ones."""

import base64
import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh

from lynx.errors import MediaError
from lynx.media.depth import open_depth
from lynx.media.mesh import Shape, clean_shape, load_shape, orbit_clip, posed_clip
from lynx.modalities.depth import Depth, DepthRendering
from lynx.types import Recording, sample_times

CASES = Path(__file__).parents[3] / "shared" / "cases"
UTM = np.array([448262.0, 5411932.0, 120.0])
TALL = trimesh.creation.box((1.0, 2.0, 1.0))


def tallness(source):
    """Height of what is seen over its width."""
    there = open_depth(source, views=4, size=96).measure([0])[0] > 0
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    return np.ptp(rows) / np.ptp(columns)


def write_ply(path, points, faces, form="ascii", kind="double"):
    head = f"ply\nformat {form} 1.0\nelement vertex {len(points)}\n"
    head += "".join(f"property {kind} {axis}\n" for axis in "xyz")
    head += f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    if form == "ascii":
        rows = ["{:.6f} {:.6f} {:.6f}".format(*point) for point in points]
        rows += [" ".join(map(str, (len(face), *face))) for face in faces]
        path.write_text(head + "\n".join(rows) + "\n")
        return path
    order = "<" if "little" in form else ">"
    body = np.asarray(points, order + ("f8" if kind == "double" else "f4")).tobytes()
    body += b"".join(bytes([len(face)]) + np.asarray(face, order + "i4").tobytes() for face in faces)
    path.write_bytes(head.encode() + body)
    return path


# --- axes and units -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "up", "said"),
    [(".obj", "y", 1), (".glb", "y", 0), (".ply", "z", 1), (".stl", "z", 1), (".off", "z", 1)],
)
def test_the_axis_that_points_up_is_by_kind_said_and_settable(tmp_path, ending, up, said):
    path = tmp_path / f"box{ending}"
    TALL.export(path)  # 2 high along y
    clip = open_depth(path)
    assert clip.up == up and (tallness(path) > 1.3) == (up == "y")
    notes = [note for note in clip.notes if "taken for up" in note]
    other = "z" if up == "y" else "y"
    assert len(notes) == said and all(f"give --depth-up {other} if it lies" in note for note in notes)
    for axis in ("y", "-y"):
        given = open_depth(Recording(path, up=axis))
        assert tallness(Recording(path, up=axis)) > 1.3 and given.up == axis and not given.notes
    assert tallness(Recording(path, up="z")) < 0.8
    (tmp_path / "depth.json").write_text('{"up": "x"}')
    assert open_depth(path).up == "x" and tallness(path) < 1.3
    assert open_depth(Recording(path, up="y")).up == "y"
    with pytest.raises(MediaError, match="points up is 'w'; expected one of x"):
        open_depth(Recording(path, up="w"))


def test_a_mesh_in_a_known_unit_is_drawn_in_meters(tmp_path):
    box = trimesh.creation.box((1000.0, 1000.0, 1000.0))
    box.export(tmp_path / "box.stl")
    unknown, known = open_depth(tmp_path / "box.stl"), open_depth(Recording(tmp_path / "box.stl", unit=0.001))
    assert unknown.unit is None and "unknown unit" in unknown.notes[0]
    assert known.unit == 0.001 and not any("unit" in note for note in known.notes)
    radius = np.sqrt(3) / 2
    assert np.linalg.norm(known.poses[0, :3, 3]) == pytest.approx(2.1 * radius)
    house = open_depth(Recording(tmp_path / "box.stl", unit=0.1))
    assert "173.2 m across" in house.notes[0]


def test_each_moment_of_a_part_sees_another_side(tmp_path):
    TALL.export(tmp_path / "box.obj")
    source = Recording(tmp_path / "box.obj", lasts=60.0, up="y")
    sense = Depth(DepthRendering(max_side=48))
    part = sense.render(source, 40 + sample_times(10.0, 4))
    whole = sense.render(source, sample_times(60.0, 4))
    assert (part.pixels == whole.pixels).all() and part.notes == whole.notes == ()


# --- places ---------------------------------------------------------------------------------------


def write_room(folder, ending, offset):
    """A room of many faces, with cameras that look along y; everything moved by `offset`."""
    (folder / "pose").mkdir(parents=True)
    room = trimesh.creation.box((4.0, 6.0, 3.0)).subdivide().subdivide()
    points = room.vertices + offset
    if ending == ".glb":  # single precision, placed by its node
        matrix = np.eye(4)
        matrix[:3, 3] = offset
        scene = trimesh.Scene()
        scene.add_geometry(room, transform=matrix)
        scene.export(folder / "room.glb")
    elif ending == ".obj":
        lines = ["v {:.6f} {:.6f} {:.6f}".format(*point) for point in points]
        lines += ["f {} {} {}".format(*face + 1) for face in room.faces]
        (folder / "room.obj").write_text("\n".join(lines))
    else:
        write_ply(folder / "room.ply", points, room.faces.tolist(), ending)
    turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ trimesh.transformations.rotation_matrix(
        0.3, (1, 2, 0.5)
    )[:3, :3]
    for number, place in enumerate([(0, 0, 0), (0.3, 1, 0.2), (-0.7, 2, 0.1)]):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, place + offset
        np.savetxt(folder / "pose" / f"{number}.txt", pose, fmt="%.9f")
    return folder


@pytest.mark.parametrize("ending", ["ascii", "binary_little_endian", ".obj", ".glb"])
def test_a_mesh_far_from_the_origin_is_seen_as_at_the_origin(tmp_path, ending):
    near = open_depth(write_room(tmp_path / "near", ending, np.zeros(3)), size=96)
    far = open_depth(write_room(tmp_path / "far", ending, UTM), size=96)
    expected, depth = near.measure(range(3)), far.measure(range(3))
    assert (expected > 0).all() and np.abs(depth - expected).max() < 1e-4
    assert np.allclose(far.poses[:, :3, 3] - UTM, near.poses[:, :3, 3])  # in the world's coordinates


def test_points_and_orbits_far_from_the_origin_too():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    pose = np.eye(4)
    pose[2, 3] = -4.0
    ball = trimesh.creation.icosphere(subdivisions=3)
    for one, faces in ((points, np.empty((0, 3), np.int64)), (ball.vertices, ball.faces)):
        views = []
        for offset in (np.zeros(3), UTM):
            moved = pose.copy()
            moved[:3, 3] += offset
            shape = clean_shape(Shape(one + offset, faces))
            clips = posed_clip(shape, moved[None], None, 64), orbit_clip(shape, 2, 64, (0.2, 10.0))
            views.append(np.concatenate([clip.measure(range(clip.count)) for clip in clips]))
        close = np.abs(views[0] - views[1]) < 1e-4
        assert close.mean() > 0.999  # a point may round to the next pixel
        assert (views[0] > 0).any((1, 2)).all()


def test_a_broken_point_far_from_the_origin_takes_no_face_with_it():
    box = trimesh.creation.box((0.4, 0.4, 0.4))
    points = np.concatenate([box.vertices + UTM, [[np.nan] * 3, [1e300] * 3]])
    faces = np.concatenate([box.faces, [[0, 1, 8], [0, 1, 9]]])
    assert len(clean_shape(Shape(points, faces)).faces) == 12


# --- kinds of files -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
def test_faces_of_different_lengths_in_a_ply(tmp_path, form):
    points = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1], [0.5, -0.5, 0]]
    faces = [[0, 1, 2, 3], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [5, 1, 2, 3, 0]]
    shape = load_shape(write_ply(tmp_path / "pyramid.ply", points, faces, form, "float"))
    corners = shape.points[shape.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert shape.points.tolist() == points and len(shape.faces) == 9
    assert area.sum() == pytest.approx(1 + 4 * np.sqrt(1.25) / 2 + 1.25)  # square, four sides, pentagon


def embedded_gltf(path, **changes):
    files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(TALL))
    whole = json.loads(files["model.gltf"])
    for buffer in whole["buffers"]:
        data = base64.b64encode(files[buffer["uri"]]).decode()
        buffer["uri"] = f"data:application/octet-stream;base64,{data}"
    path.write_text(json.dumps(whole | changes))
    return whole


def test_gltf_is_read_from_its_own_data_alone(tmp_path):
    whole = embedded_gltf(tmp_path / "box.gltf")
    shape = load_shape(tmp_path / "box.gltf")
    assert len(shape.faces) == 12 and np.ptp(shape.points, axis=0).tolist() == [1, 2, 1]
    assert open_depth(tmp_path / "box.gltf").up == "y" and tallness(tmp_path / "box.gltf") > 1.3
    (tmp_path / "other.bin").mkdir()  # opening it would fail in another way
    for place in ("other.bin", "file:///etc/passwd", "http://localhost/a.bin"):
        other = [{"byteLength": 10, "uri": place}] * len(whole["buffers"])
        embedded_gltf(tmp_path / "box.gltf", buffers=other)
        with pytest.raises(MediaError, match="keeps its points in other files: export it as one .glb"):
            load_shape(tmp_path / "box.gltf")


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases here")
def test_draco_is_said_by_name(tmp_path):
    with pytest.raises(MediaError, match="compressed with Draco, which is not read: export it without"):
        open_depth(CASES / "draco.glb")
    data = (CASES / "draco.glb").read_bytes()
    (size,) = struct.unpack("<I", data[12:16])
    optional = data[20 : 20 + size].replace(b'"extensionsRequired"', b'"extensionsWhatever"')
    (tmp_path / "used.glb").write_bytes(data[:20] + optional + data[20 + size :])
    with pytest.raises(MediaError, match="compressed with Draco"):
        open_depth(tmp_path / "used.glb")


@pytest.mark.parametrize("how", ["ascii", "binary"])
def test_point_clouds_of_pcl(tmp_path, how):
    points = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    points[7] = np.nan
    head = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS intensity normal x y z rgb\nSIZE 2 4 4 4 4 4\nTYPE U F F F F F\n"
        f"COUNT 1 3 1 1 1 1\nWIDTH 300\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 300\nDATA {how}\n"
    )
    rows = np.zeros(300, [("i", "<u2"), ("n", "<f4", 3), ("p", "<f4", 3), ("c", "<f4")])
    rows["p"] = points
    text = "".join("9 0 0 1 {} {} {} 0\n".format(*point) for point in points).encode()
    path = tmp_path / "cloud.pcd"
    path.write_bytes(head.encode() + (text if how == "ascii" else rows.tobytes()))
    shape = load_shape(path)
    assert np.allclose(shape.points, np.delete(points, 7, 0)) and "1 of 300 points" in shape.notes[0]
    assert (open_depth(path, views=1, size=64).measure([0]) > 0).mean() > 0.1
    path.write_bytes(head.encode() + (text if how == "ascii" else rows.tobytes())[:-40])
    with pytest.raises(MediaError, match="300 points.*not what it holds"):
        load_shape(path)
    path.write_bytes(head.replace(f"DATA {how}", "DATA binary_compressed").encode() + rows.tobytes())
    with pytest.raises(MediaError, match="compressed .binary_compressed.*DATA binary"):
        load_shape(path)


# --- hostile --------------------------------------------------------------------------------------


def test_faces_in_one_place_are_drawn_once():
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 1]])
    points = np.tile(corners, (100_000, 1))
    faces = np.arange(300_000).reshape(-1, 3)[:, [0, 2, 1]]
    shape = clean_shape(Shape(points, faces, "stack"))
    assert len(shape.faces) == 1 and shape.notes == (
        "99999 of 100000 faces of stack are copies of others and left out",
    )
    two_sided = clean_shape(Shape(TALL.vertices, np.concatenate([TALL.faces, TALL.faces[:, ::-1]])))
    assert len(two_sided.faces) == 12 and two_sided.notes == ()


def test_faces_almost_in_one_place_are_refused_in_time():
    rng = np.random.default_rng(0)
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 1]]) + rng.normal(size=(100_000, 3, 3)) * 1e-6
    shape = Shape(corners.reshape(-1, 3), np.arange(300_000).reshape(-1, 3), "layers")
    begin = time.thread_time()
    with pytest.raises(MediaError, match="'layers' takes too long to draw: its 100,000 faces lie in one"):
        orbit_clip(clean_shape(shape), 1, 384, (0.2, 10.0)).measure([0])
    assert time.thread_time() - begin < 20  # all of a view takes 40


@pytest.mark.parametrize("ending", ["ply", "obj", "glb", "stl", "off"])
def test_damaged_meshes_are_refused_in_plain_words(tmp_path, ending):
    """Two hundred mutations of each kind: no words of Python or numpy reach the sentence."""
    rng = np.random.default_rng(5)
    exported = TALL.export(file_type=ending)
    whole = exported.encode() if isinstance(exported, str) else exported
    path, refused = tmp_path / f"a.{ending}", 0
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 1500), rng.integers(1, 5)):
            data[place] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else data)
        try:
            load_shape(path)
        except MediaError as error:
            said, refused = str(error), refused + 1
            python = ("Error", "array", "dtype", "None", "argument", "int()", " b'", "object")
            assert said.endswith(".") and not any(word in said for word in python), said
    assert refused > 20
