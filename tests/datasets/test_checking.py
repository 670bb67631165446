"""Before the first step what is damaged, missing or lacks a track is listed, and left out if asked."""

import json
import logging
import shutil

import av
import numpy as np
import pytest
from stages import small_adapter, small_model

from lynx.cli.main import main
from lynx.datasets import checking
from lynx.datasets.base import Example
from lynx.datasets.checking import Check, Tolerance, find_damaged, usable
from lynx.datasets.clips import render_clip
from lynx.datasets.sources import open_data
from lynx.errors import DataError, MediaError
from lynx.modalities import get
from lynx.modalities.multi_view import View
from lynx.types import Moments, Recording
from lynx.world.files import write_clip
from lynx.world.scene.scene import draw_scene


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of the world with its sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(draw_scene("test", 0, 0), path, 64)
    return path


@pytest.fixture
def folder(clip, tmp_path):
    """Eight good clips; one of which the head alone was copied, one that is empty, one that is no clip."""
    place = tmp_path / "data"
    place.mkdir()
    for number in range(8):
        shutil.copy(clip, place / f"{number}.mp4")
    (place / "head.mp4").write_bytes(clip.read_bytes()[:3000])
    (place / "empty.mp4").touch()
    (place / "text.mp4").write_text("no clip" * 100)
    return place


def write_rows(folder, names, senses=("video", "audio")):
    turns = [{"question": "what do you hear ?", "answer": "a bell", "senses": ["audio"]}]
    rows = [{"media": dict.fromkeys(senses, name), "turns": turns} for name in names]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


GOOD = [f"{number}.mp4" for number in range(8)]


def test_everything_that_is_damaged_is_listed_at_once(folder, tmp_path):
    names = [*GOOD[:3], "head.mp4", "gone.mp4", *GOOD[3:], "empty.mp4", "head.mp4"]
    examples = open_data("jsonl", write_rows(folder, names), missing=True)
    with pytest.raises(DataError) as error:
        usable(examples, folder=tmp_path / "out", progress=False)
    said = str(error.value)
    assert said.startswith("3 of 11 recordings cannot be used: ")  # the clip that stands twice counts once
    for name, row, problem in [
        ("head.mp4", 4, "cut off"), ("gone.mp4", 5, "does not exist"), ("empty.mp4", 11, "empty"),
    ]:  # fmt: skip
        assert f"{folder / name} (example {row}): " in said and problem in said
    assert "--skip-damaged 3" in said
    listed = json.loads((tmp_path / "out" / "damaged.json").read_text())
    assert [(row["example"], row["files"]) for row in listed] == [
        ("4", [str(folder / "head.mp4")]),
        ("5", [str(folder / "gone.mp4")]),
        ("11", [str(folder / "empty.mp4")]),
    ]


def test_a_long_list_is_cut_in_the_message_and_whole_in_the_file(folder, tmp_path):
    examples = open_data("jsonl", write_rows(folder, [f"gone{i}.mp4" for i in range(30)]), missing=True)
    with pytest.raises(DataError, match=r"gone9.mp4.*; and 20 more \(all of them: .*damaged.json\)") as error:
        usable(examples, folder=tmp_path, progress=False)
    assert "gone10.mp4" not in str(error.value)
    assert len(json.loads((tmp_path / "damaged.json").read_text())) == 30
    shutil.copy(folder / "1.mp4", folder / "gone0.mp4")
    usable(examples[:1], folder=tmp_path, progress=False)
    assert not (tmp_path / "damaged.json").exists()  # it was repaired
    with pytest.raises(DataError, match="cannot be written to .*data/1.mp4/damaged.json"):
        usable(examples, folder=folder / "1.mp4", progress=False)


