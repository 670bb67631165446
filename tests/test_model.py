import itertools
import json
import random
import threading
from dataclasses import replace

import checkpoints
import families
import pytest
import torch
from checkpoints import clip, random_adapter, sound
from peft.tuners.lora import LoraLayer
from transformers import LlavaOnevisionForConditionalGeneration

import lynx
from lynx import AdapterError, DataError
from lynx.adapters.format import Adapter
from lynx.adapters.lora import LoraBank
from lynx.adapters.saving import save_adapter
from lynx.config import LoraSettings
from lynx.streams.budget import plan
from lynx.streams.encoder import pool
from lynx.types import Moments

QUESTION = [{"role": "user", "content": "what is it ?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def model(folder):
    return lynx.load(folder)


def stock_logits(model, folder, video):
    """Prefill logits of the stock class, by its own forward."""
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=model.backbone.dtype).eval()
    placeholders = "<video>" * model.backbone.tokens(len(video))
    text = families.FAMILIES["llava_onevision"].prompt(QUESTION, placeholders)
    ids = model.backbone.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return stock(**ids, pixel_values_videos=model.backbone.pixels(video.pixels)[None]).logits


def logits(model, *streams):
    with torch.no_grad():
        prompt = model.backbone.compose(QUESTION, streams)
        return model.backbone.model(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
        ).logits


def pseudo_frames(model, sense, video):
    return model.modality(sense).render(sound(), video.times)


def dropout(model):
    modules = model.backbone.model.named_modules()
    return {name: module.training for name, module in modules if isinstance(module, torch.nn.Dropout)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_switches_leave_no_trace(folder, precision):
    """Random sequences of loading, switching, failing and unloading: off is the stock model, bit for bit."""
    model, video, rng = lynx.load(folder, precision=precision), clip(), random.Random(0)
    expected = stock_logits(model, folder, video)
    random_adapter(model, "first")
    random_adapter(model, "second")

    def use(senses):
        with model.using(*senses):
            stream = model.encode(rng.choice(senses), pseudo_frames(model, senses[0], video))
            changed = logits(model, model.encode("video", video), stream)
            if rng.random() < 0.3:
                raise KeyError
        assert not torch.equal(changed[:, -1], expected[:, -1])

    for step in range(8):
        senses = rng.sample(["first", "second"], rng.randint(1, 2))
        try:
            use(senses)
        except KeyError:
            assert model.lora.on == ()
        if step == 5:
            model.unload_adapter("first")
            random_adapter(model, "first")
        assert torch.equal(logits(model, model.encode("video", video)), expected)
    assert not any(p.requires_grad or p.grad is not None for p in model.backbone.model.parameters())


def test_the_stock_layers_stand_in_the_model_unless_one_is_trained(model):
    """Those objects themselves: off costs what stock does, and is it."""
    stock = dict(model.backbone.model.named_modules())
    state = {name: vars(module).copy() for name, module in stock.items()}
    random_adapter(model, "audio")
    for train in (False, True, False):
        with model.using("audio"), model.sensing("audio", train=train):
            standing = dict(model.backbone.model.named_modules())
            assert any(isinstance(module, LoraLayer) for module in standing.values()) == train
        assert dict(model.backbone.model.named_modules()) == stock
        assert all(vars(module).keys() == state[name].keys() for name, module in stock.items() if name)
    model.unload_adapter("audio")
    assert dict(model.backbone.model.named_modules()) == stock
    assert model.adapters == {} and not hasattr(model.backbone.model, "peft_config")


def test_generation_without_adapters_is_stock_s_while_one_is_loaded(model, folder):
    video = clip()
    random_adapter(model, "audio")
    prompt = model.backbone.compose(QUESTION, [model.encode("video", video)])
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(folder).eval()
    inputs = {"input_ids": prompt.input_ids, "attention_mask": prompt.attention_mask}
    pixels = model.backbone.pixels(video.pixels)[None]
    expected = stock.generate(**inputs, pixel_values_videos=pixels, max_new_tokens=12, do_sample=False)
    assert torch.equal(model.generate(prompt, max_new_tokens=12), expected[:, prompt.input_ids.shape[1] :])
    with model.using("audio"):
        changed = model.generate(prompt, max_new_tokens=12)
    assert not torch.equal(changed, expected[:, prompt.input_ids.shape[1] :])


def test_each_sense_is_encoded_by_its_own_lora_alone(model):
    video = clip()
    random_adapter(model, "first")
    random_adapter(model, "second")
    frames = pseudo_frames(model, "first", video)
    plain, first = model.encode("video", frames).tokens, model.encode("first", frames).tokens
    with model.using("first", "second"):
        assert torch.equal(model.encode("video", frames).tokens, plain)
        assert torch.equal(model.encode("first", frames).tokens, first)
        assert model.lora.on == ("first_llm", "second_llm")
    assert not torch.equal(first, plain) and not torch.equal(model.encode("second", frames).tokens, first)


def test_several_llm_loras_act_together(model):
    video = clip()
    random_adapter(model, "first")
    random_adapter(model, "second")
    streams = [model.encode("video", video)]
    seen = []
    for senses in ((), ("first",), ("second",), ("first", "second")):
        with model.using(*senses):
            seen.append(logits(model, *streams))
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    with model.using("second", "first"):
        assert torch.allclose(logits(model, *streams), seen[3], atol=1e-4)  # sums in another order


def test_a_stream_knows_the_second_and_the_cell_of_every_token(model):
    video = clip(5)
    stream = model.encode("video", video)
    assert stream.tokens.shape == (5 * 16 + 1, 48) and stream.grid == (4, 4)
    assert stream.times[:-1].view(5, 16).eq(video.times[:, None]).all() and stream.times[-1].isnan()
    assert stream.cells[16 + 7].tolist() == [1, 3] and stream.cells[-1].tolist() == [-1, -1]
    assert stream.frames is video and len(stream.tokens) == model.tokens("video", 5)


def plain_and_pooled(model, how, video):
    """The streams of two adapters that differ in their pooling alone."""
    random_adapter(model, "plain")
    random_adapter(model, "pooled", token_pooling=how)
    for weight, other in zip(
        *(model.lora.tensors(f"{n}_vision").values() for n in ("pooled", "plain")), strict=True
    ):
        weight.data.copy_(other)
    frames = pseudo_frames(model, "plain", video)
    return model.encode("plain", frames), model.encode("pooled", frames)


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_the_pictures_of_a_moment_are_averaged_token_by_token(model, kinds):
    random_adapter(model, "plain")
    video = clip(2 * kinds)
    times = torch.tensor([1.0, 4.0], dtype=torch.float64).repeat_interleave(kinds)
    frames = replace(video, times=times, labels=tuple("abc"[:kinds]) * 2 if kinds > 1 else ())
    whole = model.encode("plain", frames)
    pooled = pool(whole, "moments")
    model.adapters["plain"] = replace(model.adapters["plain"], token_pooling="moments")
    assert model.encode("plain", frames).tokens.equal(pooled.tokens)
    assert len(pooled.tokens) == model.tokens("plain", 2, pictures=kinds) == 2 * 16 + 1
    pictures = whole.tokens[:-1].view(2, kinds, 16, -1)
    torch.testing.assert_close(pooled.tokens[:-1].view(2, 16, -1), sum(pictures.unbind(1)) / kinds)
    assert pooled.tokens[-1].equal(whole.tokens[-1]) and pooled.times[-1].isnan()
    assert pooled.times[:-1].tolist() == [1.0] * 16 + [4.0] * 16
    assert pooled.cells[:-1].tolist() == 2 * [[row, col] for row in range(4) for col in range(4)]
    assert pooled.grid == whole.grid == (4, 4) and pooled.steps == 2


def test_pictures_of_two_moments_are_never_averaged(model):
    """As where three views follow each other and the backbone makes one token of two pictures."""
    random_adapter(model, "plain")
    stream = model.encode("plain", replace(clip(4), labels=("a", "b") * 2))
    odd = replace(stream, frames=replace(clip(6), labels=("a", "b", "c") * 2))
    assert pool(odd, "moments").steps == 2
    odd = replace(stream, frames=replace(clip(9), labels=("a", "b", "c") * 3))
    with pytest.raises(AdapterError, match="different moments"):
        pool(odd, "moments")


def test_pooled_streams_have_one_token_a_frame(model):
    video = clip(5)
    whole, pooled = plain_and_pooled(model, "space", video)
    assert len(pooled.tokens) == model.tokens("pooled", 5) == 6 and pooled.grid == (1, 1)
    assert torch.allclose(pooled.tokens[:-1], whole.tokens[:-1].view(5, 16, -1).mean(1), atol=1e-6)
    assert torch.equal(pooled.tokens[-1], whole.tokens[-1])
    assert torch.equal(pooled.times[:-1], video.times) and pooled.times[-1].isnan()


@pytest.mark.parametrize(("frames", "halves"), [(5, (3, 2)), (8, (4, 4)), (2, (1, 1)), (1, (1,))])
def test_streams_pooled_in_halves_have_two_tokens_a_cell(model, frames, halves):
    video = clip(frames)
    whole, pooled = plain_and_pooled(model, "halves", video)
    assert len(pooled.tokens) == model.tokens("pooled", frames) == 16 * len(halves) + 1
    assert pooled.grid == (4, 4) and pooled.steps == len(halves)
    begin = 0
    for number, count in enumerate(halves):
        mine = slice(16 * number, 16 * (number + 1))
        theirs = [whole.tokens[16 * moment : 16 * (moment + 1)] for moment in range(begin, begin + count)]
        assert torch.allclose(pooled.tokens[mine], sum(theirs) / count, atol=1e-6)
        assert torch.equal(pooled.cells[mine], whole.cells[:16])
        expected = video.times[begin : begin + count].mean()
        torch.testing.assert_close(pooled.times[mine], expected.expand(16))
        begin += count
    assert torch.equal(pooled.tokens[-1], whole.tokens[-1]) and pooled.times[-1].isnan()


@pytest.mark.parametrize("frames", [5, 1])
def test_streams_pooled_in_bands_have_two_tokens_a_row(model, frames):
    whole, pooled = plain_and_pooled(model, "bands", clip(frames))
    halved = pool(whole, "halves")
    assert len(pooled.tokens) == model.tokens("pooled", frames) == 4 * halved.steps + 1
    assert pooled.grid == (4, 1) and pooled.steps == halved.steps
    for place in range(4 * halved.steps):
        row = slice(4 * place, 4 * place + 4)
        assert torch.allclose(pooled.tokens[place], halved.tokens[row].mean(0), atol=1e-6)
        assert pooled.times[place] == halved.times[row][0]
        assert pooled.cells[place].tolist() == [place % 4, 0]
    assert torch.equal(pooled.tokens[-1], halved.tokens[-1]) and pooled.times[-1].isnan()


def test_training_gives_gradients_and_dropout_to_the_named_lora_only(model):
    random_adapter(model, "first")
    random_adapter(model, "second")
    with model.sensing("first", train=True):
        trained = {n for n, p in model.backbone.model.named_parameters() if p.requires_grad}
        dropouts = {name for name, on in dropout(model).items() if on}
        tokens, _ = model.backbone.encode(model.backbone.pixels(clip(2).pixels))
        tokens.square().sum().backward()
    assert trained and all("first_vision" in name for name in trained)
    assert dropouts and all("first_vision" in name for name in dropouts)
    # the tokens come from the last layer's output: every layer is on their way
    assert all(weight.grad.abs().sum() > 0 for weight in model.lora.tensors("first_vision").values())
    assert not any(p.requires_grad for p in model.backbone.model.parameters())
    assert not any(dropout(model).values())


def test_a_sense_is_an_adapter_or_the_only_one_of_a_modality(model):
    random_adapter(model, "bells", rendering={"n_mels": 32})
    assert model.adapter("audio").name == model.adapter("bells").name == "bells"
    assert model.modality("audio").rendering.n_mels == 32
    random_adapter(model, "speech")
    with pytest.raises(AdapterError, match="bells, speech"):
        model.adapter("audio")
    with pytest.raises(AdapterError, match="no adapter for 'depth'"):
        model.adapter("depth")


def test_wrong_adapters_are_refused_before_anything_changes(model):
    random_adapter(model, "audio")
    with pytest.raises(AdapterError, match="loaded already"):
        model.add_adapter(Adapter("audio", "audio"))
    with pytest.raises(DataError, match="smell"):
        model.add_adapter(Adapter("nose", "smell"))
    with pytest.raises(DataError, match="colour"):
        model.add_adapter(Adapter("odd", "audio", rendering={"colour": 1}))
    with pytest.raises(ValueError, match="already"):
        model.add_lora("audio", "vision", LoraSettings(4, 8.0, 0.0))
    assert list(model.adapters) == ["audio"]


def test_threads_wait_for_each_other(model):
    """Two threads, one with the adapter and one without: each gets what it gets alone."""
    video = clip()
    random_adapter(model, "audio")
    stream = model.encode("video", video)

    def run(senses):
        with model.using(*senses):
            return logits(model, stream)

    alone = {senses: run(senses) for senses in ((), ("audio",))}
    wrong = []

    def work(senses):
        for _ in range(6):
            if not torch.equal(run(senses), alone[senses]):
                wrong.append(senses)

    threads = [threading.Thread(target=work, args=(senses,)) for senses in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sampling_follows_the_temperature(model):
    prompt = model.backbone.compose(QUESTION, [model.encode("video", clip())])
    greedy = model.generate(prompt, max_new_tokens=12)
    torch.manual_seed(0)
    sampled = [model.generate(prompt, max_new_tokens=12, temperature=5.0) for _ in range(3)]
    assert torch.equal(model.generate(prompt, max_new_tokens=12), greedy)
    assert any(not torch.equal(ids, greedy) for ids in sampled)


def test_the_package_root_does_not_import_torch():
    import subprocess
    import sys

    code = "import lynx, sys; lynx.load, lynx.LynxError; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def state_of(model):
    """What an adapter that could not be loaded must leave as it was."""
    kinds = {name: type(module) for name, module in model.backbone.model.named_modules()}
    loras = {name: model.lora.digest(name) for name in model.lora.settings}
    grown = model.adapters.copy(), model.type_embeddings.copy(), {n: model.parts(n) for n in model.adapters}
    return kinds, loras, grown, hasattr(model.backbone.model, "peft_config")


def out_of_memory_at(monkeypatch, place, name, call):
    """Let the n-th call of a function find no memory, as on a device that is full."""
    whole, calls = getattr(place, name), itertools.count(1)

    def fail(*arguments, **options):
        if next(calls) == call:
            raise torch.OutOfMemoryError("out of memory")
        return whole(*arguments, **options)

    monkeypatch.setattr(place, name, fail)


@pytest.mark.parametrize("loaded_before", [False, True])
@pytest.mark.parametrize(
    ("place", "function", "call"),
    [(LoraBank, "fill", 1), (LoraBank, "fill", 2), (LoraBank, "add", 2)]
    + [(LoraLayer, "update_layer", 3), (LoraLayer, "update_layer", 20)],
)
def test_an_adapter_that_cannot_be_loaded_leaves_the_model_as_it_was(
    model, tmp_path, monkeypatch, place, function, call, loaded_before
):
    random_adapter(model, "other")
    random_adapter(model, "audio")
    model.type_embeddings["audio"] = torch.ones(48)
    folder, video = save_adapter(model, "audio", tmp_path / "audio"), clip()
    for name in ("audio",) if loaded_before else ("audio", "other"):
        model.unload_adapter(name)
    before, expected = state_of(model), logits(model, model.encode("video", video))
    with monkeypatch.context() as patch:
        out_of_memory_at(patch, place, function, call)
        with pytest.raises(torch.OutOfMemoryError):
            model.load_adapter(folder)
    assert state_of(model) == before
    assert torch.equal(logits(model, model.encode("video", video)), expected)
    assert model.load_adapter(folder).name == "audio"


def test_an_adapter_s_number_of_moments_is_the_default_and_a_departure_is_noted(model):
    random_adapter(model, "audio")
    media = {"video": clip(32), "audio": sound(16.0)}
    assert plan(model, media).frames == model.backbone.default_frames and plan(model, media).notes == ()
    model.adapters["audio"] = replace(model.adapters["audio"], frames=4)
    default, asked = plan(model, media), plan(model, media, Moments(3))
    assert (default.frames, default.notes) == (4, ())
    assert (asked.frames, asked.notes) == (3, ("audio was trained with 4 moments; 3 are used",))
    assert plan(model, {"video": clip(32)}).frames == model.backbone.default_frames
    session = model.chat(**media)
    assert session.plan.frames == 4 and model.chat(**media, frames=1).notes == [
        "audio was trained with 4 moments; 1 is used"
    ]


def test_of_several_senses_the_first_one_s_number_of_moments_is_taken(model):
    for name, frames in (("audio", None), ("bells", 6), ("speech", 4)):
        random_adapter(model, name, frames=frames)
    found = plan(model, {"speech": sound(), "bells": sound(), "audio": sound()})
    assert found.frames == 4 and found.notes == ("bells was trained with 6 moments; 4 are used",)


def test_fewer_moments_than_an_adapter_was_trained_with_are_noted_where_more_do_not_fit(model):
    random_adapter(model, "audio", frames=500)
    found = plan(model, {"audio": sound()})
    assert found.frames < 500 and [note.split(" ")[0] for note in found.notes] == [str(found.frames), "audio"]


def test_the_number_of_moments_travels_with_the_adapter(folder, model, tmp_path):
    random_adapter(model, "audio", frames=4)
    out = save_adapter(model, "audio", tmp_path / "audio")
    assert lynx.load(folder, adapters=[out]).chat(audio=sound()).plan.frames == 4
    model.adapters["audio"] = replace(model.adapters["audio"], frames=None)
    save_adapter(model, "audio", out)
    assert "frames" not in json.loads((out / "lynx_config.json").read_text())
    assert lynx.load(folder, adapters=[out]).adapters["audio"].frames is None


def test_the_package_offers_its_two_classes_without_importing_torch_first():
    assert lynx.Lynx.__name__ == "Lynx" and lynx.Session.__name__ == "Session"
    with pytest.raises(AttributeError, match="Sesion"):
        _ = lynx.Sesion
