import json
import runpy
import shutil
from pathlib import Path

import checkpoints
import families
import pytest
import torch
from checkpoints import clip
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from lynx import compat
from lynx.adapters.lora import count_parameters
from lynx.backbones import CATALOG, FAMILIES, load_backbone, parse_source, skeleton
from lynx.backbones.llava_onevision import LlavaOnevision
from lynx.backbones.loading import read_preprocessing
from lynx.backbones.quantization import describe_auto
from lynx.errors import BackboneError
from lynx.types import Stream

QUESTION = [{"role": "user", "content": "what is it ?"}]
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(folder)


def stream(backbone, video):
    with torch.no_grad():
        tokens, layout = backbone.encode(backbone.pixels(video.pixels))
    return Stream("video", tokens, layout.frame.double(), layout.cell, layout.grid, video)


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has", ["AVX512-BF16", None])
def test_auto_is_bf16_where_the_cpu_has_it_unless_the_checkpoint_is_fp32(
    folder, tmp_path, monkeypatch, saved, has
):
    copied = Path(shutil.copytree(folder, tmp_path / "saved"))
    weights = {name: weight.to(saved) for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"dtype": str(saved).removeprefix("torch.")}))
    monkeypatch.setattr(compat, "cpu_bf16", lambda: has)
    expected = torch.bfloat16 if has and saved is not torch.float32 else torch.float32
    found = load_backbone(copied, device="cpu")
    assert {weight.dtype for weight in found.model.parameters()} == {expected}
    assert load_backbone(copied, "fp32", "cpu").dtype is torch.float32
    assert load_backbone("lynx-tiny", device="cpu").dtype is torch.float32
    said = describe_auto(torch.device("cpu"))
    assert (f"has {has}" if has else "fp32: this CPU has neither") in said


@pytest.mark.parametrize("family", [each.name for each in families.FAMILIES.values() if each.pixel_cases])
def test_pixels_are_bit_equal_to_the_stock_video_processor_s(tmp_path, family):
    """Recorded by tests/data/record_pixels.py: the stock processors need torchvision."""
    small = families.FAMILIES[family]
    folder = small.write(tmp_path)
    statistics = runpy.run_path(str(DATA / "record_pixels.py"))["STATISTICS"]
    described = {**small.recorded_preprocessor, **statistics}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    backbone = load_backbone(folder)
    expected = load_file(DATA / "pixels.safetensors")
    for name, case in small.pixel_cases.items():
        pixels = backbone.video_pixels(clip(*case).pixels)
        for suffix, tensor in small.tower_inputs(backbone, pixels).items():
            assert torch.equal(tensor, expected[f"{family}/{name}{suffix}"]), name
        with torch.no_grad():
            assert len(backbone.encode(pixels)[0]) == backbone.tokens(case[0], case[1:]), name


def test_a_long_clip_is_encoded_in_parts_with_one_newline(backbone):
    pixels = backbone.pixels(clip(LlavaOnevision.frames_per_pass + 3).pixels)
    with torch.no_grad():
        tokens, layout = backbone.encode(pixels)
        whole = backbone.model.model.get_video_features(pixels[None]).pooler_output[0]
    assert torch.allclose(tokens, whole, atol=1e-5)
    assert len(tokens) == len(layout.frame) == backbone.tokens(LlavaOnevision.frames_per_pass + 3)
    assert (layout.frame == -1).sum() == 1 and layout.frame[-1] == -1 and layout.cell[-1].tolist() == [-1, -1]
    assert layout.frame[16 * 7] == 7 and layout.cell[16 * 7 + 6].tolist() == [1, 2]


def test_streams_stand_side_by_side_where_the_template_has_the_video(backbone):
    first, second = stream(backbone, clip(2)), stream(backbone, clip(3, seed=1))
    both = backbone.compose(QUESTION, [first, Stream("audio", *[getattr(second, k) for k in (
        "tokens", "times", "cells", "grid", "frames")])])  # fmt: skip
    assert both.spans["video"][-1] + 1 == both.spans["audio"][0]
    assert torch.equal(both.inputs_embeds[0, both.spans["audio"]], second.tokens)
    alone = backbone.compose(QUESTION)
    assert alone.spans == {} and alone.input_ids.shape[1] == both.input_ids.shape[1] - 33 - 49 - 0