def test_as_many_as_are_allowed_are_left_out(folder, tmp_path, caplog):
    examples = open_data("jsonl", write_rows(folder, [*GOOD, "head.mp4", "text.mp4", "head.mp4"]))
    for allowed in ("20%", "0.2", "2"):
        with caplog.at_level(logging.WARNING, logger="lynx"):
            kept = usable(examples, None, Tolerance.of(allowed), tmp_path, progress=False)
        assert [example.id for example in kept] == [str(number) for number in range(1, 9)]
        assert "2 of 10 recordings cannot be used, 3 of 11 examples are left out: " in caplog.text
        assert len(json.loads((tmp_path / "skipped.json").read_text())) == 2
    assert not (tmp_path / "damaged.json").exists()
    for allowed in ("19.9%", "0.19", "1", "0"):
        with pytest.raises(DataError, match="2 of 10"):
            usable(examples, None, Tolerance.of(allowed), tmp_path, progress=False)
    with pytest.raises(DataError, match="no example is left"):
        usable(examples[8:], None, Tolerance.of("100%"), tmp_path, progress=False)


@pytest.mark.parametrize("text", ["", "%", "-1", "101%", "1.5", "nan", "inf", "many", "1e400"])
def test_what_is_no_share_and_no_number_is_refused(text):
    with pytest.raises(DataError, match="a share .* or a number of recordings"):
        Tolerance.of(text)


def test_a_recording_is_checked_as_the_senses_that_are_used(folder, clip, tmp_path):
    silent = tmp_path / "silent.gif"
    from PIL import Image

    pictures = [Image.new("RGB", (16, 16), (40 * i, 0, 0)) for i in range(4)]
    pictures[0].save(silent, save_all=True, append_images=pictures[1:], duration=250)
    examples = [Example("a", {"video": silent, "audio": silent})]
    assert usable(examples, ("video",), progress=False) is examples
    with pytest.raises(DataError, match="as audio: .*silent.gif' has no audio track"):
        usable(examples, progress=False)


def test_every_sense_opens_its_own_recordings(folder, tmp_path):
    maps = np.ones((4, 8, 8), np.float32)
    np.save(tmp_path / "maps.npy", maps)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "maps.npy").read_bytes()[:-100])
    (tmp_path / "none").mkdir()
    views = {"left": View(Recording(folder / "1.mp4"), 0.5), "right": View(Recording(folder / "head.mp4"))}
    media = [
        {"depth": tmp_path / "maps.npy"}, {"depth": tmp_path / "cut.npy"}, {"depth": tmp_path / "none"},
        {"multi_view": views}, {"multi_view": {"left": View(folder / "1.mp4")}},
        {"video": Recording(folder / "2.mp4")}, {"thermal": folder / "text.mp4"}, {"thermal": folder / "x"},
    ]  # fmt: skip
    found = find_damaged([Example(str(i), m) for i, m in enumerate(media)], progress=False)
    assert [each.example for each in found.damaged] == ["1", "2", "3", "7"]
    assert (found.examples, found.recordings) == ({1, 2, 3, 7}, 8)
    (both,) = [each for each in found.damaged if each.example == "3"]
    assert both.files == (str(folder / "1.mp4"), str(folder / "head.mp4")) and "head.mp4" in both.problem


def test_each_file_is_opened_once_whatever_it_is_used_as(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(checking, "_check", lambda files, uses, *_: opened.append((files, sorted(uses))))
    examples = open_data("jsonl", write_rows(folder, GOOD * 3))
    assert usable(examples, progress=False) is examples
    assert sorted(opened) == [
        ((folder / name,), [f"{sense} {folder / name!r}" for sense in ("audio", "video")]) for name in GOOD
    ]


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checking, "LOG_EVERY", -1.0)
    write_rows(folder, GOOD)
    given = ["--data", "jsonl", str(folder), "--backbone", str(tmp_path / "nothing")]
    assert main(["guide", *given, "--out", str(tmp_path / "g")]) == 1
    assert "lynx: checked 8 of 8 recordings" in capsys.readouterr().err


def test_media_that_render_on_access_are_not_rendered():
    world = open_data("world", n=4)
    assert usable(world, progress=False) is world
    assert find_damaged([world[0]], progress=False) == Check([], set(), 0)


