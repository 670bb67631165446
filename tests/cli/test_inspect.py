"""`lynx inspect` in the terminal: what it prints, what it writes, and how it ends."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lynx
from lynx.cli.main import main
from lynx.media.writer import write_png, write_video
from lynx.types import Waveform


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of gray with a tone."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    tone = torch.from_numpy(0.5 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)).float()
    write_video(path, torch.full((8, 3, 48, 64), 90, dtype=torch.uint8), 8, Waveform(tone, 16000))
    return path


@pytest.fixture
def damaged(tmp_path: Path, clip: Path) -> Path:
    path = tmp_path / "damaged.mp4"
    path.write_bytes(clip.read_bytes()[:2000])
    return path


def test_json_is_what_the_library_tells(clip, capsys):
    assert main(["inspect", str(clip), "--frames", "2", "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == lynx.inspect(clip, frames=2).to_dict()
    assert "NaN" not in printed and "Infinity" not in printed and printed.count("\n") == 1


def test_the_options_are_those_of_the_library(clip, capsys):
    assert main(["inspect", str(clip), "--frames", "1", "--start", "0.5", "--end", "0.75", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == lynx.inspect(clip, 1, 0.5, 0.75).to_dict() and told["video"]["times"] == [0.625]


@pytest.mark.parametrize("option", ["--fps", "--folder-fps"])
def test_a_folder_of_pictures_has_the_rate_that_is_given(tmp_path, capsys, option):
    for number in range(7, 27):
        write_png(tmp_path / f"{number}.png", torch.full((3, 24, 32), number, dtype=torch.uint8))
    words = ["inspect", str(tmp_path), option, "10", "--frames", "2", "--start", "0:01", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["duration"] == 2.0 and told["video"]["rate"] == 10.0 and told["notes"] == []
    assert told["video"]["times"] == [1.25, 1.75] and told["video"]["shown_at"] == [1.2, 1.7]


def test_pictures_of_eight_bits_are_no_depth(tmp_path, capsys):
    for number in range(4):
        write_png(tmp_path / f"{number}.png", torch.full((3, 24, 32), number, dtype=torch.uint8))
    assert main(["inspect", str(tmp_path), "--fps", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "video" and told["depth"] is None and told["notes"] == []


def test_depth_is_told_as_in_a_chat(tmp_path, capsys):
    np.save(tmp_path / "maps.npy", np.full((2, 24, 32), 5_000, np.uint16))
    words = ["inspect", str(tmp_path / "maps.npy"), "--depth-unit", "tum", "--depth-up", "-y", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["depth"]["range_m"] == [1.0, 1.0]


def test_a_folder_of_other_things_is_said_to_hold_none(clip, capsys):
    assert main(["inspect", str(clip.parent)]) == 1
    assert "holds no pictures, depth maps or mesh" in capsys.readouterr().err


def test_without_json_it_is_a_text_for_people(clip, capsys):
    assert main(["inspect", str(clip)]) == 0
    out = capsys.readouterr().out
    assert out == f"{lynx.inspect(clip)}\n" and "64 x 48 pixels" in out


def test_the_pictures_of_every_sense_are_written(clip, tmp_path, capsys):
    assert main(["inspect", str(clip), "--frames", "2", "--out", str(tmp_path / "seen")]) == 0
    names = ["audio_00.png", "audio_01.png", "video_00.png", "video_01.png"]
    assert sorted(file.name for file in (tmp_path / "seen").iterdir()) == names
    assert "4 pictures in" in capsys.readouterr().out


def test_several_files_are_a_list_and_have_folders_of_their_names(clip, tmp_path, capsys):
    other = tmp_path / "other" / "clip.mp4"
    other.parent.mkdir()
    other.write_bytes(clip.read_bytes())
    words = ["inspect", str(clip), str(other), "--frames", "1", "--out", str(tmp_path / "seen"), "--json"]
    assert main(words) == 0
    assert [told["file"] for told in json.loads(capsys.readouterr().out)] == [str(clip), str(other)]
    folders = sorted(file.parent.name for file in (tmp_path / "seen").rglob("video_00.png"))
    assert folders == ["clip.mp4", "clip.mp4 2"], "files of one name are counted"


@pytest.mark.parametrize("flags", [["--json"], []])
def test_a_bad_file_among_others_is_told_and_the_end_is_one(clip, damaged, capsys, flags):
    assert main(["inspect", str(damaged), str(clip), "--frames", "1", *flags]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("lynx: 1 of 2 files cannot be read") and err.count("\n") == 1
    if not flags:
        assert f"{damaged}: cannot be read" in out and "64 x 48 pixels" in out
        return
    bad, good = json.loads(out)
    assert list(bad) == ["file", "error"] and bad["file"] == str(damaged) and "damaged.mp4" in bad["error"]
    assert good == lynx.inspect(clip, frames=1).to_dict()


@pytest.mark.parametrize("flags", [["--json"], []])
def test_a_single_bad_file_is_one_line_on_the_error_stream(damaged, capsys, flags):
    assert main(["inspect", str(damaged), *flags]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lynx: ") and "damaged.mp4" in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["--frames", "0"], ["--depth-up", "w"], ["--as", "sound"]])
def test_wrong_usage_ends_with_two(clip, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", *([str(clip)] if words else []), *words])
