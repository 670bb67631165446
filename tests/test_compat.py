"""Canaries: each fails when another library has changed what `lynx/compat.py` leans on.

Other tests would fail as well, but far from the cause.
"""

import asyncio
import importlib.util
import inspect
import logging
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, TextIteratorStreamer

from lynx import compat
from lynx.backbones import load_backbone
from lynx.backbones.attention import ATTENTION, PACKED, packed_attention


@pytest.fixture(scope="module", params=sorted(checkpoints.FAMILIES))
def backbone(request, tmp_path_factory):
    return load_backbone(checkpoints.FAMILIES[request.param](tmp_path_factory.mktemp("backbone")))


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"one": nn.Linear(6, 4), "two": nn.Linear(4, 3)})


def test_importing_it_imports_no_library():
    lines = "import sys, lynx.compat; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "peft", "huggingface_hub", "gradio"} & set(loaded.split())


# --- PEFT ----------------------------------------------------------------------------------------


def test_peft_puts_its_prefix_before_names_in_files(tmp_path):
    model = get_peft_model(two_layers(), LoraConfig(r=2, target_modules=["one"]))
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        names = {f"{compat.PEFT_PREFIX}one.lora_{matrix}.weight" for matrix in "AB"}
        assert set(file.keys()) == names
    assert isinstance(model, PeftModel)


def test_peft_puts_a_lora_on_a_copy_of_one_layer():
    layer, called = nn.Linear(3, 2), []
    layer.register_forward_hook(lambda *given: called.append(given))
    before, x = layer.weight.clone(), torch.randn(5, 3)
    a, b = torch.randn(2, 3), torch.randn(2, 2)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    found = compat.peft_layer(layer, "model.0.q_proj", config, {"A": a, "B": b})(x)
    assert torch.allclose(found, nn.functional.linear(x, before + 2 * b @ a, layer.bias), atol=1e-5)
    compat.peft_layer(layer, "model.0.q_proj", config | {"init_lora_weights": "pissa"}, {"A": a, "B": b})
    assert not called and layer.weight.equal(before)
    with pytest.raises(ValueError, match="Target modules"):
        compat.peft_layer(layer, "model.0.k_proj", config, {"A": a, "B": b})


def test_peft_injects_switches_and_ejects_loras_in_place():
    model, x = two_layers(), torch.ones(1, 6)
    stock = model["one"]
    before = stock(x)
    config = {name: LoraConfig(r=2, lora_dropout=0.5, target_modules=name) for name in ("one", "two")}
    injector = compat.inject_lora(model, None, "a", config["one"])
    injector = compat.inject_lora(model, injector, "b", LoraConfig(r=1, target_modules=r"one|two"))
    layers = compat.lora_layers(model)
    assert {path: sorted(compat.lora_names(layer)) for path, layer in layers.items()} == {
        "one": ["a", "b"],
        "two": ["b"],
    }
    weights = compat.lora_weights(layers["one"], "a")
    assert weights["A"].shape == (2, 6) and weights["B"].shape == (4, 2)
    assert compat.lora_weights(layers["two"], "a") == {}
    assert compat.stock_layer(layers["one"]) is stock
    nn.init.ones_(weights["B"])
    compat.switch_lora(layers["one"], (), ())
    assert torch.equal(model["one"](x), before), "off is the stock layer"
    assert not [name for name, weight in layers["one"].named_parameters() if weight.requires_grad]
    compat.switch_lora(layers["one"], ("a", "b"), ("b",))
    assert not torch.equal(model["one"](x), before)
    trained = {name for name, weight in layers["one"].named_parameters() if weight.requires_grad}
    assert trained == {"lora_A.b.weight", "lora_B.b.weight"}
    assert not layers["one"].lora_dropout["a"].training
    injector = compat.eject_lora(model, injector, "a")
    injector = compat.eject_lora(model, injector, "b")
    assert injector is None and model["one"] is stock and not hasattr(model, "peft_config")


# --- torch ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="Linux lists what its processor can do")
def test_torch_says_which_instructions_for_bf16_the_processor_has():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = "AVX512-BF16" if "avx512_bf16" in flags else "AMX" if "amx_tile" in flags else None
    assert compat.cpu_bf16() == expected


# --- transformers --------------------------------------------------------------------------------


