"""JSON lines: what a line may hold, and the sentence on everything else, with file, line and key."""

import bz2
import gzip
import json
import logging
import lzma
from pathlib import Path

import pytest

from lynx.config import Limits
from lynx.datasets import json_lines
from lynx.datasets.base import Turn
from lynx.datasets.sources import open_data
from lynx.errors import DataError
from lynx.modalities.multi_view import View
from lynx.types import Moments, Recording

CLIP = {"media": {"video": "a.mp4"}}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4", "other/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def read(folder, *rows, **more):
    """The examples of rows: objects, or lines as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    return open_data("jsonl", folder / "rows.jsonl", **more)


def turn(**values):
    return CLIP | {"turns": [{"question": "what ?", "answer": "a bell"} | values]}


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\x1c", "\x0b", "\x0c"])
def test_only_a_newline_ends_a_line(folder, character):
    text = f"one{character}two"
    line = json.dumps(turn(answer=text), ensure_ascii=False).encode()
    if character in "\x1c\x0b\x0c":  # control characters are escaped in JSON
        line = json.dumps(turn(answer=text)).encode()
    examples = read(folder, line, line)
    assert [example.turns[0].answer for example in examples] == [text, text]


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(folder):
    row = json.dumps(CLIP).encode()
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n" + row + b"\r\n")
    assert [example.id for example in open_data("jsonl", folder / "rows.jsonl")] == ["1", "3"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(folder, encoding):
    (folder / "rows.jsonl").write_bytes(json.dumps(CLIP).encode(encoding))
    with pytest.raises(DataError, match="UTF-32" if encoding == "utf-32" else "UTF-16"):
        open_data("jsonl", folder / "rows.jsonl")


def test_null_is_as_if_the_key_were_not_there(folder):
    nothing = {"id": None, "turns": None, "start": None, "end": None, "extra": None}
    (first, second) = read(folder, {"media": {"video": "a.mp4", "audio": None}, **nothing}, CLIP)
    assert first.media == {"video": folder / "a.mp4"} and first.id == "1"
    assert (first.turns, first.moments) == ((), Moments())
    assert (second.turns, second.moments) == ((), Moments())
    (example,) = read(folder, turn(type=None, senses=None))
    assert example.turns[0] == read(folder, turn())[0].turns[0]
    recording = {"path": "a.mp4", "track": None, "unit": None}
    assert read(folder, {"media": {"video": recording}})[0].media == {"video": folder / "a.mp4"}


def test_a_part_of_a_clip(folder):
    (example,) = read(folder, CLIP | {"start": 12.5, "end": 20})
    assert example.moments == Moments(start=12.5, end=20.0)
    (example,) = read(folder, CLIP | {"fps": 2, "max_frames": 64})
    assert example.moments == Moments(fps=2.0, max_frames=64)
    with pytest.raises(DataError, match="line 1.*frames=4 and fps=2 both say how many"):
        read(folder, CLIP | {"fps": 2, "frames": 4})


def test_what_belongs_to_a_recording_is_said_with_it(folder):
    given = {"path": "a.mp4", "track": 2, "unit": 0.0002, "up": "y", "fps": 30}
    (example,) = read(folder, {"media": {"depth": given, "audio": {"path": "b.mp4"}}})
    assert example.media["depth"] == Recording(folder / "a.mp4", track=2, unit=0.0002, up="y", fps=30.0)
    assert example.media["audio"] == folder / "b.mp4"
    (example,) = read(folder, {"media": {"audio": "a.mp4#2"}})
    assert Recording.of(example.media["audio"]) == Recording(folder / "a.mp4", track=2)


def test_several_views_are_a_list_or_have_names(folder):
    other = {"path": "other/a.mp4", "offset": -1.5}
    (example,) = read(folder, {"media": {"multi_view": ["a.mp4", "b.mp4", other]}})
    views = example.media["multi_view"]
    assert list(views) == ["a", "b", "a 3"]
    assert views["a 3"] == View(Recording(folder / "other" / "a.mp4"), -1.5)
    (example,) = read(folder, {"media": {"multi_view": {"left": "a.mp4", "right": other}}})
    assert {name: view.offset for name, view in example.media["multi_view"].items()} == {
        "left": 0.0,
        "right": -1.5,
    }
    (example,) = read(folder, {"media": {"multi_view": other}})
    assert example.media["multi_view"]["a"].offset == -1.5


ODD_NAMES = ("a#b.mp4", "Recording-12:30:05.mp4", "100%d.mp4", "~a.mp4", "-a.mp4", "a\u202e.mp4", "a\nb.mp4")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_taken_as_they_are(folder, name, monkeypatch):
    (folder / name).write_bytes(b"x")
    monkeypatch.chdir(folder)
    for given in (name, str(folder / name)):
        (example,) = read(folder, {"media": {"video": given}})
        assert Recording.of(example.media["video"]).path == folder / name
    assert open_data("jsonl", "rows.jsonl")[0].media["video"].exists()


WRONG = {
    "an answer that is null": (turn(answer=None), r'turns\[0\] has no text as "answer"'),
    "an answer that is a number": (turn(answer=3), r'"turns\[0\].answer" is 3; expected a text'),
    "a question that is a list": (turn(question=["?"]), r'"turns\[0\].question" is .*expected a text'),
    "a question that is missing": (CLIP | {"turns": [{"answer": "a"}]}, '"answer".*"question"'),
    "senses that are a text": (turn(senses="audio"), r"senses\" is 'audio'; expected a list of sens"),
    "senses with a number": (turn(senses=["audio", 1]), "is 1; expected a text"),
    "a misspelt sense of a question": (turn(senses=["adio"]), r"'adio' in turns\[0\].senses; .*'audio'"),
    "a type that is a number": (turn(type=1), "type\" is 1; expected a text"),
    "half a character": (turn(answer="\ud800"), "halves of UTF-16 pairs"),
    "a turn that is a text": (CLIP | {"turns": ["what ?"]}, r"turns\[0\] is 'what \?'; expected an object"),
    "turns that are an object": (CLIP | {"turns": {"question": "?"}}, '"turns" is .*expected a list'),
    "a misspelt sense": ({"media": {"vidoe": "a.mp4"}}, "sense 'vidoe' in media; did you mean 'video'"),
    "a sense in capitals": ({"media": {"Video": "a.mp4"}}, "did you mean 'video'"),
    "a sense by its label": ({"media": {"sound": "a.mp4"}}, "did you mean 'audio'"),
    "media that are a text": ({"media": "a.mp4"}, "\"media\" is 'a.mp4'; expected an object"),
    "media that are null": ({"media": None}, 'no medium; expected an object with "media"'),
    "a medium that is null": ({"media": {"video": None}}, "no medium"),
    "a medium that is a number": ({"media": {"video": 7}}, "media.video is 7; expected a path"),
    "a list of clips for one": ({"media": {"video": ["a.mp4"]}}, "multi_view alone takes several"),
    "an empty list of views": ({"media": {"multi_view": []}}, r"media.multi_view is \[\]; expected a path"),
    "a view that is a number": ({"media": {"multi_view": ["a.mp4", 7]}}, r"media.multi_view\[1\] is 7"),
    "a view without a path": ({"media": {"multi_view": {"left": {"offset": 1}}}}, "'left'. has no \"path\""),
    "an offset elsewhere": ({"media": {"video": {"path": "a.mp4", "offset": 1}}}, "video.offset'; known are"),
    "a start in a medium": ({"media": {"video": {"path": "a.mp4", "begin": 1}}}, "video.begin'; known are"),
    "no path": ({"media": {"video": ""}}, "'' ?; expected the path"),
    "a path with NUL": ({"media": {"video": "a\0.mp4"}}, "expected the path"),
    "a track that is a text": ({"media": {"audio": {"path": "a.mp4", "track": "2"}}}, "track\" is '2'"),
    "a track that is a truth": ({"media": {"audio": {"path": "a.mp4", "track": True}}}, 'track" is True'),
    "a unit of zero": ({"media": {"depth": {"path": "a.mp4", "unit": 0}}}, "unit\" is 0; expected meters a"),
    "another axis": ({"media": {"depth": {"path": "a.mp4", "up": "w"}}}, "up\" is 'w'; expected one of x,"),
    "a unit nobody knows": ({"media": {"depth": {"path": "a.mp4", "unit": "tumm"}}},
                            "unit\" is 'tumm' .did you mean 'tum'.*; expected meters a step"),
    "an answer that is blank": (turn(answer=" "), "answer\" is ' '; expected a text that is not blank"),
    "a question beside media": (CLIP | {"question": "what ?"}, '"question" belongs in "turns"'),
    "a part of one medium": ({"media": {"video": {"path": "a.mp4", "start": 1}}}, 'stands beside "media"'),
    "an address": ({"media": {"video": "https://x.org/a.mp4"}}, "of a file or folder here: download it"),
    "a name that no file can have": ({"media": {"video": "a" * 300}}, "aaa does not exist"),
    "an id without a letter": (CLIP | {"id": ""}, "\"id\" is ''; expected a text or a whole number"),
    "views that are all null": ({"media": {"multi_view": {"left": None}}}, "multi_view is .*; expected a"),
    "an array": (json.dumps([CLIP]).encode(), "an array; expected JSON lines"),
    "an array over several lines": (b"[", "begins an array; expected JSON lines"),
    "an object over several lines": (b'{"media":', "ends inside an object; expected all of an object in one"),
    "a comma after an object": (json.dumps(CLIP).encode() + b",", "Extra data .column 30.; expected JSON"),
    "a misspelt setting": ({"media": {"depth": {"path": "a.mp4", "unti": 1}}}, "did you mean 'unit'"),
    "a misspelt key": (CLIP | {"turn": []}, "unknown key 'turn'; did you mean 'turns'"),
    "a misspelt key of a turn": (turn(sense=["audio"]), r"key 'turns\[0\].sense'; did you mean 'senses'"),
    "an id that is a list": (CLIP | {"id": []}, r'"id" is \[\]; expected a text'),
    "an id that is a truth": (CLIP | {"id": True}, '"id" is True'),
    "a start that is a text": (CLIP | {"start": "0:12"}, "\"start\" is '0:12'; expected seconds"),
    "a start before the recording": (CLIP | {"start": -1}, '"start" is -1'),
    "an end before the start": (CLIP | {"start": 3, "end": 2}, 'end is 2.*seconds after start'),
    "a start without end": (b'{"media": {"video": "a.mp4"}, "start": 1e400}', '"start" is inf'),
    "a number JSON has not": (b'{"media": {"video": "a.mp4"}, "start": NaN}', "NaN is no number of JSON"),
    "infinity": (b'{"media": {"video": "a.mp4"}, "end": Infinity}', "Infinity is no number of JSON"),
    "a key twice": (b'{"media": {"video": "a.mp4", "video": "b.mp4"}}', "'video' stands twice"),
    "lists without end": (b"[" * 100_000, "nested too deeply"),
    "a number python does not read": (b'{"id": ' + b"9" * 9000 + b"}", "is not JSON"),
    "a NUL byte": (b'{"media": {}}\0', "holds a NUL byte"),
    "bytes that are no text": (b'{"id": "\xff"}', "is not UTF-8 text"),
    "two objects": (json.dumps(CLIP).encode() * 2, "is not JSON: Extra data"),
    "a text": (b'"a.mp4"', 'expected an object with "media"'),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named_with_file_line_and_key(folder, case):
    row, message = WRONG[case]
    with pytest.raises(DataError, match=message) as error:
        read(folder, CLIP, b"", row)
    assert "rows.jsonl, line 3" in str(error.value) and len(str(error.value)) < 600


def test_a_line_without_end_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(json_lines, "LIMITS", Limits(max_line_bytes=1000))
    assert len(read(folder, CLIP | {"id": "x" * 800})) == 1
    with pytest.raises(DataError, match="line 2 is longer than 1000 bytes .LYNX_MAX_LINE_BYTES."):
        read(folder, CLIP, CLIP | {"id": "x" * 2000})


def test_other_keys_and_senses_are_noted_once(folder, caplog):
    more = {"license": "mit", "media": {"video": "a.mp4", "thermal": "b.mp4"}}
    with caplog.at_level(logging.WARNING, logger="lynx"):
        examples = read(folder, CLIP, more, more)
    assert set(examples[1].media) == {"video", "thermal"}
    assert [record.getMessage().partition(": ")[2][:36] for record in caplog.records] == [
        "the key 'license' is not read",
        "no sense of lynx is called 'thermal'",
    ]
    assert all("rows.jsonl, line 2" in record.getMessage() for record in caplog.records)


def test_a_sense_of_another_package_is_known(folder, monkeypatch, caplog):
    from lynx import modalities

    thermal = type("Thermal", (modalities.get("video"),), {"name": "thermal", "label": "heat"})
    monkeypatch.setattr(modalities.extensions, "built_in", modalities.REGISTRY | {"thermal": thermal})
    read(folder, {"media": {"thermal": "a.mp4"}})
    assert not caplog.records
    with pytest.raises(DataError, match="did you mean 'thermal'"):
        read(folder, {"media": {"thremal": "a.mp4"}})


def test_a_near_miss_beside_the_right_key_is_another_key(folder):
    assert read(folder, turn(answers=["a bell", "bell"]))[0].turns[0].answer == "a bell"


def test_missing_files_are_counted(folder):
    gone = {"media": {"video": "gone.mp4", "audio": "a.mp4"}}
    with pytest.raises(DataError, match=r"line 2: .*gone.mp4 does not exist; .*; 1 more are missing"):
        read(folder, CLIP, gone, gone)
    assert len(read(folder, CLIP, gone, senses=("audio",))) == 1  # which needs no video
    views = {"media": {"multi_view": ["a.mp4", "lost.mp4"]}}
    with pytest.raises(DataError, match="lost.mp4 does not exist"):
        read(folder, views)


def test_paths_are_relative_to_the_file(folder, monkeypatch):
    monkeypatch.chdir(folder / "other")
    (example,) = read(folder, {"media": {"video": "other/../b.mp4"}})
    assert Path(example.media["video"]).samefile(folder / "b.mp4")


def test_what_belongs_to_a_recording_is_read_as_on_the_command_line(folder):
    given = {"path": "a.mp4", "unit": "TUM", "up": "+Y"}
    (example,) = read(folder, {"media": {"depth": given}})
    assert example.media == {"depth": Recording(folder / "a.mp4", unit=1 / 5000, up="y")}


def test_a_view_that_is_null_is_not_there(folder):
    (example,) = read(folder, {"media": {"multi_view": {"left": None, "right": "a.mp4"}}})
    assert list(example.media["multi_view"]) == ["right"]


def test_ids_that_stand_twice_are_said_once(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="lynx"):
        read(folder, *[CLIP | {"id": name} for name in ("x", "y", "x", "y")])
    (record,) = caplog.records
    assert "line 3: the id 'x' is that of line 1, too; 1 more lines" in record.getMessage()


def test_a_question_whose_medium_is_not_there_is_said_once(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="lynx"):
        read(folder, turn(senses=["video"]), turn(senses=["audio"]), turn(senses=["video", "audio"]))
    (record,) = caplog.records
    assert "line 2: a question needs audio, which the row has no medium for" in record.getMessage()


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n \r\n\n"])
def test_a_file_of_nothing_is_said_to_hold_no_examples(folder, content):
    (folder / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="rows.jsonl holds no examples; expected one object a line"):
        open_data("jsonl", folder / "rows.jsonl")


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACKERS)
def test_a_compressed_file_is_said_to_be_one(folder, kind):
    (folder / "rows.jsonl.packed").write_bytes(PACKERS[kind](json.dumps(CLIP).encode()))
    with pytest.raises(DataError, match=rf"is compressed \({kind}\): unpack it first"):
        open_data("jsonl", folder / "rows.jsonl.packed")


def one_turn(tmp_path, **turn):
    """A row with a single turn, read."""
    (tmp_path / "a.mp4").touch()
    row = {"media": {"video": "a.mp4"}, "turns": [{"question": "which ?", **turn}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    return open_data("jsonl", tmp_path)[0].turns[0]


def test_a_turn_with_several_answers_and_a_metric(tmp_path):
    turn = one_turn(tmp_path, answers=["a dog", "dog"], metric="cider")
    assert (turn.answer, turn.references, turn.metric) == ("a dog", ("a dog", "dog"), "cider")
    assert one_turn(tmp_path, answer="dog", answers=["a dog", "dog"]).answer == "dog"
    assert one_turn(tmp_path, answer="dog").references == ("dog",)


def test_options_are_asked_with_the_question_and_answered_by_a_letter(tmp_path):
    turn = one_turn(tmp_path, answer="dog", options=["cat", "dog"])
    assert turn.answer == "B" and turn.options == ("cat", "dog")
    assert turn.question.startswith("which ?\nA. cat\nB. dog\nAnswer with the option's letter")
    assert one_turn(tmp_path, answer="B", options=["cat", "dog"]) == turn


def test_a_question_may_follow_a_conversation_that_is_given(tmp_path):
    asked = {"question": "and then ?", "answer": "rain"}
    given = [{"question": "what first ?", "answer": "a dog"}]
    turns = [
        {"question": "which ?", "options": ["cat", "dog"], "answer": "dog"},
        {**asked, "history": True}, {**asked, "history": given}, {**asked, "history": False}, asked,
    ]  # fmt: skip
    (tmp_path / "a.mp4").touch()
    (tmp_path / "train.jsonl").write_text(json.dumps({"media": {"video": "a.mp4"}, "turns": turns}))
    first, after, behind, *alone = open_data("jsonl", tmp_path)[0].turns
    assert after.before == ((first.question, "B"),)  # as they were put, with their true answers
    assert behind.messages == [
        {"role": "user", "content": "what first ?"}, {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "and then ?"},
    ]  # fmt: skip
    assert alone == [Turn("and then ?", "rain")] * 2


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"answer": "a", "history": "yes"}, r"turns\[0\].history\" is 'yes'; expected true"),
        ({"answer": "a", "history": [{"question": "b"}]}, r"history\[0\] is .*needs \"question\" and"),
        ({"answer": "a", "history": [{"q": "b", "answer": "c"}]}, r"unknown key 'turns\[0\].history\[0\].q'"),
        ({"answer": "a", "history": ["b"]}, r"history\[0\] is 'b'; expected an object"),
        ({"answer": "cow", "options": ["cat", "dog"]}, "'cow'; expected one of its options"),
        ({"answer": "C", "options": ["cat", "dog"]}, "'C'; expected one of its options"),
        ({"answer": "cat", "options": ["cat", "cat"]}, "options that are the same"),
        ({"answer": "cat", "options": ["cat", "dog"], "metric": "exact"}, "no other metric applies"),
        ({"answer": "cat", "options": "cat"}, "'cat'; expected a list of texts"),
        ({"answer": "cat", "metric": "options"}, "is options, and it has none"),
        ({"answer": "cat", "metric": "bleurt"}, "'bleurt'; expected one of exact, contains"),
        ({"answer": "cat", "answers": ["dog"]}, "'cat', which is none of its answers"),
        ({"answers": []}, "expected a list of texts"),
    ],
)
def test_turns_that_cannot_be_scored_are_refused(tmp_path, turn, said):
    with pytest.raises(DataError, match=said):
        one_turn(tmp_path, **turn)
