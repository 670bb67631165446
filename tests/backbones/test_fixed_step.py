"""Decoding by steps of fixed shapes, beside the stock ones: on a CPU, where they run uncaptured."""

import json
import logging
import sys
import threading
from functools import partial

import checkpoints
import pytest
import torch
from checkpoints import clip, random_adapter, sound
from transformers import DynamicCache

import lynx
from benchmarks import gpu
from lynx import session
from lynx.backbones.attention import RECORDER, RowRecorder, recording
from lynx.backbones.decoding import NextTokens, generate
from lynx.backbones.fixed_step import Answer, FixedStep, fixed_steps
from lynx.types import Prompt

QUESTION = [{"role": "user", "content": "what is it ?"}]
TOKENS = 12
ALL = checkpoints.FAMILIES | checkpoints.VARIANTS


def adapted(folder, **options):
    model = lynx.load(folder, **options)
    random_adapter(model, "audio")
    return model


def prompt_of(model):
    video = clip()
    streams = [
        model.encode("video", video),
        model.encode("audio", model.modality("audio").render(sound(), video.times)),
    ]
    return model.backbone.compose(QUESTION, streams)


def answer(model, prompt, fixed, senses=(), **options):
    """The ids, rows, probabilities and cached keys of an answer."""
    rows, said = RowRecorder(), NextTokens()
    cache = DynamicCache(config=model.backbone.model.config.get_text_config())
    with model.using(*senses), recording(model.backbone, text_rows=rows):
        ids = model.generate(prompt, cache=cache, next_tokens=said, fixed=fixed, **options)
    keys = torch.cat([layer.keys.flatten() for layer in cache.layers])
    return ids, rows.rows(), said.of(ids[0])[0], keys


def assert_alike(found, expected):
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def model(folder):
    return adapted(folder)


@pytest.fixture
def prompt(model):
    return prompt_of(model)


@pytest.fixture
def runs(monkeypatch):
    """How many steps were computed on buffers."""
    counted = []
    whole = FixedStep.compute
    monkeypatch.setattr(FixedStep, "compute", lambda step: (counted.append(step), whole(step))[1])
    return counted


@pytest.mark.parametrize("name", sorted(ALL))
def test_fixed_steps_say_see_and_keep_what_stock_s_do(tmp_path, runs, name):
    model = adapted(ALL[name](tmp_path))
    prompt = prompt_of(model)
    for senses in ((), ("audio",), (), ("audio",)):
        both = (answer(model, prompt, fixed, senses, max_new_tokens=TOKENS) for fixed in (True, False))
        assert_alike(*both)
    assert len(model.backbone.steps) == 2 and len(set(runs)) == 2
    assert len(runs) == 4 * (TOKENS - 1), "the prompt gives the first token, and each step is taken once"


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(ALL))
def test_a_step_reads_nothing_back_from_the_device_so_that_it_can_be_captured(tmp_path, name):
    """On the meta device, whose tensors have no values to read."""
    model = adapted(ALL[name](tmp_path))
    prompt, cache = prompt_of(model), DynamicCache(config=model.backbone.model.config.get_text_config())
    token = model.generate(prompt, cache=cache, max_new_tokens=1).to("meta")
    model.backbone.model.to("meta")
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.to("meta"), layer.values.to("meta")
    with model.using("audio"), recording(model.backbone, text_rows=RowRecorder()):
        positions = prompt.position_ids[..., -1:].to("meta")
        answer = Answer(model.backbone, cache, prompt.input_ids.shape[1] + 2)
        step = answer._make({"input_ids": token, "position_ids": positions})
    assert step.logits.is_meta and step.logits.shape[:2] == (1, 1)
    assert step.queries.is_meta and len(step.queries) == len(cache.layers)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_fixed_steps_run_over_quantized_layers(tmp_path, runs, precision):
    import families

    small = families.FAMILIES["llava_onevision"]
    model = adapted(small.write(tmp_path, **small.quantizable), precision=precision)
    prompt = prompt_of(model)
    assert_alike(*(answer(model, prompt, fixed, ("audio",), max_new_tokens=6) for fixed in (True, False)))
    assert runs


def test_weights_that_change_and_loras_that_go_are_seen_by_kept_steps(model, prompt, runs):
    both = partial(answer, model, prompt, senses=("audio",), max_new_tokens=TOKENS)
    first = both(fixed=True)
    tensors = {key: -weight for key, weight in model.lora.tensors("audio_llm").items() if "lora_B" in key}
    model.lora.fill("audio_llm", model.lora.tensors("audio_llm") | tensors)
    changed = both(fixed=True)
    assert_alike(changed, both(fixed=False))
    assert not torch.equal(first[0], changed[0])
    random_adapter(model, "other")
    assert_alike(both(fixed=True), changed)


