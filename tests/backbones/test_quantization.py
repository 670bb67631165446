import json
import shutil

import families
import pytest
import stages
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from checkpoints import arguments, clip, random_adapter, stock_inputs
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

import lynx
from lynx import BackboneError
from lynx.adapters.saving import save_adapter
from lynx.backbones import FAMILIES, load_backbone
from lynx.backbones.estimate import estimate
from lynx.backbones.quantization import check_quantized, pick_device
from lynx.config import TuneConfig
from lynx.training.tuning import tune

pytestmark = pytest.mark.gpu

QUESTION = [{"role": "user", "content": "what is it ?"}]
DEVICE = pick_device("auto")
"""Kernels of bitsandbytes are of their device: where there is a GPU, its own are tested."""
STOCK = {
    "int8": (Linear8bitLt, {"load_in_8bit": True}),
    "nf4": (Linear4bit, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    small = families.FAMILIES[request.param]
    return small.write(tmp_path_factory.mktemp(request.param), **small.quantizable)


def stays_precise(folder):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return list(families.FAMILIES[kind].stays_precise)


def stock(folder, precision=None):
    """transformers' own quantized model; of a checkpoint that is saved quantized, with its own settings."""
    options = {}
    if precision is not None:
        skip = stays_precise(folder)
        options = {
            "quantization_config": BitsAndBytesConfig(**STOCK[precision][1], llm_int8_skip_modules=skip)
        }
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, device_map={"": DEVICE}, **options
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model.eval().requires_grad_(False)


@torch.no_grad()
def logits(model):
    prompt = model.backbone.compose(QUESTION, [model.encode("video", clip(4))])
    return model.backbone.model(**arguments(model.backbone, prompt)).logits


def save_quantized(folder, out, model):
    """A checkpoint as one finds it on the Hub: stock `save_pretrained`, the other files beside it."""
    model.save_pretrained(out)
    for path in folder.iterdir():
        if not (out / path.name).exists() and path.suffix != ".safetensors":
            shutil.copy(path, out)
    return out


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_only_the_llm_is_quantized(folder, precision):
    kind, _ = STOCK[precision]
    backbone = load_backbone(folder, precision)
    layers = families.of(backbone).llm
    quantized = {name for name, module in backbone.model.named_modules() if isinstance(module, kind)}
    assert len(quantized) == 2 * 7 and all(name.startswith(layers) for name in quantized)
    others = [m for n, m in backbone.model.named_modules() if isinstance(m, nn.Linear) and n not in quantized]
    assert backbone.model.lm_head in others and len(others) > 10
    assert all(module.weight.dtype is torch.float32 for module in others)
    assert backbone.fingerprint() == load_backbone(folder).fingerprint()


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_without_adapters_it_is_the_stock_quantized_model(folder, precision):
    model = lynx.load(folder, precision=precision)
    plain, inputs = stock(folder, precision), stock_inputs(model.backbone, clip(4), QUESTION)
    with torch.no_grad():
        expected = plain(**inputs).logits
    assert torch.equal(logits(model), expected)
    said = plain.generate(**inputs, do_sample=False, max_new_tokens=6, pad_token_id=model.backbone.pad_id)
    prompt = model.backbone.compose(QUESTION, [model.encode("video", clip(4))])
    answer = model.generate(prompt, max_new_tokens=6)
    assert torch.equal(answer, said[:, inputs["input_ids"].shape[1] :])
    random_adapter(model, "audio")
    assert torch.equal(logits(model), expected)
    with model.using("audio"):
        assert not torch.equal(logits(model), expected)
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_an_adapter_trains_over_it_and_comes_back_from_its_folder(folder, precision, tmp_path):
    model = lynx.load(folder, precision=precision)
    random_adapter(model, "audio")
    weights = model.lora.tensors("audio_llm")
    for name, weight in weights.items():
        if ".lora_B." in name:
            weight.data.zero_()  # as a fresh one
    untouched = logits(model)
    optimiser = torch.optim.SGD(weights.values(), lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        prompt = model.backbone.compose(QUESTION, [model.encode("video", clip(4))])
        with model.lora.active(["audio_llm"], train=["audio_llm"]):
            found = model.backbone.model(**arguments(model.backbone, prompt)).logits
            found.log_softmax(-1)[..., 7].mean().neg().backward()
        assert all(weight.grad.abs().sum() > 0 for name, weight in weights.items() if ".lora_B." in name)
        optimiser.step()
    assert all(weight.grad.abs().sum() > 0 for weight in weights.values())
    with model.using("audio"):
        trained = logits(model)
    assert not torch.equal(trained, untouched)
    save_adapter(model, "audio", tmp_path / "audio")
    again = lynx.load(folder, adapters=[tmp_path / "audio"], precision=precision)
    assert torch.equal(logits(again), untouched)
    with again.using("audio"):
        assert torch.equal(logits(again), trained)
    lynx.load(folder, adapters=[tmp_path / "audio"])  # and fits the model in full precision


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_checkpoint_that_is_saved_quantized_loads(folder, precision, tmp_path):
    out = save_quantized(folder, tmp_path / "quantized", stock(folder, precision))
    expected = logits(lynx.load(folder, precision=precision))
    for asked in ("auto", precision):
        assert torch.equal(logits(lynx.load(out, precision=asked)), expected)
    found, unsaved = estimate(out, device="cpu"), estimate(folder, precision=precision, device="cpu")
    assert (found.precision, found.weights, found.total) == (precision, unsaved.weights, unsaved.total)
    other = "int8" if precision == "nf4" else "nf4"
    for asked in ("fp32", "bf16", other):
        with pytest.raises(BackboneError, match=f"saved in {precision} and cannot be loaded in {asked}"):
            load_backbone(out, asked)


def test_a_checkpoint_that_is_quantized_twice_loads(folder, tmp_path):
    """nf4 whose scales are quantized too, as many repositories on the Hub have it."""
    options = {**STOCK["nf4"][1], "bnb_4bit_use_double_quant": True}
    options["llm_int8_skip_modules"] = stays_precise(folder)
    twice = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map={"": DEVICE},
        quantization_config=BitsAndBytesConfig(**options),
    )
    out = save_quantized(folder, tmp_path / "twice", twice)
    model = lynx.load(out)
    layer = model.backbone.text_attention_modules()[0].q_proj
    assert isinstance(layer, Linear4bit) and layer.weight.quant_state.nested
    with torch.no_grad():
        expected = stock(out)(**stock_inputs(model.backbone, clip(4), QUESTION)).logits
    assert torch.equal(logits(model), expected)


def test_tuning_trains_an_llm_lora_over_nf4(folder, tmp_path):
    model = lynx.load(folder, precision="nf4")
    random_adapter(model, "audio", parts=("vision",))
    config = TuneConfig(steps=2, rank=2, alpha=4, batch_size=2, frames=stages.FRAMES, lr=1e-2, warmup=0.0)
    tune(model, "audio", stages.clips(4), config, tmp_path, progress=False)
    outputs = {key: w for key, w in model.lora.tensors("audio_llm").items() if ".lora_B." in key}
    assert len(outputs) == 2 * 7 and all(weight.abs().sum() > 0 for weight in outputs.values())
    again = lynx.load(folder, adapters=[tmp_path], precision="nf4").lora.tensors("audio_llm")
    assert all(torch.equal(again[key], weight) for key, weight in outputs.items())


def test_a_checkpoint_with_a_quantized_encoder_is_refused(folder, tmp_path):
    options = {**STOCK["nf4"][1], "llm_int8_skip_modules": ["lm_head"]}
    model = AutoModelForImageTextToText.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**options), device_map={"": DEVICE}
    )
    out = save_quantized(folder, tmp_path / "all", model)
    with pytest.raises(BackboneError, match=rf"{stays_precise(folder)[1]}\..*in Linear4bit, expected full"):
        load_backbone(out)


def test_another_method_of_quantization_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "awq")
    config = json.loads((folder / "config.json").read_text())
    for saved, message in (
        ({"quant_method": "awq", "bits": 4}, "quantized with awq; lynx reads bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, r"\(fp4\)"),
    ):
        (tmp_path / "awq" / "config.json").write_text(json.dumps({**config, "quantization_config": saved}))
        with pytest.raises(BackboneError, match=message):
            load_backbone(tmp_path / "awq")


def test_a_device_that_cannot_hold_it_says_what_can(folder):
    with pytest.raises(BackboneError, match=r"nf4 runs on cpu, cuda, xpu, not on 'meta': use bf16 or fp32"):
        load_backbone(folder, "nf4", "meta")


def test_what_is_in_full_precision_or_in_half_by_mistake_is_found():
    model = nn.ModuleDict({"llm": nn.Linear(4, 4), "projector": nn.Linear(4, 4).half()})
    with pytest.raises(BackboneError, match="llm of 'x' is in full precision, expected Linear4bit"):
        check_quantized(model, "nf4", "llm", "x")
    with pytest.raises(BackboneError, match=r"projector\.weight of 'x' is in float16, expected bfloat16"):
        check_quantized(model, "nf4", "no such layer", "x")
