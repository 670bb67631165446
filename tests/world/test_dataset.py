"""The world as a data set: lazy, reproducible, each split its own."""

import numpy as np
import pytest
import torch

from lynx.errors import DataError
from lynx.types import Frames, Waveform, sample_times
from lynx.world.dataset import RENDERER, WorldDataset
from lynx.world.scene.picture import draw_frames
from lynx.world.scene.scene import DURATION, draw_scene


def test_an_example_holds_its_scenes_media_and_questions() -> None:
    example = WorldDataset("train", 5, 10, frames=8, size=64)[3]
    scene = draw_scene("train", 5, 3)
    video, audio = example.media["video"], example.media["audio"]
    assert isinstance(video, Frames) and isinstance(audio, Waveform)
    assert torch.equal(video.times, sample_times(DURATION, 8))
    drawn = draw_frames(scene, [6, 18, 30, 42, 54, 66, 78, 90], 64)
    assert np.array_equal(video.pixels.permute(0, 2, 3, 1).numpy(), drawn)
    assert audio.duration == DURATION
    assert {turn.type for turn in example.turns} >= {"color", "count", "heard"}
    assert example.turns == WorldDataset("train", 5, 10)[3].turns


def test_media_are_drawn_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        "lynx.world.dataset.RENDERERS", {"video": lambda *_: drawn.append("video"), "audio": None}
    )
    example = WorldDataset("train", 0, 5)[0]
    assert drawn == [] and set(example.media) == {"video", "audio"}
    example.media["video"]
    assert drawn == ["video"]


def test_senses_and_types_limit_the_questions() -> None:
    silent = WorldDataset("train", 0, 20, senses=("video",))
    assert {sense for example in silent for turn in example.turns for sense in turn.senses} == {"video"}
    with pytest.raises(KeyError):
        silent[0].media["audio"]
    heard = WorldDataset("train", 0, 20, types=("heard",), per_type=2)
    assert [len(example.turns) for example in heard] == [2] * 20


def test_a_focus_gives_every_clip_a_question_of_its_type_in_turn() -> None:
    kinds = ("sound_at_side", "loudness")
    clips = WorldDataset("train", 0, 12, per_type=3, focus=kinds)
    for index, example in enumerate(clips):
        assert kinds[index % 2] in {turn.type for turn in example.turns}
    assert len({example.key for example in clips}) == 12  # no clip twice
    usual = WorldDataset("train", 0, 12)
    assert sum(any(t.type == "sound_at_side" for t in e.turns) for e in usual) < 4


def test_keys_tell_apart_splits_seeds_and_sizes() -> None:
    sets = [WorldDataset(s, seed, 3, size=z) for s in ("train", "test") for seed in (0, 1) for z in (64, 128)]
    keys = [example.key for one in sets for example in one]
    assert len(set(keys)) == len(keys)


def test_it_is_a_sequence() -> None:
    clips = WorldDataset("validation", 1, 4)
    assert len(clips) == 4 and [e.id for e in clips[1:3]] == [clips[1].id, clips[2].id]
    assert clips[-1].id == clips[3].id
    with pytest.raises(IndexError):
        clips[4]


@pytest.mark.parametrize(
    "wrong",
    [{"split": "exam"}, {"seed": -1}, {"senses": ("smell",)}, {"types": ("riddle",)}, {"focus": ("riddle",)}],
)
def test_what_does_not_exist_is_said(wrong: dict) -> None:
    with pytest.raises(DataError):
        WorldDataset(**{"split": "train", "seed": 0, "n": 1} | wrong)


def test_whoever_changes_what_the_world_looks_or_sounds_like_counts_the_renderer_up() -> None:
    media = WorldDataset("train", 0, 2, ("video", "audio", "high_fps", "multi_view"), 2, 32)[1].media
    video, audio, fast, second = media.values()
    assert isinstance(video, Frames) and isinstance(audio, Waveform)
    assert isinstance(fast, Frames) and isinstance(second, Frames)
    colors = video.pixels.float().mean(dim=(0, 2, 3)).tolist()
    peaks = audio.samples.reshape(8, -1).abs().amax(dim=1).tolist()
    flash = fast.pixels[media.scene.flashes[0]].float().mean(dim=(1, 2)).tolist()
    assert RENDERER == 4
    assert flash == pytest.approx([76.5, 116.3, 92.2], abs=0.2)
    assert second.pixels.float().mean(dim=(0, 2, 3)).tolist() == pytest.approx([99.9, 90.0, 107.7], abs=0.2)
    assert colors == pytest.approx([83.3, 100.3, 94.5], abs=0.2)
    assert peaks == pytest.approx([0, 0, 0, 0.578, 0.577, 0, 0, 0], abs=0.006)
