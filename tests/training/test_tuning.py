"""Stage 3: what a step shows and asks, and the stage from end to end."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import stages
import torch

from lynx.adapters.format import CONFIG, NEW, read_adapter_config
from lynx.adapters.saving import save_adapter
from lynx.backbones.llava_onevision import LlavaOnevision
from lynx.config import AlignConfig, Sampling, TuneConfig
from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import content_key, render_clip
from lynx.errors import AdapterError, DataError
from lynx.training import own_answers, questions
from lynx.training.alignment import align
from lynx.training.options import Validation
from lynx.training.packing import IGNORE, Packer
from lynx.training.questions import (
    TrainingClip,
    hold_out,
    needs_new_sense,
    sample_questions,
    sample_sense_count,
    training_clip,
    training_data,
)
from lynx.training.stream_cache import StreamCache
from lynx.training.tuning import tune
from lynx.training.tuning_loss import HeldOutLoss, TuningLoss, answer_loss
from lynx.types import Moments, sample_times

SHORT = TuneConfig(
    steps=6, rank=2, alpha=4, batch_size=2, frames=stages.FRAMES, lr=2e-2, save_every=2, warmup=0.0
)


# --- what is asked --------------------------------------------------------------------------------


def test_a_clip_has_the_questions_that_its_media_answer():
    (example,) = stages.clips(1)
    found = training_clip(example, ["audio"], "key")
    assert [(turn.question, needs_new_sense(turn, ["audio"])) for turn in found.turns] == [
        *(("hear ?", True), ("hear what ?", True)),
        *(("see ?", False), ("see what now ?", False)),
    ]
    deaf = training_clip(stages.clips(1, ("video",))[0], ["audio"], "key")
    assert (deaf.senses, len(deaf.turns)) == (("video",), 2)
    unknown = Example("x", {"video": "", "audio": ""}, (Turn("?", "!"),))  # about the new sense, then
    assert training_clip(unknown, ["audio"], "key").turns == unknown.turns
    assert needs_new_sense(unknown.turns[0], ["audio"])
    unseen = Example("x", {"audio": ""}, (Turn("?", "!", "", ("video",)),))
    assert training_clip(unseen, ["audio"], "") is None


def clip(needed=4, replayed=8):
    turns = [Turn(f"n{i}", "a", "", ("audio",)) for i in range(needed)]
    turns += [Turn(f"r{i}", "a", "", ("video",)) for i in range(replayed)]
    return TrainingClip("key", ("video", "audio"), tuple(turns))


@pytest.mark.parametrize(
    ("settings", "needed", "replayed"),
    [
        ({}, 4, 4),
        ({"replay": 0.0}, 4, 0),
        ({"replay": 0.2}, 4, 1),
        ({"replay": 1.0}, 0, 8),
        ({"questions": 4}, 2, 2),
        ({"replay": 0.9}, 4, 8),  # no more than there are
        ({"drop_modality": 1.0}, 0, 8),
        ({"drop_modality": 1.0, "questions": 3}, 0, 3),
    ],
)
def test_the_share_of_replayed_questions(settings, needed, replayed):
    torch.manual_seed(0)
    senses, turns = sample_questions(clip(), ["audio"], Sampling(**settings))
    names = [turn.question[0] for turn in turns]
    assert (names.count("n"), names.count("r")) == (needed, replayed)
    assert len({turn.question for turn in turns}) == len(turns)
    assert senses == (("video",) if "drop_modality" in settings else ("video", "audio"))


def test_a_clip_without_old_questions_keeps_its_sound():
    senses, turns = sample_questions(clip(replayed=0), ["audio"], Sampling(drop_modality=1.0))
    assert senses == ("video", "audio")
    assert len(turns) == 4


def test_clips_are_dropped_as_often_as_asked():
    torch.manual_seed(0)
    sampling = Sampling(drop_modality=0.25)
    dropped = sum("audio" not in sample_questions(clip(), ["audio"], sampling)[0] for _ in range(1000))
    assert 200 < dropped < 300


def test_without_the_video_only_what_the_sense_can_answer_is_asked():
    both = Turn("b", "a", "", ("video", "audio"))
    whole = replace(clip(), turns=(*clip().turns, both))
    senses, turns = sample_questions(whole, ["audio"], Sampling(drop_video=1.0, questions=3))
    assert senses == ("audio",) and len(turns) == 3
    assert {turn.senses for turn in turns} == {("audio",)}
    only_both = replace(whole, turns=(both,))
    assert sample_questions(only_both, ["audio"], Sampling(drop_video=1.0)) == (("video", "audio"), [both])


MANY = ("audio", "depth", "high_fps")


def test_of_several_senses_a_clip_shows_one_or_more_and_asks_about_these():
    needs = [(), ("video",), *((sense,) for sense in MANY), ("audio", "depth"), ("video", *MANY)]
    turns = tuple(Turn(f"{i}", "a", "", n) for i, n in enumerate(needs))
    several = TrainingClip("key", ("video", *MANY), turns)
    torch.manual_seed(0)
    counts = Counter()
    for _ in range(600):
        sampling = Sampling(together=0.75)
        count = sample_sense_count(MANY, sampling)
        senses, turns = sample_questions(several, MANY, sampling, count)
        assert senses[0] == "video" and list(senses) == [s for s in several.senses if s in senses]
        assert {turn.senses for turn in turns} == {n for n in needs if set(n) <= set(senses)}
        counts[len(senses) - 1] += 1
        counts.update(senses)
    assert 120 < counts[1] < 180 and 190 < counts[2] < 260 and counts[1] + counts[2] + counts[3] == 600
    assert max(counts[s] for s in MANY) - min(counts[s] for s in MANY) < 60
    assert {sample_sense_count(MANY, Sampling(together=0.0)) for _ in range(50)} == {1}
    assert {sample_sense_count(["audio"], Sampling(together=1.0)) for _ in range(50)} == {1}


# --- the stage ------------------------------------------------------------------------------------


def log(folder):
    return [json.loads(row) for row in (folder / "training" / "tune" / "log.jsonl").read_text().splitlines()]


def frozen(model):
    """All weights but the LLM LoRA's."""
    return model.backbone.model.state_dict() | model.lora.tensors("audio_vision")