def test_scores_are_processed_and_tokens_drawn_as_by_stock(model, prompt, runs):
    config = model.backbone.model.generation_config
    plain = answer(model, prompt, True, max_new_tokens=TOKENS)
    config.repetition_penalty = 1.8
    penalized = answer(model, prompt, True, max_new_tokens=TOKENS)
    assert_alike(penalized, answer(model, prompt, False, max_new_tokens=TOKENS))
    assert not torch.equal(plain[0], penalized[0])
    drawn = []
    for fixed in (True, False):
        torch.manual_seed(0)
        drawn.append(answer(model, prompt, fixed, max_new_tokens=TOKENS, temperature=3.0))
    assert_alike(*drawn)
    assert not torch.equal(drawn[0][0], penalized[0]) and runs


def test_a_conversation_goes_on_from_what_fixed_steps_kept(folder, monkeypatch, runs):
    heard = {}
    for fixed in (False, True):
        monkeypatch.setattr(session, "generate", partial(generate, fixed=fixed))
        model = adapted(folder)
        chat = model.chat(video=clip(), audio=sound())
        said = ["".join(chat.stream("what is it ?", max_new_tokens=8)), chat.ask("why ?", max_new_tokens=8)]
        heard[fixed] = said, chat.evidence.attention.rows, chat.evidence.share()
        assert bool(runs) == fixed
    torch.testing.assert_close(heard[True][1], heard[False][1], rtol=1e-4, atol=1e-4)
    assert heard[True][0] == heard[False][0] and heard[True][2] == pytest.approx(heard[False][2], abs=1e-4)


def test_stop_ends_an_answer_and_leaves_no_trace(model, prompt, monkeypatch):
    stop = threading.Event()
    whole = FixedStep.run

    def run(step, *given):
        stop.set()
        return whole(step, *given)

    monkeypatch.setattr(FixedStep, "run", run)
    ids, rows, *_ = answer(model, prompt, True, stop=stop, max_new_tokens=TOKENS)
    assert ids.shape[1] == len(rows) == 2
    monkeypatch.setattr(FixedStep, "run", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answer(model, prompt, True, max_new_tokens=TOKENS)
    assert "forward" not in vars(model.backbone.model)
    assert not any(RECORDER in vars(module) for module in model.backbone.text_attention_modules())


def padded(prompt):
    """The prompt behind one masked token."""
    ones = torch.ones_like(prompt.input_ids)
    return Prompt(
        input_ids=torch.cat([prompt.input_ids[:, :1], prompt.input_ids], 1),
        inputs_embeds=torch.cat([prompt.inputs_embeds[:, :1], prompt.inputs_embeds], 1),
        attention_mask=torch.cat([0 * ones[:, :1], ones], 1),
        position_ids=torch.cat([prompt.position_ids[..., :1], prompt.position_ids], -1),
        spans={},
    )


def test_what_fixed_steps_cannot_do_stock_does_and_it_is_said(model, prompt, caplog, runs):
    caplog.set_level(logging.INFO, "lynx.backbones")
    behind = padded(prompt)
    ids = [model.generate(behind, max_new_tokens=6, fixed=fixed) for fixed in (True, False)]
    assert torch.equal(*ids) and "they are for a single prompt" in caplog.text
    model.backbone.model.generation_config.num_beams = 3
    ids = [model.generate(prompt, max_new_tokens=6, fixed=fixed) for fixed in (True, False)]
    assert torch.equal(*ids) and not runs


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda step: step.logits.neg_(), "other scores than stock's"),
        (lambda step: torch.zeros(2) @ torch.zeros(3), "could not be made"),
    ],
)
def test_a_step_that_fails_or_computes_something_else_is_not_used(
    model, prompt, monkeypatch, caplog, wrong, said
):
    expected = answer(model, prompt, False, max_new_tokens=TOKENS)
    whole = FixedStep.compute

    def compute(step):
        whole(step)
        wrong(step)

    monkeypatch.setattr(FixedStep, "compute", compute)
    for _ in range(2):
        found = answer(model, prompt, True, max_new_tokens=TOKENS)
        assert all(map(torch.equal, found, expected))
    assert caplog.text.count(said) == 1, "it is not tried again"


def test_few_steps_are_kept_and_none_where_memory_runs_short(model, prompt, runs):
    config = model.backbone.model.config.get_text_config()
    for longest in (400, 600, 1100, 2100, 4100, 8200):
        cache = DynamicCache(config=config)
        with fixed_steps(model.backbone, cache, longest):
            model.generate(prompt, cache=cache, max_new_tokens=3)
    assert [len(step.places) for step in model.backbone.steps.values()] == [2048, 4096, 8192, 16384]
    assert model.drop_kept(in_use=0) and not model.backbone.steps and not model.drop_kept(in_use=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the script takes minutes")
def test_the_script_for_a_gpu_runs_small_without_one_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--tokens", "4"])
    gpu.main()
    out, err = capsys.readouterr()
    cases = json.loads(out)["cases"]
    names = ("llava-onevision-0.5b", "llava-onevision-7b", "qwen3-vl-2b", "smolvlm2-500m")
    assert list(cases) == [f"{name}, {precision}" for precision in ("fp32", "nf4") for name in names]
    assert "no CUDA device here" in err
    for case in cases.values():
        assert case["fixed_steps"] == "2 in use, 0 captured" and case["weights_gb_a_token"] > 0
        assert len(case["arms"]) == 5
