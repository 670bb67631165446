"""Scenes: reproducible, disjoint between splits, legible, and independent between the senses."""

from collections import Counter

import numpy as np
import pytest

from lynx.world.scene.picture import draw_frames, lit_frames
from lynx.world.scene.scene import DURATION, FAST_FRAMES, FPS, SPLITS, draw_scene, moment_of, side_of


def content(scene):
    return (scene.items, scene.background, scene.sounds, scene.flashes, scene.hidden)


def test_the_same_key_gives_the_same_scene_and_pixels():
    one, other = (draw_scene("train", 3, 14) for _ in range(2))
    assert one == other
    assert np.array_equal(draw_frames(one, [0, 50], 96), draw_frames(other, [0, 50], 96))


def test_splits_never_share_a_clip():
    drawn = {split: {content(draw_scene(split, 0, i)) for i in range(400)} for split in SPLITS}
    assert all(len(scenes) == 400 for scenes in drawn.values())
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]


def test_an_unknown_split_is_refused():
    with pytest.raises(KeyError):
        draw_scene("tests", 0, 0)


def test_shapes_keep_clear_of_each_other_and_are_told_apart():
    for index in range(200):
        items = draw_scene("train", 1, index).items
        assert len({item.shape for item in items}) == len({item.color for item in items}) == len(items)
        for time in np.linspace(0, DURATION, 9):
            for i, one in enumerate(items):
                for other in items[:i]:
                    gap = np.linalg.norm(one.position(time) - other.position(time))
                    assert gap > 0.85 * (one.radius + other.radius)


def test_shapes_stay_inside_the_frame():
    for index in range(200):
        for item in draw_scene("train", 2, index).items:
            path = item.position(np.linspace(0, DURATION, 5))
            assert path.min() > item.radius * 0.9 and path.max() < 1 - item.radius * 0.9


def test_flashes_hide_from_four_frames_a_second_and_show_at_eight():
    slow = {int(np.floor((i + 0.5) / 4 * FPS + 1e-6)) for i in range(int(DURATION * 4))}
    fast = {int(np.floor((i + 0.5) / 8 * FPS + 1e-6)) for i in range(int(DURATION * 8))}
    for index in range(100):
        scene = draw_scene("train", 4, index)
        assert not lit_frames(scene) & slow
        assert len(lit_frames(scene) & fast) == len(scene.flashes)
        assert all(frame % FAST_FRAMES == 1 for frame in scene.flashes)


def test_sound_does_not_depend_on_the_picture():
    """The sound's kind with the first shape's color, motion and shape: as independent as noise."""
    scenes = [draw_scene("train", 5, i) for i in range(3000)]
    scenes = [scene for scene in scenes if len(scene.bursts) == 1]
    for attribute in ("color", "motion", "shape"):
        pairs = Counter((getattr(s.items[0], attribute), s.sounds[0].kind) for s in scenes)
        left, right = Counter(p[0] for p in pairs.elements()), Counter(p[1] for p in pairs.elements())
        total = sum(pairs.values())
        chi2 = sum(
            (pairs[a, b] - left[a] * right[b] / total) ** 2 / (left[a] * right[b] / total)
            for a in left
            for b in right
        )
        freedom = (len(left) - 1) * (len(right) - 1)
        assert chi2 < freedom + 4 * np.sqrt(2 * freedom)


def test_names_of_thirds():
    thirds = [side_of(x) for x in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)]
    assert thirds == ["left"] * 2 + ["middle"] * 2 + ["right"] * 2
    thirds = [moment_of(t) for t in (0.0, 1.3, 1.4, 2.6, 2.7, 4.0)]
    assert thirds == ["start"] * 2 + ["middle"] * 2 + ["end"] * 2


def test_a_picture_shows_its_shapes_where_they_are_in_their_color():
    from lynx.world.scene.scene import COLORS

    for index in range(20):
        scene = draw_scene("test", 0, index)
        frames = draw_frames(scene, [0, 48], 320)
        for frame, time in zip(frames, (0, 2), strict=True):
            for number, item in enumerate(scene.items):
                lit = number == scene.flasher and time * FPS in lit_frames(scene)
                x, y = (item.position(time) * 320).astype(int)
                assert lit or np.abs(frame[y, x].astype(int) - COLORS[item.color]).max() <= 2
