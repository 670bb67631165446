"""Depth from files written here: maps with clocks and poses, stacks, videos, meshes, clouds; and bad ones."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from lynx.errors import MediaError
from lynx.media.depth import open_depth, to_meters
from lynx.media.mesh import (
    Shape,
    clean_shape,
    load_shape,
    orbit,
    orbit_clip,
    pinhole,
    posed_clip,
    resized,
    splat,
)

REAL = Path(__file__).parents[3] / "shared" / "media"
CLOUD = np.empty((0, 3), np.int64)


def write_maps(folder, count=4, names="{:d}", size=(6, 8), poses=True, times=None):
    (folder / "depth").mkdir(parents=True)
    for i in range(count):
        values = np.full(size, 1000 + i, np.uint16)
        values[0, 0], values[0, 1] = 0, 65535
        Image.fromarray(values).save(folder / "depth" / f"{names.format(i)}.png")
        if poses:
            (folder / "pose").mkdir(exist_ok=True)
            pose = np.eye(4)
            pose[0, 3] = i
            np.savetxt(folder / "pose" / f"{names.format(i)}.txt", pose)
    np.savetxt(folder / "intrinsic_depth.txt", np.diag([50.0, 60.0, 1.0, 1.0]))
    if times is not None:
        np.savetxt(folder / "times.txt", times)
    return folder


def write_video(path, levels, pix_fmt, codec, fps=8):
    """levels: (T, H, W), or (T, H, W, 3) in color."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *levels.shape[1:3], pix_fmt
        form = "rgb24" if levels.ndim == 4 else "gray16le" if levels.dtype == np.uint16 else "gray"
        for one in levels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, form)))
        container.mux(stream.encode())
    return path


# --- depth maps -----------------------------------------------------------------------------------


def test_a_folder_in_scannet_form_is_read(tmp_path):
    root = write_maps(tmp_path / "scan", times=[0.0, 0.5, 1.5, 2.0])
    for given in (root, root / "depth"):
        clip = open_depth(given)
        depth = clip.measure([2, 0])
        assert depth.shape == (2, 6, 8) and depth.dtype == np.float32
        assert depth[:, 3, 3].tolist() == pytest.approx([1.002, 1.0])
        assert (depth[:, 0, :2] == 0).all()  # 0 and 65535 are no return
        assert clip.times.tolist() == [0.0, 0.5, 1.5, 2.0] and clip.duration == 2.5 and clip.notes == ()
        assert clip.intrinsics.tolist() == [[50, 0, 0], [0, 60, 0], [0, 0, 1]]
        assert clip.poses[:, 0, 3].tolist() == [0, 1, 2, 3]


def test_names_are_numbers_and_may_be_a_clock(tmp_path):
    root = write_maps(tmp_path / "scan", count=12, names="frame-{:d}.depth")
    clip = open_depth(root)
    assert clip.times is None and clip.duration is None and "no times" in clip.notes[0]
    assert clip.measure(range(12))[:, 3, 3].tolist() == pytest.approx([1 + i / 1000 for i in range(12)])
    timed = open_depth(root, fps=4.0)
    assert timed.times.tolist() == [i / 4 for i in range(12)] and timed.duration == 3.0


def test_another_unit_of_the_maps(tmp_path):
    root = write_maps(tmp_path / "scan", count=1)
    assert open_depth(root, unit=1 / 5000).measure([0])[0, 3, 3] == pytest.approx(0.2)


def test_lost_poses_are_said_and_missing_ones_are_none(tmp_path):
    root = write_maps(tmp_path / "scan", times=[0, 1, 2, 3])
    (root / "pose" / "1.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (root / "pose" / "3.txt").unlink()
    clip = open_depth(root)
    assert np.isfinite(clip.poses).all((1, 2)).tolist() == [True, False, True, False]
    assert clip.notes == ("2 of 4 camera poses are missing or not finite",)
    assert open_depth(write_maps(tmp_path / "other", poses=False)).poses is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("intrinsic_depth.txt", "1 2\n3 4\n", "camera matrix"),
        ("intrinsic_depth.txt", "focal length\n", "numbers"),
        ("pose/2.txt", "1 0 0\n", "no pose"),
        ("times.txt", "0 1 2\n", "as many ascending times"),
        ("times.txt", "0 2 1 3\n", "ascending"),
        ("depth/1.png", "no picture", "damaged"),
    ],
)
def test_damaged_folders_are_said(tmp_path, name, text, message):
    root = write_maps(tmp_path / "scan")
    (root / name).write_text(text)
    with pytest.raises(MediaError, match=message):
        open_depth(root).measure([0, 1])


