"""Stage 3: packed questions as if asked alone, streams from disk, and the stage from end to end."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import stages
import torch
from lynx.training.mixup import Shown, mixed
from torch.nn import functional as F

from lynx.config import AlignConfig, TuneConfig
from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import content_key, render_clip
from lynx.errors import AdapterError, DataError
from lynx.training.alignment import align
from lynx.training.packing import IGNORE, Packer, see, shared_length
from lynx.training.stream_cache import StreamCache
from lynx.training.tuning import Lesson, TuningLoss, answer_loss, choose, how_many, is_new, lesson_of, tune
from lynx.types import Stream, sample_times

SENSES = {"video": "video", "audio": "audio"}
SHORT = TuneConfig(
    steps=6, rank=2, alpha=4, batch_size=2, frames=stages.FRAMES, lr=2e-2, save_every=2, warmup=0.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone, and an adapter for it that has been aligned."""
    folder = tmp_path_factory.mktemp("stages")
    stages.small_adapter(stages.small_model(folder), folder / "audio")
    return folder


@pytest.fixture
def model(folder):
    """A model of its own for every test, with the aligned adapter."""
    model = stages.small_model(folder)
    model.load_adapter(folder / "audio")
    return model


def streams_of(model, example):
    clips = render_clip({s: model.modality(s) for s in SENSES}, example, stages.FRAMES)
    return [model.encode(sense, clips[sense]) for sense in SENSES]


# --- packing --------------------------------------------------------------------------------------


def alone(model, streams, turn):
    """Logits (answer tokens, V) of one question in a sequence of its own, and the answer's ids."""
    backbone = model.backbone
    prompt = backbone.compose([{"role": "user", "content": turn.question}], streams)
    ids = backbone.tokenizer(turn.answer, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*ids, backbone.tokenizer.eos_token_id]])
    embeds = torch.cat([prompt.inputs_embeds, backbone.model.get_input_embeddings()(ids)], 1)
    logits = backbone.model(inputs_embeds=embeds).logits[0]
    return logits[prompt.input_ids.shape[1] - 1 : -1], ids[0]


@torch.no_grad()
def test_packed_questions_get_the_logits_of_separate_sequences(model):
    examples = stages.clips(3)
    streams = [streams_of(model, example) for example in examples]
    turns = [list(example.turns[: 4 - i]) for i, example in enumerate(examples)]  # rows of unequal length
    streams[1] = streams[1][:1]  # and one clip without sound
    packed = Packer(model.backbone).pack(streams, turns)
    hidden = model.backbone.model.get_decoder()(
        inputs_embeds=packed.embeds, attention_mask=packed.mask, position_ids=packed.positions
    ).last_hidden_state
    logits = model.backbone.model.lm_head(hidden)
    losses, number = [], 0
    for row, asked in enumerate(turns):
        for turn in asked:
            number += 1
            mine = (packed.questions[row] == number) & (packed.labels[row] != IGNORE)
            expected, ids = alone(model, streams[row], turn)
            torch.testing.assert_close(logits[row][mine], expected, rtol=0, atol=1e-5)
            assert packed.labels[row][mine].tolist() == ids.tolist()
            losses.append(F.cross_entropy(expected, ids, reduction="none"))
    loss, right = answer_loss(model.backbone, packed)
    torch.testing.assert_close(loss, torch.cat(losses).mean())
    assert right.shape == (number,)