def test_transformers_registry_calls_our_attention_and_masks_with_sdpa(backbone):
    calls = []

    def spy(module, query, key, value, attention_mask, **kwargs):
        calls.append((query.shape, attention_mask))
        return compat.stock_attention()(module, query, key, value, attention_mask, **kwargs)

    model = backbone.model
    text = model.config.get_text_config()
    assert text._attn_implementation == ATTENTION
    assert model.config.vision_config._attn_implementation in (ATTENTION, PACKED)
    ids = torch.arange(8).view(2, 4)
    padded = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    outputs = {}
    compat.register_attention("canary", spy)
    for name in ("canary", "sdpa", ATTENTION):
        compat.use_attention(text, name)
        with torch.no_grad():
            outputs[name] = model(input_ids=ids, attention_mask=padded).logits
    assert len(calls) == text.num_hidden_layers
    assert all(shape[0] == 2 and mask is not None for shape, mask in calls), "the padding mask arrives"
    assert torch.equal(outputs["canary"], outputs["sdpa"])
    assert torch.equal(outputs[ATTENTION], outputs["sdpa"])


def test_a_tower_calls_a_flash_attention_once_a_layer_with_the_places_of_its_sequences(tmp_path):
    backbone, calls = load_backbone(checkpoints.qwen2_5_vl(tmp_path)), []

    def spy(module, query, *tensors, cu_seq_lens_q, **kwargs):
        calls.append((int(cu_seq_lens_q[0]), int(cu_seq_lens_q[-1])) == (0, query.shape[2]))
        return packed_attention(module, query, *tensors, cu_seq_lens_q=cu_seq_lens_q, **kwargs)

    compat.register_attention("canary_flash", spy, masked=False)
    compat.use_attention(backbone.model.model.visual.config, "canary_flash")
    with torch.no_grad():
        backbone.encode(backbone.pixels(torch.zeros(4, 3, 56, 56, dtype=torch.uint8)))
    assert calls == [True] * len(backbone.vision_attention_modules()), "another sign for packed sequences now"


def test_a_family_has_its_modules_where_its_file_says(backbone):
    for modules in (backbone.vision_attention_modules(), backbone.text_attention_modules()):
        assert modules and all(isinstance(module, nn.Module) for module in modules)
    assert backbone.interface_weights()
    names = [name for name, module in backbone.model.named_modules() if isinstance(module, nn.Linear)]
    for targets in (backbone.vision_targets, backbone.llm_targets):
        assert [name for name in names if re.fullmatch(targets, name)]


def test_qwens_processor_keeps_sides_to_multiples_and_the_area_in_its_bounds():
    least, most = 56 * 56, 28 * 28 * 64
    height, width = compat.qwen_video_size(1080, 1920, 28, least, most)
    assert height % 28 == width % 28 == 0 and least <= height * width <= most
    assert width / height == pytest.approx(16 / 9, rel=0.2)


def test_qwen3s_processor_keeps_the_pixels_of_all_frames_together_in_its_bounds():
    least, most = 64 * 64, 32 * 32 * 64
    for frames in (2, 3, 8, 40):
        height, width = compat.qwen3_video_size(frames, 1080, 1920, 32, least, most)
        assert height % 32 == width % 32 == 0 and height * width * frames <= most
    height, width = compat.qwen3_video_size(2, 20, 20, 32, least, most)
    assert least <= 2 * height * width <= 2 * least


@torch.no_grad()
def test_qwen3_takes_an_output_of_its_tower_in_place_of_pixels(tmp_path):
    backbone = load_backbone(checkpoints.FAMILIES["qwen3_vl"](tmp_path))
    ids = torch.tensor([[5, backbone.placeholder, backbone.placeholder, 6]])
    tokens, *features = torch.randn(3, 2, backbone.width).unbind(0)
    logits = []
    for each in (features, [-feature for feature in features]):
        output = compat.deepstack_output(tokens, each)
        found = backbone.model(input_ids=ids, mm_encoder_outputs={"video": output}).logits
        said = backbone.model.generate(
            input_ids=ids, mm_encoder_outputs={"video": output}, max_new_tokens=1, output_logits=True,
            return_dict_in_generate=True, do_sample=False,
        )  # fmt: skip
        torch.testing.assert_close(said.logits[0], found[:, -1])
        logits.append(found)
    assert torch.equal(logits[0][:, 0], logits[1][:, 0]) and not torch.equal(*logits)


def test_a_beginning_of_a_cache_is_a_view_and_leaves_the_cache_whole():
    cache = DynamicCache()
    for layer in range(2):
        keys = torch.arange(10.0).view(1, 1, 5, 2) + layer
        cache.update(keys, -keys, layer)
    for dropped in (0, 2):
        beginning = compat.cache_beginning(cache, dropped)
        assert beginning.get_seq_length() == 5 - dropped and cache.get_seq_length() == 5
        for ours, theirs in zip(beginning.layers, cache.layers, strict=True):
            assert torch.equal(ours.keys, theirs.keys[:, :, : 5 - dropped])
            assert ours.keys.data_ptr() == theirs.keys.data_ptr(), "no copy of the tensors"
    beginning.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 0)
    assert torch.equal(cache.layers[0].keys.flatten(), torch.arange(10.0)), "nothing is written into it"