def test_pictures_are_no_depth_maps(tmp_path):
    root = write_maps(tmp_path / "scan")
    for picture in (np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint8)):
        Image.fromarray(picture).save(root / "depth" / "1.png")
        with pytest.raises(MediaError, match="no depth map but a"):
            open_depth(root).measure([1])
    Image.fromarray(np.ones((3, 3), np.uint16)).save(root / "depth" / "1.png")
    with pytest.raises(MediaError, match="different sizes"):
        open_depth(root).measure([0, 1])
    (tmp_path / "empty" / "depth").mkdir(parents=True)
    with pytest.raises(MediaError, match="holds no depth maps"):
        open_depth(tmp_path / "empty")
    with pytest.raises(MediaError, match="no file"):
        open_depth(tmp_path / "nowhere")


def test_stored_numbers_become_meters():
    assert to_meters(np.array([[0, 1500, 65535]], np.uint16)).tolist() == [[0, 1.5, 0]]
    floats = np.array([[np.nan, np.inf, -1.0, 2.5]])
    assert to_meters(floats).tolist() == [[0, 0, 0, 2.5]]
    for wrong in (np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool), np.zeros((2, 2), complex)):
        with pytest.raises(MediaError, match="millimeters"):
            to_meters(wrong)


@pytest.mark.parametrize(("dtype", "factor"), [(np.uint16, 1000), (np.float32, 1), (np.float64, 1000)])
def test_a_stack_of_maps(tmp_path, dtype, factor):
    meters = np.linspace(1, 4, 5 * 3 * 4).reshape(5, 3, 4)
    np.save(tmp_path / "depth.npy", (meters * factor).astype(dtype))
    clip = open_depth(tmp_path / "depth.npy")
    assert clip.count == 5 and np.abs(clip.measure([1, 4]) - meters[[1, 4]]).max() < 0.001
    assert ("read as millimeters" in clip.notes[0]) == (dtype == np.float64)
    np.savetxt(tmp_path / "times.txt", np.arange(5) / 2)
    assert open_depth(tmp_path / "depth.npy").duration == 2.5


def test_stacks_that_are_none(tmp_path):
    path = tmp_path / "depth.npy"
    np.save(path, np.ones((4, 3, 3, 3)))
    with pytest.raises(MediaError, match="stack of maps"):
        open_depth(path)
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(MediaError, match="cannot be read"):
        open_depth(path)
    np.save(path, np.ones((4, 3, 3), np.uint8))
    with pytest.raises(MediaError, match="uint8"):
        open_depth(path)


def test_a_16_bit_video_is_millimeters(tmp_path):
    levels = (1000 + 10 * np.arange(12)[:, None, None] + np.arange(32 * 48).reshape(32, 48)).astype(np.uint16)
    clip = open_depth(write_video(tmp_path / "depth.mkv", levels, "gray16le", "ffv1"))
    assert clip.count == 12 and clip.duration == pytest.approx(1.5, abs=0.01) and clip.notes == ()
    assert np.array_equal(clip.measure([3, 11]), (levels[[3, 11]] / 1000).astype(np.float32))


def test_an_8_bit_video_has_no_unit_which_is_said(tmp_path):
    levels = np.repeat(np.linspace(40, 250, 64).astype(np.uint8)[None, None], 48, axis=1).repeat(8, axis=0)
    levels[:, :, :16] = 0
    clip = open_depth(write_video(tmp_path / "depth.mp4", levels, "yuv420p", "libx264"), reach=(0.2, 5.0))
    depth = clip.measure([2, 6])
    assert "no unit" in clip.notes[0] and "white is 5 m" in clip.notes[0]
    assert (
        np.abs(depth[:, :, 20:] - levels[0, 0, 20:] / 255 * 5).max() < 0.08 and (depth[:, :, :12] == 0).all()
    )


def test_a_color_video_is_no_depth(tmp_path):
    picture = np.zeros((4, 32, 32, 3), np.uint8)
    picture[..., 0] = 200
    clip = open_depth(write_video(tmp_path / "clip.mp4", picture, "yuv420p", "libx264"))
    with pytest.raises(MediaError, match="color"):
        clip.measure([0])


def test_a_video_with_a_gap_of_days_is_refused(tmp_path):
    """It would be millions of maps, whose times alone fill gigabytes."""
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=100)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "gray16le"
        for moment in (0, 1, 40 * 3600 * 100):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32), 1000, np.uint16), "gray16le")
            frame.pts, frame.time_base = moment, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match=r"'gap.mkv' lasts 40.0 h at 100 .* at most 10,000,000 maps"):
        open_depth(path)


