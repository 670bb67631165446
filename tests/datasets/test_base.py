"""Data sources: JSON lines and the world, in one form."""

import json

import pytest

from lynx.datasets.sources import SOURCES, open_data
from lynx.errors import DataError

TURN = {"question": "what do you hear ?", "answer": "a bell", "type": "sound", "senses": ["audio"]}


@pytest.fixture
def folder(tmp_path):
    """Three clips; the last has only sound."""
    for name in ("a.mp4", "b.mp4", "c.wav"):
        (tmp_path / name).write_bytes(b"x")
    rows = [
        {"id": "a", "media": {"video": "a.mp4", "audio": "a.mp4"}, "turns": [TURN]},
        {"media": {"video": "b.mp4", "audio": "c.wav"}},
        {"id": "c", "media": {"audio": "c.wav"}},
    ]
    (tmp_path / "train.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    return tmp_path


def test_json_lines(folder):
    examples = open_data("jsonl", folder / "train.jsonl")
    assert [example.id for example in examples] == ["a", "3", "c"]  # a line has its number as its name
    assert examples[0].media["audio"] == folder / "a.mp4"
    (turn,) = examples[0].turns
    assert (turn.question, turn.answer, turn.type, turn.senses) == (*list(TURN.values())[:3], ("audio",))


def test_a_folder_has_a_file_for_each_split(folder):
    assert len(open_data("jsonl", folder, split="train")) == 3
    with pytest.raises(DataError, match="val.jsonl"):
        open_data("jsonl", folder, split="val")


def test_a_focus_keeps_clips_with_such_a_question(folder):
    kind = TURN["type"]
    assert [example.id for example in open_data("jsonl", folder, focus=(kind,))] == ["a"]
    with pytest.raises(DataError, match="no train examples"):
        open_data("jsonl", folder, focus=("riddle",))


def test_types_keep_to_some_questions(folder):
    turns = [TURN, TURN | {"question": "how loud ?", "type": "loudness"}]
    row = {"id": "d", "media": {"audio": "c.wav"}, "turns": turns}
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert [len(example.turns) for example in open_data("jsonl", folder)] == [1, 0, 0, 2]
    kept = open_data("jsonl", folder, types=("sound",))
    assert [(example.id, [turn.type for turn in example.turns]) for example in kept] == [
        ("a", ["sound"]),
        ("d", ["sound"]),
    ]
    drawn = open_data("world", n=3, types=("sound",))
    assert {turn.type for example in drawn for turn in example.turns} == {"sound"}
    with pytest.raises(DataError, match="no train examples"):
        open_data("jsonl", folder, types=("riddle",))


def test_senses_choose_examples_and_drop_other_media(folder):
    alone = open_data("jsonl", folder, senses=("audio",))
    assert [set(example.media) for example in alone] == [{"audio"}] * 3
    assert [example.id for example in open_data("jsonl", folder, senses=("video", "audio"))] == ["a", "3"]
    with pytest.raises(DataError, match="no train examples with depth"):
        open_data("jsonl", folder, senses=("depth",))


def test_n_examples_are_drawn_by_seed(folder):
    drawn = {seed: [e.id for e in open_data("jsonl", folder, n=2, seed=seed)] for seed in range(6)}
    assert all(len(set(ids)) == 2 for ids in drawn.values())
    assert len({tuple(ids) for ids in drawn.values()}) > 1
    assert [e.id for e in open_data("jsonl", folder, n=2, seed=3)] == drawn[3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"media": }', "line 1 is not JSON"),
        ("7", 'expected an object with "media"'),
        ('{"media": {}}', 'expected an object with "media"'),
        ('{"media": {"video": "gone.mp4"}}', "gone.mp4 does not exist; paths are relative"),
        ('{"media": {"video": "a.mp4"}, "turns": [{"question": "?"}]}', 'needs "question" and "answer"'),
    ],
)
def test_a_wrong_line_is_named(folder, line, said):
    file = folder / "bad.jsonl"
    file.write_text(line)
    with pytest.raises(DataError, match=said) as error:
        open_data("jsonl", file)
    assert "bad.jsonl, line 1" in str(error.value)


def test_unknown_sources_and_paths_are_named(tmp_path):
    with pytest.raises(DataError, match="no data source 'csv'; known are avqa, .*jsonl, labelled, .*world"):
        open_data("csv")
    with pytest.raises(DataError, match="needs a path"):
        open_data("jsonl")
    with pytest.raises(DataError, match="takes no path"):
        open_data("world", tmp_path)
    assert {"jsonl", "world", "labelled"} <= set(SOURCES)


def test_text_that_is_no_text(tmp_path):
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        open_data("jsonl", tmp_path / "bytes.jsonl")


def test_the_world_is_a_source():
    examples = open_data("world", split="validation", seed=5, n=3, senses=("audio",))
    assert len(examples) == 3
    assert set(examples[0].media) == {"audio"}
    assert examples[0].key != examples[1].key