def test_all_tensors_of_a_cache_are_found():
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), layer)
    assert sum(tensor.nbytes for tensor in compat.cache_tensors(cache)) == 2 * 2 * (2 * 3 * 4) * 4


def test_a_streamer_ends_without_generate(backbone):
    streamer = TextIteratorStreamer(backbone.tokenizer, timeout=5)
    compat.end_stream(streamer)
    assert list(streamer) == []


def test_layers_compute_through_the_checkpoint_function(backbone):
    model, calls = backbone.model, []

    def counted(*arguments, **options):
        calls.append(arguments[0])
        return checkpoint(*arguments, use_reentrant=False, **options)

    ids = torch.arange(4)[None]
    with compat.checkpointed_layers(model, counted):
        model(input_ids=ids, use_cache=False)
    assert len(calls) == model.config.get_text_config().num_hidden_layers
    model(input_ids=ids)
    assert len(calls) == model.config.get_text_config().num_hidden_layers, "and no longer afterwards"
    assert not model.training and not any(module.training for module in model.modules())
    assert not compat.reentrant_checkpointing(model)
    with compat.checkpointed_layers(model, partial(checkpoint, use_reentrant=True)):
        assert compat.reentrant_checkpointing(model)
    model.activation_checkpointing_enable({"use_reentrant": True})
    assert compat.reentrant_checkpointing(model), "set by transformers' own switch"
    model.activation_checkpointing_disable()


# --- accelerate and bitsandbytes -----------------------------------------------------------------


def test_accelerate_says_which_device_it_gave():
    lines = "from lynx import compat; from accelerate import Accelerator\n"
    lines += "print(compat.accelerate_device()); Accelerator(cpu=True); print(compat.accelerate_device())"
    told = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["None", "cpu"]


def test_bitsandbytes_repacks_nf4_only_where_its_flag_is_set():
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(64, 64, quant_type="nf4")
    assert hasattr(layer, "support_avx512bf16_for_cpu"), "the flag has another name now"
    layer.support_avx512bf16_for_cpu = True
    compat.keep_nf4_layout(nn.Sequential(layer))
    assert layer.support_avx512bf16_for_cpu is False
    assert "self.support_avx512bf16_for_cpu" in inspect.getsource(bnb.nn.Linear4bit.forward)


# --- huggingface_hub: tests/test_hub.py makes a cache and a local folder with the real client -----


def test_names_in_the_hubs_cache_are_those_of_its_client(tmp_path):
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.file_download import get_hf_file_metadata, repo_folder_name  # noqa: F401

    commit = "0123456789" * 4
    folder = tmp_path / repo_folder_name(repo_id="owner/a-name", repo_type="model") / "snapshots" / commit
    folder.mkdir(parents=True)
    blob = folder.parents[1] / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_text("{}")
    (folder / "config.json").symlink_to(blob)
    found = try_to_load_from_cache("owner/a-name", "config.json", cache_dir=tmp_path, revision=commit)
    assert found == str(folder / "config.json")
    assert compat.cached_snapshot(Path(found).parent) == ("owner/a-name", commit)
    assert any(blob.is_relative_to(allowed) for allowed in compat.cache_blobs(folder))
    assert compat.cached_snapshot(tmp_path) is None and compat.cache_blobs(tmp_path) == []


def test_the_note_of_a_local_download_is_that_of_the_client(tmp_path):
    from huggingface_hub._local_folder import write_download_metadata

    commit, etag = "0123456789" * 4, "a" * 40
    (tmp_path / "config.json").write_text("{}")
    write_download_metadata(tmp_path, "config.json", commit, etag)
    assert compat.local_download(tmp_path, "config.json") == (commit, etag)
    assert compat.local_download(tmp_path, "other.json") is None


# --- moviepy, gradio and spaces ------------------------------------------------------------------


def test_moviepy_lets_go_of_ffmpeg_when_it_is_closed(tmp_path):
    encoder = compat.film_encoder()(str(tmp_path / "film.mp4"), (16, 16), 5, audiofile=None)
    process = compat.encoder_process(encoder)
    assert process.poll() is None, "it runs"
    encoder.close()
    assert process.returncode is not None and getattr(encoder, "proc", None) is not process