@torch.no_grad()
def test_a_packed_conversation_is_one_plain_sequence(model):
    """Its logits are those of a causal forward of [prompt, answer, what a chat adds, answer, ...]."""
    (example,) = stages.clips(1)
    streams, turns = streams_of(model, example), list(example.turns[:3])
    packer, backbone = Packer(model.backbone), model.backbone
    packed = packer.pack([streams], [turns], conversation=True)
    hidden = backbone.model.get_decoder()(
        inputs_embeds=packed.embeds, attention_mask=packed.mask, position_ids=packed.positions
    ).last_hidden_state
    logits = backbone.model.lm_head(hidden)[0]
    text, answers = "", []
    for i, turn in enumerate(turns):
        text += f"<|im_start|>user {'' if i else '<video>'}\n{turn.question}<|im_end|><|im_start|>assistant\n"
        start = len(backbone.tokenizer(text).input_ids)
        text += f"{turn.answer}<|im_end|>"
        answers.append(range(start - 1, len(backbone.tokenizer(text).input_ids) - 1))
    ids = backbone.tokenizer(text, return_tensors="pt").input_ids[0]
    place = int((ids == backbone.placeholder).nonzero())
    media = torch.cat([stream.tokens for stream in streams])
    embed = backbone.model.get_input_embeddings()
    embeds = torch.cat([embed(ids[:place]), media, embed(ids[place + 1 :])])[None]
    expected = backbone.model(inputs_embeds=embeds).logits[0]
    for number, places in enumerate(answers, 1):
        mine = (packed.questions[0] == number) & (packed.labels[0] != IGNORE)
        behind = [i + len(media) - 1 for i in places]
        assert packed.labels[0][mine].tolist() == ids[[i + 1 for i in places]].tolist()
        torch.testing.assert_close(logits[mine], expected[behind], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_question_is_right_if_all_its_tokens_are(model):
    (example,) = stages.clips(1)
    streams = streams_of(model, example)
    logits, _ = alone(model, streams, Turn("hear ?", "xyz"))
    best = model.backbone.tokenizer.decode(logits[:1].argmax(-1))
    turns = [Turn("hear ?", best), Turn("hear ?", "xyz"), *example.turns[2:4]]
    _, right = answer_loss(model.backbone, Packer(model.backbone).pack([streams], [turns]))
    expected = []
    for turn in turns:
        logits, ids = alone(model, streams, turn)
        expected.append(float((logits.argmax(-1) == ids).all()))
    assert right.tolist() == expected


def test_who_sees_whom():
    questions = torch.tensor([[0, 0, 1, 1, 2, -1]])
    seen = see(questions)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_the_shared_part_leaves_every_question_something_of_its_own():
    assert shared_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_length([[1, 2], [1, 2, 4]]) == 1
    assert shared_length([[1, 2, 3]]) == 2
    assert shared_length([[1], [1]]) == 0


# --- what is asked --------------------------------------------------------------------------------


def test_a_lesson_has_the_questions_that_its_media_answer():
    (example,) = stages.clips(1)
    lesson = lesson_of(example, ["audio"], "key")
    assert [(turn.question, is_new(turn, ["audio"])) for turn in lesson.turns] == [
        *(("hear ?", True), ("hear what ?", True)),
        *(("see ?", False), ("see what now ?", False)),
    ]
    deaf = lesson_of(stages.clips(1, ("video",))[0], ["audio"], "key")
    assert (deaf.senses, len(deaf.turns)) == (("video",), 2)
    unknown = Example("x", {"video": "", "audio": ""}, (Turn("?", "!"),))
    assert lesson_of(unknown, ["audio"], "key").turns == unknown.turns
    assert is_new(unknown.turns[0], ["audio"])
    assert lesson_of(Example("x", {"audio": ""}, (Turn("?", "!", "", ("video",)),)), ["audio"], "") is None


def lesson(needed=4, replayed=8):
    turns = [Turn(f"n{i}", "a", "", ("audio",)) for i in range(needed)]
    turns += [Turn(f"r{i}", "a", "", ("video",)) for i in range(replayed)]
    return Lesson("key", ("video", "audio"), tuple(turns))


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
    senses, turns = choose(lesson(), ["audio"], TuneConfig(**settings))
    names = [turn.question[0] for turn in turns]
    assert (names.count("n"), names.count("r")) == (needed, replayed)
    assert len({turn.question for turn in turns}) == len(turns)
    assert senses == (("video",) if "drop_modality" in settings else ("video", "audio"))


def test_a_clip_without_old_questions_keeps_its_sound():
    senses, turns = choose(lesson(replayed=0), ["audio"], TuneConfig(drop_modality=1.0))
    assert senses == ("video", "audio")
    assert len(turns) == 4


def test_clips_are_dropped_as_often_as_asked():
    torch.manual_seed(0)
    config = TuneConfig(drop_modality=0.25)
    dropped = sum("audio" not in choose(lesson(), ["audio"], config)[0] for _ in range(1000))
    assert 200 < dropped < 300


def test_without_the_video_only_what_the_sense_can_answer_is_asked():
    both = Turn("b", "a", "", ("video", "audio"))
    clip = replace(lesson(), turns=(*lesson().turns, both))
    senses, turns = choose(clip, ["audio"], TuneConfig(drop_video=1.0, questions=3))
    assert senses == ("audio",) and len(turns) == 3
    assert {turn.senses for turn in turns} == {("audio",)}
    only_both = replace(clip, turns=(both,))
    assert choose(only_both, ["audio"], TuneConfig(drop_video=1.0)) == (("video", "audio"), [both])


MANY = ("audio", "depth", "high_fps")


def test_of_several_senses_a_clip_shows_one_or_more_and_asks_about_these():
    needs = [(), ("video",), *((sense,) for sense in MANY), ("audio", "depth"), ("video", *MANY)]
    several = Lesson("key", ("video", *MANY), tuple(Turn(f"{i}", "a", "", n) for i, n in enumerate(needs)))
    torch.manual_seed(0)
    counts = Counter()
    for _ in range(600):
        config = TuneConfig(together=0.75)
        senses, turns = choose(several, MANY, config, how_many(MANY, config))
        assert senses[0] == "video" and list(senses) == [s for s in several.senses if s in senses]
        assert {turn.senses for turn in turns} == {n for n in needs if set(n) <= set(senses)}
        counts[len(senses) - 1] += 1
        counts.update(senses)
    assert 120 < counts[1] < 180 and 190 < counts[2] < 260 and counts[1] + counts[2] + counts[3] == 600
    assert max(counts[s] for s in MANY) - min(counts[s] for s in MANY) < 60
    assert {how_many(MANY, TuneConfig(together=0.0)) for _ in range(50)} == {1}
    assert {how_many(["audio"], TuneConfig(together=1.0)) for _ in range(50)} == {1}


# --- the cache ------------------------------------------------------------------------------------


def open_cache(root, model, frames=stages.FRAMES):
    return StreamCache(root, model, SENSES, frames)


def test_streams_are_encoded_once_and_kept_as_they_are(model, tmp_path):
    examples = stages.clips(3)
    examples[2] = stages.clips(3, ("video",), seed=1)[2]
    keys = [content_key(example) for example in examples]
    assert (
        open_cache(tmp_path, model).prepare([*examples, examples[0]], [*keys, keys[0]], progress=False) == 3
    )
    cache = open_cache(tmp_path, model)
    assert cache.prepare(examples, keys, progress=False) == 0
    for example, key in zip(examples[:2], keys[:2], strict=True):
        for stream in streams_of(model, example):
            assert cache.stream(stream.sense, key).tokens.equal(stream.tokens)
    with pytest.raises(DataError, match="has no stream of 'audio'"):
        cache.stream("audio", keys[2])


def test_processes_share_the_work(model, tmp_path):
    examples = stages.clips(3)
    keys = [content_key(example) for example in examples]
    first, second = open_cache(tmp_path, model), open_cache(tmp_path, model)
    assert first.prepare(examples, keys, (0, 2), progress=False) == 2
    assert second.prepare(examples, keys, (1, 2), progress=False) == 1
    first.refresh()
    assert first.prepare(examples, keys, progress=False) == 0


def test_what_decides_a_stream_decides_its_folder(folder, model, tmp_path):
    base = open_cache(tmp_path, model)
    longer = open_cache(tmp_path, model, frames=3)
    assert longer.folders["video"] != base.folders["video"]
    model.adapters["audio"] = replace(model.adapters["audio"], token_pooling="space")
    pooled = open_cache(tmp_path, model)
    assert pooled.folders["video"] == base.folders["video"]
    assert pooled.folders["audio"] != base.folders["audio"]
    model.adapters["audio"] = replace(model.adapters["audio"], token_pooling="none")
    weights = model.lora.tensors("audio_vision")
    model.lora.fill("audio_vision", {key: weight + 1e-3 for key, weight in weights.items()})
    changed = open_cache(tmp_path, model)
    assert changed.folders["video"] == base.folders["video"]
    assert changed.folders["audio"] != base.folders["audio"]
    assert open_cache(tmp_path, stages.small_model_with(folder)).folders == base.folders


def test_content_decides_a_key_unless_the_source_vouches_for_it(tmp_path):
    one, same, other = stages.clips(1)[0], stages.clips(1)[0], stages.clips(1, seed=1)[0]
    assert content_key(one) == content_key(replace(same, id="renamed"))
    assert len({content_key(e) for e in (one, other, replace(one, key="a"), replace(one, key="b"))}) == 4
    assert content_key(replace(one, key="a")) == content_key(replace(other, key="a"))
    (tmp_path / "a").write_bytes(b"1")
    file = Example("f", {"audio": tmp_path / "a"})
    before = content_key(file)
    (tmp_path / "a").write_bytes(b"2")
    assert content_key(file) != before


def test_a_disk_that_is_too_small_is_said_before_the_work(model, tmp_path, monkeypatch):
    space = shutil.disk_usage(tmp_path)
    examples = stages.clips(2)
    keys = [content_key(example) for example in examples]
    bytes_needed = 2 * 2 * (2 * 4 + 1) * 32 * 4  # clips, senses, tokens, width, float32
    monkeypatch.setattr(shutil, "disk_usage", lambda path: space._replace(free=bytes_needed - 1))
    with pytest.raises(DataError, match="streams of 2 clips take"):
        open_cache(tmp_path, model).prepare(examples, keys, progress=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: space._replace(free=bytes_needed))
    assert open_cache(tmp_path, model).prepare(examples, keys, progress=False) == 2


def test_damaged_shards_are_named(model, tmp_path):
    cache = open_cache(tmp_path, model)
    cache.folders["video"].mkdir(parents=True)
    (cache.folders["video"] / "0.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="0.safetensors is damaged"):
        cache.refresh()


# --- the stage ------------------------------------------------------------------------------------


def log(folder):
    return [json.loads(row) for row in (folder / "training" / "tune" / "log.jsonl").read_text().splitlines()]


def frozen(model):
    """All weights but the LLM LoRA's, under the names they have without any LoRA around them."""
    weights = model.backbone.model.state_dict().items()
    return {name.replace(".base_layer", ""): weight for name, weight in weights if "audio_llm" not in name}


def test_tuning_trains_the_llm_lora_and_nothing_else(folder, model, tmp_path):
    before = {name: tensor.clone() for name, tensor in frozen(model).items()}
    config = replace(SHORT, steps=12, drop_modality=0.3)
    report = tune(model, "audio", stages.clips(6), config, tmp_path, progress=False)
    after = frozen(model)
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert sum("audio_vision" in name for name in after) == 3 * 6 * 2
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
    marked = replace(SHORT, steps=6, type_embedding=True, together=0.5)
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
        import lynx.training.tuning

        whole, self.steps = lynx.training.tuning.answer_loss, steps

        def loss(*arguments):
            self.steps -= 1
            if self.steps < 0:
                raise KeyboardInterrupt
            return whole(*arguments)

        monkeypatch.setattr(lynx.tuning, "answer_loss", loss)


def test_an_interrupted_run_ends_with_the_same_bits(folder, model, tmp_path, monkeypatch):
    config = replace(SHORT, drop_modality=0.3, dropout=0.1, noise=0.1)
    tune(model, "audio", stages.clips(5), config, tmp_path / "whole", progress=False)
    broken = stages.small_model_with(folder)
    with monkeypatch.context() as patch:
        Killed(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", progress=False)
    assert broken.parts("audio") == ("vision",)
    report = tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", progress=False)
    assert report["encoded"] == 0
    whole = model.lora.tensors("audio_llm")
    assert all(tensor.equal(whole[name]) for name, tensor in broken.lora.tensors("audio_llm").items())


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


def test_noise_is_on_the_new_senses_tokens_alone_and_as_large_as_asked(model, tmp_path):
    examples = stages.clips(1)
    key = content_key(examples[0])
    cache = open_cache(tmp_path, model)
    cache.prepare(examples, [key], progress=False)
    lessons = [lesson_of(examples[0], ["audio"], key)]

    def embeds(noise):
        config = replace(SHORT, noise=noise, conversation=0.0)
        torch.manual_seed(5)  # the same draws before the noise
        return TuningLoss(model, ["audio"], lessons, cache, config).batch([0]).packed.embeds[0]

    quiet, loud, louder = embeds(0.0), embeds(0.1), embeds(0.2)
    video, sound = cache.stream("video", key).tokens, cache.stream("audio", key).tokens
    begin = next(i for i in range(len(quiet)) if quiet[i].equal(sound[0]))
    assert any(row.equal(video[0]) for row in loud)
    added = loud[begin : begin + len(sound)] - sound
    share = added.square().sum(1).sqrt() / sound.square().sum(1).sqrt()
    assert share.mean() == pytest.approx(0.1, rel=0.05)
    assert share.numpy() == pytest.approx(0.1, rel=0.6)  # a token has few numbers
    torch.testing.assert_close(louder[begin : begin + len(sound)] - sound, 2 * added, atol=1e-5, rtol=1e-3)
    assert not any(row.equal(sound[0]) for row in loud)


def test_mixed_clips_are_asked_for_the_answers_of_both_in_their_shares(model, tmp_path):
    """Against two losses of one answer each, over the same tokens, weighed by hand."""
    examples = [replace(clip, turns=clip.turns[:1]) for clip in stages.clips(2)]  # a bell and a drum
    keys = [content_key(example) for example in examples]
    cache = open_cache(tmp_path, model)
    cache.prepare(examples, keys, progress=False)
    lessons = [lesson_of(*pair) for pair in zip(examples, [["audio"]] * 2, keys, strict=True)]
    loss = TuningLoss(model, ["audio"], lessons, cache, replace(SHORT, mixup=0.5, conversation=0.0))
    torch.manual_seed(3)
    batch = loss.batch([0, 1])
    assert batch.needs.tolist() == [True] * 4
    share = float(batch.weights[0])
    assert 0.01 < share < 0.99
    assert batch.weights[:2].tolist() == pytest.approx([share, 1 - share])
    assert float(batch.weights[2:].sum()) == pytest.approx(1)

    bell, drum = ([cache.stream(sense, key) for sense in SENSES] for key in keys)
    both = [
        replace(one, tokens=share * one.tokens + (1 - share) * other.tokens)
        for one, other in zip(bell, drum, strict=True)
    ]
    with torch.no_grad():
        alone = [answer_loss(model.backbone, loss.packer.pack([both], [clip.turns]))[0] for clip in examples]
        found, _ = answer_loss(
            model.backbone, loss.packer.pack([both], [[c.turns[0] for c in examples]]), batch.weights[:2]
        )
    assert float(found) == pytest.approx(share * float(alone[0]) + (1 - share) * float(alone[1]), rel=1e-4)
    embeds = batch.packed.embeds[0]
    assert all(any(row.allclose(token, atol=1e-5) for row in embeds) for token in both[1].tokens)

    torch.manual_seed(3)
    parts = loss([0, 1])
    with torch.no_grad():
        whole, right = answer_loss(model.backbone, batch.packed, batch.weights)
    assert float(parts["loss"]) == pytest.approx(float(whole))
    assert float(parts["mixed"]) == batch.mixed == 1
    assert float(parts["accuracy"]) == pytest.approx(float((batch.weights * right).sum() / 2))


def shown(*turns, length=4, grid=(1, 1), senses=("audio",)):
    """A clip with streams of noise, which is asked all that is known of it."""
    rows = torch.zeros(length), torch.zeros(length, 2)
    streams = [Stream(sense, torch.rand(length, 3), *rows, grid, None) for sense in senses]
    return Shown(streams, list(turns), [1.0] * len(turns))


ASKED = Turn("a ?", "bell", senses=("audio",))


@pytest.mark.parametrize(
    "other",
    [
        shown(replace(ASKED, question="b ?")),
        shown(ASKED, length=5),
        shown(ASKED, grid=(2, 2)),
        shown(ASKED, senses=("depth",)),
    ],
)
def test_clips_that_do_not_match_are_not_mixed(other):
    batch = [shown(ASKED), other]
    assert mixed(batch, [clip.turns for clip in batch], 1.0) == (batch, 0.0)


def test_an_answer_from_what_is_not_shown_is_none():
    batch = [shown(ASKED), shown(replace(ASKED, question="b ?"))]
    known = [batch[0].turns, [*batch[1].turns, replace(ASKED, senses=("depth",))]]
    assert mixed(batch, known, 1.0) == (batch, 0.0)
    known[1][1] = ASKED
    assert mixed(batch, known, 1.0)[1] == 0.5


def test_every_question_of_a_mixed_clip_has_the_answers_of_both():
    first, second = ASKED, replace(ASKED, question="b ?")
    batch = [shown(first, second), shown(first, replace(second, answer="drum"))]
    (one, other), share = mixed(batch, [clip.turns for clip in batch], 1.0)
    assert share == 1
    assert [(turn.question, turn.answer) for turn in one.turns] == [
        ("a ?", "bell"),
        ("b ?", "bell"),
        ("b ?", "drum"),
    ]
    assert [turn.answer for turn in other.turns] == ["bell", "drum", "bell"]
    for clip, mine, theirs in ((one, *batch), (other, *batch[::-1])):
        assert clip.weights[0] == 1 and sum(clip.weights[1:]) == pytest.approx(1)
        share = clip.weights[1]
        expected = share * mine.streams[0].tokens + (1 - share) * theirs.streams[0].tokens
        torch.testing.assert_close(clip.streams[0].tokens, expected)
    batch[1] = shown(first)  # knows one of the two questions
    (one, other), share = mixed(batch, [clip.turns for clip in batch], 1.0)
    assert one is batch[0] and len(other.turns) == 1 and share == 0.5


def test_mixup_that_could_mix_nothing_is_refused():
    for nothing in ({"batch_size": 1}, {"conversation": 1.0}):
        with pytest.raises(DataError, match="mixup is 0.4, but .* no clip could be mixed"):
            replace(SHORT, mixup=0.4, **nothing)


def test_a_conversation_is_not_mixed(model, tmp_path):
    examples = stages.clips(2)
    keys = [content_key(example) for example in examples]
    cache = open_cache(tmp_path, model)
    cache.prepare(examples, keys, progress=False)
    lessons = [lesson_of(*pair) for pair in zip(examples, [["audio"]] * 2, keys, strict=True)]
    for conversation, weights in ((0.0, True), (0.999, False)):
        config = replace(SHORT, mixup=0.5, conversation=conversation)
        torch.manual_seed(0)
        batch = TuningLoss(model, ["audio"], lessons, cache, config).batch([0, 1])
        assert bool((batch.weights < 1).any()) is weights
        assert batch.needs.tolist().count(False) == 2 * 2  # "see ?" and "see what now ?", with one answer


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


def test_data_without_the_sense_are_refused(model, tmp_path):
    with pytest.raises(DataError, match="none of the 2 examples has a question that needs 'audio'"):
        tune(model, "audio", stages.clips(2, ("video",)), SHORT, tmp_path, progress=False)
    assert model.parts("audio") == ("vision",)
