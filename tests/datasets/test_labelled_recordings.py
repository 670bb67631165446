"""Folders of labelled recordings: what is read, asked, held out and refused; trained on and asked about."""

import csv
import json
import wave
from pathlib import Path

import pytest
import torch
from stages import small_adapter, small_model

from lynx.cli.main import main
from lynx.datasets.labelled_recordings import QUESTION
from lynx.datasets.sources import groups_of, open_data
from lynx.errors import DataError

TABLE = [
    ("1-100032-A-0.wav", "1", "dog"),
    ("5-9032-A-0.wav", "5", "dog"),
    ("2-17367-A-10.wav", "2", "rain"),
    ("5-182010-A-11.wav", "5", "sea_waves"),
]


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    with (tmp_path / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("filename", "fold", "category"), *TABLE])
    for name, _, _ in TABLE:
        (tmp_path / "audio" / name).touch()
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder a class, real sound files: two folds of two classes."""
    for number, (name, fold) in enumerate([("low_hum", 1), ("low_hum", 2), ("002 - Whistle", 1)]):
        place = tmp_path / "sounds" / name
        place.mkdir(parents=True, exist_ok=True)
        tone = 0.3 * torch.sin(torch.arange(4000) * 0.1 * (number + 1))
        with wave.open(str(place / f"{fold}-{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes((tone * 32767).short().numpy().tobytes())
        (place / "notes.txt").touch()
    return tmp_path / "sounds"


def test_a_table_gives_each_recording_its_class_and_fold(esc50):
    examples = open_data("labelled", esc50)
    assert [example.turns[0].answer for example in examples] == ["dog", "dog", "rain", "sea waves"]
    assert examples[0].media == {"audio": esc50 / "audio" / "1-100032-A-0.wav"}
    assert {(turn.question, turn.senses) for e in examples for turn in e.turns} == {(QUESTION, ("audio",))}
    assert groups_of("labelled", esc50) == ["1", "2", "5"]


def test_a_folder_a_class_is_read_too(folders):
    examples = open_data("labelled", folders)
    assert [(example.id, example.turns[0].answer) for example in examples] == [
        ("002 - Whistle/1-2.wav", "whistle"),
        ("low_hum/1-0.wav", "low hum"),
        ("low_hum/2-1.wav", "low hum"),
    ]
    (folders / "low_hum" / "bare.wav").touch()  # belongs to no fold
    assert groups_of("labelled", folders) == ["1", "2"]
    assert len(open_data("labelled", folders, held_out=("1", "2"))) == 1


def test_folds_are_held_out(esc50):
    train = open_data("labelled", esc50, held_out=("5",))
    test = open_data("labelled", esc50, held_out=("5",), split="test")
    assert [example.id[6] for example in train] == ["1", "2"]
    assert [example.id[6] for example in test] == ["5", "5"]


def test_the_usual_choices_hold(esc50):
    assert len(open_data("labelled", esc50, n=2, seed=1)) == 2
    assert len(open_data("labelled", esc50, senses=("audio",))) == 4
    with pytest.raises(DataError, match="no train examples with video and audio"):
        open_data("labelled", esc50, senses=("video", "audio"))


def test_what_cannot_be_read_or_held_out_is_said(esc50, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="expected meta/esc50.csv .* or a folder a class"):
        open_data("labelled", empty)
    with pytest.raises(DataError, match="there is no folder"):
        open_data("labelled", empty / "gone")
    with pytest.raises(DataError, match="'labelled' needs the folder"):
        open_data("labelled")
    with pytest.raises(DataError, match="no '4' to hold out; it has 1, 2, 5"):
        open_data("labelled", esc50, held_out=("4",))
    with pytest.raises(DataError, match="say which of 1, 2, 5"):
        open_data("labelled", esc50, split="test")
    with pytest.raises(DataError, match="no split 'validation'; they have train and test"):
        open_data("labelled", esc50, split="validation", held_out=("5",))
    with pytest.raises(DataError, match="'world' has no folds"):
        open_data("world", held_out=("5",))
    with pytest.raises(DataError, match="'esc10' is part of the recipe .*'labelled'"):
        open_data("esc10", esc50)
    (esc50 / "audio" / TABLE[0][0]).unlink()
    with pytest.raises(DataError, match="lists 1 recordings that are not there, such as .*1-100032-A-0.wav"):
        open_data("labelled", esc50)
    assert len(open_data("labelled", esc50, missing=True)) == 4
    assert groups_of("labelled", esc50) == ["1", "2", "5"]
    (esc50 / "meta" / "esc50.csv").write_text("name,class\n")
    with pytest.raises(DataError, match="no columns filename, fold and category"):
        open_data("labelled", esc50)


def test_from_the_command_line_stages_and_evaluation_read_them(folders, tmp_path, capsys):
    model = small_model(tmp_path)
    folder = small_adapter(model, tmp_path / "audio", steps=0)
    given = ["--data", "labelled", str(folders), "--backbone", str(model.backbone.source)]
    tuning = ["--modality", "audio", "--out", str(folder), "--steps", "1", "--rank", "2", "--frames", "2"]
    assert main(["tune", *given, *tuning, "--held-out", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 2
    ask = ["eval", "recordings", *given, "--adapter", str(folder), "--json"]
    assert main([*ask, "--held-out", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], list(found["confusion"]), found["held_out"]) == (1, ["low hum"], ["2"])
    assert main(ask) == 0  # a folder that had no part in training
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], list(found["confusion"])) == (3, ["whistle", "low hum"])


def test_of_several_sources_each_holds_out_what_it_has(folders, esc50, tmp_path, capsys):
    model = small_model(tmp_path)
    sources = ["--data", "labelled", str(folders), "--data", "labelled", str(esc50)]
    command = ["eval", "recordings", *sources, "--backbone", str(model.backbone.source)]
    assert main([*command, "--held-out", "1", "7"]) == 1
    assert "no source has '7' to hold out; there are 1, 2, 5" in capsys.readouterr().err
    assert main(["eval", "recordings", "--data", "labelled", "a", "b"]) == 1
    assert "--data takes a name and a path" in capsys.readouterr().err
