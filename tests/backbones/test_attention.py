import checkpoints
import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from lynx.backbones import load_backbone
from lynx.backbones.attention import RowRecorder, recording


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(folder)


def prompt(backbone, n=40, seed=0):
    ids = torch.randint(0, 256, (1, n), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_rows_equal_eager_attention_at_every_step_of_generation(folder, backbone):
    recorder, inputs = RowRecorder([7, 3]), prompt(backbone)
    with recording(backbone, text_rows=recorder):
        ids = backbone.model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    rows = recorder.rows()
    assert rows.shape == (6, 45)
    eager = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        layers = eager(input_ids=ids[:, :-1], output_attentions=True).attentions
    expected = torch.stack(layers)[:, 0].mean(dim=(0, 1))  # (queries, keys): the mean over layers and heads
    assert torch.allclose(rows, expected[39:], atol=1e-6)
    assert torch.allclose(recorder.prompt_rows(), expected[[7, 3]], atol=1e-6)


def test_generation_is_bit_equal_to_stock_sdpa_whether_or_not_it_is_recorded(folder, backbone):
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").eval()
    inputs, options = prompt(backbone), {"max_new_tokens": 8, "do_sample": False, "output_logits": True}
    options["return_dict_in_generate"] = True
    expected = stock.generate(**inputs, **options)
    plain = backbone.model.generate(**inputs, **options)
    with recording(backbone, vision=lambda *_: None, text_rows=RowRecorder()):
        recorded = backbone.model.generate(**inputs, **options)
    for found in (plain, recorded):
        assert torch.equal(found.sequences, expected.sequences)
        assert all(torch.equal(a, b) for a, b in zip(found.logits, expected.logits, strict=True))


def test_a_padding_mask_reaches_the_attention(folder, backbone):
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").eval()
    inputs = prompt(backbone)
    inputs["attention_mask"][:, :9] = 0
    with torch.no_grad():
        found, expected = backbone.model(**inputs).logits, stock(**inputs).logits
        unmasked = backbone.model(input_ids=inputs["input_ids"]).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found[:, -1], unmasked[:, -1])


def test_the_vision_callback_gets_every_layer_before_its_output_projection(backbone):
    calls = []
    pixels = torch.randn(2, 3, 28, 28)
    with recording(backbone, vision=lambda *call: calls.append(call)):
        backbone.encode(pixels)
    modules = backbone.vision_attention_modules()
    assert [call[0] for call in calls] == list(range(len(modules))) and len(modules) == 3
    for (_, module, query, key, value, output), expected in zip(calls, modules, strict=True):
        assert module is expected
        assert query.shape == key.shape == value.shape == (2, 4, 49, 8)
        weights = (query @ key.transpose(2, 3) * 8**-0.5).softmax(-1)
        assert torch.allclose(output, (weights @ value).transpose(1, 2), atol=1e-5)


def test_recorded_tensors_carry_gradients(backbone):
    pixels = torch.randn(1, 3, 28, 28, requires_grad=True)
    outputs = []
    with recording(backbone, vision=lambda *call: outputs.append(call[-1])):
        backbone.encode(pixels)
    outputs[-1].sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0


def test_recording_ends_with_its_block_and_does_not_nest(backbone):
    recorder = RowRecorder()
    with pytest.raises(KeyError), recording(backbone, text_rows=recorder):
        with pytest.raises(RuntimeError, match="already"), recording(backbone, text_rows=RowRecorder()):
            pass
        raise KeyError
    backbone.model(**prompt(backbone))
    with pytest.raises(RuntimeError, match="no attention was recorded"):
        recorder.rows()
