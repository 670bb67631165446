"""LoRAs that PEFT makes: the plain ones compute here what they compute there, all others are refused."""

import json
import shutil
import time
import warnings

import pytest
import torch
from checkpoints import random_adapter
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
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


SHORTER = (
    ["q_proj", "k_proj"],
    ["proj"],  # the end of a name, not of a level
    r".*language_model.*\.[qkvo]_proj",
    r"layers\.\d+\..*",  # a pattern is of whole names
)
LLM = r".*language_model\.layers\.\d{1,2}\.(?:self_attn|mlp)\.\w+_proj"
ENOUGH = (
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"],
    ["self_attn.q_proj", "k_proj", "v_proj", "o_proj", "mlp.gate_proj", "up_proj", "down_proj"],
    "all-linear",
    LLM,
)


@pytest.mark.parametrize("short", SHORTER, ids=str)
def test_weights_of_modules_that_the_settings_leave_out_are_refused_since_peft_ignores_them(
    folder, saved, ids, tmp_path, short
):
    adapter = configured(saved, tmp_path / "audio", target_modules=short)
    if short != ["proj"] and not str(short).startswith("layers"):  # of which PEFT finds no module at all
        whole = logits_in_peft(folder, saved / "llm", ids)
        assert not torch.allclose(logits_in_peft(folder, adapter / "llm", ids), whole, atol=0.1)
    refused_everywhere(folder, adapter, "target_modules .*leaves out .*mlp.down_proj.*list all modules")


@pytest.mark.parametrize("targets", ENOUGH, ids=str)
def test_other_ways_to_name_the_same_modules_compute_what_they_do_in_peft(
    folder, saved, ids, tmp_path, targets
):
    adapter = configured(saved, tmp_path / "audio", target_modules=targets)
    found = logits_here(folder, adapter, ids)
    assert torch.allclose(found, logits_in_peft(folder, adapter / "llm", ids), atol=1e-5)


NO_TARGETS = {
    "null": (None, "expected names of modules or a pattern"),
    "empty": ([], "expected names"),
    "an object": ({"q_proj": 1}, "expected names"),
    "numbers": ([1], "expected names"),
    "half a pattern": (".*(", "cannot be used .*missing"),
    "a pattern without end": (".*" * 10_000, "20,000 characters"),
    "a pattern that takes years to compile": ("(?:(?:(?:a{1000}){1000}){1000}){1000}", "repeats more than"),
    "a pattern that calls itself": ("(.*)(?R)", "unusual groups"),
    "deep groups": ("(" * 4000 + ")" * 4000, "cannot be used"),
    "a pattern that takes years to match": (r"(?:\w|[a-z]|\.)*(?=#)", "cannot be used .*timed out"),
}


@pytest.mark.parametrize("case", NO_TARGETS)
def test_targets_that_name_no_modules_are_refused_at_once(folder, saved, tmp_path, case):
    value, message = NO_TARGETS[case]
    adapter = configured(saved, tmp_path / "audio", target_modules=value)
    begun = time.monotonic()
    with pytest.raises(AdapterError, match=f"target_modules .*{message}.*list all modules"):
        describe(adapter)
    assert time.monotonic() - begun < 10 * lora_options.PATTERN_SECONDS  # not years, on a busy machine too
    refused_everywhere(folder, adapter, message)


def test_a_false_layer_is_layer_0_in_peft(folder, saved, ids, tmp_path):
    """False is 0 there, not "none"."""
    # a list, since with a pattern PEFT does not look at layers
    adapter = configured(saved, tmp_path / "audio", layers_to_transform=False, target_modules=["q_proj"])
    model = PeftModel.from_pretrained(stock(folder), str(adapter / "llm"))
    adapted = {name for name, _ in model.named_modules() if name.endswith("q_proj.lora_A")}
    assert any("language_model.layers.0" in name for name in adapted)
    assert not any("language_model.layers.1" in name for name in adapted)
    adapter = configured(saved, tmp_path / "sound", layers_to_transform=False)
    refused_everywhere(folder, adapter, "layers_to_transform False, which leaves layers out")


def test_an_empty_object_switches_a_method_on_in_peft(folder, saved, ids, tmp_path):
    """It stands for the method's defaults, which are not "none"."""
    adapter = configured(saved, tmp_path / "audio", kasa_config={})
    whole = logits_in_peft(folder, saved / "llm", ids)
    assert not torch.allclose(logits_in_peft(folder, adapter / "llm", ids), whole, atol=0.1)
    refused_everywhere(folder, adapter, "asks for kasa_config {}, which .*base weights.*train a plain LoRA")
    for n, key in enumerate(("megatron_config", "use_bdlora", "next_years_config")):
        refused_everywhere(folder, configured(saved, tmp_path / str(n), **{key: {}}), f"asks for {key} {{}}")
    lynx.load(folder, adapters=[configured(saved, tmp_path / "plain", rank_pattern={}, new_in_peft={})])


def test_an_import_that_fails_at_its_end_names_the_checkpoint(folder, saved, tmp_path):
    """And not the folder that it was written to for a moment."""
    adapter, backbone = tmp_path / "in", lynx.load(folder).backbone
    shutil.copytree(saved, adapter)
    path = adapter / "llm" / WEIGHTS
    tensors = load_file(path)
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = tensors[key].double()
    tensors[key][0, 0] = 1e300  # more than fp32 holds
    save_file(tensors, path)
    with pytest.raises(AdapterError, match="in is not imported: .*no numbers|computes something") as caught:
        import_adapter(adapter, backbone, tmp_path / "out", modality="audio")
    assert ".out-" not in str(caught.value)


def test_the_command_line_refuses_and_lists_it(folder, saved, tmp_path, capsys):
    adapter = configured(saved, tmp_path / "adapters" / "audio", init_lora_weights="pissa")
    shutil.copytree(saved, tmp_path / "adapters" / "good")
    assert main(["adapters", "check", str(adapter), "--backbone", str(folder)]) == 1
    assert "init_lora_weights 'pissa'" in capsys.readouterr().err
    assert main(["adapters", "list", "--dir", str(tmp_path / "adapters"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "init_lora_weights 'pissa'" in listed[str(adapter)]["unusable"]
    assert listed[str(tmp_path / "adapters" / "good")]["name"] == "audio"
