"""Meshes, point clouds and TIFF are read in a worker, as they would be here; nothing else starts one."""

import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from lynx.errors import MediaError
from lynx.media.depth import open_depth
from lynx.media.maps import read_map
from lynx.media.writer import write_video

pytest.importorskip("resource")
SLOPE = (1000 + 10 * np.indices((24, 32)).sum(0)).astype(np.uint16)


def room(folder, unit="mm"):
    """A box of 2 m, in millimeters, and two cameras in it."""
    (folder / "pose").mkdir(parents=True)
    trimesh.creation.box((2000, 2000, 2000)).export(folder / "room.ply")
    for number in range(2):
        np.savetxt(folder / "pose" / f"{number}.txt", np.eye(4))
    (folder / "depth.json").write_text(json.dumps({"unit": unit}))
    return folder


def ball(path):
    trimesh.creation.icosphere(2).export(path)
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(ball, "ball.ply"), (ball, "ball.glb"), (ball, "ball.stl"), (room, "room")],
)
def test_a_mesh_is_seen_in_a_worker_and_as_it_would_be_here(tmp_path, monkeypatch, calls, write, name):
    path = write(tmp_path / name)
    apart = open_depth(path, size=64)
    maps = apart.measure(range(apart.count))
    file = path / "room.ply" if path.is_dir() else path
    assert calls == 2 * [repr(file.name)] and (maps > 0).any()
    monkeypatch.setattr("lynx.media.worker.separate", lambda: False)
    here = open_depth(path, size=64)
    assert np.array_equal(here.measure(range(here.count)), maps) and len(calls) == 2
    assert np.array_equal(here.poses, apart.poses) and np.array_equal(here.intrinsics, apart.intrinsics)
    kept = ("count", "notes", "unit", "unit_from", "up", "orbit", "background", "size", "times", "duration")
    assert [getattr(here, field) for field in kept] == [getattr(apart, field) for field in kept]


def test_what_lies_beside_a_mesh_may_change(tmp_path):
    folder = room(tmp_path / "room")
    first = open_depth(folder, size=16)
    assert np.median(first.measure([0])) == pytest.approx(1.0)
    (folder / "depth.json").write_text(json.dumps({"unit": "m"}))
    assert np.median(open_depth(folder, size=16).measure([0])) == pytest.approx(1000.0)
    turned = np.eye(4)
    turned[2, 3] = 500
    np.savetxt(folder / "pose" / "0.txt", turned)
    assert np.median(open_depth(folder, size=16).measure([0])) == pytest.approx(500.0)


@pytest.mark.parametrize("packing", ["raw", "tiff_lzw"])
def test_tiff_is_read_in_a_worker(tmp_path, calls, packing):
    path = tmp_path / "a.tif"
    Image.fromarray(SLOPE).save(path, compression=packing)
    assert np.array_equal(read_map(path), SLOPE) and calls == ["'a.tif'"]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MediaError, match="'a.tif' cannot be read as a TIF: it is damaged"):
        read_map(path)


def test_other_depth_starts_no_worker(tmp_path, calls):
    Image.fromarray(SLOPE).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", SLOPE)
    np.savez(tmp_path / "a.npz", depth=SLOPE)
    write_video(tmp_path / "a.mp4", torch.full((4, 3, 16, 16), 90, dtype=torch.uint8), 4)
    for name in ("a.png", "a.npy", "a.npz", "a.mp4"):
        assert open_depth(tmp_path / name).measure([0]).any()
    assert calls == []
