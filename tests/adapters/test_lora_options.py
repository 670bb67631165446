"""LoRAs that PEFT makes: the plain ones compute here what they compute there, all others are refused."""

import json
import shutil
import warnings

import checkpoints
import pytest
import torch
from checkpoints import random_adapter
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlavaOnevisionForConditionalGeneration

import lynx
from lynx import AdapterError
from lynx.adapters import lora_options
from lynx.adapters.format import WEIGHTS
from lynx.adapters.released_code import import_adapter, read_part
from lynx.adapters.saving import save_adapter
from lynx.adapters.sharing import describe
from lynx.cli.main import main

CONVERTED = ("pissa", "pissa_niter_4", "olora")
CHANGING = (*CONVERTED, "corda", "loftq", "lora_ga", "eva", "mica", "made_up", "PiSSA", 1, ["pissa"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def saved(folder, tmp_path_factory):
    model = lynx.load(folder)
    random_adapter(model, "audio", parts=("llm",))
    return save_adapter(model, "audio", tmp_path_factory.mktemp("adapters") / "audio")


@pytest.fixture(scope="module")
def targets(saved):
    return json.loads((saved / "llm" / "adapter_config.json").read_text())["target_modules"]


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 256, (1, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads an attribute that transformers renames
        warnings.filterwarnings("ignore", ".*changes the base weights")
        yield


def stock(folder):
    return LlavaOnevisionForConditionalGeneration.from_pretrained(folder).eval()


def made(folder, saved, out, init, targets, train=0.0):
    """An adapter whose llm part PEFT made and saved; train: how far its matrices then moved."""
    shutil.copytree(saved, out)
    shutil.rmtree(out / "llm")
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=init)
    model = get_peft_model(stock(folder), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(str(out.parent / f"{out.name}-untrained"))
    model.peft_config["default"].init_lora_weights = init
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data += train * torch.randn_like(weight)
    model.save_pretrained(str(out / "llm"))
    return model.eval()


def logits_in_peft(folder, part, ids):
    with torch.no_grad():
        return PeftModel.from_pretrained(stock(folder), str(part)).eval()(input_ids=ids).logits


def logits_here(folder, adapter, ids):
    model = lynx.load(folder, adapters=[adapter])
    with torch.no_grad(), model.using("audio"):
        return model.backbone.model(input_ids=ids).logits


@pytest.mark.parametrize("init", CONVERTED)
def test_a_lora_that_changes_the_base_in_peft_is_refused(folder, saved, targets, ids, tmp_path, init):
    made(folder, saved, tmp_path / "audio", init, targets)
    with torch.no_grad():
        base = stock(folder)(input_ids=ids).logits
    if "niter" not in init:  # whose random decomposition PEFT itself does not find again
        assert (logits_in_peft(folder, tmp_path / "audio" / "llm", ids) - base).abs().max() < 1e-3
    refused_everywhere(folder, tmp_path / "audio", "base weights.*path_initial_model_for_weight_conversion")


def refused_everywhere(folder, adapter, message):
    """By listing, loading, and importing."""
    with pytest.raises(AdapterError, match=message):
        describe(adapter)
    model = lynx.load(folder)
    with pytest.raises(AdapterError, match=message):
        model.load_adapter(adapter)
    with pytest.raises(AdapterError, match=message):
        read_part(adapter / "llm", "llm", model.backbone)
    with pytest.raises(AdapterError, match=message):
        import_adapter(adapter, model.backbone, adapter.parent / "imported", modality="audio")
    assert not model.adapters and not (adapter.parent / "imported").exists()


@pytest.mark.parametrize("init", CONVERTED)
def test_converted_as_the_refusal_says_it_computes_what_peft_does(
    folder, saved, targets, ids, tmp_path, init
):
    model = made(folder, saved, tmp_path / "audio", init, targets, train=0.05)
    with torch.no_grad():
        trained = model(input_ids=ids).logits
    untrained = str(tmp_path / "audio-untrained")
    model.save_pretrained(str(tmp_path / "audio" / "llm"), path_initial_model_for_weight_conversion=untrained)
    assert torch.allclose(logits_here(folder, tmp_path / "audio", ids), trained, atol=1e-3)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal"])
def test_a_plain_lora_computes_what_it_does_in_peft(folder, saved, targets, ids, tmp_path, init):
    made(folder, saved, tmp_path / "audio", init, targets, train=0.3)
    expected = logits_in_peft(folder, tmp_path / "audio" / "llm", ids)
    found = logits_here(folder, tmp_path / "audio", ids)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, stock(folder)(input_ids=ids).logits, atol=0.1)
    told = import_adapter(
        tmp_path / "audio", lynx.load(folder).backbone, tmp_path / "imported", modality="audio"
    )
    assert told["largest_difference"]["llm"] < 1e-5
    assert torch.equal(logits_here(folder, tmp_path / "imported", ids), found)


def configured(saved, out, **values):
    shutil.copytree(saved, out)
    path = out / "llm" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return out


@pytest.mark.parametrize("init", CHANGING)
def test_only_ways_to_begin_that_are_known_to_leave_the_base_alone_are_read(folder, saved, tmp_path, init):
    adapter = configured(saved, tmp_path / "audio", init_lora_weights=init)
    refused_everywhere(folder, adapter, "init_lora_weights .*(base weights|lynx does not know|true)")


OPTIONS = {
    "use_dora": (True, "DoRA"),
    "use_rslora": (True, "set it to false and lora_alpha to 16$"),
    "rank_pattern": ({"q_proj": 8}, "other ranks"),
    "alpha_pattern": ({"q_proj": 8}, "other scales"),
    "modules_to_save": (["lm_head"], "whole layers"),
    "trainable_token_indices": ([1], "embeddings"),
    "bias": ("all", "biases"),
    "lora_bias": (True, "biases"),
    "layer_replication": ([[0, 1]], "repeats layers"),
    "fan_in_fan_out": (True, "transposed"),
    "target_parameters": (["weight"], "no linear layers"),
    "layers_to_transform": (0, "leaves layers out"),
    "exclude_modules": (["q_proj"], "leaves layers out"),
    "megatron_config": ({"a": 1}, "Megatron"),
    "use_qalora": (True, "QALoRA"),
    "alora_invocation_tokens": ([1, 2], "aLoRA"),
    "velora_config": ({"a": 1}, "which lynx does not do"),
    "a_setting_of_next_year": (True, "which lynx does not do"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_setting_that_computes_something_else_is_named_with_what_it_does(folder, saved, tmp_path, option):
    value, message = OPTIONS[option]
    adapter = configured(saved, tmp_path / "audio", **{option: value})
    refused_everywhere(folder, adapter, f"asks for {option} .*{message}")


def test_every_setting_of_peft_is_plain_where_peft_left_its_default(saved, folder, tmp_path):
    """Also those that a newer PEFT writes: their defaults are PEFT's own."""
    defaults = {k: v for k, v in LoraConfig(r=4, lora_alpha=8).to_dict().items() if k != "target_modules"}
    adapter = configured(saved, tmp_path / "audio", **defaults | {"new_in_peft": None, "flag": False})
    lynx.load(folder, adapters=[adapter])


def test_the_check_of_an_import_is_peft_s_own_result(folder, saved, targets, ids, tmp_path, monkeypatch):
    """Were the setting let through, the numbers would still show it."""
    made(folder, saved, tmp_path / "audio", "pissa", targets)
    monkeypatch.setattr(lora_options, "_check_init", lambda init, folder: None)
    with torch.no_grad():
        base = stock(folder)(input_ids=ids).logits
    assert (logits_here(folder, tmp_path / "audio", ids) - base).abs().max() > 1
    backbone = lynx.load(folder).backbone
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    with pytest.raises(AdapterError, match="computes something else than the checkpoint"):
        import_adapter(tmp_path / "audio", backbone, tmp_path / "imported", modality="audio")
    assert all(weight.equal(before[name]) for name, weight in backbone.model.state_dict().items())


def test_tensors_that_peft_would_not_load_are_not_imported(folder, saved, tmp_path):
    """Its settings list fewer layers than its file has."""
    adapter = configured(saved, tmp_path / "audio", target_modules=["q_proj", "k_proj"])
    assert any("o_proj" in key for key in load_file(adapter / "llm" / WEIGHTS))
    with pytest.raises(AdapterError, match="PEFT itself does not load .*v_proj|o_proj"):
        import_adapter(adapter, lynx.load(folder).backbone, tmp_path / "imported", modality="audio")


def test_the_command_line_refuses_and_lists_it(folder, saved, tmp_path, capsys):
    adapter = configured(saved, tmp_path / "adapters" / "audio", init_lora_weights="pissa")
    shutil.copytree(saved, tmp_path / "adapters" / "good")
    assert main(["adapters", "check", str(adapter), "--backbone", str(folder)]) == 1
    assert "init_lora_weights 'pissa'" in capsys.readouterr().err
    assert main(["adapters", "list", "--dir", str(tmp_path / "adapters"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "init_lora_weights 'pissa'" in listed[str(adapter)]["unusable"]
    assert listed[str(tmp_path / "adapters" / "good")]["name"] == "audio"
