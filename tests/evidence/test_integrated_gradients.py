"""Integrated gradients add up to what the media add, in every family and precision, and harm nothing."""

from contextlib import contextmanager
from dataclasses import replace

import checkpoints
import families
import pytest
import torch
from checkpoints import arguments, clip, followed, random_adapter, sound

import lynx
from lynx import BackboneError
from lynx.backbones import memory
from lynx.backbones.memory import gradient_bytes
from lynx.evidence import integrated_gradients as module
from lynx.evidence.integrated_gradients import integrated_gradients
from lynx.types import Frames

SAID = "a dog, a cat"  # a token for each letter
FIRST, SECOND = [0], [7]  # the word that stands there twice


@pytest.fixture(scope="module", params=sorted(checkpoints.VARIANTS))
def folder(request, tmp_path_factory):
    """Of a family; as wide as bitsandbytes' blocks."""
    small = families.FAMILIES.get(request.param)  # a variant's options are those of most families
    sizes = small.quantizable if small else families.base.SmallFamily.quantizable
    return checkpoints.VARIANTS[request.param](tmp_path_factory.mktemp(request.param), **sizes)


def answered_by(folder, precision="fp32"):
    """The second answer of a conversation with a picture and two sounds: one pooled, one marked."""
    model = lynx.load(folder, precision=precision)
    random_adapter(model, "audio", placement=model.backbone.placements[-1])
    random_adapter(model, "pooled", token_pooling="space")
    width = model.backbone.text_sizes(model.backbone.model.config).hidden
    model.type_embeddings["audio"] = torch.full((width,), 0.1)
    chat = model.chat(video=clip(), audio=sound(), pooled=sound(seed=1), frames=4)
    for question in ("what is it ?", "and then ?"):
        chat.ask(question, max_new_tokens=3)
    ids = torch.tensor(model.backbone.tokenizer(SAID).input_ids)
    assert ids[FIRST] == ids[SECOND] and len(ids) == len(SAID)
    return replace(chat.evidence.answered, ids=ids)


@torch.no_grad()
def by_hand(answered, tokens, blank):
    """log p of the answer's tokens, from one plain pass over everything."""
    model, backbone = answered.model, answered.model.backbone
    with model.using(*answered.streams):
        streams = dict(answered.streams)
        for sense, stream in answered.streams.items() if blank else ():
            nothing = model.modality(sense).blank(stream.frames)
            encoded = model.encode(sense, Frames(nothing, torch.zeros(1).double(), 1.0))
            token = encoded.tokens[~encoded.times.isnan()].mean(0)
            newline = stream.times.isnan()[:, None]
            streams[sense] = replace(stream, tokens=torch.where(newline, stream.tokens, token))
        prompt = backbone.compose(answered.messages, list(streams.values()))
        given = arguments(backbone, followed(backbone, prompt, answered.ids))
        logits = backbone.model(**given, use_cache=False).logits[0]
    at = prompt.input_ids.shape[1] - 1
    return sum(float(logits[at + t].float().log_softmax(-1)[answered.ids[t]]) for t in tokens)


def state(model):
    weights = list(model.backbone.model.named_parameters())
    assert all(weight.grad is None for _, weight in weights)
    modes = [each.training for each in model.backbone.model.modules()]
    return [(name, weight.requires_grad) for name, weight in weights], modes, model.lora.on


def test_all_values_sum_to_what_the_media_add(folder):
    answered = answered_by(folder)
    before = state(answered.model)
    found = {}
    for tokens in (FIRST, SECOND, [2, 3, 4], range(len(SAID))):
        with answered.replay() as replay:
            found[tokens[0]] = integral = integrated_gradients(replay, tokens)
        blank, real = (by_hand(answered, tokens, hidden) for hidden in (True, False))
        assert integral.real == pytest.approx(real, abs=1e-3)
        assert float(integral.values.sum()) == pytest.approx(real - blank, abs=2e-3)
        media = torch.cat(list(replay.spans.values()))
        outside = torch.ones(len(integral.values), dtype=torch.bool).index_fill(0, media, False)
        assert not integral.values[outside].any() and integral.values[media].any()
        newlines = torch.cat([stream.times.isnan() for stream in answered.streams.values()])
        assert not integral.values[media][newlines].any()
        assert state(answered.model) == before
    assert not torch.allclose(found[0].values, found[7].values, atol=1e-3)  # of one word, said twice


