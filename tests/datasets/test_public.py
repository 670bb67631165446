"""The readers of public data sets: their authors' layouts, real rows, and rows that are wrong."""

import json
import os
from collections import Counter
from pathlib import Path
from pkgutil import resolve_name

import layouts
import pytest
import torch

from lynx.cli.main import main
from lynx.datasets.avsd import read_references
from lynx.datasets.base import LETTERS
from lynx.datasets.music_avqa import ANSWERS
from lynx.datasets.public import missing_files
from lynx.datasets.sources import SOURCES, open_data
from lynx.errors import DataError
from lynx.modalities.depth import Depth
from lynx.modalities.video import Video
from lynx.types import Recording

ANNOTATIONS = "BENCHMARK_ANNOTATIONS"
"""Environment variable: a folder with music_avqa/avqa-{test,val}.json and sqa3d/v1_balanced_*_test_*.json."""
COUNTS = {  # clips and questions
    "avsd": (3, 6), "avqa": (2, 3), "music-avqa": (7, 8), "scanqa": (2, 3), "sqa3d": (6, 6),
    "mvbench": (20, 20), "video-mme": (2, 3), "mlvu": (7, 8), "ego-exo": (3, 3), "avut": (3, 3),
}  # fmt: skip


def dataset(name):
    return resolve_name(SOURCES[name].open.removesuffix(".open"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """All ten, written once."""
    made = {}
    for name, write in layouts.WRITERS.items():
        write(folder := tmp_path_factory.mktemp(name))
        made[name] = folder
    return made


def read(name, folder, split=None, prompt=None):
    found = dataset(name)
    return found.examples(folder, split or found.evaluated, prompt)


@pytest.mark.parametrize("name", layouts.WRITERS)
def test_every_row_and_file_of_the_layout_is_found(folders, name):
    examples = read(name, folders[name])
    assert (len(examples), sum(len(each.turns) for each in examples)) == COUNTS[name]
    assert missing_files(examples) == []
    ids = [turn.id for each in examples for turn in each.turns]
    assert len(set(ids)) == len(ids) and "" not in ids
    for turn in (turn for each in examples for turn in each.turns):
        assert "{" not in turn.question
        assert not turn.options or turn.answer in (*LETTERS[: len(turn.options)], *turn.options, "Purple")


@pytest.mark.parametrize("name", layouts.WRITERS)
def test_a_file_that_is_not_there_is_named(folders, name, tmp_path):
    with pytest.raises(DataError, match="holds no .* annotations of .*; expected"):
        read(name, tmp_path)
    with pytest.raises(DataError, match="no split 'dev'; it has"):
        read(name, folders[name], "dev")
    with pytest.raises(DataError, match="has no prompt 'other'"):
        read(name, folders[name], prompt="other")


def test_sources_of_training_take_the_questions_that_can_be_learned(folders):
    examples = open_data("avqa", folders["avqa"], senses=("audio",))
    assert {tuple(each.media) for each in examples} == {("audio",)}
    assert [turn.answer for each in examples for turn in each.turns] == ["A", "B", "C"]
    assert "C.null" in examples[1].turns[0].question
    with pytest.raises(DataError, match="mlvu has no split 'train'; it has test"):
        open_data("mlvu", folders["mlvu"])
    learned = [turn for each in open_data("mlvu", folders["mlvu"], split="test") for turn in each.turns]
    assert len(learned) == 7 and "Purple" not in {turn.answer for turn in learned}
    (folders["avqa"] / "videos/bbcdefghijk_000000.mp4").rename(gone := folders["avqa"] / "gone.mp4")
    with pytest.raises(DataError, match=r"bbcdefghijk_000000.mp4 does not exist, which avqa lists"):
        open_data("avqa", folders["avqa"])
    assert len(open_data("avqa", folders["avqa"], missing=True)) == 2
    gone.rename(folders["avqa"] / "videos/bbcdefghijk_000000.mp4")


@pytest.mark.parametrize(
    ("name", "sense"), [("avqa", "audio"), ("scanqa", "depth"), ("ego-exo", "multi_view")]
)
def test_the_stages_train_on_them(folders, name, sense, tmp_path, capsys):
    data, steps = ["--data", name, str(folders[name])], ["--steps", "1", "--batch-size", "1", "--frames", "2"]
    guidance = tmp_path / "guidance.safetensors"
    assert main(["guide", *data, "--frames", "2", "--out", str(guidance)]) == 0
    out = ["--out", str(tmp_path / sense), "--json"]
    assert main(["align", "--modality", sense, "--guidance", str(guidance), *data, *steps, *out]) == 0
    unknown = ["--allow-unknown-words"]  # lynx-tiny's vocabulary is closed
    assert main(["tune", "--modality", sense, *data, *steps, *out, *unknown]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["examples"] == COUNTS[name][0] and report["modalities"] == [sense]


def test_prompts_are_those_of_the_evaluations_word_for_word(folders):
    (first, *_) = read("video-mme", folders["video-mme"], prompt="official")
    assert first.turns[0].question == (
        "Select the best answer to the following multiple-choice question based on the video. Respond "
        "with only the letter (A, B, C, or D) of the correct option.\nHow many boats are there?\nA. 1.\n"
        "B. 2.\nC. 3.\nD. 4.\nThe best answer is:"
    )
    assert first.turns[0].groups == (
        ("duration", "short"),
        ("domain", "Knowledge"),
        ("sub_category", "Geography"),
    )
    (first, *_) = read("avqa", folders["avqa"])
    asked = (
        "\nWhat makes the sound in the video?\nA.bell\nB.dog\nC.drum\nD.rain\nAnswer with the option's letter"
    )
    assert asked in first.turns[0].question
    (first, *_) = read("mvbench", folders["mvbench"], prompt="official")
    assert first.turns[0].question.endswith("(C) Left\nOnly give the best option.\nBest option:(")
    assert dataset("mvbench").prompt("official").system.startswith("Carefully watch the video and pay")
    assert dataset("mvbench").prompt().system == ""


def test_a_part_of_a_clip_is_looked_at_unless_it_is_cut_already(folders, tmp_path):
    examples = {each.turns[0].type: each for each in read("mvbench", folders["mvbench"])}
    moments = examples["action_sequence"].moments
    assert (moments.start, moments.end) == (0.25, 0.75)
    assert examples["object_shuffle"].moments.whole
    shown = examples["episodic_reasoning"].media["video"]
    assert isinstance(shown, Recording) and shown.fps == 3
    assert Video().duration(shown) == pytest.approx(4)
    layouts.mvbench(tmp_path)
    layouts.clip(tmp_path / "video/star/Charades_segment/a1.mp4")
    cut = {each.turns[0].type: each for each in read("mvbench", tmp_path)}["action_sequence"]
    assert cut.moments.whole and "Charades_segment" in str(cut.media["video"])


def test_scans_have_the_clock_of_their_frames_and_their_depth(folders):
    media = read("scanqa", folders["scanqa"])[0].media
    assert Video().duration(media["video"]) == pytest.approx(40 / 30)  # frames 0, 10, 20, 30 at 30 a second
    shown = Depth().render(media["depth"], torch.tensor([0.1, 0.9]))
    assert len(shown) >= 2 and shown.pixels.any()


def test_other_cameras_are_views_by_their_names(folders):
    (*_, last) = read("ego-exo", folders["ego-exo"])
    assert list(last.media["multi_view"]) == ["exo1", "exo2"]
    assert "downscaled/448" in str(last.media["video"])
    assert last.turns[0].question.startswith("In this video, a human is performing an activity.")


def test_dialogs_take_more_references_and_refuse_a_file_without_answers(folders, tmp_path):
    layouts.avsd(tmp_path)
    rows = [{"image_id": n, "id": n, "caption": f"answer {n}"} for n in (1, 2, 3, 3)]
    layouts.dump(tmp_path / "references.json", {"annotations": rows[:2]})
    with pytest.raises(DataError, match="no references for dialog 3 of 3"):
        read("avsd", tmp_path)
    layouts.dump(tmp_path / "references.json", {"annotations": rows})
    assert read("avsd", tmp_path)[2].turns[-1].references == ("no , he is silent .", "answer 3")
    assert read("avsd", tmp_path, "train")[2].turns[-1].references == ("no , he is silent .",)
    file = tmp_path / "mock_test_set4DSTC10-AVSD_from_DSTC7_singref.json"
    file.write_text(file.read_text().replace("he sings .", "__UNDISCLOSED__"))
    with pytest.raises(DataError, match="does not tell the last answers"):
        read("avsd", tmp_path)
    layouts.dump(
        tmp_path / "b/avsd_train.json", {"ZZ1": {"data": [{"question": "who ?", "answer": "a man"}]}}
    )
    assert [turn.answer for turn in read("avsd", tmp_path / "b", "train")[0].turns] == ["a man"]


def test_real_references_of_dialogs_are_read():
    found = read_references(layouts.DATA / "avsd_references.json")
    assert found["1"] == ("there is only one person and a dog",)


def test_forms_of_llava_3d_are_read(folders, tmp_path):
    question = {
        "question_id": "000001",
        "scene_id": "scene9000_00",
        "text": "I sit. Is it red?",
        "video": "x",
    }
    layouts.dump(tmp_path / "llava-3d-scanqa_val_question.json", [question])
    layouts.dump(
        tmp_path / "llava3d_scanqa_val_answer.json", [{"question_id": "000001", "text": ["red", "dark"]}]
    )
    layouts.dump(tmp_path / "llava3d_sqa3d_test_question.json", [question])
    layouts.dump(
        tmp_path / "llava3d_sqa3d_test_answer.json", [{"question_id": "000001", "text": "yes", "type": 1}]
    )
    assert read("scanqa", tmp_path)[0].turns[0].references == ("red", "dark")
    turn = read("sqa3d", tmp_path)[0].turns[0]
    assert (turn.question, turn.answer, turn.type) == ("I sit. Is it red?", "yes", "Is")
    layouts.dump(tmp_path / "llava3d_scanqa_val_answer.json", [{"question_id": "000002", "text": ["red"]}])
    with pytest.raises(DataError, match="\"question_id\" is '000001'; expected one of those in llava3d"):
        read("scanqa", tmp_path)


def test_a_row_per_question_and_the_hubs_table_of_video_mme(folders, tmp_path):
    nested = json.loads((folders["video-mme"] / "video_mme.json").read_text())
    flat = [
        {**{key: each[key] for key in each if key != "questions"}, **question, "videoID": "cbcdefghijk"}
        for each in nested
        for question in each["questions"]
    ]
    layouts.dump(tmp_path / "video_mme.json", flat)
    (example,) = read("video-mme", tmp_path)
    assert example.id == "cbcdefghijk" and len(example.turns) == 3
    pytest.importorskip("pyarrow")
    from pyarrow import Table
    from pyarrow.parquet import write_table

    (tmp_path / "video_mme.json").unlink()
    write_table(Table.from_pylist(flat), tmp_path / "test-00000-of-00001.parquet")
    assert read("video-mme", tmp_path) == [example]


BROKEN = {
    "avqa": ("val_qa.json", "answer", 4, 'val_qa.json, row 1: "answer" is 4; expected a number from 0 to 3'),
    "music-avqa": ("data/json/avqa-test.json", "templ_values", "[]", "a value for <Object>"),
    "scanqa": ("ScanQA_v1.0_val.json", "answers", [], "expected a list of texts"),
    "mlvu": ("json/2_needle.json", "candidates", None, '"candidates" is None'),
    "avut": ("AV_Human_data.json", "answer", "E", "expected a letter from A to D"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_named(name, tmp_path):
    layouts.WRITERS[name](tmp_path)
    file, key, value, expected = BROKEN[name]
    rows = json.loads((tmp_path / file).read_text())
    rows[1][key] = value
    (tmp_path / file).write_text(json.dumps(rows))
    with pytest.raises(DataError, match="row 1") as error:
        read(name, tmp_path)
    assert expected in str(error.value)
    (tmp_path / file).write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read(name, tmp_path)
    (tmp_path / file).write_text("3")
    with pytest.raises(DataError, match="expected a list of objects"):
        read(name, tmp_path)


def test_placeholders_are_filled_in_order(folders):
    turns = [turn for each in read("music-avqa", folders["music-avqa"]) for turn in each.turns]
    asked = {turn.question for turn in turns}
    assert "What is the instrument on the left of saxophone?" in asked
    assert "Is the instrument on the right more rhythmic than the instrument on the left?" in asked
    assert {turn.answer for turn in turns} <= set(ANSWERS)
    assert {turn.type: turn.senses for turn in turns}["Visual Location"] == ("video",)


def real(name):
    if not (folder := os.environ.get(ANNOTATIONS)):
        pytest.skip(f"{ANNOTATIONS} names no folder of annotations")
    return Path(folder) / name


def test_all_rows_of_sqa3d_are_read():
    turns = [turn for each in read("sqa3d", real("sqa3d")) for turn in each.turns]
    counts = {"What": 1144, "Is": 652, "How": 465, "Can": 338, "Which": 351, "Other": 569}
    assert Counter(turn.type for turn in turns) == counts
    assert len(read("sqa3d", real("sqa3d"))) == 67


def test_all_rows_of_music_avqa_are_read():
    turns = [turn for each in read("music-avqa", real("music_avqa")) for turn in each.turns]
    assert Counter(turn.type for turn in turns) == {
        "Audio Counting": 1022, "Audio Comparative": 601, "Visual Counting": 1199, "Visual Location": 1228,
        "Audio-Visual Existential": 995, "Audio-Visual Counting": 1274, "Audio-Visual Location": 927,
        "Audio-Visual Comparative": 1115, "Audio-Visual Temporal": 824,
    }  # fmt: skip
    more = [turn for each in read("music-avqa", real("music_avqa"), "val") for turn in each.turns]
    assert (len(turns), len(more)) == (9185, 4595)
    assert {turn.answer for turn in turns + more} <= set(ANSWERS)
    assert not any("<" in turn.question for turn in turns + more)
