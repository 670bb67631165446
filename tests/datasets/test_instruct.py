"""LLaVA's conversations with a mapping of media."""

import json

import pytest

from lynx.datasets.base import Turn
from lynx.datasets.sources import open_data
from lynx.errors import DataError

ROW = {
    "id": 7, "video": "a/b.mp4",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A bell."},
        {"from": "human", "value": "And then?"}, {"from": "gpt", "value": "Nothing."},
    ],
}  # fmt: skip
MAPPING = """
annotations: train.json
media: {video: "videos/{video}", audio: "sound/{video_stem}.wav"}
senses: [audio]
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("videos/a/b.mp4", "sound/a/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "map.yaml").write_text(MAPPING)
    (tmp_path / "train.json").write_text(json.dumps([ROW]))
    return tmp_path


def test_conversations_become_questions_with_their_media(folder):
    (example,) = open_data("instruct", folder / "map.yaml")
    assert example.id == "7"
    assert {s: str(m.relative_to(folder)) for s, m in example.media.items()} == {
        "video": "videos/a/b.mp4", "audio": "sound/a/b.wav",
    }  # fmt: skip
    assert example.turns == (
        Turn("What is it?", "A bell.", "", ("audio",)), Turn("And then?", "Nothing.", "", ("audio",)),
    )  # fmt: skip


def test_with_history_a_turn_follows_those_before_it(folder):
    (folder / "map.yaml").write_text(MAPPING + "history: true\n")
    (example,) = open_data("instruct", folder / "map.yaml")
    assert [turn.before for turn in example.turns] == [(), (("What is it?", "A bell."),)]


def test_lines_and_the_names_of_the_hub_s_messages_too(folder):
    said = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "<video>What?"},
        {"role": "assistant", "content": "That."},
    ]  # fmt: skip
    rows = [json.dumps({**ROW, "conversations": said}), json.dumps(ROW)]
    (folder / "train.json").write_text("\n".join(rows))
    first, second = open_data("instruct", folder / "map.yaml")
    assert first.turns == (Turn("What?", "That.", "", ("audio",)),) and len(second.turns) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": "none"}, "row 1: .*expected an object with"),
        ({"conversations": ROW["conversations"][1:]}, "does not take turns"),
        ({"conversations": [{"from": "bird", "value": "?"}]}, "expected from human or gpt"),
        ({"video": None}, "media needs the field 'video'"),
        ({"video": "gone.mp4"}, "gone.mp4 does not exist"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(folder, change, reason):
    (folder / "train.json").write_text(json.dumps([{**ROW, **change}]))
    with pytest.raises(DataError, match=reason):
        open_data("instruct", folder / "map.yaml")


WRONG = ("[1]", "media: {}", "annotations: a\nmedia: 3", "a: [", "annotations: a\nmedia: {}\nx: 1")


@pytest.mark.parametrize("text", WRONG)
def test_a_mapping_of_another_form_is_refused(folder, text):
    (folder / "map.yaml").write_text(text)
    with pytest.raises(DataError, match="map.yaml"):
        open_data("instruct", folder / "map.yaml")


def test_it_needs_its_files(folder):
    (folder / "train.json").unlink()
    with pytest.raises(DataError, match="train.json is not a file"):
        open_data("instruct", folder / "map.yaml")
    with pytest.raises(DataError, match="needs a path: a mapping"):
        open_data("instruct")