def test_a_prompt_beyond_the_context_is_refused(backbone):
    with pytest.raises(BackboneError, match="fewer frames"):
        backbone.compose(QUESTION, [stream(backbone, clip(128))])


@pytest.mark.parametrize(
    ("name", "vision", "llm"),
    [
        ("llava-onevision-0.5b", 33_492_992, 35_192_832),
        ("llava-onevision-7b", 33_492_992, 161_480_704),
        ("qwen2.5-vl-3b", 45_719_552, 119_734_272),
        ("internvl2.5-4b", 28_311_552, 119_734_272),
    ],
)
def test_the_catalog_counts_the_papers_parameters(name, vision, llm):
    """Printed in the paper as 68.7, 195.0, 165.5 and, with a fused qkv, 144.9 M."""
    assert count_parameters(name) == {"vision": vision, "llm": llm, "total": vision + llm}


@pytest.mark.parametrize(
    ("name", "weights", "vision", "llm"),
    [
        ("smolvlm2-256m", 256_484_928, 10_616_832, 19_537_920),
        ("smolvlm2-500m", 507_482_304, 10_616_832, 34_734_080),
        ("smolvlm2-2.2b", 2_246_784_880, 34_781_184, 72_351_744),
    ],
)
def test_smolvlm_s_rows_have_as_many_parameters_as_was_counted_before(name, weights, vision, llm):
    """On models of the stock class, before the rows were typed in."""
    assert sum(p.numel() for p in set(skeleton(name).model.parameters())) == weights
    assert count_parameters(name) == {"vision": vision, "llm": llm, "total": vision + llm}


@pytest.mark.parametrize("name", CATALOG)
def test_a_row_s_checkpoint_at_true_size_is_preprocessed_as_the_row_says(tmp_path, name):
    """The benchmarks make such checkpoints."""
    row = CATALOG[name]
    described = {**families.FAMILIES[row.family].true_preprocessor(row), "image_mean": [0.5] * 3}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**described, "image_std": [0.5] * 3}))
    found = read_preprocessing(parse_source(tmp_path))
    assert (found.size, found.pixels) == (row.size, row.pixels)


def test_internvl_s_other_count_is_that_of_the_fused_qkv():
    three, fused = 64 * 3 * (1024 + 1024), 64 * (1024 + 3 * 1024)
    as_in_the_paper = 28_311_552 - 24 * (three - fused)
    paper = CATALOG["internvl2.5-4b"].paper
    assert f"{as_in_the_paper / 1e6:.3f} M" in paper and "fused" in paper
    assert f"{(as_in_the_paper + 119_734_272) / 1e6:.1f} M" in paper


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("qwen2.5-vl-3b", 7.51), ("internvl2.5-4b", 7.42), ("internvl3-8b", 15.89)]
)
def test_a_geometry_has_the_size_of_the_files_on_the_hub(name, gigabytes):
    """Two bytes a parameter: the sum of the repository's safetensors files, as it lists them."""
    count = sum(p.numel() for p in set(skeleton(name).model.parameters()))
    assert 2 * count / 1e9 == pytest.approx(gigabytes, abs=0.01)


@pytest.mark.parametrize("name", CATALOG)
def test_a_row_is_a_model_of_its_family(name):
    row = CATALOG[name]
    config = AutoConfig.for_model(row.family, **row.geometry)
    assert row.family in FAMILIES and row.license and row.note and row.source.count("/") == 1
    text, given = config.get_text_config(), row.geometry["text_config"]
    assert {key: getattr(text, key) for key in given if key != "rope_parameters"} == {
        key: value for key, value in given.items() if key != "rope_parameters"
    }
    assert config.tie_word_embeddings == row.geometry["tie_word_embeddings"]
    assert all(getattr(config.vision_config, key) == v for key, v in row.geometry["vision_config"].items())