def test_gradio_asks_validate_inputs_before_it_counts_them():
    gr = pytest.importorskip("gradio")
    assert "self.validate_inputs(" in inspect.getsource(gr.Blocks), "an endpoint has another way to count now"
    lenient = compat.lenient(gr.Blocks)
    with lenient() as blocks:
        first, second = gr.Textbox(), gr.Textbox()
        gr.Button().click(lambda a, b: None, [first, second], None)
    function = next(iter(blocks.fns.values()))
    inputs = ["given"]
    blocks.validate_inputs(function, inputs)
    assert inputs == ["given", None]
    with pytest.raises(ValueError, match="didn't receive enough"):
        gr.Blocks.validate_inputs(blocks, function, ["given"])
    assert isinstance(blocks, gr.Blocks)


def test_a_page_that_is_behind_is_heard_and_a_changed_component_is_kept_once():
    gr = pytest.importorskip("gradio")
    from gradio.state_holder import SessionState

    def grown(kind):
        with kind() as blocks:
            asked = [gr.CheckboxGroup(["old"]), gr.Dropdown(["old"]), gr.Radio(["old"])]
            asked.append(gr.Dropdown(["old"], multiselect=True))
            gr.Button().click(lambda *chosen: chosen, asked, asked)
        function, state = next(iter(blocks.fns.values())), SessionState(blocks)
        before = len(state.blocks_config.blocks)
        for change in ("new", "newer"):
            asyncio.run(blocks.postprocess_data(function, [gr.update(choices=[change])] * 4, state))
            asyncio.run(blocks.postprocess_data(function, [[change], change, change, [change]], state))
        return blocks, function, state, len(state.blocks_config.blocks) - before

    sent = [["old"], "old", "old", ["old"]]
    blocks, function, state, more = grown(compat.lenient(gr.Blocks))
    assert more == 0
    for given in (sent, [[], None, 7, [0.5]], [[None], "", True, []]):
        assert asyncio.run(blocks.preprocess_data(function, given, state)) == given
        assert asyncio.run(blocks.preprocess_data(function, given, None)) == given
    assert asyncio.run(blocks.preprocess_data(function, [None] * 4, state)) == [[], None, None, []]
    for at, odd in ((0, "old"), (0, [{}]), (1, ["old"]), (2, {"old": 1}), (3, {"old": 1})):
        with pytest.raises(Exception, match="is no choice"):
            asyncio.run(blocks.preprocess_data(function, [*sent[:at], odd, *sent[at + 1 :]], state))
    blocks, function, state, more = grown(gr.Blocks)
    assert more > 0
    now = [["newer"], "newer", "newer", ["newer"]]
    for at, old in enumerate(sent):
        with pytest.raises(gr.Error, match="not in the list of choices"):
            asyncio.run(blocks.preprocess_data(function, [*now[:at], old, *now[at + 1 :]], state))


def test_a_queue_holds_the_requests_that_wait():
    gr = pytest.importorskip("gradio")
    with gr.Blocks() as blocks:
        gr.Button().click(lambda: None)
    blocks.queue()
    assert compat.waiting_requests(blocks) == []  # tests/ui/test_waiting_limit.py has some that wait


def test_bitsandbytes_is_quiet_about_a_kernel_that_is_not_there_and_about_nothing_else(caplog):
    found = importlib.util.find_spec("bitsandbytes")
    if found is not None:
        source = Path(found.origin).parent / "backends" / "cpu" / "ops.py"
        assert '"Failed to load CPU gemm_4bit_forward' in source.read_text()
        assert "logging.getLogger(__name__)" in source.read_text(), "it warns by another logger now"
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no network")
    logger.warning("Failed to load CPU %s", "anything else")
    assert [record.getMessage() for record in caplog.records] == ["Failed to load CPU anything else"]


def test_spaces_says_whether_this_is_zero_gpu(monkeypatch):
    pytest.importorskip("spaces")
    assert compat.on_zero_gpu() is False
    import spaces.config as module

    monkeypatch.setattr(module, "Config", SimpleNamespace(zero_gpu=True))
    assert compat.on_zero_gpu() is True


def test_gradio_keeps_files_in_the_folder_of_the_variable_and_a_file_leaves_no_other(tmp_path, monkeypatch):
    gr = pytest.importorskip("gradio")
    from gradio import routes
    from gradio.data_classes import FileData

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(routes, "DEFAULT_TEMP_DIR", routes.DEFAULT_TEMP_DIR)
    compat.keep_gradio_files_in(tmp_path / "kept")
    assert compat.gradio_folder() == str(tmp_path / "kept") == routes.DEFAULT_TEMP_DIR
    with gr.Blocks():
        plain, ours = gr.File(), compat.leave_no_stray_file(gr.File())
    sent = FileData(path=str(tmp_path / "a.mp4"))
    assert str(plain.preprocess(sent)) == ours.preprocess(sent) == sent.path