def test_tuning_trains_the_llm_lora_and_nothing_else(folder, model, tmp_path):
    before = {name: tensor.clone() for name, tensor in frozen(model).items()}
    report = tune(
        model,
        "audio",
        stages.clips(6),
        replace(SHORT, steps=12),
        tmp_path,
        sampling=Sampling(drop_modality=0.3),
        progress=False,
    )
    after = frozen(model)
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert sum(".lora_" in name for name in after) == 3 * 6 * 2
    tensors = model.lora.tensors("audio_llm")
    assert report["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert (report["modules"], report["without_gradient"]) == (2 * 7, [])
    assert (report["examples"], report["encoded"]) == (6, 6)
    rows = log(tmp_path)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"accuracy", "replay_accuracy"} <= set().union(*rows)
    other = stages.small_model(folder)
    adapter = other.load_adapter(tmp_path)
    assert set(adapter.training) == {"align", "tune"}
    assert all(tensor.equal(tensors[name]) for name, tensor in other.lora.tensors("audio_llm").items())


def test_a_warm_start_goes_on_from_the_adapters_own_lora(folder, model, tmp_path):
    tune(model, "audio", stages.clips(4), replace(SHORT, steps=3), tmp_path, progress=False)
    trained = {name: tensor.clone() for name, tensor in model.lora.tensors("audio_llm").items()}
    again = replace(SHORT, steps=0, warm_start=True)
    tune(model, "audio", stages.clips(4), again, tmp_path, progress=False)
    assert all(tensor.equal(trained[name]) for name, tensor in model.lora.tensors("audio_llm").items())
    with pytest.raises(AdapterError, match="fewer rows than the rank 3"):
        tune(model, "audio", stages.clips(4), replace(again, rank=3), tmp_path, progress=False)
    assert all(tensor.equal(trained[name]) for name, tensor in model.lora.tensors("audio_llm").items())
    model.remove_lora("audio", "llm")
    with pytest.raises(AdapterError, match="afresh"):
        tune(model, "audio", stages.clips(4), again, tmp_path, progress=False)


