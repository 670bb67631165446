"""Recordings in the layouts of their authors: what is read, asked, held out and refused; how it is scored."""

import csv
from pathlib import Path
from shutil import which

import pytest
import torch
from benchmarks.voices import commands, timbres
from benchmarks.voices import main as voices
from lynx.datasets.variants import vary, with_variants
from stages import small_adapter, small_model

from lynx.cli.main import main
from lynx.datasets.clips import content_key
from lynx.datasets.labelled_recordings import CLASSES, DIGIT, SOUND
from lynx.datasets.sources import groups_of, open_data
from lynx.errors import DataError
from lynx.evaluation.recordings import evaluate
from lynx.media.audio import read_audio
from lynx.world.pretraining.text import REAL_SOUNDS, vocabulary

TABLE = [
    ("1-100032-A-0.wav", "1", "dog"),
    ("5-9032-A-0.wav", "5", "dog"),
    ("2-17367-A-10.wav", "2", "rain"),
    ("5-182010-A-11.wav", "5", "sea_waves"),
    ("1-137-A-32.wav", "1", "keyboard_typing"),
]
FOLDERS = {
    "001 - Dog bark": ("1-30226-A.ogg", "2-114280-B.ogg"),
    "sea_waves": ("5-28135-A-11.ogg", "notes.txt", "cover.png"),
    "keyboard_typing": ("1-137-A.ogg",),
}


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
def esc10(tmp_path: Path) -> Path:
    for folder, names in FOLDERS.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    return tmp_path


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    (tmp_path / "recordings").mkdir()
    for name in ("7_jackson_0.wav", "7_jackson_1.wav", "0_theo_12.ogg", "3_de_vries_0.wav", "README.md"):
        (tmp_path / "recordings" / name).touch()
    return tmp_path


