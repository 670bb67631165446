"""Depth and the second view show what the first camera does not, and the first camera shows none of it."""

from dataclasses import replace

import numpy as np
import pytest

from lynx.world.scene.picture import draw_frames
from lynx.world.scene.scene import COLORS, DISTANCES, Scene, draw_scene
from lynx.world.scene.views import BULGE, SHELF, SQUEEZE, WALL, draw_depth, draw_second_view, intrinsics

SCENES = [draw_scene("validation", 11, index) for index in range(20)]
SIZE = 200


def pixel(x: float, y: float) -> tuple[int, int]:
    return round(y * SIZE - 0.5), round(x * SIZE - 0.5)


@pytest.mark.parametrize("scene", SCENES[:8])
def test_depth_of_a_shape_is_its_distance(scene: Scene) -> None:
    depth = draw_depth(scene, [0, 95], SIZE)
    assert depth.shape == (2, SIZE, SIZE) and depth.dtype == np.float32
    for number, frame in enumerate((0, 95)):
        for item in scene.items:
            measured = depth[number][pixel(*item.position(frame / 24))]
            assert item.depth - BULGE <= measured <= item.depth
    assert depth[:, 0, 0].min() > DISTANCES["far"][1] + 0.5  # the wall is behind everything
    assert depth.max() < WALL + 1


@pytest.mark.parametrize("scene", SCENES[:8])
def test_second_view_is_mirrored_and_shows_the_backs(scene: Scene) -> None:
    picture = draw_second_view(scene, [0], SIZE)[0].astype(int)
    for item in scene.items:
        x, y = 1 - item.start[0], 1 - SQUEEZE * (1 - item.start[1])
        assert np.abs(picture[pixel(x, y)] - COLORS[item.back]).max() <= 1
    assert np.abs(picture[pixel(0.5, SHELF / 2)] - COLORS[scene.hidden.color]).max() <= 1


def test_no_shape_ever_covers_the_hidden_one() -> None:
    frames = np.arange(0, 96, 8)
    for scene in SCENES:
        shelf = draw_second_view(scene, frames, SIZE)[:, : round((SHELF - 0.02) * SIZE)].astype(int)
        assert np.abs(shelf - shelf[:1]).max() <= 30  # the softest edge of a shadow at most


def test_first_camera_sees_neither_backs_nor_depth_nor_the_hidden_shape() -> None:
    scene = SCENES[0]
    other = replace(
        scene,
        hidden=SCENES[1].hidden,
        items=tuple(replace(item, back="green", depth=item.depth / 2) for item in scene.items),
    )
    assert np.array_equal(draw_frames(scene, [0, 50], 96), draw_frames(other, [0, 50], 96))


def test_intrinsics_center_the_frame() -> None:
    matrix = intrinsics(480)
    assert matrix.shape == (4, 4) and matrix[0, 2] == matrix[1, 2] == 239.5
