"""The ten benchmarks end to end on the embedded backbone, and one's own data under three conditions."""

import json
from dataclasses import replace

import checkpoints
import layouts
import pytest
import torch

import lynx
from lynx.cli.main import main
from lynx.datasets.base import Example, Turn, Wanted
from lynx.datasets.jsonl import open_jsonl
from lynx.datasets.sources import open_data
from lynx.errors import BackboneError, DataError, MediaError
from lynx.evaluation.batch_answers import answer_alone
from lynx.evaluation.benchmark_run import BenchmarkRun
from lynx.evaluation.benchmarks import REGISTRY, get
from lynx.evaluation.own_data import compare_own, remarks
from lynx.evaluation.predictions import PredictionFile, read_predictions
from lynx.evaluation.runner import Setting, answer, draw, questions_of, senses_of
from lynx.media.writer import write_video

ADDED = ("audio", "depth", "high_fps", "multi_view")
GIVEN = {
    "avsd": ("video", "audio"), "avqa": ("video", "audio"), "music-avqa": ("video", "audio"),
    "scanqa": ("video", "depth"), "sqa3d": ("video", "depth"), "video-mme": ("video", "high_fps"),
    "mvbench": ("video", "high_fps"), "mlvu": ("video", "high_fps"), "ego-exo": ("video", "multi_view"),
    "avut": ("video", "audio"),
}  # fmt: skip
MAIN = {"avsd": "cider", "scanqa": "em", "sqa3d": "em"}  # all others: accuracy
QUESTIONS = {"avsd": 3, "music-avqa": 8, "sqa3d": 6, "mvbench": 20, "mlvu": 8}  # all others: 3
FEW = Setting(frames=2, max_new_tokens=4)


@pytest.fixture(scope="module")
def model(root):
    return lynx.load("lynx-tiny", adapters=[root / "adapters" / sense for sense in ADDED])


@pytest.fixture
def bench(tmp_path):
    """A benchmark in a folder of its layout."""

    def make(name, **more):
        layouts.WRITERS[name](tmp_path / name)
        return BenchmarkRun(get(name), tmp_path / name, **more)

    return make


def left_out(name):
    return [sense for sense in ADDED if sense not in GIVEN[name]]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_question_is_asked_and_scored(model, bench, name, tmp_path):
    run, out = bench(name), tmp_path / "out"
    scores = run.evaluate(model, FEW, left_out(name), out)
    n = QUESTIONS.get(name, 3)
    assert (scores["n"], scores["questions"], scores["failed"], scores["subset"]) == (n, n, 0, False)
    assert scores["senses"] == list(GIVEN[name])
    metric = scores[MAIN.get(name, "accuracy")]
    assert 0 <= metric["low"] <= metric["mean"] <= metric["high"]
    assert json.loads((out / "scores.json").read_text()) == scores
    predictions = read_predictions(out / "predictions.jsonl")
    assert len(predictions) == n and all(each.prompt for each in predictions)
    if name in ("music-avqa", "sqa3d"):  # lynx-tiny says nothing to long prompts of words it does not know
        assert any(each.answered.prediction for each in predictions)


