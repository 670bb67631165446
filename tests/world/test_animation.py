"""A clip drawn at once is the picture that `draw_frames` draws, flashes and edges of the frame included."""

import numpy as np
import pytest

from lynx.world.scene.animation import draw_clip
from lynx.world.scene.picture import draw_frames
from lynx.world.scene.scene import DURATION, FPS, Scene, draw_scene

SCENES = [draw_scene("validation", 5, index) for index in range(12)]
FLASHING = next(scene for scene in SCENES if scene.flashes)


@pytest.mark.parametrize("scene", [SCENES[0], FLASHING])
@pytest.mark.parametrize("size", [96, 160])
def test_same_picture_as_draw_frames(scene: Scene, size: int) -> None:
    fast = draw_clip(scene, size)
    slow = draw_frames(scene, np.arange(len(fast)), size)
    assert fast.shape == (round(DURATION * FPS), size, size, 3) and fast.dtype == np.uint8
    difference = np.abs(fast.astype(int) - slow.astype(int))
    assert difference.max() <= 12  # an edge off by a sixteenth of a pixel
    assert difference.mean() < 0.2


def test_flash_is_drawn() -> None:
    clip = draw_clip(FLASHING, 64).astype(int)
    frame = FLASHING.flashes[0]
    assert np.abs(clip[frame] - clip[frame - 1]).max() > 80