# --- meshes and point clouds ----------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".ply", ".obj", ".glb", ".stl", ".off"])
def test_every_kind_of_mesh_is_seen_alike(tmp_path, ending):
    trimesh.creation.box((1.0, 1.0, 1.0)).export(tmp_path / f"box{ending}")
    shape = load_shape(tmp_path / f"box{ending}")
    assert len(shape.faces) == 12 and shape.bounds[1] == pytest.approx(np.sqrt(3) / 2)
    clip = open_depth(tmp_path / f"box{ending}", views=4, size=64)
    depth = clip.measure(range(4))
    middle = np.linalg.norm(clip.poses[0, :3, 3])
    assert all("is taken for up" in note for note in clip.notes) and 0.1 < (depth > 0).mean() < 0.5
    assert depth.max() < middle + 0.87 and depth[depth > 0].min() > middle - 0.87
    assert np.abs(depth - depth[:1]).max() < 1e-4  # a cube looks the same from four sides


def test_depth_of_a_sphere_is_that_of_its_formula():
    ball = trimesh.creation.icosphere(subdivisions=5, radius=1.0)
    clip = orbit_clip(Shape(ball.vertices, ball.faces), 3, 96, (0.2, 10.0))
    camera = clip.intrinsics
    v, u = np.indices((96, 96))
    rays = np.stack(
        [(u - camera[0, 2]) / camera[0, 0], (v - camera[1, 2]) / camera[1, 1], np.ones(u.shape)], -1
    )
    for pose, depth in zip(clip.poses, clip.measure([0, 1, 2]), strict=True):
        d, o = rays @ pose[:3, :3].T, pose[:3, 3]
        a, b, c = (d**2).sum(-1), 2 * d @ o, o @ o - 1
        inside = b * b - 4 * a * c
        expected = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / (2 * a), 0)
        both = (expected > 0) & (depth > 0)
        assert both.sum() > 0.97 * (expected > 0).sum() and (depth[expected == 0] == 0).mean() > 0.99
        assert np.abs(depth - expected)[both].max() < 0.03  # at the rim the facets lie inside the sphere
        assert np.abs(depth - expected)[both].mean() < 0.002


def test_an_orbit_looks_at_the_middle_with_up_above():
    for up in (np.eye(3)[1], np.eye(3)[2]):
        poses = orbit(6, 3.0, up)
        for pose in poses:
            rotation, eye = pose[:3, :3], pose[:3, 3]
            assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.linalg.det(rotation) == pytest.approx(
                1
            )
            assert np.allclose(rotation[:, 2], -eye / 3.0) and eye @ up > 0
            assert rotation[:, 1] @ up < -0.5  # the picture's y points down


def test_a_shape_in_an_unknown_unit_is_drawn_as_if_it_were_two_meters(tmp_path):
    box = trimesh.creation.box((1.0, 2.0, 1.0))
    for name, scale, said in (("m", 1.0, False), ("mm", 1000.0, True), ("tiny", 1e-4, True)):
        box.copy().apply_scale(scale).export(tmp_path / f"{name}.ply")
        clip = open_depth(tmp_path / f"{name}.ply", views=2, size=48)
        depth = clip.measure([0, 1])
        assert any("unknown unit" in note for note in clip.notes) == said
        assert 0.2 < depth[depth > 0].min() < depth.max() < 10
    assert "2449 across in an unknown unit" in open_depth(tmp_path / "mm.ply").notes[0]


