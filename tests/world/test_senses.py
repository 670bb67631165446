"""The world's other senses: the same in memory and from files, and legible where the model sees them."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lynx.datasets.base import Example
from lynx.datasets.clips import content_key, render_clip
from lynx.modalities import get
from lynx.types import sample_times
from lynx.world.dataset import WorldDataset
from lynx.world.files import render, sense_path, stream_clips
from lynx.world.scene.scene import DURATION, FPS, draw_scene
from lynx.world.scene.views import draw_second_clip, draw_second_view

SENSES = ("depth", "high_fps", "multi_view")
SIZE = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return render(3, tmp_path_factory.mktemp("world") / "clip", split="train", size=SIZE)


@pytest.mark.parametrize("sense", SENSES)
def test_files_are_read_back_as_what_was_drawn_in_memory(folder, sense):
    media = json.loads((folder / "qa.json").read_text())["media"]
    modality, times = get(sense)(), sample_times(DURATION, 8)
    drawn = WorldDataset("train", 3, 1, (sense,), 8, SIZE)[0].media[sense]
    read, memory = modality.render(folder / media[sense], times), modality.render(drawn, times)
    assert read.pixels.shape == memory.pixels.shape == (8, 3, SIZE, SIZE)
    limit = {"depth": 0.3, "high_fps": 4.0, "multi_view": 4.0}[sense]  # millimeters, and H.264
    assert (read.pixels.float() - memory.pixels.float()).abs().mean() < limit
    assert torch.equal(read.times, memory.times) and read.notes == memory.notes == ()
    assert modality.duration(folder / media[sense]) == pytest.approx(DURATION, abs=0.05)


def small(pixels):
    """As the embedded backbone sees them: (T, 3, 64, 64)."""
    return F.interpolate(pixels, (64, 64), mode="bicubic", align_corners=False, antialias=True)


def test_near_and_far_have_colors_of_their_own_at_64_pixels():
    """What a shape's middle looks like tells its distance, whatever else is in the clip."""
    colors = {"near": [], "far": []}
    for index in range(30):
        scene = draw_scene("train", 1, index)
        depth = WorldDataset("train", 1, 30, ("depth",), 8, 128)[index].media["depth"]
        pictures = small(get("depth")().render(depth, sample_times(DURATION, 8)).pixels).float()
        for item in scene.items:
            x, y = (int(v * 64) for v in item.position(0.25))
            colors[item.distance].append(pictures[0, :, y, x])
    near, far = (torch.stack(colors[name]) for name in ("near", "far"))
    assert len(near) > 15 and len(far) > 15
    assert torch.cdist(near, far).min() > 60
    assert (near[:, 1] > near[:, 2]).all() and (far[:, 2] > far[:, 1]).all()  # green or warmer; blue


def test_a_shape_stands_out_from_the_wall_behind_it():
    for index in range(20):
        scene = draw_scene("train", 1, index)
        depth = WorldDataset("train", 1, 20, ("depth",), 8, 128)[index].media["depth"]
        picture = small(get("depth")().render(depth, sample_times(DURATION, 8)).pixels)[0].float()
        for item in scene.items:
            x, y = (int(v * 64) for v in item.position(0.25))
            corner = min((picture[:, y, x] - picture[:, r, c]).norm() for r in (0, 63) for c in (0, 63))
            assert corner > 25


def test_every_flash_is_in_the_fast_pictures_and_none_in_the_video():
    fast, seen = get("high_fps")(), 0
    for index in range(12):
        scene = draw_scene("train", 2, index)
        media = WorldDataset("train", 2, 12, ("video", "high_fps"), 8, 128)[index].media
        moments = torch.from_numpy(np.array(scene.flashes, dtype=float)) / FPS
        assert not any(abs(t - m) < 2 / FPS - 1e-6 and t >= m for t in media["video"].times for m in moments)
        plain = draw_scene("train", 2, index)
        object.__setattr__(plain, "flashes", ())
        lit = fast.render(media["high_fps"], sample_times(DURATION, 8)).pixels.int()
        dark_media = WorldDataset("train", 2, 12, ("high_fps",), 8, 128)[index].media
        object.__setattr__(dark_media, "scene", plain)
        dark = fast.render(dark_media["high_fps"], sample_times(DURATION, 8)).pixels.int()
        change = (lit - dark).abs().amax(1).unflatten(1, (2, 64)).unflatten(3, (2, 64)).amax((2, 4))
        assert int((change > 60).sum()) == len(scene.flashes)
        seen += len(scene.flashes)
    assert seen > 8


def test_the_second_clip_is_the_second_view():
    scene = draw_scene("train", 4, 1)
    drawn, clip = (
        draw_second_view(scene, np.arange(96), 96).astype(int),
        draw_second_clip(scene, 96).astype(int),
    )
    assert clip.shape == (96, 96, 96, 3) and np.abs(drawn - clip).mean() < 0.2


def test_all_senses_of_a_clip_are_rendered_at_its_moments():
    example = WorldDataset("train", 0, 2, ("video", *SENSES))[1]
    clips = render_clip({sense: get(sense)() for sense in ("video", *SENSES)}, example, 8)
    assert {sense: len(frames) for sense, frames in clips.items()} == dict.fromkeys(("video", *SENSES), 8)
    assert {turn.type for turn in example.turns} >= {"distance", "flashes", "back", "hidden_shape"}


def test_kept_clips_have_what_their_senses_read(tmp_path):
    plain = dict(stream_clips("validation", 1, [2], tmp_path, size=64))[2]
    stamp = plain.stat().st_mtime_ns
    assert not sense_path(plain, "depth").exists() and sense_path(plain, "audio") == plain
    ((index, clip),) = stream_clips("validation", 1, [2], tmp_path, size=64, senses=("depth", "multi_view"))
    assert (index, clip) == (2, plain) and clip.stat().st_mtime_ns == stamp  # only what was missing is made
    times = sample_times(DURATION, 8)
    for sense in SENSES:
        assert len(get(sense)().render(sense_path(clip, sense), times)) == 8
    assert not list(tmp_path.rglob("half-*"))


def test_the_content_of_a_folder_of_maps_is_told_by_its_bytes(folder):
    keys = [content_key(Example("a", {"depth": folder / "depth"}))]
    keys.append(content_key(Example("a", {"depth": folder})))
    keys += [
        content_key(Example("a", {"multi_view": {"a": folder / name}}))
        for name in ("clip.mp4", "second_view.mp4")
    ]
    for index in (0, 1):
        media = WorldDataset("train", 3, 2, ("depth",), 2, 32)[index].media
        keys += [content_key(Example("a", {"depth": media["depth"]}))] * 2
    assert len(set(keys)) == 6