def test_a_file_of_right_answers_is_right(bench, tmp_path, capsys):
    """All but the rows of MLVU and AVSD that cannot be: scored without a model."""
    for name in REGISTRY:
        run = bench(name)
        rows = [
            {"id": q.id, "prediction": q.turn.answer, "answers": q.turn.references, "options": q.turn.options}
            | {"type": q.turn.type, "groups": dict(q.turn.groups), "metric": "", "error": "", "clip": each.id}
            | {"prompt": q.turn.question, "condition": "", "notes": []}
            for each, mine in run.read()[1]
            for q in mine
        ]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(["eval", name, "--score", str(file), "--json"]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert scores["n"] == QUESTIONS.get(name, 3)
        if name == "avsd":
            assert scores["rouge_l"]["mean"] == 1 and scores["bleu_4"] == pytest.approx(1, abs=1e-3)
        else:
            right = 7 / 8 if name == "mlvu" else 1
            assert scores[MAIN.get(name, "accuracy")]["mean"] == pytest.approx(right)


def test_the_answers_are_those_of_stock_generate_and_the_dialog_is_given(model, bench):
    run = bench("avsd")
    scores = run.evaluate(model, FEW, left_out("avsd"))
    (example, (question,)) = run.read()[1][0]
    assert [each["role"] for each in question.messages()] == ["user", "assistant", "user"]
    streams = model.chat(frames=2, **{sense: example.media[sense] for sense in GIVEN["avsd"]}).encode()
    prompt = model.backbone.compose(question.messages(), [streams[sense] for sense in GIVEN["avsd"]])
    with model.using("audio"):
        alone = answer_alone(model.backbone, prompt, 4)
    assert scores["n"] == 3 and alone == run_answers(run, model)[question.id]


def run_answers(run, model):
    file = PredictionFile(None, {})
    senses = senses_of(model, left_out(run.benchmark.name))
    answer(model, run.read()[1], senses, lambda given: {"": (given, given)}, file, FEW)
    return {id: each.answered.prediction for (id, _), each in file.done.items()}


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_batches_over_clips_of_different_sizes_give_the_answers_of_one_by_one(family, tmp_path):
    model = lynx.load(checkpoints.FAMILIES[family](tmp_path / "checkpoint"))
    checkpoints.random_adapter(model, "audio")
    clips = [checkpoints.clip(8, 50, 70), checkpoints.clip(8, 90, 60, seed=3), checkpoints.clip(4, seed=5)]
    texts = [("what is it ?", "who else is there with them ?"), ("where ?",), ("why is it so then ?",)]
    examples = []
    for clip, mine in zip(clips, texts, strict=True):
        turns = tuple(Turn(text, "x", id=text) for text in mine)
        examples.append(Example(mine[0], {"video": clip, "audio": checkpoints.sound()}, turns))
    both, conditions = ("video", "audio"), {"with": (("video", "audio"),) * 2, "without": (("video",), ())}
    file, setting = PredictionFile(None, {}), Setting(frames=3, max_new_tokens=6, batch_size=4)
    answer(model, questions_of(examples), both, lambda given: conditions, file, setting)
    said = {}
    for example in examples:
        streams = model.chat(**example.media, frames=3).encode()
        for turn in example.turns:
            for name, (given, on) in conditions.items():
                message = {"role": "user", "content": turn.question}
                prompt = model.backbone.compose([message], [streams[sense] for sense in given])
                with model.using(*on):
                    said[turn.id, name] = answer_alone(model.backbone, prompt, 6)
    assert {key: each.answered.prediction for key, each in file.done.items()} == said
    assert len(set(said.values())) > 4  # they are not all the same


def test_a_killed_run_is_gone_on_with(model, bench, tmp_path):
    run, out = bench("avqa"), tmp_path / "out"
    scores = run.evaluate(model, FEW, left_out("avqa"), out)
    whole = (out / "predictions.jsonl").read_text()
    with pytest.raises(DataError, match="exists: go on with --resume"):
        run.evaluate(model, FEW, left_out("avqa"), out)
    lines = whole.splitlines(keepends=True)
    changed = lines[1].replace('"prediction": "', '"prediction": "kept ')
    (out / "predictions.jsonl").write_text(changed + lines[2][:40])  # the first was lost, the last is torn
    assert main(["eval", "avqa", "--score", str(out / "predictions.jsonl")]) == 1
    (out / "predictions.jsonl").write_text(changed + lines[2][:40])
    again = run.evaluate(model, FEW, left_out("avqa"), out, resume=True)
    assert (out / "predictions.jsonl").read_text() == lines[0] + changed + lines[2]
    assert again["n"] == scores["n"]
    with pytest.raises(DataError, match="holds a run with frames 2, not 1"):
        run.evaluate(model, Setting(frames=1, max_new_tokens=4), left_out("avqa"), out, resume=True)
    with pytest.raises(DataError, match="holds a run with without"):
        run.evaluate(model, FEW, ADDED, out, resume=True)
    (run.folder / "val_qa.json").write_text((run.folder / "val_qa.json").read_text().replace("rain", "snow"))
    with pytest.raises(DataError, match="holds a run with asked"):
        run.evaluate(model, FEW, left_out("avqa"), out, resume=True)


def test_missing_and_damaged_clips_end_the_run_or_count_as_wrong(model, bench, tmp_path):
    run = bench("avqa")
    lenient = Setting(frames=2, max_new_tokens=4, allow_missing=True)
    (run.folder / "videos/bbcdefghijk_000000.mp4").write_bytes(b"no clip")
    with pytest.raises(MediaError, match="example 'bbcdefghijk_000000'"):
        run.evaluate(model, FEW, left_out("avqa"))
    assert run.evaluate(model, lenient, left_out("avqa"))["failed"] == 1
    (run.folder / "videos/bbcdefghijk_000000.mp4").unlink()
    with pytest.raises(DataError, match="bbcdefghijk_000000.mp4 does not exist"):
        run.evaluate(model, FEW, left_out("avqa"))
    scores = run.evaluate(model, lenient, left_out("avqa"), tmp_path / "out")
    assert (scores["n"], scores["failed"]) == (3, 1)
    checked = run.check()
    assert checked["media"] == {"present": 1, "missing": 1} and "bbcdefghijk" in checked["missing"][0]
    assert checked["by_type"] == {"Which": 3} and checked["files"] == ["val_qa.json"]
    assert checked["first_prompt"][0]["content"].startswith("Select the best answer")
    layouts.clip(run.folder / "videos/bbcdefghijk_000000.mp4")  # what failed is tried again
    scores = run.evaluate(model, lenient, left_out("avqa"), tmp_path / "out", resume=True)
    assert (scores["n"], scores["failed"]) == (3, 0)
    assert len(read_predictions(tmp_path / "out/predictions.jsonl")) == 3


def test_an_added_sense_that_a_clip_does_not_have_is_left_out_and_counted(model, bench, tmp_path):
    run, out = bench("avqa"), tmp_path / "out"
    silent = run.folder / "videos/bbcdefghijk_000000.mp4"
    write_video(silent, torch.zeros(16, 3, 64, 64, dtype=torch.uint8), 16)
    with pytest.raises(MediaError, match="example 'bbcdefghijk_000000'.* sound"):
        run.evaluate(model, FEW, left_out("avqa"))
    lenient = Setting(frames=2, max_new_tokens=4, allow_missing=True)
    scores = run.evaluate(model, lenient, left_out("avqa"), out)
    assert (scores["left_out"], scores["failed"]) == ({"audio": 1}, 0)
    (*_, last) = read_predictions(out / "predictions.jsonl")
    assert last.left_out == ("audio",) and "sound" in last.notes[-1]


def test_subsets_are_drawn_by_seed_and_marked(model, bench):
    run = bench("sqa3d", n=2, seed=3)
    scores = run.evaluate(model, FEW, left_out("sqa3d"))
    assert (scores["n"], scores["questions"], scores["subset"]) == (2, 6, True)
    asked = run.read()[1]
    ids = [[q.id for _, mine in draw(asked, 2, seed) for q in mine] for seed in (3, 3, 4)]
    assert ids[0] == ids[1] != ids[2]


def test_a_sense_that_the_data_lack_is_refused(model, bench):
    with pytest.raises(DataError, match="avqa has no 'depth', it has video, audio, high_fps"):
        bench("avqa").evaluate(model, FEW)
    with pytest.raises(DataError, match="no 'smell' to leave out"):
        senses_of(model, ["smell"])
    with pytest.raises(DataError, match="no sense is left"):
        senses_of(model, ["video", *ADDED])


def test_the_likeliest_letter_is_chosen_where_that_is_asked_for(model, bench, tmp_path, folder):
    stock, run = lynx.load(folder), bench("avqa")
    likely = Setting(frames=2, choose="likelihood")
    scores = run.evaluate(stock, likely, out=tmp_path / "out")
    assert (scores["choose"], scores["unparsed"]) == ("likelihood", 0)
    said = {
        each.answered.id: each.answered.prediction
        for each in read_predictions(tmp_path / "out/predictions.jsonl")
    }
    (example, (question, *_)) = run.read()[1][0]
    streams = stock.chat(video=example.media["video"], frames=2).encode()
    prompt = stock.backbone.compose(question.messages(), list(streams.values()))
    given = checkpoints.arguments(stock.backbone, prompt)
    with torch.no_grad():
        logits = stock.backbone.model(**given).logits[0, -1]
    ids = [stock.backbone.tokenizer.encode(letter)[0] for letter in "ABCD"]
    assert said[question.id] == "ABCD"[int(logits[ids].argmax())]
    with pytest.raises(DataError, match="sqa3d has no letters to choose among"):
        bench("sqa3d").evaluate(stock, likely)
    with pytest.raises(BackboneError, match="lynx-tiny has no token that is 'A'"):
        run.evaluate(model, likely, left_out("avqa"))


def test_the_official_results_of_video_mme_are_written(model, bench, tmp_path):
    run = bench("video-mme")
    run.evaluate(model, FEW, left_out("video-mme"), tmp_path / "out")
    written = json.loads((tmp_path / "out/official.json").read_text())
    given = json.loads((run.folder / "video_mme.json").read_text())
    assert [set(video) | {"url"} for video in written] == [set(video) for video in given]
    for mine, theirs in zip(written, given, strict=True):
        assert mine["video_id"] == theirs["video_id"] and mine["duration"] == theirs["duration"]
        for question, asked in zip(mine["questions"], theirs["questions"], strict=True):
            assert {key: question[key] for key in ("question_id", "task_type", "options", "answer")} == {
                key: asked[key] for key in ("question_id", "task_type", "options", "answer")
            }
            assert isinstance(question["response"], str)


def test_the_system_message_is_given(bench):
    run = bench("mlvu", prompt="official")
    assert run.check()["first_prompt"][0]["role"] == "system"


def test_questions_need_their_own_ids():
    turns = (Turn("a ?", "a", id="1"), Turn("b ?", "b", id="1"))
    with pytest.raises(DataError, match="2 questions have the id '1'"):
        questions_of([Example("a", {}, turns)])


@pytest.fixture
def own_file(tmp_path):
    """Two clips with sound and one without, with questions of several metrics."""
    rows = []
    for number in range(2):
        layouts.clip(tmp_path / f"{number}.mp4")
        turns = [
            {"question": "what sound do you hear ?", "answer": "a bell", "type": "sound", "senses": ["audio"]}
        ]
        turns.append({"question": "which ?", "options": ["red", "blue"], "answer": "red", "type": "color"})
        turns.append({"question": "what is it ?", "answers": ["a circle", "circle"], "metric": "rouge_l"})
        rows.append(
            {"id": "same", "media": {"video": f"{number}.mp4", "audio": f"{number}.mp4"}, "turns": turns}
        )
    file = tmp_path / "val.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_own_data_with_without_and_withheld(root, own_file, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["eval", "jsonl", str(own_file), "--adapter", str(root / "adapters/audio"), "--frames", "2"]
    words += ["--max-new-tokens", "4", "--json"]
    assert main([*words, "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    scores = report["scores"]
    assert set(scores) == {"exact", "options", "rouge_l"}
    assert list(scores["exact"]) == ["with", "without", "withheld"]
    assert all(part["n"] == 2 for metric in scores.values() for part in metric.values())
    assert scores["exact"]["with"]["by_type"]["sound"]["n"] == 2
    predictions = {each.key: each.answered.prediction for each in read_predictions(out / "predictions.jsonl")}
    assert len(predictions) == 18
    # each condition is what a chat says: all media; the stock model; the adapter on without its sense
    model = lynx.load("lynx-tiny", adapters=[root / "adapters/audio"])
    clip, question = own_file.parent / "0.mp4", "what sound do you hear ?"
    heard = model.chat(video=clip, audio=clip, frames=2).ask(question, max_new_tokens=4)
    seen = lynx.load("lynx-tiny").chat(video=clip, frames=2).ask(question, max_new_tokens=4)
    assert (predictions["0-0", "with"], predictions["0-0", "without"]) == (heard, seen)
    streams = model.chat(video=clip, frames=2).encode()
    prompt = model.backbone.compose([{"role": "user", "content": question}], list(streams.values()))
    with model.using("audio"):
        assert predictions["0-0", "withheld"] == answer_alone(model.backbone, prompt, 4)
    assert main(["eval", "jsonl", "--score", str(out / "predictions.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == scores
    assert main(["eval", "jsonl", "--score", str(out / "predictions.jsonl")]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["metric", "type", "n", "with", "without", "withheld"]
    assert [line.split()[:3] for line in lines] == [
        *(["exact", "all", "2"], ["exact", "sound", "2"]),
        *(["options", "all", "2"], ["options", "color", "2"], ["rouge_l", "all", "2"]),
    ]
    # two answers that are all wrong, or all right: 1 - 0.025^(1/2) of an exact interval, of one clip id 0.975
    assert "0.0 (0.0-97.5)" in lines[0] or "100.0 (2.5-100.0)" in lines[0]
    assert main([*words, "--check"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["by_type"] == {"": 2, "color": 2, "sound": 2}
    assert (checked["damaged"], checked["cannot_say"]) == ([], {})


def test_a_sense_that_works_is_better_with_than_without_and_withheld(root):
    model = lynx.load("lynx-tiny", adapters=[root / "adapters/audio"])
    examples = list(open_data("world", split="test", seed=11, n=16, senses=("video", "audio")))
    heard = [replace(e, turns=tuple(t for t in e.turns if t.senses == ("audio",))) for e in examples]
    report = compare_own(model, [each for each in heard if each.turns], Setting())
    figures = {name: part["exact"]["mean"] for name, part in report["scores"]["exact"].items()}
    assert report["scores"]["exact"]["with"]["n"] >= 16
    assert figures["with"] > 0.85 and max(figures["without"], figures["withheld"]) < 0.6
    few, unknown = sorted(remarks(report), key=len)[::-1]
    assert "intervals are of" in few and unknown == (
        "the adapter audio does not say which recordings it was tuned on"
    )
    assert remarks(
        {"not_used": {"depth": 3}, "left_out": {"audio": 2}, "scores": {"exact": {"with": {"failed": 1}}}}
    ) == [
        "3 rows have depth, which no adapter is for",
        "2 answers were given without audio",
        "1 answers are missing and count as wrong",
    ]


def test_own_data_without_the_sense_are_refused(model, own_file):
    rows = [json.loads(line) for line in own_file.read_text().splitlines()]
    for row in rows:
        del row["media"]["audio"]
    own_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = open_jsonl("jsonl", own_file, Wanted())
    with pytest.raises(DataError, match="no row has a medium for an added sense of the model"):
        compare_own(model, examples, FEW)


def test_the_command_asks_a_benchmark(root, tmp_path, capsys):
    layouts.avut(tmp_path / "avut")
    words = ["eval", "avut", "--data", str(tmp_path / "avut"), "--adapter", str(root / "adapters/audio")]
    assert main([*words, "--frames", "2", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["benchmark"], scores["n"], scores["senses"]) == ("avut", 3, ["video", "audio"])
    assert scores["by_type"]["Audio Content Counting"]["n"] == 3
    assert main([*words, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["media"] == {"present": 3, "missing": 0}
    assert main(["eval", "avut"]) == 1 and "--data is missing" in capsys.readouterr().err
    assert (
        main(["eval", "nothing", "--data", "x"]) == 1 and "no benchmark 'nothing'" in capsys.readouterr().err
    )
    assert main([*words, "--prompt", "official", "--check"]) == 1
    assert "avut has no prompt 'official'; it has common" in capsys.readouterr().err
    assert torch.is_grad_enabled()
