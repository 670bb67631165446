"""Rendered files are what they say: playable, measured in millimeters, with right answers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx.errors import DataError
from lynx.media.audio import read_audio
from lynx.media.container import probe
from lynx.media.video import read_frames
from lynx.types import sample_times
from lynx.world.dataset import QUESTIONS, RENDERER
from lynx.world.files import caption, render, stream_clips
from lynx.world.questions.asking import ask
from lynx.world.questions.types import QUESTION_TYPES
from lynx.world.scene.picture import draw_frames
from lynx.world.scene.scene import DURATION, draw_scene, scene_rng
from lynx.world.scene.sound import render_sound
from lynx.world.scene.views import draw_depth

SIZE = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(7, tmp_path_factory.mktemp("world") / "clip", size=SIZE, per_type=2)


def test_clip_is_h264_with_aac(folder: Path) -> None:
    info = probe(folder / "clip.mp4")
    assert info.video is not None and (info.video.codec, info.video.fps) == ("h264", 24)
    assert (info.video.width, info.video.height) == (SIZE, SIZE)
    assert [track.codec for track in info.audio] == ["aac"]
    assert info.duration == pytest.approx(DURATION, abs=0.1)
    assert probe(folder / "second_view.mp4").video is not None


def test_clip_shows_and_sounds_as_the_scene(folder: Path) -> None:
    scene = draw_scene("test", 7, 0)
    read = read_frames(folder / "clip.mp4", sample_times(DURATION, 8)).pixels.permute(0, 2, 3, 1).numpy()
    drawn = draw_frames(scene, [6, 18, 30, 42, 54, 66, 78, 90], SIZE)
    assert np.abs(read.astype(int) - drawn).mean() < 3
    heard, made = read_audio(folder / "clip.mp4", 16000).samples.numpy(), render_sound(scene)
    lag = np.argmax(np.correlate(np.abs(heard[: len(made)]), np.abs(made[800:-800]), "valid")) - 800
    assert abs(lag) < 80  # within 5 ms


def test_depth_is_in_millimeters(folder: Path) -> None:
    maps = sorted((folder / "depth").glob("*.png"))
    assert [path.stem for path in maps[:2]] == ["0000", "0006"] and len(maps) == 16
    with Image.open(maps[3]) as image:
        measured = np.asarray(image)
    assert measured.dtype == np.uint16
    assert np.abs(measured / 1000 - draw_depth(draw_scene("test", 7, 0), [18], SIZE)[0]).max() < 0.001
    assert np.loadtxt(folder / "intrinsic_depth.txt").shape == (4, 4)
    assert np.loadtxt(folder / "pose" / "0018.txt").shape == (4, 4)


def test_questions_say_what_they_need(folder: Path) -> None:
    description = json.loads((folder / "qa.json").read_text())
    assert (description["split"], description["seed"], description["index"]) == ("test", 7, 0)
    assert all((folder / name).exists() for name in description["media"].values())
    assert len(description["questions"]) > 12
    for question in description["questions"]:
        kind = QUESTION_TYPES[question["type"]]
        assert tuple(question["senses"]) == kind.senses
        assert not kind.answers or question["answer"] in kind.answers


def test_a_caption_says_what_is_heard(folder: Path) -> None:
    scene = draw_scene("test", 7, 0)
    kinds = [burst[0].kind for burst in scene.bursts]
    assert json.loads((folder / "qa.json").read_text())["caption"] == "hear it: a " + ", then a ".join(kinds)
    assert caption(replace(scene, sounds=())) == "hear it: silence"


def test_examples_of_the_checkout_are_what_their_commands_write(root: Path) -> None:
    found = sorted((root / "examples").glob("*/qa.json"))
    examples = [path for path in found if "seed" in json.loads(path.read_text())]
    assert len(examples) >= 4
    commands = (root / "examples" / "README.md").read_text()
    for path in examples:
        description = json.loads(path.read_text())
        scene = draw_scene(description["split"], description["seed"], description["index"])
        turns = ask(scene, scene_rng(scene.key, QUESTIONS))
        assert description["caption"] == caption(scene)
        assert [(q["question"], q["answer"]) for q in description["questions"]] == [
            (turn.question, turn.answer) for turn in turns
        ]
        assert f"--seed {description['seed']} --out examples/{path.parent.name}`" in commands
        shown = read_frames(path.parent / "clip.mp4", [2.0]).pixels[0].permute(1, 2, 0).numpy()
        assert np.abs(shown.astype(int) - draw_frames(scene, [48], shown.shape[0])[0]).mean() < 3


def test_clips_are_kept_and_only_missing_ones_made(tmp_path: Path) -> None:
    first = dict(stream_clips("validation", 1, [4, 2], tmp_path, size=64))
    assert list(first) == [2, 4]
    stamps = {index: path.stat().st_mtime_ns for index, path in first.items()}
    again = dict(stream_clips("validation", 1, [2, 4], tmp_path, size=64))
    assert {index: path.stat().st_mtime_ns for index, path in again.items()} == stamps
    assert list(dict(stream_clips("validation", 1, [4, 3, 2], tmp_path, size=64))) == [2, 3, 4]
    assert f"world{RENDERER}" in str(first[2]) and not list(tmp_path.rglob("half-*"))
    assert probe(first[4]).audio


@pytest.mark.parametrize(("split", "seed"), [("exam", 0), ("test", -1)])
def test_what_does_not_exist_is_said(split: str, seed: int, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        render(seed, tmp_path, split=split)