def test_a_part_behind_the_end_of_its_clip_is_found(folder, tmp_path):
    """And no other example of the same clip is left out for it."""
    media = {"video": folder / "1.mp4", "audio": folder / "1.mp4"}
    parts = [(0, None), (1, 2), (50, None), (60, 61)]
    moments = [Moments(start=start, end=end) for start, end in parts]
    examples = [Example(str(i), media, moments=each) for i, each in enumerate(moments)]
    said = r"1 of 1 .*1.mp4 \(example 2\): start is 50 s, but .* lasts [\d.]+ s; .*\(example 3\): start is 60"
    with pytest.raises(DataError, match=said):
        usable(examples, progress=False)
    kept = usable(examples, None, Tolerance.of("1"), tmp_path, progress=False)
    assert [example.id for example in kept] == ["0", "1"]
    alone = [Example("a", {"audio": folder / "1.mp4"}, moments=Moments(start=50))]
    with pytest.raises(DataError, match="start is 50 s"):
        usable(alone, progress=False)


def test_every_track_that_is_asked_for_is_looked_at(folder):
    tracks = [folder / "1.mp4", Recording(folder / "1.mp4", track=7)]
    examples = [Example(str(i), {"audio": source}) for i, source in enumerate(tracks)]
    with pytest.raises(DataError, match=r"1 of 1 .*\(example 1\): .*Track 7"):
        usable(examples, progress=False)
    assert [each.id for each in usable(examples, None, Tolerance.of("1"), progress=False)] == ["0"]


def test_sound_that_cannot_be_decoded_is_found_though_its_header_is_whole(clip, tmp_path):
    with av.open(str(clip)) as given, av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(given.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    content = bytearray((tmp_path / "sound.mp4").read_bytes())
    begin = content.index(b"mdat") + 4
    end = begin - 8 + int.from_bytes(content[begin - 8 : begin - 4], "big")
    half, whole = tmp_path / "half.mp4", tmp_path / "whole.mp4"
    for damaged, first in ((half, (begin + end) // 2), (whole, begin)):
        content[first:end] = bytes(place * 37 % 256 for place in range(first, end))
        damaged.write_bytes(content)
    assert get("audio")().duration(whole) > 0
    with pytest.raises(DataError, match="1 of 2 .*as audio: No audio of 'whole.mp4' can be decoded"):
        usable([Example("a", {"audio": whole}), Example("b", {"audio": half})], progress=False)


def test_a_name_that_no_file_can_have_is_listed(folder):
    with pytest.raises(DataError, match=r"1 of 1 .*a+ does not exist"):
        usable([Example("a", {"video": folder / ("a" * 300)})], progress=False)


def test_an_error_in_mid_run_names_the_example(folder):
    example = Example("the fourth", {"video": folder / "head.mp4"})
    with pytest.raises(MediaError, match="example 'the fourth': .*head.mp4"):
        render_clip({"video": get("video")()}, example, 4)


def test_the_stages_find_what_is_damaged_before_their_first_step(folder, tmp_path, capsys):
    model = small_model(tmp_path)
    write_rows(folder, [*GOOD[:4], "head.mp4"])
    given = ["--data", "jsonl", str(folder), "--backbone", str(model.backbone.source), "--frames", "2"]
    guidance = tmp_path / "runs" / "guidance.safetensors"
    audio = small_adapter(model, tmp_path / "audio", steps=0)
    stages = {
        "guide": (["--out", str(guidance)], guidance.parent),
        "align": (["--modality", "audio", "--guidance", str(guidance), "--out", str(audio), "--steps", "1",
                   "--rank", "2"], audio),
        "tune": (["--modality", "audio", "--out", str(audio), "--steps", "1", "--rank", "2"], audio),
    }  # fmt: skip
    for stage, (more, out) in stages.items():
        assert main([stage, *given, *more]) == 1
        said = capsys.readouterr().err
        assert "1 of 5 recordings cannot be used: " in said and "head.mp4 (example 5)" in said, stage
        assert json.loads((out / "damaged.json").read_text())[0]["example"] == "5"
        assert main([stage, *given, *more, "--skip-damaged", "20%"]) == 0, capsys.readouterr().err
        assert json.loads((out / "skipped.json").read_text())[0]["example"] == "5"
        capsys.readouterr()
    ask = ["eval", "recordings", "--data", "jsonl", str(folder), "--backbone", str(model.backbone.source)]
    (folder / "test.jsonl").write_text((folder / "train.jsonl").read_text())
    assert main([*ask, "--adapter", str(audio)]) == 1
    assert "1 of 5 recordings" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*ask, "--skip-damaged", "many"])
    assert "a share (1%, 0.01)" in capsys.readouterr().err
