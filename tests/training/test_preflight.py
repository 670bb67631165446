"""What is said of a run's data before it begins."""

import json

import pytest
from stages import clips

from lynx.cli.main import main
from lynx.datasets.base import Example, Turn
from lynx.training.preflight import preflight
from lynx.world.files import write_clip
from lynx.world.scene.scene import draw_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips of four seconds; a row of each, one about a sense that it has not, one that is not there."""
    place = tmp_path_factory.mktemp("data")
    for number in range(2):
        write_clip(draw_scene("test", number, 0), place / f"{number}.mp4", 64)
    heard = {"question": "what do you hear ?", "answer": "a bell", "type": "sound", "senses": ["audio"]}
    rows = [
        {"id": "a", "media": {"video": "0.mp4", "audio": "0.mp4"}, "turns": [heard, {**heard, "senses": []}]},
        {"id": "b", "media": {"video": "1.mp4"}, "turns": [heard]},
    ]
    (place / "good.jsonl").write_text("\n".join(map(json.dumps, rows[:1])))
    said = {**heard, "answer": "a baby babbling"}
    rows.append({"id": "c", "media": {"audio": "gone.mp4"}, "turns": [said]})
    (place / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


def check(folder, name, capsys, *more):
    words = ["tune", "--modality", "audio", "--data", "jsonl", str(folder / name)]
    code = main([*words, "--out", str(folder / "out"), "--check", *more])
    return code, capsys.readouterr()


def test_good_data_is_counted_and_nothing_is_written(folder, capsys):
    code, out = check(folder, "good.jsonl", capsys, "--json")
    found = json.loads(out.out)
    assert (code, found["ready"], found["problems"]) == (0, True, [])
    data = found["data"]
    assert (data["examples"], data["recordings"], data["questions"]) == (1, 1, 2)
    assert data["hours"] == pytest.approx(4 / 3600, rel=0.02)
    assert data["types"] == {"sound": 2} and data["senses"] == {"audio": 1, "": 1}
    assert data["media"] == {"video": 1, "audio": 1} and data["elsewhere"] == 0
    # 16 frames of 4 x 4 tokens and a newline for each of two senses, 5 words, their answer, the template
    assert 2 * 257 > found["longest"] > 200 and found["context"] == 8192
    assert not (folder / "out").exists()


def test_every_problem_is_listed_at_once(folder, capsys):
    code, out = check(folder, "bad.jsonl", capsys)
    assert code == 1
    assert "about a sense that is not there" in out.out and "0:00:08" in out.out
    assert "gone.mp4 does not exist" in out.err and "babbling (1)" in out.err
    code, out = check(folder, "bad.jsonl", capsys, "--allow-unknown-words")
    assert code == 1 and "babbling" not in out.err


def test_data_without_the_sense_is_no_data_for_it():
    silent = [Example(e.id, {"video": e.media["video"]}, e.turns) for e in clips(2)]
    found = preflight("lynx-tiny", silent, ("audio",), allow_unknown_words=True, progress=False)
    assert "no example has 'audio'" in found.problems
    assert any("no question needs audio" in problem for problem in found.problems)
    guided = preflight("lynx-tiny", silent, (), asks=False, progress=False)
    assert guided.problems == () and guided.longest == guided.disk == 0


def test_a_prompt_that_the_context_cannot_hold_is_a_problem():
    (example, *_) = clips(1)
    long = Example("x", example.media, (Turn("what " * 9000, "bell", "", ("audio",)),))
    found = preflight("lynx-tiny", [long], ("audio",), progress=False)
    assert found.longest > found.context
    assert any("the longest prompt has" in problem for problem in found.problems)