def test_the_projector_and_heads_get_no_lora(folder):
    counted = count_parameters(str(folder), rank=2)
    # 3 vision layers: q k v out (32 x 32), fc1 fc2 (32 <-> 56); 2 LLM layers: q k v o, gate up down
    assert counted["vision"] == 3 * 2 * (4 * (32 + 32) + 2 * (32 + 56))
    assert counted["llm"] == 2 * 2 * (2 * (48 + 48) + 2 * (48 + 24) + 3 * (48 + 80))


def test_even_queries_are_a_quarter_of_the_paper_s_grid():
    class Grid(LlavaOnevision):
        patch_grid = (27, 27)

    even = Grid.even_queries(Grid.__new__(Grid), 729)
    assert len(even) == 196 and even[:3].tolist() == [0, 2, 4] and even[14] == 54 and even[-1] == 728


def test_sources_are_catalog_names_folders_or_hub_ids(folder):
    row = parse_source("llava-onevision-0.5b")
    assert (
        row.location == CATALOG["llava-onevision-0.5b"].source == "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
    )
    assert parse_source("owner/name@abc").revision == "abc" and parse_source(folder).location == str(folder)
    pinned = parse_source("llava-onevision-0.5b@abc")
    assert (pinned.location, pinned.revision) == (row.location, "abc")
    with pytest.raises(BackboneError, match="llava-onevision-7b"):
        parse_source("no such thing")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "configuration"),
        ("preprocessor_config.json", "image_mean"),
        ("chat_template.jinja", "chat template"),
        ("model.safetensors", "cannot load"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(folder, tmp_path, file, message):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / file).unlink()
    with pytest.raises(BackboneError, match=message):
        load_backbone(tmp_path / "copy")


def cut_off(path):
    path.write_bytes(path.read_bytes()[:20_000])


def in_another_format(path):
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()


def of_another_shape(path):
    weights = load_file(path)
    weights[next(name for name in weights if "up_proj" in name)] = torch.zeros(3, 5)
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "damaged or cut off, copy or download it again"),
        (lambda path: path.write_bytes(b""), "damaged or cut off, copy or download it again"),
        (in_another_format, r"no model\.safetensors.*pytorch_model\.bin, are not read"),
        (of_another_shape, r"1 tensors have another shape, such as .*up_proj.*: \(3, 5\), expected \(80"),
    ],
)
def test_weights_that_cannot_be_read_are_named(folder, tmp_path, damage, message):
    shutil.copytree(folder, tmp_path / "copy")
    damage(tmp_path / "copy" / "model.safetensors")
    with pytest.raises(BackboneError, match=message):
        load_backbone(tmp_path / "copy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"height": 0, "width": 0}}, "0 is below 1"),
        ({"size": {"height": "large", "width": 28}}, "no preprocessor JSON.*'large'"),
        ({"size": {"height": 100, "width": 100}}, r"\(25, 25\) patches; its tower takes \(7, 7\)"),
        ({"image_std": [0.5, 0.5, 0]}, "three numbers above 0"),
        ({"image_mean": 0.5}, "no preprocessor JSON.*image_mean"),
        ({"image_mean": [0.5]}, "three numbers"),
    ],
)
def test_a_preprocessor_of_another_model_is_refused(folder, tmp_path, values, message):
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(BackboneError, match=message):
        load_backbone(tmp_path / "copy")


@pytest.mark.parametrize(
    "changed",
    [
        {"vision_config": 7},
        {"text_config": {"model_type": "no such LLM"}},
        {"text_config": {"model_type": "qwen2", "hidden_size": "wide"}},
        {"text_config": {"model_type": "qwen2", "hidden_size": 48, "num_attention_heads": 0}},
        {"vision_feature_layer": "last"},
    ],
)
@pytest.mark.parametrize("open_it", [load_backbone, skeleton])
def test_a_configuration_that_stock_cannot_take_is_one_sentence(folder, tmp_path, changed, open_it):
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(BackboneError, match="configuration|cannot load|of another model"):
        open_it(tmp_path / "copy")