def test_what_comes_behind_a_word_does_not_matter(folder):
    answered = answered_by(folder)
    with answered.replay() as replay, replace(answered, ids=answered.ids[:4]).replay() as short:
        whole, alone = (integrated_gradients(each, [2, 3], steps=2) for each in (replay, short))
    assert torch.allclose(whole.values[: len(alone.values)], alone.values, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_they_sum_up_in_lower_precision(folder, precision):
    answered = answered_by(folder, precision)
    before = state(answered.model)
    with answered.replay() as replay:
        integral = integrated_gradients(replay, [2, 3, 4])
    blank, real = (by_hand(answered, [2, 3, 4], hidden) for hidden in (True, False))
    # bf16 and int8 round what depends on the sequence's length: the same answer differs by that much
    tolerance = {"bf16": 0.5, "int8": 0.1, "nf4": 0.01}[precision]
    assert integral.blank == pytest.approx(blank, abs=tolerance)
    assert integral.real == pytest.approx(real, abs=tolerance)
    assert float(integral.values.sum()) == pytest.approx(integral.real - integral.blank, abs=1e-3)
    assert state(answered.model) == before


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", ["off", "non-reentrant"])
def test_the_memory_of_gradients_is_known_before(folder, precision, checkpointing):
    """What autograd keeps, against what is expected."""
    answered, kept = answered_by(folder, precision), {}
    backbone = answered.model.backbone
    weights = {weight.untyped_storage().data_ptr() for weight in backbone.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with answered.replay() as replay, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with memory.checkpointed(backbone.model, checkpointing), torch.enable_grad():
            replay.log_probs(replay.inputs.clone().requires_grad_(), [0])
    expected = gradient_bytes(backbone, replay.start, checkpointing)
    if checkpointing == "off":
        assert 0.5 * expected <= sum(kept.values()) <= 1.1 * expected
    else:  # beside what is kept between layers, those of one layer are there in the backward pass
        assert sum(kept.values()) <= expected < 0.8 * gradient_bytes(backbone, replay.start)


@pytest.fixture
def answered(tmp_path):
    return answered_by(checkpoints.llava_onevision(tmp_path / "backbone"))


@contextmanager
def gpu_that_fails(answered, when):
    """The LLM fails as CUDA's allocator does, where `when` (layers, inputs) says so; lists all passes."""
    decoder, passes = answered.model.backbone.model.get_decoder(), []

    def check(module, args, kwargs):
        embeds = kwargs["inputs_embeds"]
        passes.append((len(embeds), decoder.layers[0].gradient_checkpointing))
        if embeds.requires_grad and when(*passes[-1]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = decoder.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


def explain(answered, **options):
    with answered.replay() as replay:
        return integrated_gradients(replay, [2, 3], **options)


def test_where_memory_runs_out_points_go_one_by_one_then_with_checkpointing(answered):
    expected, before = explain(answered), state(answered.model)
    with gpu_that_fails(answered, lambda batch, saving: batch > 1) as passes:
        one_by_one = explain(answered)
    assert passes.count((1, False)) == len(passes) - 1
    with gpu_that_fails(answered, lambda batch, saving: not saving) as passes:
        saving = explain(answered)
    assert len(passes) > 8 and {each for each in passes[2:]} == {(1, True)}
    for found in (one_by_one, saving):
        assert torch.allclose(found.values, expected.values, atol=1e-4)
    with gpu_that_fails(answered, lambda *_: True):
        with pytest.raises(BackboneError, match="another method, such as attention"):
            explain(answered)
    assert state(answered.model) == before
    assert torch.equal(explain(answered).values, expected.values)


def test_a_long_prompt_is_explained_in_bounded_memory(answered, monkeypatch):
    """Gradients may take what the weights take; where one point needs more there is checkpointing."""
    expected, model = explain(answered), answered.model.backbone.model
    with answered.replay() as replay:
        one = gradient_bytes(answered.model.backbone, replay.start + 3)
    for room, passes_of in ((2.5 * one, (2, False)), (1.5 * one, (1, False)), (0.5 * one, (1, True))):
        monkeypatch.setattr(module, "SMALL", int(room))
        monkeypatch.setattr(module, "weight_bytes", lambda _: 0)
        with gpu_that_fails(answered, lambda *_: False) as passes:
            found = explain(answered)
        assert passes[0] == passes_of and max(batch for batch, _ in passes) == passes_of[0]
        assert torch.allclose(found.values, expected.values, atol=1e-4)
    assert memory.weight_bytes(model) < sum(p.nbytes for p in model.parameters()) + 1
    monkeypatch.setattr(module, "free_bytes", lambda _: one // 9)
    with pytest.raises(BackboneError, match=r"fewer frames or a smaller part .* GB are free"):
        explain(answered)


# --- how much of the change the gradients explain -------------------------------------------------


def test_the_gradients_of_lynx_tiny_explain_what_its_media_add():
    model = lynx.load("lynx-tiny", ["adapters/audio"])
    chat = model.chat(video="examples/bell/clip.mp4", audio="examples/bell/clip.mp4")
    assert chat.ask("What sound do you hear?") == "bell"
    found = chat.evidence.attribution("bell")
    sums = {sense: float(values.sum()) for sense, values in found.values.items()}
    assert sums["audio"] > 10 * abs(sums["video"]) and found.gained > 2
    assert sum(sums.values()) == pytest.approx(found.gained, rel=1e-4)
    assert found.missed <= 0.05 * found.gained
    answered = chat.evidence.answered
    with answered.replay() as replay:
        precise = integrated_gradients(replay, [0], steps=64)
        far = [integrated_gradients(replay, [0], steps=steps).values - precise.values for steps in (2, 8)]
    assert precise.missed <= 0.01 * found.gained
    change = by_hand(answered, [0], False) - by_hand(answered, [0], True)
    assert found.gained == pytest.approx(change, abs=1e-3)
    assert far[1].abs().sum() < 0.2 * precise.values.abs().sum() < far[0].abs().sum()


def test_the_mean_of_both_ends_is_the_one_that_explains_the_change():
    slopes = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 2.0])
    for change, explained in ((3.0, [2.0, 1.0]), (2.5, [1.0, 1.5]), (5.0, [4.0, 0.0]), (-1.0, [0.0, 2.0])):
        points = {part: (slopes[part], torch.tensor(part * change)) for part in (0, 1)}
        ends, values, missed, doubt = module._intervals(points)
        assert ends == [(0, 1)] and torch.allclose(values, torch.tensor([explained]), atol=1e-6)
        assert float(missed) == pytest.approx(change - sum(explained), abs=1e-6)
        assert float(doubt) == pytest.approx(abs(float(missed)) + abs(change - 3) + 0.6, abs=1e-5)


def test_words_that_rest_on_nothing_take_few_passes(answered, monkeypatch):
    told = []
    with answered.replay() as replay:
        replay.blank = replay.inputs.clone()  # media that show nothing
        found = integrated_gradients(replay, [0], progress=lambda *now: told.append(now))
    assert not found.values.any() and found.missed == 0
    assert max(done for done, _ in told[:-1]) == 3 == found.points and told[-1] == (9, 9)


@pytest.mark.parametrize("enough", [0.0, 1e9])
def test_the_bar_reaches_its_end_once(answered, enough):
    told = []
    found = explain(answered, steps=4, enough=enough, progress=lambda *now: told.append(now))
    assert found.points == (5 if enough == 0 else 3)
    assert told.count((5, 5)) == 1 and told[-1] == (5, 5) and told == sorted(told)
