"""The figures of an evaluation, and that answers given side by side are those given alone."""

from dataclasses import replace
from pathlib import Path

import checkpoints
import pytest
import torch
from checkpoints import clip, random_adapter, sound
from transformers import AutoModelForImageTextToText, PreTrainedModel

import lynx
from lynx.adapters.format import Adapter
from lynx.config import LoraSettings
from lynx.errors import AdapterError, DataError
from lynx.evaluation.batch_answers import MAX_NEW_TOKENS, answer_alone, answer_batch
from lynx.model import Lynx
from lynx.world.balanced_sampling import sample_balanced
from lynx.world.combinations import evaluate_combinations
from lynx.world.evaluation import (
    MEASURED,
    AllAnswers,
    Cells,
    collect_answers,
    evaluate,
    evaluate_backbone,
    summarize,
)
from lynx.world.files import sense_path, stream_clips
from lynx.world.pretraining.model import build_backbone, save_backbone
from lynx.world.questions.types import QUESTION_TYPES

QUESTIONS = (
    "what do you see ?",
    "how many shapes are there",
    "do you hear a bell ?",
    "where is the red circle at the end ?",
)
KEYS = ["modality", "n", "seed", "with", "without", "withheld", "chance", "both_senses"]
KEYS += ["video_only_on", "video_only_off", "video_only_stock", "by_type"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that has learned nothing, and so says a lot."""
    path = tmp_path_factory.mktemp("backbone")
    model, tokenizer = build_backbone(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed" not in name:
            weight.data.mul_(8)
    save_backbone(model, tokenizer, path, {})
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Lynx:
    model = lynx.load(folder)
    torch.manual_seed(0)
    for sense in MEASURED:
        model.add_adapter(Adapter(name=sense, modality=sense))
        for part in ("vision", "llm"):
            lora = model.add_lora(sense, part, LoraSettings(rank=4, alpha=8, dropout=0.0))
            for name, weight in model.lora.tensors(lora).items():
                if ".lora_B." in name:
                    weight.data.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def test_answers_side_by_side_are_those_of_a_chat(model: Lynx, cache: Path) -> None:
    path = dict(stream_clips("test", 7, [0], cache))[0]
    for media in ({"video": path}, {"video": path, "audio": path}):
        session = model.chat(**media)
        streams = list(session.encode().values())
        with model.using(*media):
            prompts = [model.backbone.compose([{"role": "user", "content": q}], streams) for q in QUESTIONS]
            together = answer_batch(model.backbone, prompts)
        alone = []
        for question in QUESTIONS:
            session.clear()
            alone.append(session.ask(question, max_new_tokens=MAX_NEW_TOKENS))
        assert together == alone
        assert len(set(together)) > 1  # else the comparison would show nothing


def test_questions_about_several_clips_keep_to_their_own(model: Lynx, cache: Path) -> None:
    prompts, clips, alone = [], [], []
    for number, path in dict(stream_clips("test", 7, [0, 1], cache)).items():
        session = model.chat(video=path, audio=path)
        streams = list(session.encode().values())
        for question in QUESTIONS[: 2 + number]:
            prompts.append(model.backbone.compose([{"role": "user", "content": question}], streams))
            clips.append(number)
            session.clear()
            alone.append(session.ask(question, max_new_tokens=MAX_NEW_TOKENS))
    order = [3, 0, 4, 1, 2]
    with model.using("audio"):
        together = answer_batch(model.backbone, [prompts[i] for i in order], [clips[i] for i in order])
    assert together == [alone[i] for i in order]
    assert alone[:2] != alone[2:4]  # the clips tell


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_adapters_off_answers_are_those_of_a_stock_model_in_every_family(family: str, tmp_path: Path) -> None:
    model = lynx.load(checkpoints.FAMILIES[family](tmp_path))
    random_adapter(model, "audio")
    session = model.chat(video=clip(4), audio=sound(), frames=4)
    video = session.encode()["video"]
    prompts = [
        model.backbone.compose([{"role": "user", "content": question}], [video]) for question in QUESTIONS
    ]
    with model.using():
        alone = [answer_alone(model.backbone, prompt) for prompt in prompts]
        together = answer_batch(model.backbone, prompts)
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    expected = []
    for question in QUESTIONS:
        message = {"role": "user", "content": question}
        seen = replace(clip(4), times=session.plan.times)
        inputs = checkpoints.stock_inputs(model.backbone, seen, [message])
        ids = stock.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, pad_token_id=0)
        new = ids[0, inputs["input_ids"].shape[1] :]
        expected.append(model.backbone.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert alone == together == expected
    with model.using("audio"):
        assert answer_batch(model.backbone, prompts) != expected  # else the adapter changes nothing


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_every_family_is_measured_without_a_second_copy_of_the_model(
    family: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lynx.load(checkpoints.FAMILIES[family](tmp_path))
    random_adapter(model, "audio")

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a second model is loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)
    result = evaluate(model, "audio", n=2, seed=7, cache=cache)
    assert list(result) == KEYS and result["video_only_off"] == result["video_only_stock"]
    assert evaluate_backbone(model, n=2, seed=7, cache=cache)["n"] == 2


def test_evaluation_has_exactly_its_keys_and_off_is_stock(model: Lynx, cache: Path) -> None:
    told: list[tuple[int, int]] = []
    result = evaluate(model, "audio", n=3, seed=7, cache=cache, progress=lambda *done: told.append(done))
    assert list(result) == KEYS
    assert (result["modality"], result["n"], result["seed"]) == ("audio", 3, 7)
    assert all(0 <= result[key] <= 1 for key in KEYS[3:-1])
    assert result["video_only_off"] == result["video_only_stock"]
    assert sum(row["n"] for row in result["by_type"].values() if row["senses"] == ["video"]) == 3
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("sense", ["depth", "high_fps", "multi_view"])
def test_every_sense_is_measured_through_its_files(model: Lynx, cache: Path, sense: str) -> None:
    result = evaluate(model, sense, n=2, seed=7, cache=cache)
    assert list(result) == KEYS and result["modality"] == sense
    # of these senses the world asks about depth alone together with the video
    assert (result["both_senses"] is None) == (sense != "depth")
    asked = {name for name, kind in QUESTION_TYPES.items() if kind.senses == (sense,)}
    assert {name for name, row in result["by_type"].items() if row["senses"] == [sense]} <= asked
    assert result["video_only_off"] == result["video_only_stock"]
    beside = {"depth": "*.depth", "multi_view": "*.second_view.mp4"}
    assert sense not in beside or list(cache.rglob(beside[sense]))


def test_all_senses_are_measured_alone_together_and_where_three_are_needed(model: Lynx, cache: Path) -> None:
    result = evaluate_combinations(model, n=4, seed=7, cache=cache)
    assert list(result["alone"]) == list(MEASURED) and len(result["together"]) == 6 + 1
    assert list(result["together"]["all"]) == list(MEASURED)
    for sense, figures in result["alone"].items():
        assert list(figures) == KEYS[3:-1]
        assert result["lost"][sense] >= figures["with"] - result["together"]["all"][sense]
    three = result["three_senses"]
    assert three["n"] == 1 and {"with", "all", "without audio", "without depth"} < set(three)
    assert {len(row["senses"]) for row in result["by_type"].values()} == {1, 2, 3}


def test_answers_are_those_under_the_senses_they_were_asked_for(model: Lynx, cache: Path) -> None:
    (question,) = sample_balanced({"nearest_and_sound": 1}, "test", 7)
    given = [("video",), ("video", "audio"), ("video", "audio", "depth")]
    answers = collect_answers(model, MEASURED, {question: given}, 7, cache=cache)
    path = dict(stream_clips("test", 7, [question.index], cache))[question.index]
    for senses in given:
        session = model.chat(**{sense: sense_path(path, sense) for sense in senses})
        said = session.ask(question.turn.question, max_new_tokens=MAX_NEW_TOKENS)
        assert answers.given[senses] == {question: said}
    assert not answers.stock and not answers.withheld


def test_a_withheld_sense_leaves_its_adapter_on(model: Lynx, cache: Path) -> None:
    questions = sample_balanced({"heard": 6}, "test", 7)
    conditions = dict.fromkeys(questions, [("video",)])
    answers = collect_answers(model, ("audio",), conditions, 7, cache=cache)
    assert set(answers.withheld) == {"audio"}
    for question in questions:
        path = dict(stream_clips("test", 7, [question.index], cache))[question.index]
        streams = list(model.chat(video=path).encode().values())
        prompt = model.backbone.compose([{"role": "user", "content": question.turn.question}], streams)
        with model.using("audio"):
            assert [answers.withheld["audio"][question]] == answer_batch(model.backbone, [prompt])
    assert answers.withheld["audio"] != answers.given["video",]  # else the adapter was off


def test_knowing_all_is_one_and_knowing_nothing_is_chance() -> None:
    cells = Cells.of("audio", 60)
    questions = sample_balanced(cells.together, "test", 3)
    right = {question: question.turn.answer for question in questions}
    kinds = {question: QUESTION_TYPES[question.turn.type] for question in questions}
    constant = {question: (kind.answers or ("nothing",))[0] for question, kind in kinds.items()}
    seen = {question: answer for question, answer in constant.items() if question.turn.senses == ("video",)}
    heard = {question: answer for question, answer in constant.items() if question not in seen}
    answers = AllAnswers({("video", "audio"): right, ("video",): constant}, {"audio": heard}, seen)
    result = summarize("audio", cells, questions, answers)
    assert result["with"] == result["both_senses"] == result["video_only_on"] == 1
    assert result["without"] == result["withheld"] == pytest.approx(result["chance"])
    assert 0.25 < result["chance"] < 0.45
    assert result["video_only_off"] == result["video_only_stock"] < 0.5
    assert result["by_type"]["heard"]["chance"] == 0.5 and "stock" not in result["by_type"]["heard"]


def test_backbone_is_measured_evenly_over_its_types(folder: Path, cache: Path) -> None:
    result = evaluate_backbone(lynx.load(folder), n=11, seed=7, cache=cache)
    assert result["n"] == 11 and {row["n"] for row in result["by_type"].values()} == {1}
    assert 0 <= result["accuracy"] <= 1


def test_what_cannot_be_measured_is_said(model: Lynx, folder: Path) -> None:
    with pytest.raises(DataError, match="smell"):
        evaluate(model, "smell", n=3)
    with pytest.raises(AdapterError):
        evaluate(lynx.load(folder), "audio", n=3)