def test_a_missing_tensor_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    del weights[next(key for key in weights if "fc1.weight" in key)]
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lack 1 tensors.*fc1\.weight"):
        load_backbone(tmp_path / "copy")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2"}, r"'qwen2'.*llava_onevision, qwen2_5_vl, qwen3_vl, internvl"),
        ({"model_type": "no such family"}, r"'no such family'.*llava_onevision, qwen2_5_vl, qwen3_vl"),
        ({"model_type": "qwen3_5"}, r"'qwen3_5'.*running state.*docs/backbones\.md"),
        ({"model_type": "qwen3_vl_moe"}, r"'qwen3_vl_moe'.*take a dense size"),
        ({"model_type": "idefics3"}, r"'idefics3'.*made for pictures.*SmolVLM2-256M"),
        (
            {"model_type": "internvl_chat", "auto_map": {"AutoConfig": "evil.Evil"}},
            r"'internvl_chat'.*code from the Hub is never run.*-hf or -HF",
        ),
    ],
)
def test_another_family_is_refused_with_the_list_of_known_ones(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a checkpoint was run')")
    with pytest.raises(BackboneError, match=message):
        load_backbone(tmp_path)


@pytest.mark.parametrize(("precision", "device"), [("fp8", "cpu"), ("fp32", "cuda:99"), ("fp32", "toaster")])
def test_what_cannot_run_here_is_refused(folder, precision, device):
    with pytest.raises(BackboneError, match=precision if device == "cpu" else device):
        load_backbone(folder, precision, device)


def test_the_embedded_backbone_declares_its_words_and_frames(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    extra = {"words": ["what", "is"], "frames": 8}
    (tmp_path / "copy" / "lynx_tiny.json").write_text(json.dumps(extra))
    backbone = load_backbone(tmp_path / "copy")
    assert (backbone.words, backbone.default_frames) == (frozenset({"what", "is"}), 8)
    assert load_backbone(folder).words is None


def test_the_fingerprint_knows_the_weights_and_not_the_precision(folder, backbone, tmp_path):
    assert load_backbone(folder, precision="bf16").fingerprint() == backbone.fingerprint()
    other = load_backbone(checkpoints.llava_onevision(tmp_path, seed=1)).fingerprint()
    assert {k for k in other if other[k] != backbone.fingerprint()[k]} == {"projector"}


def test_everything_is_frozen_and_in_eval_mode(backbone):
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert not any(m.training for m in backbone.model.modules())


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}", "lists of texts and videos"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "does not write '<video>' where a"),
        ("{{ raise_exception('one role only') }}", "one role only"),
    ],
)
def test_a_template_for_text_alone_is_refused_before_anything_is_asked(tmp_path, template, reason):
    folder = checkpoints.llava_onevision(tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(BackboneError, match=reason):
        load_backbone(folder)


def test_a_tower_of_another_class_is_named(tmp_path):
    folder = checkpoints.llava_onevision(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] = {**config["vision_config"], "model_type": "clip_vision_model"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="'clip_vision_model'.*siglip_vision_model, dinov2"):
        skeleton(folder)


def test_loras_are_on_the_layers_that_the_projector_reads(tmp_path):
    shapes, prints = {}, {}
    for layer in (-1, -2, 1):
        backbone = load_backbone(checkpoints.llava_onevision(tmp_path / str(layer), inner=layer))
        names = backbone.lora_shapes("vision", 2)
        shapes[layer] = {int(name.split(".layers.")[1].split(".")[0]) for name in names}
        assert len(backbone.vision_attention_modules()) == len(shapes[layer])
        prints[layer] = backbone.fingerprint()
    assert shapes == {-1: {0, 1, 2}, -2: {0, 1}, 1: {0}}
    assert "vision_feature_layer" not in prints[-1]  # so that older adapters go on to fit
    assert prints[-2]["vision_feature_layer"] == "-2" != prints[1]["vision_feature_layer"]


def test_a_dinov2_tower_is_counted_and_estimated(tmp_path):
    from lynx.backbones.estimate import estimate

    folder = checkpoints.VARIANTS["llava_onevision_dinov2"](tmp_path)
    found = estimate(folder, frames=4, senses=["audio"])
    assert found.weights > 0 and found.tokens["video"] == 4 * 16 + 1
    assert count_parameters(str(folder), 2)["vision"] == 3 * 2 * (4 * 64 + 2 * (32 + 64))
