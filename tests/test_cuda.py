"""What holds on a CPU, on a GPU: `pytest tests/test_cuda.py` where there is one; skipped elsewhere."""

import gc
import time
from dataclasses import replace
from itertools import islice

import checkpoints
import pytest
import stages
import torch
from accelerate.state import AcceleratorState
from checkpoints import arguments, clip, random_adapter, sound, stock_inputs
from transformers import AutoModelForImageTextToText

import lynx
from lynx import BackboneError
from lynx.adapters.saving import save_adapter
from lynx.config import AlignConfig, TuneConfig
from lynx.datasets.sources import open_data
from lynx.training.alignment import align
from lynx.training.tuning import tune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]

QUESTION = [{"role": "user", "content": "what is it ?"}]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHORT = TuneConfig(
    steps=6, rank=2, alpha=4, batch_size=2, frames=stages.FRAMES, lr=1e-2, dropout=0.1
)


@pytest.fixture(scope="module", params=sorted(checkpoints.VARIANTS))
def folder(request, tmp_path_factory):
    """Of a family; as wide as bitsandbytes' blocks."""
    sizes = checkpoints.quantizable(request.param)
    return checkpoints.VARIANTS[request.param](tmp_path_factory.mktemp(request.param), **sizes)


@torch.no_grad()
def logits(model):
    prompt = model.backbone.compose(QUESTION, [model.encode("video", clip(4))])
    return model.backbone.model(**arguments(model.backbone, prompt)).logits


def test_auto_is_the_gpu(folder):
    assert {weight.device.type for weight in lynx.load(folder).backbone.model.parameters()} == {"cuda"}


@pytest.mark.parametrize("precision", DTYPES)
def test_without_adapters_it_is_the_stock_model(folder, precision):
    model = lynx.load(folder, precision=precision)
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPES[precision]).cuda().eval()
    plain.requires_grad_(False)
    inputs = stock_inputs(model.backbone, clip(4), QUESTION)
    inputs = {k: v.to(DTYPES[precision]) if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        expected = plain(**inputs).logits
    before = logits(model)
    wide = 1e-5 if precision == "fp32" else 3e-2
    assert (before - expected).norm() <= wide * expected.norm()
    random_adapter(model, "audio")
    with model.using("audio"):
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)


def test_it_computes_what_the_cpu_does(folder):
    there, here = lynx.load(folder, device="cuda"), lynx.load(folder, device="cpu")
    for model in (there, here):
        random_adapter(model, "audio")
    found, expected = logits(there).cpu(), logits(here)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    answers = []
    for model in (there, here):
        chat = model.chat(video=clip(), audio=sound(), frames=4)
        answers.append((chat.ask("what is it ?", max_new_tokens=6), chat.evidence))
    (answer, evidence), (same, other) = answers
    assert answer == same
    assert evidence.share() == pytest.approx(other.share(), abs=1e-4)
    assert torch.allclose(evidence.attention.rows.cpu(), other.attention.rows, atol=1e-4)
    found, expected = (each.attribution() for each in (evidence, other))
    assert found.gained == pytest.approx(expected.gained, rel=1e-2, abs=1e-2)
    for sense, values in expected.values.items():
        assert (found.values[sense] - values).norm() <= 1e-2 * values.norm()


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_all_stages_and_a_chat_with_evidence(folder, tmp_path, precision):
    model = lynx.load(folder, precision=precision)
    short = AlignConfig(steps=3, rank=2, alpha=4, batch_size=4, frames=stages.FRAMES, lr=1e-2)
    sounds = stages.clips(4, ("audio",))
    align(model, "audio", sounds, stages.small_guidance(model), short, tmp_path, progress=False)
    tune(model, "audio", stages.clips(4), SHORT, tmp_path, progress=False)
    for part in ("vision", "llm"):
        outputs = {k: w for k, w in model.lora.tensors(f"audio_{part}").items() if ".lora_B." in k}
        assert outputs and all(w.is_cuda and w.abs().sum() > 0 for w in outputs.values())
    chat = model.chat(video=clip(), audio=sound(), frames=4)
    answer = chat.ask("what is it ?", max_new_tokens=6)
    rows = chat.evidence.attention.rows
    assert len(rows) == len(chat.evidence.tokens) and rows.isfinite().all()
    found = chat.evidence.attribution()
    assert sum(map(float, (v.sum() for v in found.values.values()))) == pytest.approx(found.gained, abs=1e-2)
    assert all(weight.grad is None for weight in model.backbone.model.parameters())
    again = lynx.load(folder, adapters=[tmp_path], precision=precision)
    assert again.chat(video=clip(), audio=sound(), frames=4).ask("what is it ?", max_new_tokens=6) == answer
    lynx.load(folder, adapters=[tmp_path], device="cpu").chat(video=clip(), audio=sound()).ask("what ?")


