"""LoRAs that are on, beside PEFT's own layers; the sum of LoRAs as one."""

import families
import pytest
import torch
from checkpoints import random_adapter

import lynx
from lynx import compat
from lynx.adapters import lora as lora_module
from lynx.adapters.lora import merge
from lynx.config import LoraSettings

SIZES = {"wide": (12, 20), "thin": (3, 20)}


PRECISIONS = ("fp32", "bf16", "int8", "nf4")
BOTH = ("first_llm", "second_llm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    small = families.FAMILIES["llava_onevision"]
    return small.write(tmp_path_factory.mktemp("checkpoint"), **small.quantizable)


@pytest.fixture
def model(folder):
    return loaded(folder, "fp32")


def loaded(folder, precision):
    model = lynx.load(folder, precision=precision)
    for name in ("first", "second"):
        random_adapter(model, name)
    return model


def outputs(layer, size, dtype, device="cpu", shape=(2, 5)):
    """Of fixed inputs, and the gradient with respect to them."""
    x = torch.randn(*shape, size, generator=torch.Generator().manual_seed(0))
    x = x.to(device, dtype).requires_grad_()
    y = layer(x)
    y.float().square().sum().backward()
    return y.detach(), x.grad


def all_outputs(bank, names=()):
    """Of every layer of the LLM, with these LoRAs on."""
    with bank.active(names):
        layers = [layer for path, layer in bank._layers.items() if "language_model" in path]
        return [outputs(layer.stock, layer.stock.in_features, torch.float32)[0] for layer in layers]


def same(one, other):
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("names", [("first_llm",), BOTH, ("second_vision",)])
@pytest.mark.parametrize("shape", [(2, 5), (1, 1), (5,)])
def test_loras_that_are_on_compute_what_peft_does(folder, precision, names, shape):
    compare_with_peft(loaded(folder, precision), names, shape)


@pytest.mark.parametrize("rank", [16, 128])
def test_products_of_one_token_that_are_made_in_fp32_are_what_peft_computes_in_bf16(folder, rank):
    model = lynx.load(folder, precision="bf16")
    random_adapter(model, "first", parts=())
    lora = model.add_lora("first", "llm", LoraSettings(rank, 1.0, 0.0))
    weights = model.lora.tensors(lora).values()
    for weight in weights:
        torch.nn.init.normal_(weight)
    assert any(weight.numel() in lora_module.SMALL for weight in weights) == (rank == 128)
    compare_with_peft(model, (lora,), (1, 1))


def compare_with_peft(model, names, shape):
    inputs = model.backbone.dtype, model.backbone.device, shape
    layers = [layer for layer in model.lora._layers.values() if names[0] in compat.lora_names(layer.peft)]
    assert len(layers) == len(model.lora.tensors(names[0])) // 2
    with model.lora.active(names):
        found = [outputs(layer.stock, layer.stock.in_features, *inputs) for layer in layers]
    for layer, ours in zip(layers, found, strict=True):
        compat.switch_lora(layer.peft, names, ())
        theirs = outputs(layer.peft, layer.stock.in_features, *inputs)
        off = outputs(layer.stock, layer.stock.in_features, *inputs)
        for one, other, without in zip(ours, theirs, off, strict=True):
            assert one.dtype == other.dtype == inputs[0] and not torch.equal(one, without)
            scale = float(other.abs().max())
            assert float((one - other).abs().max()) <= (1e-5 if inputs[0] is torch.float32 else 2e-2) * scale


@pytest.mark.parametrize("names", [("first_llm",), BOTH])
def test_weights_that_change_are_seen_at_once(model, names):
    bank = model.lora
    stock, before = all_outputs(bank), all_outputs(bank, names)
    assert same(all_outputs(bank, names), before)
    tensors = {key: weight.clone() for key, weight in bank.tensors("first_llm").items()}
    bank.fill("first_llm", {key: 2 * weight for key, weight in tensors.items()})
    filled = all_outputs(bank, names)
    with bank.active(names, ["first_llm"]):
        for key, weight in bank.tensors("first_llm").items():
            weight.data.copy_(tensors[key])
    assert not same(filled, before) and same(all_outputs(bank, names), before)
    with bank.active(names):  # also of what is on meanwhile
        bank.fill("first_llm", {key: torch.zeros_like(weight) for key, weight in tensors.items()})
        layer = next(layer for path, layer in bank._layers.items() if "language_model" in path).stock
        gone = outputs(layer, layer.in_features, torch.float32)[0]
    assert not torch.equal(gone, before[0]) and torch.equal(gone, stock[0]) == (len(names) == 1)
    bank.fill("first_llm", tensors)
    bank.remove("second_llm")
    assert same(all_outputs(bank, ["first_llm"]), before) == (len(names) == 1)
    assert same(all_outputs(bank), stock)


def test_a_lora_is_added_and_removed_while_another_is_on(model):
    bank = model.lora
    before = all_outputs(bank, ["first_llm"])
    with bank.active(["first_llm"]):
        bank.add("third", model.backbone.llm_targets, LoraSettings(2, 2.0, 0.0))
        bank.remove("second_llm")
        layers = [layer.stock for path, layer in bank._layers.items() if "language_model" in path]
        assert same([outputs(layer, layer.in_features, torch.float32)[0] for layer in layers], before)
    assert same(all_outputs(bank, ["third"]), all_outputs(bank)), "B is 0"


def test_one_lora_needs_no_copy_and_copies_of_several_are_bounded(folder, monkeypatch):
    bank = loaded(folder, "fp32").lora
    for names in (["first_llm"], BOTH):
        copied = sum(weight.nbytes for name in BOTH for weight in bank.tensors(name).values())
        all_outputs(bank, names)
        assert bank._fused.currsize == (copied if names is BOTH else 0)
    monkeypatch.setattr(lora_module, "MAX_BYTES", 1)
    bank = loaded(folder, "fp32").lora
    for names in (BOTH, BOTH[::-1], BOTH):
        all_outputs(bank, names)
        assert [names for names, fused in bank._fused.items() if fused.nbytes] == [names]


@pytest.mark.parametrize("before", [(), ("second_llm",)])
def test_loras_that_do_not_fit_the_memory_leave_those_on_that_were(model, monkeypatch, before):
    bank, expected = model.lora, all_outputs(model.lora, before)

    def full(*given, **options):
        raise torch.OutOfMemoryError("out of memory")

    with bank.active(before):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "cat", full)
            with pytest.raises(torch.OutOfMemoryError), bank.active(BOTH):
                pass
        assert bank.on == before
        layers = [layer.stock for path, layer in bank._layers.items() if "language_model" in path]
        assert same([outputs(layer, layer.in_features, torch.float32)[0] for layer in layers], expected)