def test_a_million_points_are_a_surface():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(1_000_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    depth = orbit_clip(Shape(points, CLOUD), 2, 256, (0.2, 10.0)).measure([0])[0]
    away = 1.05 / np.sin(np.radians(30))
    middle = depth[96:160, 96:160]
    assert (middle > 0).all() and middle.min() == pytest.approx(away - 1, abs=0.01)
    assert middle.max() < away - 0.8  # the far side is hidden


def test_a_thin_cloud_hides_its_far_side_too(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    trimesh.PointCloud(points).export(tmp_path / "cloud.ply")
    depth = open_depth(tmp_path / "cloud.ply", views=1, size=256).measure([0])[0]
    middle = depth[80:176, 80:176]
    assert (middle > 0).mean() > 0.98 and (middle < 2.1).mean() > 0.98


def test_splatting_keeps_the_nearest_point():
    points = np.array([[0.0, 0, 5], [0, 0, 2], [0, 0, 3], [9, 9, 1], [0, 0, -4]])
    camera = np.array([[10.0, 0, 4], [0, 10.0, 3], [0, 0, 1]])
    depth = splat(points, np.eye(4), camera, (7, 9), reach=0)
    assert depth[3, 4] == 2 and depth.sum() == 2
    wide = splat(points, np.eye(4), camera, (7, 9), reach=2)
    assert (wide[1:6, 2:7] == 2).all() and wide.sum() == 2 * 25
    assert (splat(points[4:], np.eye(4), pinhole(8), (8, 8)) == 0).all()


def test_a_room_is_seen_by_the_cameras_given(tmp_path):
    room = trimesh.creation.box((4.0, 6.0, 3.0))
    room.export(tmp_path / "room.ply")
    (tmp_path / "pose").mkdir()
    ahead = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # looks along the world's y, z is up
    for i, place in enumerate([(0, 0, 0), (0, 1, 0), (0, 2, 0)]):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = ahead, place
        np.savetxt(tmp_path / "pose" / f"{i}.txt", pose if i != 1 else np.full((4, 4), -np.inf))
    camera = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
    np.savetxt(tmp_path / "intrinsic_depth.txt", camera)
    clip = open_depth(tmp_path, size=80)
    assert clip.count == 2 and "1 of 3 camera poses" in clip.notes[0]
    depth = clip.measure([0, 1])
    assert depth.shape == (2, 60, 80)
    assert np.abs(depth[:, 30, 40] - (3.0, 1.0)).max() < 1e-4  # the wall ahead, from the middle and 2 m on
    assert np.allclose(clip.intrinsics, resized(camera, 0.5))
    with pytest.raises(MediaError, match="None of the 1 camera poses"):
        posed_clip(load_shape(tmp_path / "room.ply"), np.full((1, 4, 4), np.nan), None, 64)
    (tmp_path / "other.obj").write_text("v 0 0 0\n")
    with pytest.raises(MediaError, match="2 meshes and 3 poses"):
        open_depth(tmp_path)


def test_degenerate_faces_are_left_out_and_said():
    box = trimesh.creation.box()
    points = np.concatenate([box.vertices, [[np.nan] * 3, [50.0, 50, 50]]])
    faces = np.concatenate([box.faces, [[0, 0, 1], [2, 2, 2], [0, 1, 8]]])
    shape = clean_shape(Shape(points, faces, "box"))
    assert len(shape.faces) == 12 and shape.notes == ("3 of 15 faces of box are degenerate and left out",)
    assert shape.bounds[1] == pytest.approx(np.sqrt(3) / 2)  # the point that no face uses does not count


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.obj", "", "empty|cannot be read"),
        ("flat.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no surface: its 1 faces"),
        ("line.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "no surface"),
        ("broken.ply", "ply\nformat ascii 1.0\nelement vertex 3\n", "cannot be read|empty"),
        ("text.glb", "this is no mesh", "cannot be read"),
        ("text.stl", "solid nothing\nendsolid nothing\n", "empty|cannot be read|no surface"),
        ("outside.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", "does not hold|cannot be read"),
    ],
)
def test_meshes_that_are_none_are_said(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(MediaError, match=message):
        load_shape(tmp_path / name)


def test_points_in_one_place_are_no_cloud():
    with pytest.raises(MediaError, match="no surface: its 5 points"):
        clean_shape(Shape(np.ones((5, 3)), CLOUD))
    with pytest.raises(MediaError, match="no surface"):
        clean_shape(Shape(np.full((5, 3), np.inf), CLOUD))


def test_a_mesh_opens_no_other_files(tmp_path):
    """An .obj may name a material, and that a picture: nothing but the file given is read."""
    secret = tmp_path / "secret.mtl"
    secret.mkdir()  # opening it would fail
    (tmp_path / "box.obj").write_text("mtllib secret.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n")
    assert len(load_shape(tmp_path / "box.obj").faces) == 1


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/media here")
def test_real_recordings():
    room = open_depth(REAL / "rgbd_room")
    depth = room.measure([0, 4])
    assert room.count == 5 and room.poses is None and room.intrinsics[0, 0] == 525
    assert 0.12 < (depth == 0).mean() < 0.14 and np.median(depth[depth > 0]) == pytest.approx(1.861, abs=0.01)
    tub = open_depth(REAL / "bathtub.ply", views=3, size=64)
    assert any("unknown unit" in note for note in tub.notes) and (tub.measure([1]) > 0).mean() > 0.1