def test_a_captured_step_says_what_stock_s_does_and_takes_less_than_a_second(folder):
    model = lynx.load(folder)
    random_adapter(model, "audio")
    prompt = model.backbone.compose(QUESTION, [model.encode("video", clip(4))])
    for senses in ((), ("audio",)):
        with model.using(*senses):
            expected = model.generate(prompt, max_new_tokens=24, fixed=False)
            model.generate(prompt, max_new_tokens=3, fixed=True)  # captures
            start = time.perf_counter()
            model.backbone.steps.clear()
            model.generate(prompt, max_new_tokens=3, fixed=True)
            assert time.perf_counter() - start < 1
            for _ in range(2):
                assert torch.equal(model.generate(prompt, max_new_tokens=24, fixed=True), expected)
            model.backbone.steps.clear()
            model.generate(prompt, max_new_tokens=3)
            assert len(model.backbone.steps) == bool(senses), "without adapters an answer is stock's own"
            model.generate(prompt, max_new_tokens=3, fixed=True)
    steps = list(model.backbone.steps.values())
    assert steps and all(step is not None and step.graph is not None for step in steps)


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    config = replace(SHORT, save_every=2, type_embedding=True)
    whole, broken = (stages.small_model(tmp_path) for _ in range(2))
    for model in (whole, broken):
        random_adapter(model, "audio", parts=("vision",))
    tune(whole, "audio", stages.clips(5), config, tmp_path / "whole", progress=False)
    losses = iter([lynx.training.tuning_loss.answer_loss] * 3)

    def three_times(*given):
        return next(losses)(*given)

    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(lynx.training.tuning_loss, "answer_loss", three_times)
        tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", progress=False)
    tune(broken, "audio", stages.clips(5), config, tmp_path / "broken", progress=False)
    weights = broken.lora.tensors("audio_llm")
    for name, weight in whole.lora.tensors("audio_llm").items():
        assert weight.is_cuda
        torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-6)


def test_a_model_on_the_cpu_can_be_trained_after_one_on_the_gpu(tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)  # of the tests before
    folder = checkpoints.llava_onevision(tmp_path / "backbone", hidden=32, side=16)
    for device in ("cuda", "cpu", "cuda"):
        model = lynx.load(folder, device=device)
        random_adapter(model, "audio", parts=("vision",))
        tune(model, "audio", stages.clips(2), replace(SHORT, steps=1), tmp_path / "out", progress=False)
        assert {w.device.type for w in model.lora.tensors("audio_llm").values()} == {device}


def test_the_embedded_backbone_answers_as_it_does_on_a_cpu(root):
    examples = list(islice(open_data("world", n=12, seed=3, senses=("video", "audio")), 12))
    answers = {}
    for device in ("cuda", "cpu"):
        model = lynx.load(adapters=[root / "adapters" / "audio"], device=device)
        answers[device] = []
        for example in examples:
            chat = model.chat(**example.media)
            answers[device] += [chat.ask(turn.question) for turn in example.turns[:4]]
    assert answers["cuda"] == answers["cpu"]


def test_a_model_that_is_gone_leaves_no_memory_behind(folder):
    gc.collect()
    before = torch.cuda.memory_allocated()
    model = lynx.load(folder)
    random_adapter(model, "audio")
    chat = model.chat(video=clip(), audio=sound(), frames=4)
    chat.ask("what is it ?", max_new_tokens=2)
    assert torch.cuda.memory_allocated() > before
    del model, chat
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_memory_that_runs_out_is_said_and_the_next_answer_is_given(tmp_path):
    """For real: 64 frames of tokens hold activations of 255 MB and more; the process may have 200 MB."""
    model = lynx.load(checkpoints.llava_onevision(tmp_path, ffn=60_000, layers=1))
    chat = model.chat(video=clip(), frames=64)
    gc.collect()
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200e6) / whole)
        with pytest.raises(BackboneError, match="out of memory: use fewer frames"):
            chat.ask("what is it ?", max_new_tokens=2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert chat.history == [] and chat.ask("what is it ?", max_new_tokens=2) is not None


def test_an_attribution_takes_at_most_twice_the_memory_of_its_answer(tmp_path):
    """A model whose weights weigh more than the activations of one pass, as in all real ones."""
    model = lynx.load(checkpoints.llava_onevision(tmp_path, hidden=512, layers=4, ffn=4096))
    chat = model.chat(video=clip(), frames=16)
    torch.cuda.reset_peak_memory_stats()
    chat.ask("what is it ?", max_new_tokens=2)
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    chat.evidence.attribution()
    assert torch.cuda.max_memory_allocated() <= 2 * peak


def test_an_adapter_that_was_saved_on_the_gpu_is_the_same_on_a_cpu(folder, tmp_path):
    model = lynx.load(folder)
    random_adapter(model, "audio")
    save_adapter(model, "audio", tmp_path / "audio")
    again = lynx.load(folder, adapters=[tmp_path / "audio"], device="cpu")
    for part in ("vision", "llm"):
        mine = again.lora.tensors(f"audio_{part}")
        assert all(torch.equal(w.cpu(), mine[k]) for k, w in model.lora.tensors(f"audio_{part}").items())