def test_senses_tuned_together_share_an_llm_lora_that_each_adapter_carries(folder, tmp_path):
    """From the sum of their own LoRAs, as they act side by side; and loaded again it is there once."""
    model, guidance = stages.small_model(folder), stages.small_guidance(stages.small_model(folder))
    examples = stages.clips(4, ("video", "audio", "multi_view"))
    for sense in ("audio", "multi_view"):
        config = AlignConfig(steps=2, rank=2, alpha=4, frames=stages.FRAMES)
        align(model, sense, examples, guidance, config, tmp_path / sense, progress=False)
        tune(model, sense, examples, replace(SHORT, steps=2), tmp_path / sense, progress=False)
    streams = [
        model.encode(sense, clip)
        for sense, clip in render_clip(
            {sense: model.modality(sense) for sense in ("audio", "multi_view")}, examples[0], stages.FRAMES
        ).items()
    ]
    prompt = model.backbone.compose([{"role": "user", "content": "hear ?"}], streams)

    def logits(model):
        with model.using("audio", "multi_view"), torch.no_grad():
            return model.backbone.model(inputs_embeds=prompt.inputs_embeds).logits

    side_by_side, both = logits(model), ("audio", "multi_view")
    assert len(model.llm_loras(*both)) == 2
    start = replace(SHORT, steps=0, rank=4, alpha=8, warm_start=True)
    tune(model, both, examples, start, tmp_path / "both", progress=False)
    assert len(model.llm_loras(*both)) == 1
    torch.testing.assert_close(logits(model), side_by_side, rtol=1e-4, atol=1e-5)
    report = tune(model, both, examples, replace(start, steps=3), tmp_path / "both", progress=False)
    assert report["modalities"] == ["audio", "multi_view"] and not report["without_gradient"]

    other = stages.small_model(folder)
    for sense in both:
        other.load_adapter(tmp_path / "both" / sense)
    assert other.llm_loras(*both) == other.llm_loras("audio") == other.llm_loras("multi_view")
    assert logits(other).equal(logits(model))
    other.unload_adapter("audio")
    assert (other.parts("multi_view"), len(other.lora.settings)) == (("vision", "llm"), 2)
    other.load_adapter(tmp_path / "audio")  # the one before, with a LoRA of its own
    assert len(other.llm_loras(*both)) == 2
    for sense in both:
        other.unload_adapter(sense)
    assert not other.lora.settings


def test_type_embeddings_are_learned_beside_the_lora_and_each_adapter_keeps_its_own(folder, tmp_path):
    """The packed batch has them, so has a chat; a warm start goes on from them."""
    both = ("audio", "multi_view")
    model, guidance = stages.small_model(folder), stages.small_guidance(stages.small_model(folder))
    examples = stages.clips(4, ("video", *both))
    for sense in both:
        config = AlignConfig(steps=1, rank=2, alpha=4, frames=stages.FRAMES)
        align(model, sense, examples, guidance, config, tmp_path / sense, progress=False)
    marked = replace(SHORT, steps=6, type_embedding=True)
    report = tune(model, both, examples, marked, tmp_path, progress=False)
    (lora,) = model.llm_loras(*both)
    width = model.backbone.model.config.get_text_config().hidden_size
    assert report["parameters"] == sum(w.numel() for w in model.lora.tensors(lora).values()) + 2 * width
    first = {sense: model.type_embedding(sense) for sense in both}
    assert all(e.any() and not e.requires_grad for e in first.values())
    assert not first["audio"].equal(first["multi_view"])

    other = stages.small_model(folder)
    for sense in both:
        other.load_adapter(tmp_path / sense)
        assert other.type_embedding(sense).equal(first[sense])
    again = replace(marked, steps=0, type_embedding=False, warm_start=True)
    tune(other, both, examples, again, tmp_path, progress=False)
    assert all(other.type_embedding(sense).equal(first[sense]) for sense in both)
    fresh = replace(marked, steps=0, type_embedding=False)
    tune(other, both, examples, fresh, tmp_path, progress=False)
    assert all(other.type_embedding(sense) is None for sense in both)


