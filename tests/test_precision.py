import checkpoints
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from checkpoints import clip, random_adapter
from transformers import BitsAndBytesConfig, LlavaOnevisionForConditionalGeneration

import lynx
from lynx.backbones import load_backbone

QUESTION = [{"role": "user", "content": "what is it ?"}]
SKIP = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
STOCK = {
    "int8": (Linear8bitLt, {"load_in_8bit": True}),
    "nf4": (Linear4bit, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # bitsandbytes quantises in blocks of 64
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"), hidden=64, tied=False)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_only_the_llm_is_quantised(folder, precision):
    kind, _ = STOCK[precision]
    backbone = load_backbone(folder, precision)
    quantised = {name for name, module in backbone.model.named_modules() if isinstance(module, kind)}
    assert len(quantised) == 2 * 7 and all(".language_model.layers." in name for name in quantised)
    others = [
        m for n, m in backbone.model.named_modules() if isinstance(m, torch.nn.Linear) and n not in quantised
    ]
    assert others and all(module.weight.dtype is torch.float32 for module in others)
    assert backbone.fingerprint() == load_backbone(folder).fingerprint()


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_without_adapters_it_is_the_stock_quantised_model(folder, precision):
    model = lynx.load(folder, precision=precision)
    config = BitsAndBytesConfig(**STOCK[precision][1], llm_int8_skip_modules=SKIP)
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    )
    for module in stock.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    video = clip(3)
    placeholders = "<video>" * model.backbone.tokens(3)
    ids = model.backbone.tokenizer(
        checkpoints.render(QUESTION).replace("<video>", placeholders), return_tensors="pt"
    )
    with torch.no_grad():
        expected = stock(**ids, pixel_values_videos=model.backbone.pixels(video.pixels)[None]).logits
    random_adapter(model, "audio")

    def found():
        prompt = model.backbone.compose(QUESTION, [model.encode("video", video)])
        with torch.no_grad():
            return model.backbone.model(
                inputs_embeds=prompt.inputs_embeds, position_ids=prompt.position_ids
            ).logits

    assert torch.equal(found(), expected)
    with model.using("audio"):
        assert not torch.equal(found(), expected)
    assert torch.equal(found(), expected)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_an_llm_lora_trains_over_it(folder, precision):
    model = lynx.load(folder, precision=precision)
    random_adapter(model, "audio")
    prompt = model.backbone.compose(QUESTION, [model.encode("video", clip(3))])
    with model.lora.active(["audio_llm"], train=["audio_llm"]):
        model.backbone.model(inputs_embeds=prompt.inputs_embeds).logits.square().mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.lora.tensors("audio_llm").values())
    assert model.chat(video=clip()).ask("what is it ?", max_new_tokens=4) is not None
