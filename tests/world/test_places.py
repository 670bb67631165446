from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from lynx.modalities.high_fps import HighFps
from lynx.types import sample_times
from lynx.world.dataset import RENDERERS, frame_numbers
from lynx.world.places import ABSENT, PATCHES, SHOWS, Clip, has_places, places
from lynx.world.questions.asking import ask_instances
from lynx.world.questions.types import QUESTION_TYPES
from lynx.world.scene.scene import DURATION, SOUND_LENGTH, Scene, draw_scene
from lynx.world.scene.sound import SAMPLE_RATE, render_sound
from lynx.world.scene.views import draw_depth

SIZE = 128


def drawn(scene: Scene, sense: str) -> np.ndarray:
    """What a sense shows of a scene: (8, H, W, channels) float."""
    if sense == "depth":
        return draw_depth(scene, frame_numbers(8), SIZE)[..., None].astype(float)
    source = RENDERERS[sense](scene, 8, SIZE)
    frames = HighFps().render(source, sample_times(DURATION, 8)) if sense == "high_fps" else source
    return frames.pixels.permute(0, 2, 3, 1).numpy().astype(float)


def changed(one: Scene, other: Scene, sense: str, least: float) -> np.ndarray:
    """Points of a sense that differ between two scenes: (8, H, W) bool."""
    return np.abs(drawn(one, sense) - drawn(other, sense)).max(-1) > least


def in_patches(points: np.ndarray) -> np.ndarray:
    """Largest share of the patches of each cell that these points cover: (8, 4, 4)."""
    side = SIZE // 4 // PATCHES
    shares = points.reshape(8, 4, PATCHES, side, 4, PATCHES, side).mean((3, 6))
    return shares.max((2, 4))


def check_truth(truth: np.ndarray, points: np.ndarray) -> None:
    """Cells with clearly more than an eighth of a patch are true, those with clearly less are not.

    Rims and shadows are a pixel or two wider than the shape itself.
    """
    share = in_patches(points)
    assert truth[share > SHOWS + 0.15].all()
    assert not truth[share < SHOWS - 0.08].any()
    assert truth.any() and not truth.all()


@pytest.mark.parametrize("index", range(12))
@pytest.mark.parametrize(("sense", "least"), [("video", 60), ("depth", 0.1), ("multi_view", 60)])
def test_a_shapes_cells_are_those_that_change_when_it_is_removed(index, sense, least):
    scene = draw_scene("test", 3, index)
    item = scene.items[0]
    without = replace(scene, items=scene.items[1:], flashes=())
    truth = Clip(scene).shapes(sense, lambda other: other is item)
    check_truth(truth, changed(scene, without, sense, least))


def test_the_hidden_shapes_cells_are_those_that_change_with_its_color():
    for index in range(6):
        scene = draw_scene("test", 3, index)
        color = "red" if scene.hidden.color != "red" else "blue"
        other = replace(scene, hidden=replace(scene.hidden, color=color))
        check_truth(Clip(scene).hidden(), changed(scene, other, "multi_view", 30))


def test_a_flashs_cells_are_those_that_change_without_it():
    seen = 0
    for index in range(20):
        scene = draw_scene("test", 3, index)
        if not scene.flashes:
            continue
        seen += 1
        clip, without = Clip(scene), replace(scene, flashes=())
        truth = clip.flashes()
        share = in_patches(changed(scene, without, "high_fps", 40))
        assert truth[share > 0.5].all()  # grown; its old place in the same frame does not change
        assert share[truth].min() > 0.02
        assert truth.any((1, 2)).sum() <= len(scene.flashes)
        moment, always = clip.flashes("moment"), clip.flashes("always")
        assert (truth <= moment).all() and (moment <= always).all()
        assert (moment.any((1, 2)) == truth.any((1, 2))).all() and always.any((1, 2)).all()
    assert seen > 5


def test_a_small_shape_between_four_patches_is_shown_in_a_mosaic():
    scene = draw_scene("test", 3, 0)
    item = replace(scene.items[0], shape="square", size="small", motion="still", start=(0.25, 0.25),
                   end=(0.25, 0.25))  # fmt: skip
    scene = replace(scene, items=(item,), flasher=0, flashes=())
    assert Clip(scene).shapes("high_fps", lambda other: True)[:, ::2, ::2].all()


def test_a_sounds_cells_are_the_times_in_which_it_is_heard():
    scene = next(s for s in (draw_scene("test", 3, i) for i in range(50)) if len(s.bursts) == 2)
    clip = Clip(scene)
    for burst in scene.bursts:
        truth = clip.sounds(burst)
        assert (truth == truth[:, :1]).all()  # all rows
        without = replace(scene, sounds=tuple(e for e in scene.sounds if e.kind != burst[0].kind))
        pieces = np.abs(render_sound(scene) - render_sound(without)).reshape(32, -1)
        heard = truth[:, 0].flatten()
        assert pieces[~heard].max() == 0 or (pieces[~heard] > 0).mean() < SHOWS
        (event,) = burst
        first, last = (int(t / DURATION * 32 + 1e-9) for t in (event.onset + 0.02, event.onset + 0.28))
        assert heard[first : last + 1].all()
        assert heard.sum() <= round(SOUND_LENGTH * SAMPLE_RATE / pieces.shape[1]) + 2
        assert (clip.heard_at(burst) == truth.any((1, 2))).all()


def test_every_question_but_descriptions_and_absences_has_its_places():
    found, missing = Counter(), set()
    for index in range(300):
        scene = draw_scene("test", 4, index)
        for kind in (kind for kind in QUESTION_TYPES.values() if found[kind.name] < 4):
            rng = np.random.default_rng(index)
            for asked in ask_instances(kind, scene, rng, 2):
                where = places(asked, Clip(scene))
                if kind.name == "caption" or asked.turn.answer in ABSENT.get(kind.name, ()):
                    assert not where and not has_places(asked)
                elif where:
                    found[kind.name] += 1
                    assert set(where) == set(kind.senses), kind.name
                    assert all(mask.shape == (8, 4, 4) and mask.any() for mask in where.values())
                else:
                    missing.add(kind.name)
    assert set(+found) == set(QUESTION_TYPES) - {"caption"}
    assert not missing


def test_where_a_shape_is_at_the_end_is_shown_while_it_is_there():
    scenes = (draw_scene("test", 4, index) for index in range(100))
    scene, item = next((s, i) for s in scenes for i in s.items if i.motion == "right")
    kind = QUESTION_TYPES["where"]
    for moment, side, half in (("start", "left", slice(4, 8)), ("end", "right", slice(0, 4))):
        asked = next(
            a for a in ask_instances(kind, scene, np.random.default_rng(0), 99)
            if a.slots["item"] is item and a.slots["moment"] == f"at the {moment}"
        )  # fmt: skip
        (mask,) = places(asked, Clip(scene)).values()
        assert asked.turn.answer == side and mask.any()
        assert not mask[half].any()


def test_other_grids_and_numbers_of_moments_show_the_same():
    scene = draw_scene("test", 3, 1)
    coarse = Clip(scene).shapes("video", lambda item: True)
    fine = Clip(scene, frames=8, grid=(8, 8)).shapes("video", lambda item: True)
    pooled = torch.nn.functional.max_pool2d(torch.from_numpy(fine).float(), 2).bool().numpy()
    assert (coarse <= pooled).all()
    assert Clip(scene, frames=4).sounds(scene.sounds).shape == (4, 4, 4)
