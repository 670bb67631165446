"""What belongs to a recording of depth and which files hold it: units, cameras, single maps, formats."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx.errors import MediaError
from lynx.media.depth import depth_files, open_depth
from lynx.media.side_files import UNITS, fit_intrinsics, parse_unit, parse_up
from lynx.modalities.depth import Depth, DepthRendering
from lynx.streams.key import media_key
from lynx.types import Recording, sample_times

CASES = Path(__file__).parents[3] / "shared" / "cases"
VALUES = np.random.default_rng(0).uniform(0.5, 4, (7, 9)).astype(np.float32)


def write_maps(folder, names=("0", "1", "2"), value=5000, size=(6, 8)):
    (folder / "depth").mkdir(parents=True)
    for name in names:
        Image.fromarray(np.full(size, value, np.uint16)).save(folder / "depth" / f"{name}.png")
    return folder


def write_json(folder, **settings):
    (folder / "depth.json").write_text(json.dumps(settings))
    return folder


def seen(source, **options):
    return float(open_depth(source, **options).measure([0])[0, 3, 3])


# --- units ----------------------------------------------------------------------------------------


def test_the_users_unit_comes_before_depth_json_before_the_adapters_before_millimeters(tmp_path):
    root = write_maps(tmp_path / "scan")
    clip = open_depth(root)
    assert seen(root) == pytest.approx(5.0) and (clip.unit, clip.unit_from) == (0.001, "assumed")
    assert seen(root, unit=1 / 1000.5) == pytest.approx(5000 / 1000.5)
    assert "adapter" in open_depth(root, unit=0.01).unit_from
    write_json(root, unit="tum")
    assert seen(root, unit=0.01) == pytest.approx(1.0) and open_depth(root).unit_from == "depth.json"
    assert seen(Recording(root, unit=0.01)) == pytest.approx(50.0)
    assert open_depth(Recording(root, unit=0.01)).unit_from == "given with the recording"
    (root / "depth.json").rename(root / "depth" / "depth.json")  # beside the maps themselves
    assert seen(root) == seen(root / "depth") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "meters"),
    [("tum", 0.0002), ("D405", 0.0001), ("l515", 0.00025), ("d435", 0.001), ("kinect", 0.001), ("mm", 0.001),
     ("0.002", 0.002), (0.5, 0.5)],
)  # fmt: skip
def test_units_by_the_name_of_a_sensor(name, meters):
    assert parse_unit(name) == pytest.approx(meters)


@pytest.mark.parametrize("wrong", ["tuum", "", "nan", "-1", 0, float("inf"), True, 1e9, None, [1]])
def test_units_that_are_none(wrong):
    with pytest.raises(MediaError, match="expected meters a step"):
        parse_unit(wrong)
    if wrong == "tuum":
        with pytest.raises(MediaError, match="did you mean 'tum'"):
            parse_unit(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"unti": "mm"}', "'scan/depth.json' has an unknown key 'unti' .did you mean 'unit'"),
        ('{"unit": "parsec"}', "'unit' in 'scan/depth.json' is 'parsec'"),
        ('{"unit": [1]}', "'unit' in 'scan/depth.json'"),
        ('{"unit": true}', "'unit' in"),
        ('{"unit": NaN}', "'unit' in"),
        ('{"unit": 1' + "0" * 4000 + "}", "'unit' in"),
        ('{"up": "up"}', "'up' in 'scan/depth.json' is 'up'; expected one of x"),
        ('{"up": 1}', "'up' in"),
        ('{"fps": "30"}', "'fps' in 'scan/depth.json'"),
        ('{"fps": 0}', "'fps' in"),
        ('{"size": [640]}', "'size' in 'scan/depth.json'"),
        ('{"size": [640, 0]}', "'size' in"),
        ('{"intrinsics": [1, 2, 3]}', "'intrinsics' in 'scan/depth.json'"),
        ('{"intrinsics": [[1, 2, 3], [4, 5, 6]]}', "'intrinsics' in"),
        ('{"intrinsics": [[-1, 0, 3], [0, 5, 6], [0, 0, 1]]}', "'intrinsics' in 'scan/depth.json' is no cam"),
        ("[1]", "expected an object"),
        ("unit: mm", "'scan/depth.json' is no JSON"),
        ("[" * 2000, "is no JSON"),
        (" " * 70_000, "at most 64 kB"),
    ],
)
def test_settings_that_are_none_are_refused_by_file_and_key(tmp_path, text, message):
    root = write_maps(tmp_path / "scan")
    (root / "depth.json").write_text(text)
    with pytest.raises(MediaError, match=message):
        open_depth(root)


def test_depth_json_may_begin_with_a_mark_and_hold_null(tmp_path):
    root = write_maps(tmp_path / "scan")
    (root / "depth.json").write_text('\ufeff{"unit": "tum", "up": null, "fps": 2}', encoding="utf-8")
    clip = open_depth(root)
    assert clip.unit == 0.0002 and clip.times.tolist() == [0, 0.5, 1.0]


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases here")
def test_tum_depth_is_right_with_its_unit_and_said_without_it(tmp_path):
    shutil.copytree(CASES / "tum_depth", tmp_path / "tum")
    for source in (Recording(tmp_path / "tum", unit=UNITS["tum"]), write_json(tmp_path / "tum", unit="tum")):
        depth = open_depth(source).measure([0])
        assert (depth.min(), depth.max()) == (pytest.approx(1.0), pytest.approx(1.9842))
        assert not any("depth-unit" in note for note in Depth().render(source, sample_times(3.0, 3)).notes)
        assert Depth().render(source, sample_times(3.0, 3)).pixels.float().std() > 10
    (tmp_path / "tum" / "depth.json").unlink()
    notes = Depth().render(tmp_path / "tum", sample_times(3.0, 3)).notes
    assert any("beyond 7.5 m at the 1 mm a step that are assumed: give --depth-unit (tum" in n for n in notes)


def test_the_layout_of_tum_gives_unit_and_times(tmp_path):
    names = ("1305031102.160407", "1305031102.226738", "1305031102.262886")
    root = write_maps(tmp_path / "fr1", names)
    plain = open_depth(root)
    assert plain.unit == 0.001 and "names are their times" in plain.notes[0]
    (root / "groundtruth.txt").write_text("# timestamp tx ty tz qx qy qz qw\n")
    clip = open_depth(root)
    assert seen(root) == pytest.approx(1.0) and clip.unit_from == "the layout of tum"
    assert clip.times.tolist() == pytest.approx([0, 0.066331, 0.102479], abs=1e-6)
    assert any("TUM RGB-D" in note for note in clip.notes)
    assert seen(Recording(root, unit=0.001)) == pytest.approx(5.0)
    assert seen(write_json(root, unit="mm")) == pytest.approx(5.0)


def test_the_users_rate_comes_first(tmp_path):
    root = write_maps(tmp_path / "scan", ("0", "5", "10"))
    np.savetxt(root / "times.txt", [0.0, 2.0, 3.0])
    assert open_depth(root, fps=5.0).times.tolist() == [0, 2, 3]
    assert open_depth(Recording(root, fps=10.0)).times.tolist() == [0, 0.5, 1.0]
    (root / "times.txt").unlink()
    assert open_depth(write_json(root, fps=5.0), fps=1.0).times.tolist() == [0, 1, 2]


def test_maps_without_a_clock_last_as_long_as_is_said(tmp_path):
    root = write_maps(tmp_path / "scan")
    source = Recording(root, lasts=30.0)
    assert Depth().duration(source) == 30.0
    for index in range(3):
        Image.fromarray(np.full((6, 8), 1000 * (index + 1), np.uint16)).save(root / "depth" / f"{index}.png")
    part = Depth().render(source, sample_times(30.0, 6)[2:])  # from 10 s on
    whole = Depth().render(root, sample_times(30.0, 6))
    assert (part.pixels == whole.pixels[2:]).all() and part.duration == 30.0


# --- cameras --------------------------------------------------------------------------------------


def test_intrinsics_of_another_size_are_scaled_and_said(tmp_path):
    root = write_maps(tmp_path / "scan", size=(48, 64))
    np.savetxt(root / "intrinsic_depth.txt", [[525, 0, 319.5], [0, 525, 239.5], [0, 0, 1]])
    clip = open_depth(root)
    assert clip.intrinsics == pytest.approx(np.array([[52.5, 0, 31.5], [0, 52.5, 23.5], [0, 0, 1]]))
    assert any("640x480: scaled to the maps' 64x48" in note for note in clip.notes)
    normals = Depth(DepthRendering(show="normals")).render(root, sample_times(1.0, 1))
    assert any("640x480" in note for note in normals.notes)
    camera = [[100, 0, 40], [0, 100, 30], [0, 0, 1]]
    sized = open_depth(write_json(root, intrinsics=camera, size=[128, 96]))
    assert sized.intrinsics == pytest.approx(np.array([[50, 0, 19.75], [0, 50, 14.75], [0, 0, 1]]))
    own = open_depth(write_json(root, intrinsics=camera, size=[64, 48]))
    assert own.intrinsics.tolist() == camera and not any("scaled" in note for note in own.notes)


@pytest.mark.parametrize("center", [(31.5, 23.5), (29.0, 26.0), (36.5, 20.0)])
def test_a_principal_point_near_the_middle_is_left_alone(center):
    camera = np.array([[50, 0, center[0]], [0, 60, center[1]], [0, 0, 1]])
    fitted, notes = fit_intrinsics(camera, None, (48, 64))
    assert fitted is camera and notes == ()


def test_poses_without_maps_are_said(tmp_path):
    root = write_maps(tmp_path / "scan")
    (root / "pose").mkdir()
    for name in ("0", "1", "7", "8"):
        np.savetxt(root / "pose" / f"{name}.txt", np.eye(4))
    notes = open_depth(root).notes
    assert any("1 of 3 camera poses are missing" in note for note in notes)
    assert any("2 camera poses have no depth map" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "least", "message"),
    [("times.txt", 5 * 2**20, r"at most 4 MB \(LYNX_MAX_TIMES_BYTES\)"),
     ("intrinsic_depth.txt", 70_000, "at most 64 kB"), ("pose/1.txt", 70_000, "at most 64 kB")],
)  # fmt: skip
def test_texts_beside_maps_have_limits(tmp_path, name, least, message):
    root = write_maps(tmp_path / "scan")
    (root / "pose").mkdir()
    (root / name).write_text("1 0 0 0\n" * (least // 8))
    with pytest.raises(MediaError, match=f"{Path(name).name}.*{message}"):
        open_depth(root)


# --- one map --------------------------------------------------------------------------------------


def test_one_map_is_shown_at_all_moments(tmp_path):
    root = write_maps(tmp_path / "scan", ("frame",))
    np.savetxt(root / "intrinsic_depth.txt", [[50, 0, 3.5], [0, 50, 2.5], [0, 0, 1]])
    shutil.copy(root / "depth" / "frame.png", tmp_path / "alone.png")
    np.save(tmp_path / "one.npy", np.full((6, 8), 5000, np.uint16))
    for source in (tmp_path / "alone.png", root, root / "depth" / "frame.png", tmp_path / "one.npy"):
        frames = Depth().render(source, sample_times(8.0, 4))
        assert len(frames) == 4 and (frames.pixels == frames.pixels[:1]).all()
        assert "shown at all moments" in frames.notes[0] and not any("moments lie" in n for n in frames.notes)
    assert open_depth(root / "depth" / "frame.png").intrinsics[0, 0] == 50


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases here")
def test_the_single_map_of_the_cases():
    depth = open_depth(CASES / "single_mm.png").measure([0, 0])
    assert depth.shape == (2, 48, 64) and (depth.min(), depth.max()) == (1.0, pytest.approx(1.984))
    assert ".png" in Depth.suffixes


@pytest.mark.parametrize(
    ("picture", "message"),
    [(np.zeros((6, 8), np.uint8), "picture of 8 bits .*no unit"), (np.zeros((6, 8, 3), np.uint8), "24 bits")],
)
def test_pictures_that_are_no_depth_are_refused_with_the_reason(tmp_path, picture, message):
    Image.fromarray(picture).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match=message):
        open_depth(tmp_path / "a.png")


def test_maps_of_different_sizes_are_named(tmp_path):
    root = write_maps(tmp_path / "scan")
    Image.fromarray(np.ones((3, 4), np.uint16)).save(root / "depth" / "1.png")
    with pytest.raises(MediaError, match="'0.png' of 8x6, '1.png' of 4x3"):
        open_depth(root).measure([0, 1])


def test_the_key_changes_with_every_file_that_is_read(tmp_path):
    root = write_maps(tmp_path / "scan")
    np.save(tmp_path / "stack.npy", np.full((3, 6, 8), 5000, np.uint16))
    shutil.copy(root / "depth" / "0.png", tmp_path / "alone.png")
    (tmp_path / "mesh.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 1\nf 1 2 3\n")
    camera = "50 0 3.5\n0 50 2.5\n0 0 1\n"
    read = {
        root: ("depth.json", "times.txt", "intrinsic_depth.txt", "pose/1.txt", "groundtruth.txt"),
        tmp_path / "stack.npy": ("depth.json", "times.txt", "intrinsic_depth.txt"),
        tmp_path / "alone.png": ("depth.json", "intrinsic_depth.txt", "pose/alone.txt"),
        tmp_path / "mesh.obj": ("depth.json",),
    }
    pose = "1 0 0 0\n0 1 0 0\n0 0 1 {}\n0 0 0 1\n"
    texts = {"depth.json": '{{"unit": 0.{}}}', "times.txt": "0 1 {}\n", "groundtruth.txt": "# {}\n"}
    for source, names in read.items():
        folder = source if source.is_dir() else source.parent
        for name in names:
            keys = {media_key({"depth": source})}
            for number in (2, 3):
                (folder / name).parent.mkdir(exist_ok=True)
                text = texts.get(name, pose if name.startswith("pose") else camera + "# {}\n").format(number)
                (folder / name).write_text(text)
                open_depth(source).measure([0])
                keys.add(media_key({"depth": source}))
            assert len(keys) == 3 and folder / name in depth_files(source), (source, name)
            (folder / name).unlink()
        assert media_key({"depth": source}) != media_key({"depth": Recording(source, unit=0.5)})


# --- kinds of files -------------------------------------------------------------------------------


def write_exr(path, channels, packing):
    """channels: (H, W) arrays by name, of float32 or float16, in scan lines of one part."""
    height, width = next(iter(channels.values())).shape
    kinds = {name: 1 if values.dtype == np.float16 else 2 for name, values in channels.items()}
    listed = b"".join(
        name.encode() + b"\0" + struct.pack("<IIII", kinds[name], 0, 1, 1) for name in sorted(channels)
    )
    attributes = {
        ("channels", "chlist"): listed + b"\0",
        ("compression", "compression"): bytes([packing]),
        ("dataWindow", "box2i"): struct.pack("<4i", 5, 10, 4 + width, 9 + height),
    }
    head = struct.pack("<II", 20000630, 2)
    for (name, kind), value in attributes.items():
        head += f"{name}\0{kind}\0".encode() + struct.pack("<I", len(value)) + value
    head += b"\0"
    lines = 16 if packing == 3 else 1
    blocks = []
    for first in range(0, height, lines):
        rows = range(first, min(first + lines, height))
        plain = b"".join(channels[name][row].tobytes() for row in rows for name in sorted(channels))
        if packing:  # even bytes, odd bytes, then differences
            mixed = np.frombuffer(plain[0::2] + plain[1::2], np.uint8).astype(int)
            steps = np.concatenate([mixed[:1], (np.diff(mixed) + 128) % 256]).astype(np.uint8).tobytes()
            packed = zlib.compress(steps) if packing > 1 else b"".join(b"\xff" + bytes([b]) for b in steps)
            plain = packed if packing == 1 or len(packed) < len(plain) else plain
        blocks.append(struct.pack("<iI", 10 + first, len(plain)) + plain)
    places = np.cumsum([len(head) + 8 * len(blocks), *map(len, blocks[:-1])]).astype("<u8").tobytes()
    path.write_bytes(head + places + b"".join(blocks))
    return path


@pytest.mark.parametrize("packing", [0, 1, 2, 3])
def test_exr_is_read(tmp_path, packing):
    smooth = np.linspace(1, 2, 40 * 30).reshape(40, 30).astype(np.float32)
    smooth[0, 0] = 1e10  # where a renderer's ray hits nothing
    expected = np.where(smooth > 1e9, 0, smooth)
    layered = {"A": smooth * 0, "ViewLayer.Depth.V": smooth}
    for channels in ({"Z": smooth}, layered, dict.fromkeys("BGR", smooth)):
        depth = open_depth(write_exr(tmp_path / "a.exr", channels, packing)).measure([0])[0]
        assert np.array_equal(depth, expected)
    half = VALUES.astype(np.float16)
    depth = open_depth(write_exr(tmp_path / "h.exr", {"Y": half}, packing)).measure([0])[0]
    assert np.array_equal(depth, half.astype(np.float32))


def test_exr_that_is_not_read_is_refused_by_name(tmp_path):
    path = tmp_path / "a.exr"
    for channels, packing, message in (
        ({"Z": VALUES}, 4, "packed with PIZ"),
        ({"R": VALUES, "G": VALUES, "B": VALUES + 1}, 3, "picture in color"),
        ({"X": VALUES, "N": VALUES}, 3, "2 channels"),
    ):
        with pytest.raises(MediaError, match=message):
            open_depth(write_exr(path, channels, packing))
    data = write_exr(path, {"Z": VALUES}, 3).read_bytes()
    path.write_bytes(data[:4] + struct.pack("<I", 0x202) + data[8:])
    with pytest.raises(MediaError, match="has tiles"):
        open_depth(path)
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        with pytest.raises(MediaError, match="cannot be read as a EXR"):
            open_depth(path)


def test_float_maps_and_archives_are_read(tmp_path):
    flipped = np.flipud(VALUES)
    (tmp_path / "l.pfm").write_bytes(b"Pf\n9 7\n-1.0\n" + flipped.astype("<f4").tobytes())
    (tmp_path / "b.pfm").write_bytes(b"Pf\n9 7\n1.0\n" + flipped.astype(">f4").tobytes())
    Image.fromarray(VALUES).save(tmp_path / "f.tif")
    np.savez_compressed(tmp_path / "one.npz", any=VALUES[None])
    np.savez(tmp_path / "two.npz", depth=np.asfortranarray(VALUES), color=np.zeros(3))
    for name in ("l.pfm", "b.pfm", "f.tif", "one.npz", "two.npz"):
        clip = open_depth(tmp_path / name)
        assert np.array_equal(clip.measure([0])[0], VALUES) and clip.unit_from == "floats are meters"
    steps = (VALUES * 1000).astype(np.uint16)
    Image.fromarray(steps).save(tmp_path / "u.tiff")
    (tmp_path / "u.pgm").write_bytes(b"P5 # kinect\n9 7\n4095\n" + steps.astype(">u2").tobytes())
    for name in ("u.tiff", "u.pgm"):  # a .pgm's largest value is no scale
        assert np.allclose(open_depth(tmp_path / name).measure([0])[0], steps / 1000)
    (tmp_path / "many").mkdir()
    for index in range(3):
        shutil.copy(tmp_path / "l.pfm", tmp_path / "many" / f"{index}.pfm")
    assert np.array_equal(open_depth(tmp_path / "many").measure([2])[0], VALUES)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("a.las", "save it as .ply or .pcd"), ("a.e57", "CloudCompare"), ("a.fbx", "export it as .glb"),
     ("a.hgt", "numpy.save"), ("a.jpg", "16-bit .png")],
)  # fmt: skip
def test_other_kinds_are_refused_with_what_to_do(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MediaError, match=f"{advice}.*Depth is one map .*png.*npy.*ply"):
        open_depth(tmp_path / name)


def test_arrays_that_are_none(tmp_path):
    np.savez(tmp_path / "a.npz", a=VALUES, b=VALUES)
    np.savez(tmp_path / "b.npz", np.array([{}], dtype=object))
    np.savez_compressed(tmp_path / "c.npz", np.zeros((513, 2**20), np.uint8))
    (tmp_path / "d.npz").write_bytes(b"PK\3\4 no archive")
    for name, message in zip("abcd", ("2 arrays .a, b.", "cannot be", "513 MB", "cannot be"), strict=True):
        with pytest.raises(MediaError, match=message):
            open_depth(tmp_path / f"{name}.npz")
    np.save(tmp_path / "s.npy", np.zeros(3, [("x", "f4")]).reshape(1, 1, 3))
    with pytest.raises(MediaError, match="16-bit integers or floats"):
        open_depth(tmp_path / "s.npy")


def test_large_maps_are_refused_or_drawn_one_at_a_time(tmp_path):
    for shape, name in (((2, 5000, 5000), "large"), ((3, 4096, 4096), "fits")):
        stack = np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.uint16, shape)
        stack[:, :64, :64] = 1000
        del stack
    with pytest.raises(MediaError, match="5000 x 5000 pixels: .*up to 16,777,216 pixels"):
        open_depth(tmp_path / "large.npy")
    clip, asked = open_depth(tmp_path / "fits.npy"), []
    measured = clip.measure

    def measure(indices):
        asked.append(len(indices))
        return measured(indices)

    object.__setattr__(clip, "measure", measure)
    frames = Depth(DepthRendering(max_side=64)).render(clip, sample_times(3.0, 3))
    assert asked == [1, 1, 1] and frames.pixels.shape == (3, 3, 64, 64)


def test_values_that_are_no_distances_are_holes_and_said(tmp_path):
    values = np.full((1, 4, 5), 2.0, np.float32)
    values[0, 0] = [np.nan, np.inf, -np.inf, -1, 0]
    np.save(tmp_path / "d.npy", values)
    clip = open_depth(tmp_path / "d.npy")
    assert (clip.measure([0])[0, 0] == 0).all() and any("NaN, infinite, negative" in n for n in clip.notes)
    np.save(tmp_path / "d.npy", np.zeros((1, 4, 5), np.float32))
    with pytest.raises(MediaError, match="None of the depth maps holds a measurement"):
        Depth().render(tmp_path / "d.npy", sample_times(1.0, 1))


def test_axes_by_name():
    assert [parse_up(name) for name in ("y", "-Z", "+x")] == ["y", "-z", "x"]
    with pytest.raises(MediaError, match="expected one of x"):
        parse_up("w")
