import json
from dataclasses import replace

import families
import gradio as gr
import pytest
import torch
from checkpoints import clip, sound
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForImageTextToText

import lynx
from lynx import BackboneError, DataError
from lynx.adapters.format import Adapter
from lynx.backbones import CATALOG, FAMILIES
from lynx.backbones.estimate import describe, estimate, estimate_tuning
from lynx.cli.main import main
from lynx.config import LoraSettings
from lynx.types import sample_times
from lynx.ui.engine import Engine
from lynx.ui.host_policy import MENU
from lynx.ui.layout import Layout
from lynx.ui.page import Page
from lynx.ui.types import EMBEDDED, Setup

SIZE = (50, 70)
SECONDS = 4.0
LLM = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "vocab_size": 3000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


class Peak(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, of all that were made inside."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: value for key, value in self.alive.items() if not value[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return out


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    """A checkpoint in which neither weights nor activations are a trifle."""
    small = families.FAMILIES[request.param]
    folder = small.write(tmp_path_factory.mktemp(request.param))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= LLM
    config["tie_word_embeddings"] = False
    config["vision_config"] |= small.larger_tower
    for name, values in small.larger_text.items():
        config["text_config"][name] |= values
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder)
    return folder


def measured(folder, precision, frames):
    """Bytes of the model's and the LoRAs' tensors, and the peak of all others during a conversation."""
    model = lynx.load(folder, precision=precision)
    tensors = model.backbone.model.state_dict()
    weights = sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors.values()}.values())
    model.add_adapter(Adapter("audio", "audio"))
    for part in ("vision", "llm"):
        model.add_lora("audio", part, LoraSettings(64, 64.0, 0.0))
    loras = [model.lora.tensors(f"audio_{part}").values() for part in ("vision", "llm")]
    adapters = sum(weight.nbytes for part in loras for weight in part)
    times = (torch.arange(frames).double() + 0.5) * SECONDS / frames  # as long as the sound: all is heard
    video = replace(clip(frames, *SIZE), times=times, duration=SECONDS)
    session = model.chat(video=video, audio=sound(SECONDS), frames=frames)
    with Peak() as peak:
        for senses in ({"video"}, {"audio"}, {"video", "audio"}):  # their KV caches stay for later
            session.senses = {sense: sense in senses for sense in session.media}
            session.ask("what is it ?", max_new_tokens=4)
    return weights, adapters, peak.most


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_what_is_estimated_is_what_is_measured(folder, precision):
    for frames in (4, 16, 64):
        weights, adapters, others = measured(folder, precision, frames)
        given = {"frames": frames, "precision": precision, "size": SIZE, "seconds": SECONDS}
        found = estimate(folder, senses=["audio"], device="cpu", **given)
        assert found.weights == pytest.approx(weights, rel=0.01)
        assert found.adapters == adapters
        assert found.total == pytest.approx(weights + adapters + others, rel=0.15)
    # Of few frames the mel spectrogram takes most; here it is the model.
    assert found.kv_cache + found.activations + found.kept == pytest.approx(others, rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_loras_that_are_on_together_are_copied_to_is_counted(folder, precision):
    model = lynx.load(folder, precision=precision)
    for name in ("audio", "depth"):
        model.add_adapter(Adapter(name, name))
        model.add_lora(name, "llm", LoraSettings(64, 64.0, 0.0))
    with model.using("audio", "depth"):
        copied = model.lora._fused.currsize
    given = {"precision": precision, "device": "cpu"}
    for senses, more in ((["audio"], 0), (["audio", "depth"], copied // 2)):
        kept = [estimate(folder, senses=senses, rank=rank, **given).kept for rank in (64, 32)]
        assert kept[0] - kept[1] == more
    assert copied


def test_tokens_are_those_of_the_streams(folder):
    model = lynx.load(folder)
    found = estimate(folder, frames=5, senses=["audio"], size=SIZE)
    assert found.tokens["video"] == model.tokens("video", 5, SIZE)
    assert found.tokens["audio"] == model.backbone.tokens(5) and found.context == model.backbone.context
    captions = model.backbone.captions(sample_times(60.0, 5))
    assert found.captions == captions, "every byte is a token here"


def test_a_catalog_row_at_a_commit_has_the_row_s_geometry():
    row, pinned = (estimate(name, device="cpu") for name in ("internvl3-1b", "internvl3-1b@abc"))
    assert pinned.tokens == row.tokens and pinned.total == row.total


def test_it_says_whether_it_fits(folder):
    found = estimate(folder, frames=4, device="cpu")
    assert found.fits and found.sentence.endswith("it fits") and "4 frames of video" in found.sentence
    scarce = replace(found, available=found.total - 1)
    assert scarce.fits is False and scarce.sentence.endswith("does not fit")
    assert replace(found, available=None).fits is None
    long = estimate(folder, frames=2000, device="cpu")
    assert long.fits is False and "use fewer frames" in long.sentence


def test_a_quantized_model_needs_less_and_a_device_that_cannot_is_refused():
    kinds = ("fp32", "bf16", "int8", "nf4")
    sizes = {kind: estimate("llava-onevision-7b", precision=kind, device="cpu").weights for kind in kinds}
    assert sizes["fp32"] == 2 * sizes["bf16"] and sizes["bf16"] / 1e9 == pytest.approx(16.06, abs=0.01)
    assert sizes["fp32"] > sizes["int8"] > sizes["nf4"]
    with pytest.raises(BackboneError, match="use bf16 or fp32"):
        estimate("llava-onevision-7b", precision="nf4", device="meta")


@pytest.mark.parametrize(
    ("name", "tokens"), [("llava-onevision-7b", 196), ("qwen2.5-vl-3b", 128), ("internvl3.5-4b", 256)]
)
def test_a_row_is_described_from_its_geometry(name, tokens):
    row = describe(name)
    assert row["tokens_a_frame"] == tokens and row["hub_id"] == CATALOG[name].source
    memory = row["weights_gb"]
    assert memory["fp32"] == pytest.approx(2 * memory["bf16"], abs=0.02)
    assert memory["bf16"] > memory["int8"] > memory["nf4"]


def test_the_command_says_it_for_people_and_for_machines(capsys):
    words = ["estimate", "--backbone", "qwen2.5-vl-3b", "--frames", "32", "--senses", "audio"]
    words += ["--precision", "nf4", "--size", "360x640", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == {"video": 16 * 13 * 23, "audio": 16 * 16 * 16}
    parts = ("weights", "adapters", "kv_cache", "activations", "kept")
    assert found["total"] == sum(found[part] for part in parts)
    assert main(words) == 0
    assert found["sentence"].split(";")[0] in capsys.readouterr().out
    assert main(["backbones", "no such model"]) == 1


def test_the_app_says_it_before_anything_is_loaded():
    engine = Engine()
    setup = Setup("internvl3-8b", "int8", ("adapters/audio",))
    with gr.Blocks() as blocks:
        page = Page(Layout(setup, ["lynx-tiny"], []), engine, blocks)
    expected = estimate("internvl3-8b", senses=["audio"], precision="int8")
    shown = page.model.on_plan("internvl3-8b ", "int8", ["adapters/audio"])
    about = expected.sentence.partition(" GB of ")[0]  # what is free changes from moment to moment
    assert about[1:] in shown and "video, audio" in shown
    assert "No backbone" in page.model.on_plan("no such thing", "auto", [])
    assert not engine.models._models
    assert set(MENU) <= {EMBEDDED, *CATALOG}


@pytest.mark.parametrize(
    ("backbone", "precision", "measured"),
    [("llava-onevision-0.5b", "bf16", 16.0), ("llava-onevision-7b", "bf16", 72.8),
     ("llava-onevision-7b", "nf4", 63.4)],
)  # fmt: skip
def test_what_tuning_takes_is_near_what_it_took_on_a_gpu(backbone, precision, measured):
    """Peaks of `benchmarks.real_size` in docs/results.md: 16 frames, four questions, not checkpointed."""
    found = estimate_tuning(backbone, frames=16, precision=precision, checkpointing="off")
    assert 0.98 * measured < found.total / 1e9 < 1.15 * measured


def test_cards_that_divide_an_llm_hold_its_layers_once_together():
    whole, eighth = (estimate_tuning("llava-onevision-7b", processes=count) for count in (1, 8))
    layer = 2 * 3584 * (3584 + 512) + 3 * 3584 * 18_944
    layer += 3584 + 2 * 512 + 2 * 3584  # biases of q, k, v; norms
    assert whole.weights - eighth.weights == 2 * layer * 28 * 7 // 8 - 2 * 2 * layer
    assert whole.lora == 161_480_704 * 16 + 33_492_992 * 2, "weights, gradients, copies, two moments"
    assert eighth.lora == whole.lora and eighth.activations == whole.activations
    with pytest.raises(DataError, match="an LLM in nf4 cannot be divided"):
        estimate_tuning("llava-onevision-7b", precision="nf4", processes=2)