def lora(rank: int, alpha: float, seed: int) -> tuple[LoraSettings, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    tensors = {}
    for name, (rows, columns) in SIZES.items():
        tensors[f"m.{name}.lora_A.weight"] = torch.randn(rank, columns)
        tensors[f"m.{name}.lora_B.weight"] = torch.randn(rows, rank)
    return LoraSettings(rank, alpha, 0.0), tensors


def update(settings: LoraSettings, tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    a, b = (tensors[f"m.{name}.lora_{matrix}.weight"] for matrix in "AB")
    return settings.alpha / settings.rank * b @ a


def test_the_sum_of_loras_is_one_of_their_ranks_together() -> None:
    parts, settings = [lora(2, 4.0, 0), lora(3, 1.5, 1)], LoraSettings(5, 20.0, 0.0)
    merged = merge(parts, settings)
    for name, (rows, columns) in SIZES.items():
        assert merged[f"m.{name}.lora_A.weight"].shape == (5, columns)
        assert merged[f"m.{name}.lora_B.weight"].shape == (rows, 5)
        expected = sum(update(*part, name) for part in parts)
        torch.testing.assert_close(update(settings, merged, name), expected, rtol=1e-4, atol=1e-4)


def test_of_a_smaller_rank_it_is_the_nearest_there_is() -> None:
    parts, settings = [lora(3, 3.0, 0), lora(4, 4.0, 1)], LoraSettings(2, 2.0, 0.0)
    whole = sum(update(*part, "wide") for part in parts)
    u, s, v = torch.linalg.svd(whole, full_matrices=False)
    nearest = (u[:, :2] * s[:2]) @ v[:2]
    torch.testing.assert_close(
        update(settings, merge(parts, settings), "wide"), nearest, rtol=1e-4, atol=1e-4
    )


def test_more_rank_than_there_is_would_never_be_trained() -> None:
    with pytest.raises(ValueError, match="fewer rows than the rank 8"):
        merge([lora(3, 3.0, 0), lora(4, 4.0, 1)], LoraSettings(8, 8.0, 0.0))