def test_an_interrupted_run_goes_on_with_its_type_embedding(folder, model, tmp_path, monkeypatch):
    config = replace(SHORT, type_embedding=True)
    tune(model, "audio", stages.clips(5), config, tmp_path / "whole", progress=False)
    broken = stages.small_model_with(folder)
    with monkeypatch.context() as patch:
        Killed(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", progress=False)
    assert broken.type_embedding("audio") is None
    tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", progress=False)
    assert broken.type_embedding("audio").equal(model.type_embedding("audio"))


class Killed:
    """The loss of a run that ends in its n-th step, like a process that is killed."""

    def __init__(self, monkeypatch, steps):
        import lynx.training.tuning_loss

        whole, self.steps = lynx.training.tuning_loss.answer_loss, steps

        def loss(*arguments):
            self.steps -= 1
            if self.steps < 0:
                raise KeyboardInterrupt
            return whole(*arguments)

        monkeypatch.setattr(lynx.training.tuning_loss, "answer_loss", loss)


def test_an_interrupted_run_ends_with_the_same_bits(folder, model, tmp_path, monkeypatch):
    config, sampling = replace(SHORT, dropout=0.1), Sampling(drop_modality=0.3)
    given = {"sampling": sampling, "progress": False}
    tune(model, "audio", stages.clips(5), config, tmp_path / "whole", **given)
    broken = stages.small_model_with(folder)
    with monkeypatch.context() as patch:
        Killed(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", **given)
    assert broken.parts("audio") == ("vision",)
    report = tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", **given)
    assert report["encoded"] == 0
    whole = model.lora.tensors("audio_llm")
    assert all(tensor.equal(whole[name]) for name, tensor in broken.lora.tensors("audio_llm").items())


@pytest.mark.parametrize("checkpointing", ["off", "non-reentrant"])
def test_streams_that_are_not_kept_change_no_bit_where_a_clip_fills_a_pass(
    folder, model, tmp_path, monkeypatch, checkpointing
):
    """Of weights, losses, damage and what a clip looks like; also where a run goes on the other way."""
    monkeypatch.setattr(LlavaOnevision, "frames_per_pass", stages.FRAMES)
    config = replace(SHORT, dropout=0.1, checkpointing=checkpointing, type_embedding=True)
    given = {"sampling": Sampling(drop_modality=0.3, conversation=0.5), "progress": False}
    runs = {"disk": model, "off": stages.small_model_with(folder), "mixed": stages.small_model_with(folder)}
    found = {
        keep: tune(runs[keep], "audio", stages.clips(5), config, tmp_path / keep, cache=keep, **given)
        for keep in ("disk", "off")
    }
    with monkeypatch.context() as patch:
        Killed(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            tune(runs["mixed"], "audio", stages.clips(5), config, tmp_path / "mixed", cache="off", **given)
    found["mixed"] = tune(runs["mixed"], "audio", stages.clips(5), config, tmp_path / "mixed", **given)
    assert [each["cache"] for each in found.values()] == ["disk", "off", "disk"]  # the last by itself
    assert [each["encoded"] for each in found.values()] == [5, 0, 5]
    assert not (tmp_path / "off" / "training" / "tune" / "streams").exists()
    weights = model.lora.tensors("audio_llm")
    for keep in ("off", "mixed"):
        others = runs[keep].lora.tensors("audio_llm")
        assert all(weight.equal(others[name]) for name, weight in weights.items())
        assert runs[keep].type_embedding("audio").equal(model.type_embedding("audio"))
        assert found[keep]["damage"] == found["disk"]["damage"]
    rows = {}
    for keep in ("disk", "off"):
        log = (tmp_path / keep / "training" / "tune" / "log.jsonl").read_text()
        rows[keep] = [json.loads(line) | {"seconds": 0} for line in log.splitlines()]
    assert rows["off"] == rows["disk"] and len(rows["off"]) == 6
    for keep in ("off", "mixed"):
        one, other = (run.familiar_tokens["audio"] for run in (model, runs[keep]))
        assert one.directions.equal(other.directions) and one.limit == other.limit


def test_checkpointing_gives_the_same_weights(folder, model, tmp_path):
    config = replace(SHORT, steps=2, dropout=0.1)
    tune(model, "audio", stages.clips(3), config, tmp_path / "off", progress=False)
    other = stages.small_model_with(folder)
    config = replace(config, checkpointing="non-reentrant")
    tune(other, "audio", stages.clips(3), config, tmp_path / "on", progress=False)
    whole = model.lora.tensors("audio_llm")
    for name, tensor in other.lora.tensors("audio_llm").items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-6)


def test_pooled_tokens_are_what_the_adapter_says(model, tmp_path):
    config = replace(SHORT, steps=1, token_pooling="space")
    tune(model, "audio", stages.clips(2), config, tmp_path, progress=False)
    assert model.adapter("audio").token_pooling == "space"
    assert json.loads((tmp_path / "lynx_config.json").read_text())["token_pooling"] == "space"
    sound = model.modality("audio").render(stages.clips(1)[0].media["audio"], sample_times(2.0, 2))
    assert len(model.encode("audio", sound).tokens) == 2 + 1


def llm_side(model, *names):
    """All of the adapters that tuning changes, copied."""
    return {
        name: (
            model.adapter(name),
            {key: tensor.clone() for key, tensor in model.lora.tensors(model.llm_loras(name)[0]).items()},
            model.type_embedding(name),
        )
        for name in names
    }


def same_side(one, two):
    """Whether two of them are the same, bit by bit."""
    same = one.keys() == two.keys()
    for (adapter, tensors, embedding), (other, others, another) in zip(
        one.values(), two.values(), strict=True
    ):
        same &= adapter == other and tensors.keys() == others.keys()
        same &= all(tensor.equal(others[key]) for key, tensor in tensors.items())
        same &= (embedding is None) == (another is None) and (embedding is None or embedding.equal(another))
    return same


def test_tuning_that_fails_leaves_the_adapter_as_it_was(folder, model, tmp_path, monkeypatch):
    first = replace(SHORT, steps=2, type_embedding=True)
    tune(model, "audio", stages.clips(4), first, tmp_path, progress=False)
    before, files = llm_side(model, "audio"), contents(tmp_path)
    changes = {"rank": 3, "token_pooling": "space", "placement": "parallel", "type_embedding": False}
    for change in (changes, {"steps": 3, "warm_start": True}):
        with monkeypatch.context() as patch:
            Killed(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                tune(model, "audio", stages.clips(4), replace(first, **change), tmp_path, progress=False)
        assert same_side(llm_side(model, "audio"), before)
        assert contents(tmp_path) == files
    other = stages.small_model(folder)
    other.load_adapter(tmp_path)
    assert same_side(llm_side(other, "audio"), before)


def test_a_shared_lora_is_put_back_for_all_that_use_it(folder, tmp_path, monkeypatch):
    both = ("audio", "multi_view")
    model, guidance = stages.small_model(folder), stages.small_guidance(stages.small_model(folder))
    examples = stages.clips(4, ("video", *both))
    for sense in both:
        config = AlignConfig(steps=0, rank=2, alpha=4, frames=stages.FRAMES)
        align(model, sense, examples, guidance, config, tmp_path / sense, progress=False)
    tune(model, both, examples, replace(SHORT, steps=2), tmp_path, progress=False)
    before = llm_side(model, *both)
    for tuned in (both, "multi_view"):  # all of its users, and one of them
        with monkeypatch.context() as patch:
            Killed(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                tune(model, tuned, examples, replace(SHORT, rank=3), tmp_path / "again", progress=False)
        assert same_side(llm_side(model, *both), before)
        assert len(model.llm_loras(*both)) == 1


def contents(folder):
    """The files of an adapter, byte by byte; not the log, the checkpoint and the streams of its training."""
    files = [path for path in folder.rglob("*") if path.is_file() and "training" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_a_finished_run_is_not_repeated(folder, model, tmp_path, caplog):
    examples, config = stages.clips(4), replace(SHORT, steps=3)
    report = tune(model, "audio", examples, config, tmp_path, progress=False)
    tuned, files = llm_side(model, "audio"), contents(tmp_path)
    (tmp_path / "training" / "tune" / "log.jsonl").write_text("kept")
    assert tune(model, "audio", examples, config, tmp_path, progress=False) == report
    assert "finished already; --no-resume starts anew" in caplog.text
    assert "is replaced by a fresh one" not in caplog.text
    other = stages.small_model_with(folder)  # has the adapter that is not tuned
    tune(other, "audio", examples, config, tmp_path, progress=False)
    for each in (model, other):
        assert same_side(llm_side(each, "audio"), tuned)
    assert contents(tmp_path) == files
    assert (tmp_path / "training" / "tune" / "log.jsonl").read_text() == "kept"


@pytest.mark.parametrize(
    "change", [{"resume": False}, {"lr": 1e-2}, {"steps": 4}, "sampling", "data", "vision"]
)
def test_another_run_or_one_that_is_to_start_anew_is_no_finished_one(folder, tmp_path, change):
    model, config, given = stages.small_model_with(folder), replace(SHORT, steps=3), {}
    tune(model, "audio", stages.clips(4), config, tmp_path, progress=False)
    examples = stages.clips(4, seed=int(change == "data"))
    if change == "vision":
        weights = model.lora.tensors("audio_vision")
        model.lora.fill("audio_vision", {key: weight + 1e-2 for key, weight in weights.items()})
    elif change == "sampling":
        given = {"sampling": Sampling(replay=0.1)}
    elif isinstance(change, dict):
        config = replace(config, **change)
    (tmp_path / "training" / "tune" / "log.jsonl").unlink()
    tune(model, "audio", examples, config, tmp_path, progress=False, **given)
    assert len(log(tmp_path)) == config.steps


def test_the_adapter_says_how_many_moments_it_was_tuned_with(model, tmp_path):
    tune(model, "audio", stages.clips(2), replace(SHORT, steps=1, frames=3), tmp_path, progress=False)
    assert model.adapter("audio").frames == 3
    assert json.loads((tmp_path / "lynx_config.json").read_text())["frames"] == 3
    tune(model, "audio", stages.clips(2), replace(SHORT, steps=1, frames=None), tmp_path, progress=False)
    assert model.adapter("audio").frames == model.backbone.default_frames


def test_an_adapter_is_needed_and_found_in_the_output_folder(folder, tmp_path):
    model = stages.small_model(folder)
    with pytest.raises(AdapterError, match="no adapter for 'audio'.*lynx align"):
        tune(model, "audio", stages.clips(2), SHORT, tmp_path, progress=False)
    config = AlignConfig(steps=0, rank=2, alpha=4, frames=stages.FRAMES)
    guidance = stages.small_guidance(model)
    align(model, "audio", stages.clips(2, ("audio",)), guidance, config, tmp_path, progress=False)
    other = stages.small_model(folder)
    tune(other, "audio", stages.clips(2), replace(SHORT, steps=1), tmp_path, progress=False)
    assert other.parts("audio") == ("vision", "llm")


def test_an_adapter_whose_first_save_was_killed_before_its_files_were_in_place_is_found(folder, tmp_path):
    def kill_the_save():
        (tmp_path / NEW).mkdir()
        for name in (CONFIG, "README.md", "vision", "llm"):
            if (tmp_path / name).exists():
                (tmp_path / name).rename(tmp_path / NEW / name)

    model, examples, config = stages.small_model_with(folder), stages.clips(2), replace(SHORT, steps=1)
    save_adapter(model, "audio", tmp_path)
    kill_the_save()
    fresh = stages.small_model(folder)
    report = tune(fresh, "audio", examples, config, tmp_path, progress=False)
    assert fresh.parts("audio") == ("vision", "llm")
    kill_the_save()
    again = stages.small_model(folder)
    assert tune(again, "audio", examples, config, tmp_path, progress=False) == report  # not repeated


def test_data_without_the_sense_are_refused(model, tmp_path):
    with pytest.raises(DataError, match="none of the 2 examples has a question that needs 'audio'"):
        tune(model, "audio", stages.clips(2, ("video",)), SHORT, tmp_path, progress=False)
    assert model.parts("audio") == ("vision",)


# --- nothing is lost where the data has one sense alone ---------------------------------------------


def sounds_alone(n, with_video=False):
    """Clips with a sound, each with one question that does not say what it needs."""
    senses = ("video", "audio") if with_video else ("audio",)
    return [
        Example(
            each.id,
            {sense: each.media[sense] for sense in senses},
            (Turn("what sound do you hear ?", ("bell", "drum")[i % 2]),),
        )
        for i, each in enumerate(stages.clips(n))
    ]


def test_a_clip_without_the_sense_is_for_replay_whatever_its_questions_say():
    here, without = sounds_alone(2, with_video=True)
    seen = replace(without, media={"video": without.media["video"]})
    clips = [training_clip(each, ["audio"], "k") for each in (here, seen)]
    assert [needs_new_sense(clip.turns[0], ["audio"]) for clip in clips] == [True, False]
    assert training_clip(replace(here, media={"depth": here.media["video"]}), ["audio"], "k") is None


def test_data_without_the_sense_is_refused(model, tmp_path):
    """It trained an adapter for sound to 100 % once, on silent clips."""
    silent = [replace(e, media={"video": e.media["video"]}) for e in sounds_alone(3, with_video=True)]
    with pytest.raises(DataError, match="none of the 3 examples has a question that needs 'audio'"):
        tune(model, "audio", silent, SHORT, tmp_path, progress=False)


@pytest.mark.parametrize("with_video", [False, True])
def test_own_answers_are_replayed_where_the_data_has_no_other_questions(model, tmp_path, with_video):
    clips = sounds_alone(4, with_video)
    report = tune(model, "audio", clips, replace(SHORT, steps=8), tmp_path, progress=False)
    rows = log(tmp_path)
    assert all("replay_accuracy" in row and "accuracy" in row for row in rows)
    lines = (tmp_path / "training" / "tune" / "own_answers.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    pool = own_answers.ABOUT_VIDEO if with_video else own_answers.GENERAL
    for row in said:
        for turn in row["turns"]:
            assert turn["question"] in pool and turn["type"] == own_answers.OWN
            assert turn["senses"] == (["video"] if with_video else [])
    first = said[0]["turns"][0]
    frames = clips[0].media["video"].at(sample_times(2.0, stages.FRAMES)) if with_video else None
    with model.using():
        seen = [model.encode("video", frames)] if with_video else []
        prompt = model.backbone.compose([{"role": "user", "content": first["question"]}], seen)
        ids = model.generate(prompt, max_new_tokens=own_answers.LONGEST)[0]
    assert first["answer"] == model.backbone.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert report["damage"]["n"] > 0 and 0 <= report["damage"]["agreement"] <= 1


def test_replay_of_the_data_alone_warns_where_there_is_nothing(model, tmp_path, caplog):
    own = Sampling(replay_from="data")
    tune(model, "audio", sounds_alone(3), replace(SHORT, steps=1), tmp_path, sampling=own, progress=False)
    assert "may forget what it could do" in caplog.text
    assert not (tmp_path / "training" / "tune" / "own_answers.jsonl").exists()
    assert all("replay_accuracy" not in row for row in log(tmp_path))


def test_own_answers_keep_what_the_backbone_could_do(model, tmp_path):
    """The same training on sounds alone, with and without them: nats that the old answers lost."""
    config = replace(SHORT, steps=60, lr=3e-3)
    lost = {}
    for source in ("data", "self"):
        sampling = Sampling(replay_from=source, conversation=0.0)
        clips, folder = sounds_alone(6, True), tmp_path / source
        report = tune(model, "audio", clips, config, folder, sampling=sampling, progress=False)
        lost[source] = report["damage"]["nats"]
    assert lost["self"] < 0.5 * lost["data"], lost


def test_words_that_a_closed_vocabulary_lacks_are_refused_before_anything_is_encoded(model, tmp_path):
    model.backbone.words = frozenset({"bell"})
    with pytest.raises(DataError, match=r"lacks 1 of the answers' words: drum \(2\)"):
        tune(model, "audio", sounds_alone(4), SHORT, tmp_path, progress=False)
    assert not (tmp_path / "training").exists()
    tune(
        model, "audio", sounds_alone(4), replace(SHORT, steps=1), tmp_path, allow_unknown_words=True,
        sampling=Sampling(replay_from="data"), progress=False,
    )  # fmt: skip
    with pytest.raises(DataError, match="nothing of its own to replay"):
        tune(
            model, "audio", sounds_alone(4), replace(SHORT, steps=2), tmp_path / "own",
            allow_unknown_words=True, sampling=Sampling(replay_from="self"), progress=False,
        )  # fmt: skip


def test_an_adapter_says_which_words_it_has_often_been_taught(model, tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "OFTEN", 3)
    model.backbone.words = frozenset({"what", "do", "bell", "drum"})
    once = replace(SHORT, steps=1)
    clips = [*sounds_alone(4), replace(sounds_alone(1)[0], id="rare", turns=(Turn("which ?", "bell"),))]
    further = {"sampling": Sampling(replay_from="data"), "progress": False}
    report = tune(model, "audio", clips, once, tmp_path, **further)
    assert report["words"] == ["hear", "sound", "you"], "and no word that was met once"
    assert read_adapter_config(tmp_path).words == {"hear", "sound", "you"}
    model.backbone.words |= {"hear"}
    again = replace(once, warm_start=True)
    report = tune(model, "audio", sounds_alone(4), again, tmp_path / "2", **further)
    assert report["words"] == ["sound", "you"]
    assert model.adapter("audio").words == {"hear", "sound", "you"}, "those of the tuning before stay"
    tune(model, "audio", sounds_alone(2), once, tmp_path / "3", **further)
    assert model.adapter("audio").words == frozenset(), "a fresh LoRA was taught nothing else"


def test_the_card_shows_the_curves_of_the_runs_that_made_the_adapter(folder, model, tmp_path):
    pytest.importorskip("matplotlib")
    curve = tmp_path / "training" / "tune" / "curve.png"
    tune(model, "audio", stages.clips(4), replace(SHORT, steps=10), tmp_path, progress=False)
    first, card = curve.read_bytes(), (tmp_path / "README.md").read_text()
    assert "![The run of tune](training/tune/curve.png)" in card and "of align]" not in card
    save_adapter(model, "audio", tmp_path)
    assert curve.read_bytes() == first
    alone = model.adapter("audio").training["align"]
    save_adapter(model, "audio", tmp_path, training={"align": alone})
    assert "curve.png" not in (tmp_path / "README.md").read_text() and not curve.exists()


# --- held-out clips -------------------------------------------------------------------------------


def test_a_share_of_the_recordings_is_held_out_whatever_their_order():
    keys = [f"clip{i}" for i in range(40)] * 2  # other moments of the same recordings
    away = hold_out(keys, 0.25, seed=0)
    assert len(away) == 10 and away == hold_out(keys[::-1], 0.25, seed=0) != hold_out(keys, 0.25, seed=1)
    assert not hold_out(keys, 0.0, seed=0) and len(hold_out(keys, 0.001, seed=0)) == 1
    with pytest.raises(DataError, match="val_share is 0.9, of 2 recordings: none would be left"):
        hold_out(keys[:2], 0.9, seed=0)


def test_the_held_out_clips_are_no_moments_of_recordings_that_are_trained_on():
    whole = stages.clips(6)
    parts = [replace(example, moments=Moments(start=1.0)) for example in whole]
    data = training_data([*whole, *parts], ("audio",), Validation(val_share=0.3), progress=False)
    trained = {clip.recording for clip in data.clips}
    assert len(data.clips) == 8 and len(data.held_out) == 4 and len(trained) == 4
    assert trained.isdisjoint(clip.recording for clip in data.held_out)
    assert data.keys == [content_key(example) for example in data.examples]


def test_held_out_clips_that_are_trained_on_are_said_and_useless_ones_refused(caplog):
    clips = stages.clips(3)
    training_data(clips, ("audio",), Validation(), clips[:2], progress=False)
    assert "2 of 2 held-out clips are trained on, too" in caplog.text
    with pytest.raises(DataError, match="none of the 1 examples has a question that needs 'audio'"):
        training_data(clips, ("audio",), Validation(), stages.clips(1, ("video",)), progress=False)
    for settings in ({"keep_best": True}, {"patience": 2}):
        with pytest.raises(DataError, match=r"no clips are held out; give --val-data"):
            Validation(**settings).check(held_out=False)


def test_what_is_measured_is_the_mean_over_answers_asked_one_by_one(model, tmp_path):
    """In batches, in parts of the questions, and shared by two processes."""
    held_out = stages.clips(3, seed=1)
    config = replace(SHORT, steps=2)
    report = tune(model, "audio", stages.clips(3), config, tmp_path, held_out=held_out, progress=False)
    data = training_data(held_out, ("audio",), Validation(), progress=False)
    streams = StreamCache(tmp_path / "more", model, {"video": "video", "audio": "audio"}, stages.FRAMES)
    streams.prepare(data.examples, data.keys, progress=False)
    one_by_one, right = [], {True: [], False: []}
    packer, backbone = Packer(model.backbone), model.backbone
    for clip in data.clips:
        for turn in clip.turns:
            packed = packer.pack([[streams.stream(s, clip.key) for s in clip.senses]], [[turn]])
            with torch.no_grad(), model.lora.active(["audio_llm"]):
                loss, hit = answer_loss(backbone, packed)
            one_by_one += [float(loss)] * int((packed.labels != IGNORE).sum())
            right[needs_new_sense(turn, ("audio",))].append(float(hit))
    found = report["validation"]
    assert found["loss"] == pytest.approx(sum(one_by_one) / len(one_by_one), rel=1e-5)
    assert found["accuracy"] == sum(right[True]) / len(right[True])
    assert found["replay_accuracy"] == sum(right[False]) / len(right[False])
    parts = TuningLoss(model, ("audio",), data.clips, streams, Sampling(questions=1))
    measure = HeldOutLoss(parts, "audio_llm", data.clips, 2)
    whole, halves = measure((0, 1)), measure((0, 2)) + measure((1, 2))
    assert float(whole[0, 0] / whole[0, 1]) == pytest.approx(found["loss"], rel=1e-5)
    torch.testing.assert_close(halves, whole)


def test_an_interrupted_run_with_held_out_clips_ends_with_the_same_bits(folder, model, tmp_path, monkeypatch):
    config = replace(SHORT, dropout=0.1)
    given = {"validation": Validation(val_share=0.2, val_every=1, keep_best=True), "progress": False}
    report = tune(model, "audio", stages.clips(5), config, tmp_path / "whole", **given)
    assert report["examples"] == 4 and report["encoded"] == 5
    broken = stages.small_model_with(folder)
    with monkeypatch.context() as patch:
        Killed(patch, 7)  # of a step and a measurement in turn
        with pytest.raises(KeyboardInterrupt):
            tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", **given)
    again = tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", **given)
    whole = model.lora.tensors("audio_llm")
    assert all(tensor.equal(whole[name]) for name, tensor in broken.lora.tensors("audio_llm").items())
    assert again["validation"] == report["validation"]
    losses = [row["val_loss"] for row in log(tmp_path / "broken")]
    assert len(losses) == 6 and min(losses) == report["validation"]["loss"]


def test_measuring_leaves_the_weights_and_their_gradients_as_they_would_be(folder, model, tmp_path):
    tune(model, "audio", stages.clips(3), SHORT, tmp_path / "without", progress=False)
    other = stages.small_model_with(folder)
    given = {"held_out": stages.clips(2, seed=1), "validation": Validation(val_every=1), "progress": False}
    tune(other, "audio", stages.clips(3), SHORT, tmp_path / "with", **given)
    plain = model.lora.tensors("audio_llm")
    assert all(tensor.equal(plain[name]) for name, tensor in other.lora.tensors("audio_llm").items())