@pytest.fixture
def heard(tmp_path: Path) -> Path:
    """Two speakers of two digits, real sound files."""
    import wave

    folder = tmp_path / "fsdd"
    folder.mkdir()
    for speaker, loud in (("ann", 0.5), ("bob", 0.1)):
        for digit in (1, 2):
            tone = loud * torch.sin(torch.arange(4000) * 0.1 * digit)
            with wave.open(str(folder / f"{digit}_{speaker}_0.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes((tone * 32767).short().numpy().tobytes())
    return folder


def answers(examples: object) -> list[str]:
    return [example.turns[0].answer for example in examples]  # type: ignore[attr-defined]


def test_the_ten_classes_are_taken_from_the_table_of_esc50(esc50):
    examples = open_data("esc10", esc50)
    assert answers(examples) == ["dog", "dog", "rain", "waves"]
    assert [set(example.media) for example in examples] == [{"audio"}] * 4
    assert examples[0].media["audio"] == esc50 / "audio" / "1-100032-A-0.wav"


def test_a_folder_a_class_is_read_too(esc10):
    examples = open_data("esc10", esc10)
    assert [example.id for example in examples] == [
        "001 - Dog bark/1-30226-A.ogg",
        "001 - Dog bark/2-114280-B.ogg",
        "sea_waves/5-28135-A-11.ogg",
    ]
    assert answers(examples) == ["dog", "dog", "waves"]


def test_folds_are_held_out(esc50):
    train = open_data("esc10", esc50, held_out=("5",))
    test = open_data("esc10", esc50, held_out=("5",), split="test")
    assert [example.id[6] for example in train] == ["1", "2"]
    assert [example.id[6] for example in test] == ["5", "5"]


def test_speakers_are_held_out(digits):
    assert answers(open_data("digits", digits)) == ["zero", "three", "seven", "seven"]
    assert answers(open_data("digits", digits, held_out=("jackson", "theo"))) == ["three"]
    assert answers(open_data("digits", digits / "recordings", held_out=("theo",), split="test")) == ["zero"]


def test_the_usual_choices_hold(esc50):
    assert len(open_data("esc10", esc50, n=2, seed=1)) == 2
    assert len(open_data("esc10", esc50, senses=("audio",))) == 4
    assert answers(open_data("esc10", esc50, focus=("animal",))) == ["dog", "dog"]
    with pytest.raises(DataError, match="no train examples with video and audio"):
        open_data("esc10", esc50, senses=("video", "audio"))


@pytest.mark.parametrize(
    ("name", "said"),
    [("esc10", r"expected meta/esc50.csv beside audio/, or a folder a class"), ("digits", "7_jackson_0.wav")],
)
def test_a_wrong_folder_is_said(tmp_path, name, said):
    with pytest.raises(DataError, match=said):
        open_data(name, tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        open_data(name, tmp_path / "gone")
    with pytest.raises(DataError, match=f"{name!r} needs the folder"):
        open_data(name)


def test_what_cannot_be_held_out_is_said(esc50):
    with pytest.raises(DataError, match="no '4' to hold out; it has 1, 2, 5"):
        open_data("esc10", esc50, held_out=("4",))
    with pytest.raises(DataError, match="say which of 1, 2, 5"):
        open_data("esc10", esc50, split="test")
    with pytest.raises(DataError, match="no split 'validation'; they have train and test"):
        open_data("esc10", esc50, split="validation", held_out=("5",))
    with pytest.raises(DataError, match="'world' has no folds or speakers"):
        open_data("world", held_out=("5",))


def test_a_table_that_does_not_fit_its_files_is_said(esc50):
    (esc50 / "audio" / TABLE[0][0]).unlink()
    with pytest.raises(DataError, match="lists 1 recordings that are not there, such as .*1-100032-A-0.wav"):
        open_data("esc10", esc50)
    (esc50 / "meta" / "esc50.csv").write_text("name,class\n")
    with pytest.raises(DataError, match="no columns filename, fold and category"):
        open_data("esc10", esc50)


def test_all_questions_are_in_the_words_that_the_backbone_was_taught(esc50, tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    (folder / "4_theo_0.wav").touch()
    known = set(vocabulary())
    for example in (*open_data("esc10", esc50), *open_data("digits", folder)):
        for turn in example.turns:
            assert turn.senses == ("audio",)
            assert set(f"{turn.question} {turn.answer}".split()) <= known
    assert set(CLASSES.values()) == set(REAL_SOUNDS)


def test_a_sound_is_asked_for_as_often_as_another_is(esc50):
    for example in open_data("esc10", esc50, seed=3):
        heard = [turn for turn in example.turns if turn.type == "heard"]
        assert sorted(turn.answer for turn in heard) == ["no", "no", "yes", "yes"]
        name = example.turns[0].answer
        assert all((name in turn.question) == (turn.answer == "yes") for turn in heard)
    once, twice = (open_data("esc10", esc50, seed=3) for _ in range(2))
    assert [example.turns for example in once] == [example.turns for example in twice]


def test_variants_are_the_same_sound_changed(heard):
    examples = open_data("digits", heard)
    varied = with_variants(examples, 3, seed=1)
    assert len(varied) == 12
    assert varied[:4] == list(examples)
    assert len({content_key(example) for example in varied}) == 12
    one, other = (example.media["audio"] for example in varied[4:6])
    assert varied[4].turns == varied[5].turns == examples[0].turns
    original = read_audio(examples[0].media["audio"], 16000)
    assert 1 / 1.21 < one.duration / original.duration < 1.2 + 0.3 / original.duration
    assert one.duration != other.duration
    again = with_variants(open_data("digits", heard), 3, seed=1)[4].media["audio"]
    assert torch.equal(one.samples, again.samples)


def test_a_long_sound_begins_elsewhere_and_keeps_all_of_itself():
    click = torch.zeros(3 * 16000)
    click[100] = 1.0
    places = [int(vary(click, 16000, seed).argmax()) for seed in range(5)]
    assert len(set(places)) == 5
    assert all(float(vary(click, 16000, seed).max()) > 0.4 for seed in range(5))


def test_variants_of_what_is_no_sound_file_are_refused():
    with pytest.raises(DataError, match="there are none in these data"):
        with_variants(open_data("world", n=1, senses=("audio",)), 2)


def test_synthesised_voices_are_read_as_digits(tmp_path):
    runs = commands(tmp_path, 3, 0, ["f1", "m1"])
    assert runs == commands(tmp_path, 3, 0, ["f1", "m1"]) != commands(tmp_path, 3, 1, ["f1", "m1"])
    for run in runs:
        Path(run[run.index("-w") + 1]).touch()
        assert 0 <= int(run[run.index("-p") + 1]) <= 99 and 80 <= int(run[run.index("-s") + 1]) <= 220
    examples = open_data("digits", tmp_path)
    assert len(examples) == 30 and len(groups_of("digits", tmp_path)) == 3
    words = {Path(run[run.index("-w") + 1]).name: run[-1] for run in runs}
    assert [words[example.id] for example in examples] == answers(examples)


@pytest.mark.skipif(not which("espeak-ng"), reason="needs espeak-ng")
def test_espeak_speaks(tmp_path, monkeypatch):
    names = timbres()
    assert {"f1", "m1"} <= set(names) and not any("whisper" in name for name in names)
    monkeypatch.setattr("sys.argv", ["voices", str(tmp_path), "--voices", "1"])
    voices()
    sounds = [read_audio(example.media["audio"], 16000) for example in open_data("digits", tmp_path)]
    assert len(sounds) == 10 and all(0.2 < sound.duration < 3 and sound.samples.any() for sound in sounds)


class Parrot:
    """A model whose chat says what it is told to, in turn."""

    def __init__(self, *said: str) -> None:
        self.said, self.asked = list(said), []

    def chat(self, audio: Path) -> "Parrot":
        return self

    def clear(self) -> None:
        self.asked.append([])

    def ask(self, question: str) -> str:
        self.asked[-1].append(question)
        return self.said.pop(0)


def test_the_evaluation_asks_one_question_of_a_type_and_counts_what_is_taken_for_what(digits):
    model = Parrot("Zero.", "three", "six", "seven")
    result = evaluate(model, open_data("digits", digits))
    assert model.asked == [[question] for question in DIGIT[:4]]  # phrasings take turns, each asked alone
    assert (result["accuracy"], result["chance"], result["n"]) == (0.75, 0.5, 4)
    assert result["by_type"]["digit"]["accuracy"] == 0.75
    assert result["confusion"] == {
        "zero": {"Zero.": 1},
        "three": {"three": 1},
        "seven": {"six": 1, "seven": 1},
    }


def test_the_first_type_names_the_recording(esc50):
    model = Parrot("dog", "dog", "yes", "rain", "dog", "yes", "rain", "yes", "dog", "no")
    seen = []
    result = evaluate(model, open_data("esc10", esc50), lambda *done: seen.append(done))
    assert (result["accuracy"], result["n"]) == (0.5, 4)
    assert result["by_type"]["animal"]["accuracy"] == 1.0
    assert result["confusion"]["dog"] == {"dog": 1, "rain": 1}
    assert model.asked[0] == [SOUND[0]]
    assert seen[-1] == (4, 4)


def test_from_the_command_line_stages_and_evaluation_read_them(heard, tmp_path, capsys):
    model = small_model(tmp_path)
    folder = small_adapter(model, tmp_path / "audio", steps=0)
    given = ["--data", "digits", str(heard), "--held-out", "bob", "--backbone", str(model.backbone.source)]
    tuning = ["--modality", "audio", "--out", str(folder), "--steps", "1", "--rank", "2", "--frames", "2"]
    tuning += ["--variants", "3"]
    assert main(["tune", *given, *tuning, "--json"]) == 0
    assert '"examples": 6' in capsys.readouterr().out
    assert main(["eval", "recordings", *given, "--adapter", str(folder), "--json"]) == 0
    out = capsys.readouterr().out
    assert '"n": 2' in out
    assert '"confusion"' in out


def test_of_several_sources_each_holds_out_what_it_has(heard, esc10, tmp_path, capsys):
    model = small_model(tmp_path)
    sources = ["--data", "digits", str(heard), "--data", "esc10", str(esc10)]
    command = ["eval", "recordings", *sources, "--backbone", str(model.backbone.source)]
    assert main([*command, "--held-out", "ann", "7"]) == 1
    assert "no source has '7' to hold out; there are 1, 2, 5, ann, bob" in capsys.readouterr().err
    assert main(["eval", "recordings", "--data", "digits", "a", "b"]) == 1
    assert "--data takes a name and a path" in capsys.readouterr().err


def test_each_source_may_have_its_own_number_of_variants(heard, tmp_path, capsys):
    model = small_model(tmp_path)
    folder = small_adapter(model, tmp_path / "audio", steps=0)
    tuning = [
        "tune",
        "--modality",
        "audio",
        "--out",
        str(folder),
        "--steps",
        "1",
        "--rank",
        "2",
        "--frames",
        "2",
    ]
    tuning += [
        "--backbone",
        str(model.backbone.source),
        "--data",
        "digits",
        str(heard),
        "--data",
        "digits",
        str(heard),
    ]
    assert main([*tuning, "--variants", "2", "1", "1", "--json"]) == 1
    assert "--variants has 3 numbers for 2 sources" in capsys.readouterr().err
    assert main([*tuning, "--variants", "3", "1", "--json"]) == 0
    assert f'"examples": {4 * len(open_data("digits", heard))},' in capsys.readouterr().out
