"""What is said of a run's data before it begins."""

import json
from dataclasses import replace

import checkpoints
import pytest
import stages
import torch
from stages import clips

from lynx.adapters.format import Adapter
from lynx.backbones import skeleton
from lynx.cli.main import main
from lynx.datasets.base import Example, Turn
from lynx.media.writer import write_video
from lynx.training.preflight import preflight
from lynx.types import Moments, sample_times
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


@pytest.mark.parametrize("pooling", ["none", "space", "halves"])
def test_the_disk_for_streams_is_what_the_run_then_keeps(pooling, tmp_path):
    """Of a precision, of several pictures of a moment, of pooled tokens, and each medium once."""
    model = stages.small_model(tmp_path)
    views = {f"view {i}": clips(1)[0].media["video"] for i in range(2)}
    examples = [replace(e, media={**e.media, "multi_view": views}) for e in clips(2, seed=3)]
    examples.append(replace(examples[0], id="again", turns=examples[0].turns[:1]))
    adapter = Adapter("multi_view", "multi_view", token_pooling=pooling)
    model.add_adapter(adapter)
    source = model.backbone.source
    for precision, itemsize in (("fp32", 4), ("bf16", 2)):
        found = preflight(
            source, examples, ("multi_view",), adapters={"multi_view": adapter}, frames=stages.FRAMES,
            precision=precision, allow_unknown_words=True, progress=False,
        )  # fmt: skip
        example = examples[0]
        rendered = {
            sense: model.modality(sense).render(example.media[sense], sample_times(2.0, stages.FRAMES))
            for sense in ("video", "multi_view")
        }
        numbers = sum(model.encode(sense, frames).tokens.numel() for sense, frames in rendered.items())
        assert found.disk == 2 * numbers * itemsize


def test_the_moments_of_a_row_and_the_shape_of_its_video_count(folder, tmp_path):
    source = checkpoints.qwen2_5_vl(tmp_path / "qwen")
    media = {"video": folder / "0.mp4", "audio": folder / "0.mp4"}
    turns = (Turn("what ?", "a bell", "", ("audio",)),)

    def disk(path, **moments):
        example = Example("a", {**media, "video": path}, turns, moments=Moments(**moments))
        given = {"frames": 8, "allow_unknown_words": True, "progress": False}
        return preflight(source, [example], ("audio",), **given).disk

    assert disk(folder / "0.mp4", frames=4) < disk(folder / "0.mp4")  # 8 unless the row says how many
    assert disk(folder / "0.mp4", fps=2.0) == disk(folder / "0.mp4")  # of a clip of four seconds
    backbone, wide = skeleton(source), tmp_path / "wide.mp4"
    write_video(wide, torch.zeros(8, 3, 128, 512, dtype=torch.uint8), 2)
    kept = (backbone.tokens(8, (128, 512)) + backbone.tokens(8)) * backbone.token_width * 4
    assert disk(wide) == kept != disk(folder / "0.mp4")


def test_what_holding_out_would_do_is_said(folder, tmp_path, capsys):
    row = (folder / "good.jsonl").read_text()
    other = row.replace('"a"', '"b"', 1).replace("0.mp4", "1.mp4")
    (folder / "two.jsonl").write_text(f"{row}\n{other}")
    code, out = check(folder, "two.jsonl", capsys, "--val-share", "0.5", "--json", "--epochs", "6")
    found = json.loads(out.out)
    assert (code, found["held_out"], found["steps"]) == (0, 1, 2), "six epochs of one clip, four a step"
    code, out = check(folder, "good.jsonl", capsys, "--val-share", "0.5")
    assert code == 1 and "of 1 recordings: none would be left to train on" in out.err
    code, out = check(folder, "two.jsonl", capsys, "--val-data", "jsonl", str(folder / "good.jsonl"))
    assert code == 0 and "1 of 1 held-out recordings are trained on, too" in out.out


def test_words_of_questions_that_were_never_taught_are_noted(folder, capsys):
    row = json.loads((folder / "good.jsonl").read_text())
    row["turns"][0]["question"] = "do you hear thunder or thunder ?"
    (folder / "thunder.jsonl").write_text(json.dumps(row))
    code, out = check(folder, "thunder.jsonl", capsys)
    assert code == 0 and "was never taught 1 of the questions' words: thunder (1)" in out.out
