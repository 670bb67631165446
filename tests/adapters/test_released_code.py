"""Checkpoints of the released code: made here from an adapter of ours, under the names of older versions."""

import dataclasses
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import checkpoints
import families
import numpy as np
import pytest
import torch
from checkpoints import arguments, clip, random_adapter
from safetensors.torch import load_file, save_file
from torch import nn

import lynx
from lynx.adapters.format import CONFIG, WEIGHTS, read_adapter_config
from lynx.adapters.released_code import canonical, import_adapter, read_backbone_name
from lynx.adapters.saving import save_adapter
from lynx.backbones import FAMILIES, load_backbone
from lynx.cli.main import main
from lynx.errors import AdapterError, DataError
from lynx.modalities.audio import Audio
from lynx.modalities.released import ReleasedAudioRendering, ReleasedDepth
from lynx.types import DepthClip

LLM_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OUTSIDE = "base_model.model.vision_tower.vision_model.head.attention.out_proj"


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    return checkpoints.FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(folder)


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    """The adapter that every checkpoint here should become again."""
    model = lynx.load(folder)
    random_adapter(model, "audio")
    if model.backbone.family == "internvl":  # as where q, k and v are one linear: one A for the three
        weights = model.lora.tensors("audio_vision")
        for key in weights:
            weights[key].data.copy_(weights[re.sub(r"[kv]_proj.lora_A", "q_proj.lora_A", key)])
    return save_adapter(model, "audio", tmp_path_factory.mktemp("ours") / "audio")


def family_of(ours):
    return read_adapter_config(ours).backbone["family"]


def released(ours: Path, out: Path, names: str = "4.52", file: str = "adapter_model.bin", infix="") -> Path:
    """A Trainer folder with the tensors of an adapter under older names, and shortened targets."""
    small = families.FAMILIES[family_of(ours)]
    vision, llm = small.older_names[names]
    for part in ("vision", "llm"):
        tensors = load_file(ours / part / WEIGHTS)
        short = small.short_targets if part == "vision" else LLM_TARGETS
        if (small.name, names, part) == ("internvl", "original", "vision"):
            tensors, short = fused(tensors), ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
        older = {key: key.replace(small.tower, vision).replace(small.llm, llm) for key in tensors}
        tensors = {
            re.sub(r"\.(lora_[AB])\.", rf".\1.{infix}", older[key]): tensor for key, tensor in tensors.items()
        }
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "bias": "none"}
        config |= {"target_modules": short, "base_model_name_or_path": "some/model", "task_type": None}
        (out / part).mkdir(parents=True)
        (out / part / "adapter_config.json").write_text(json.dumps(config))
        write(out / part / file, tensors)
    torch.save({"step": 3}, out / "optimizer.pt")  # what else a Trainer leaves
    (out / "trainer_state.json").write_text("{}")
    return out


def fused(tensors):
    """InternVL's original layout: one linear for q, k and v, and other names."""
    found = {}
    for key, tensor in tensors.items():
        name = key.replace(".layer.", ".layers.").replace("attention.projection_layer", "attn.proj")
        if "q_proj.lora_B" in key:
            parts = [tensors[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif "k_proj" not in key and "v_proj" not in key:
            found[name.replace("attention.q_proj", "attn.qkv")] = tensor
    return found


def write(path, tensors):
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


def edit(checkpoint, part, change):
    """Change the tensors of a part, in place."""
    path = next((checkpoint / part).glob("*model.bin"))
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


def configure(checkpoint, part, **values):
    path = checkpoint / part / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def outputs(model):
    """What the vision part and the LLM part compute."""
    prompt = model.backbone.compose([{"role": "user", "content": "and now ?"}])
    with torch.no_grad(), model.using("audio"):
        logits = model.backbone.model(**arguments(model.backbone, prompt)).logits
    return model.encode("audio", clip(2)).tokens, logits


@pytest.mark.parametrize(
    ("names", "file", "infix"),
    [
        ("4.52", "adapter_model.safetensors", ""),
        ("4.52", "pytorch_model.bin", "default."),
        ("4.45", "adapter_model.bin", ""),
        ("original", "adapter_model.bin", ""),
    ],
)
def test_a_checkpoint_becomes_the_adapter_it_was(ours, folder, backbone, tmp_path, names, file, infix):
    checkpoint = released(ours, tmp_path / "checkpoint-9", names, file, infix)
    told = import_adapter(checkpoint, backbone, tmp_path / "out", modality="audio")
    for part in ("vision", "llm"):
        mine, theirs = load_file(ours / part / WEIGHTS), load_file(tmp_path / "out" / part / WEIGHTS)
        assert mine.keys() == theirs.keys() and all(theirs[key].equal(mine[key]) for key in mine)
        config = json.loads((tmp_path / "out" / part / "adapter_config.json").read_text())
        assert (
            config["target_modules"]
            == json.loads((ours / part / "adapter_config.json").read_text())["target_modules"]
        ), "full names, not suffixes"
        assert told["parts"][part]["rank"] == 4 and told["parts"][part]["from"] == file
        assert told["parts"][part]["not_trained"] == []
        assert told["largest_difference"][part] < 1e-5 and not told["parts"][part]["without_effect"]
    for mine, theirs in zip(
        outputs(lynx.load(folder, adapters=[ours])),
        outputs(lynx.load(folder, adapters=[tmp_path / "out"])),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_the_backbone_is_left_as_it_was(ours, backbone, tmp_path):
    before = [(name, type(module)) for name, module in backbone.model.named_modules()]
    import_adapter(released(ours, tmp_path / "in"), backbone, tmp_path / "out", modality="audio")
    checkpoint = released(ours, tmp_path / "wrong")
    configure(checkpoint, "llm", r=8)
    with pytest.raises(AdapterError):
        import_adapter(checkpoint, backbone, tmp_path / "none", modality="audio")
    assert [(name, type(module)) for name, module in backbone.model.named_modules()] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "wrong"]


def test_modules_that_were_not_trained_stay_as_they_are(ours, backbone, tmp_path):
    checkpoint = released(ours, tmp_path / "in")
    edit(checkpoint, "llm", lambda t: [t.pop(key) for key in list(t) if "o_proj" in key or "mlp" in key])
    configure(checkpoint, "llm", target_modules=["q_proj", "k_proj", "v_proj"])
    told = import_adapter(checkpoint, backbone, tmp_path / "out", modality="audio")
    absent = told["parts"]["llm"]["not_trained"]
    assert len(absent) == 4 and f"{families.of(backbone).llm}.*.self_attn.o_proj" in absent
    tensors = load_file(tmp_path / "out" / "llm" / WEIGHTS)
    assert all(not tensor.any() for key, tensor in tensors.items() if "o_proj" in key or "mlp" in key)


def test_a_module_of_another_tower_is_dropped_only_where_it_does_nothing(ours, backbone, tmp_path):
    """A list of suffixes also hits SigLIP's pooling head, and the vision tower through the LLM's adapter."""
    checkpoint = released(ours, tmp_path / "in")
    extra = {f"{OUTSIDE}.lora_A.weight": torch.randn(4, 32), f"{OUTSIDE}.lora_B.weight": torch.zeros(32, 4)}
    edit(checkpoint, "vision", lambda t: t.update(extra))
    told = import_adapter(checkpoint, backbone, tmp_path / "out", modality="audio")
    assert told["parts"]["vision"]["dropped"] == [OUTSIDE]
    edit(checkpoint, "vision", lambda t: t[f"{OUTSIDE}.lora_B.weight"].fill_(0.1))
    with pytest.raises(AdapterError, match=r"head\.attention\.out_proj.*another backbone"):
        import_adapter(checkpoint, backbone, tmp_path / "none", modality="audio")


def test_a_part_without_effect_is_said(ours, backbone, tmp_path):
    checkpoint = released(ours, tmp_path / "in")
    edit(checkpoint, "llm", lambda t: [tensor.zero_() for key, tensor in t.items() if "lora_B" in key])
    told = import_adapter(checkpoint, backbone, tmp_path / "out", modality="audio")
    assert told["parts"]["llm"]["without_effect"] and not told["parts"]["vision"]["without_effect"]


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_read_for_its_tensors_alone(ours, backbone, tmp_path):
    checkpoint = released(ours, tmp_path / "in")
    edit(checkpoint, "vision", lambda t: t.update(attack=Attack(tmp_path / "was here")))
    with pytest.raises(AdapterError, match="more than tensors"):
        import_adapter(checkpoint, backbone, tmp_path / "out", modality="audio")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def first(matrix):
    return lambda tensors: next(key for key in tensors if f"lora_{matrix}" in key)


def widen(tensors):
    key = first("A")(tensors)
    tensors[key] = torch.zeros(4, 99)


def thicken(tensors):
    a = first("A")(tensors)
    b = a.replace("lora_A", "lora_B")
    tensors[a], tensors[b] = tensors[a].repeat(2, 1), tensors[b].repeat(1, 2)


def lose_layer(tensors):
    for key in [key for key in tensors if "layers.1.self_attn.v_proj" in key]:
        del tensors[key]


def lose_kind(tensors):
    for key in [key for key in tensors if "v_proj" in key]:
        del tensors[key]


BROKEN = {
    "a wrong shape": (lambda c: edit(c, "llm", widen), r"\(48, 99\), the backbone's is \(48, 80\)"),
    "two ranks": (lambda c: edit(c, "llm", thicken), "rank 4, 8"),
    "a rank that the config denies": (lambda c: configure(c, "llm", r=8), "rank 4.* says 8"),
    "a layer is missing": (lambda c: edit(c, "llm", lose_layer), "incomplete.*layers.1.self_attn.v_proj"),
    "a target is missing": (lambda c: edit(c, "llm", lose_kind), "incomplete: 2 modules.*v_proj"),
    "half a pair": (lambda c: edit(c, "llm", lambda t: t.pop(first("B")(t))), "only one of"),
    "no LoRA": (
        lambda c: edit(c, "llm", lambda t: t.update({"lm_head.weight": torch.zeros(3, 3)})),
        "lm_head",
    ),
    "another adapter": (
        lambda c: edit(c, "llm", lambda t: t.update({"a.lora_A.depth.weight": torch.zeros(3, 3)})),
        "depth",
    ),
    "no numbers": (lambda c: edit(c, "llm", lambda t: t[first("A")(t)].fill_(torch.nan)), "no numbers"),
    "rslora": (lambda c: configure(c, "llm", use_rslora=True), "use_rslora"),
    "ranks of their own": (lambda c: configure(c, "llm", rank_pattern={"q_proj": 8}), "rank_pattern"),
    "whole modules": (lambda c: configure(c, "llm", modules_to_save=["lm_head"]), "modules_to_save"),
    "not a LoRA": (lambda c: configure(c, "llm", peft_type="IA3"), "IA3"),
    "no weights": (lambda c: (c / "llm" / "adapter_model.bin").unlink(), "no weights"),
    "no config": (lambda c: (c / "llm" / "adapter_config.json").unlink(), "no adapter_config.json"),
    "truncated": (lambda c: (c / "llm" / "adapter_model.bin").write_bytes(b"PK\x03\x04"), "cannot read"),
    "not a mapping": (lambda c: torch.save([1], c / "llm" / "adapter_model.bin"), "not a mapping"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_taken_over_exactly_is_refused(ours, backbone, tmp_path, case):
    damage, message = BROKEN[case]
    damage(released(ours, tmp_path / "in"))
    with pytest.raises(AdapterError, match=message):
        import_adapter(tmp_path / "in", backbone, tmp_path / "out", modality="audio")
    assert not (tmp_path / "out").exists()


class FusedAttention(nn.Module):
    """The attention of InternVL's original code, made of the native one's weights."""

    def __init__(self, native):
        super().__init__()
        parts = [native.q_proj, native.k_proj, native.v_proj]
        self.heads, self.proj = native.num_heads, native.projection_layer
        self.qkv = nn.Linear(native.embed_dim, 3 * native.embed_dim)
        self.qkv.weight.data = torch.cat([part.weight for part in parts])
        self.qkv.bias.data = torch.cat([part.bias for part in parts])

    def forward(self, x, **kwargs):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, n, d)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2)), None


@torch.no_grad()
def test_a_lora_on_internvl_s_fused_qkv_computes_the_same_in_three_parts(tmp_path):
    """The original class with the checkpoint's own update in its weights, beside the adapter made of it."""
    folder = checkpoints.internvl(tmp_path / "backbone")
    tower, tensors, generator = load_backbone(folder), {}, torch.Generator().manual_seed(0)
    for number, layer in enumerate(tower.model.model.vision_tower.encoder.layer):
        layer.attention = FusedAttention(layer.attention)
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            linear = layer.get_submodule(name.replace("attn", "attention"))
            a, b = (torch.randn(size, generator=generator) * 0.2 for size in (
                (4, linear.in_features), (linear.out_features, 4)))  # fmt: skip
            linear.weight += 2 * b @ a
            key = f"base_model.model.vision_model.encoder.layers.{number}.{name}"
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    (tmp_path / "in" / "vision").mkdir(parents=True)
    targets = {"target_modules": ["qkv", "proj", "fc1", "fc2"]}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, **targets}
    (tmp_path / "in" / "vision" / "adapter_config.json").write_text(json.dumps(config))
    write(tmp_path / "in" / "vision" / "adapter_model.bin", tensors)
    told = import_adapter(tmp_path / "in", load_backbone(folder), tmp_path / "out", modality="audio")
    assert told["parts"]["vision"]["modules"] == 3 * 6 and not told["parts"]["vision"]["not_trained"]
    model = lynx.load(folder, adapters=[tmp_path / "out"])
    frames = clip(3)
    expected = tower.encode(tower.pixels(frames.pixels))[0]
    torch.testing.assert_close(model.encode("audio", frames).tokens, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.encode("video", frames).tokens, expected, rtol=0.1, atol=0.1)

    edit(tmp_path / "in", "vision", lambda t: [t.pop(key) for key in list(t) if "qkv" in key])
    with pytest.raises(AdapterError, match="incomplete: 9 modules"):
        import_adapter(tmp_path / "in", load_backbone(folder), tmp_path / "none", modality="audio")


def test_rows_that_are_not_three_parts_are_refused(tmp_path):
    model = lynx.load(checkpoints.internvl(tmp_path / "backbone"))
    random_adapter(model, "audio")
    ours = save_adapter(model, "audio", tmp_path / "ours")
    checkpoint = released(ours, tmp_path / "in", "original")
    edit(checkpoint, "vision", lambda t: t.update({k: v[1:] for k, v in t.items() if "qkv.lora_B" in k}))
    with pytest.raises(AdapterError, match="95 rows, which are not 3 equal parts"):
        import_adapter(checkpoint, load_backbone(tmp_path / "backbone"), tmp_path / "out", modality="audio")


def test_a_checkpoint_of_another_family_is_refused(ours, backbone, tmp_path):
    """Also one of InternVL's original layout: its names mean something in its own family alone."""
    checkpoint = released(ours, tmp_path / "in", "original")
    other = checkpoints.FAMILIES["qwen2_5_vl" if backbone.family != "qwen2_5_vl" else "internvl"]
    with pytest.raises(AdapterError, match="another backbone"):
        import_adapter(
            checkpoint, load_backbone(other(tmp_path / "other")), tmp_path / "out", modality="audio"
        )


def test_a_folder_of_checkpoints_asks_for_one(ours, backbone, tmp_path):
    released(ours, tmp_path / "run" / "checkpoint-500")
    with pytest.raises(AdapterError, match="checkpoint-500: name one"):
        import_adapter(tmp_path / "run", backbone, tmp_path / "out", modality="audio")


def test_nothing_is_overwritten(ours, backbone, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(AdapterError, match="there already"):
        import_adapter(released(ours, tmp_path / "in"), backbone, tmp_path / "out", modality="audio")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_the_rendering_it_was_trained_with_travels_with_it(ours, backbone, tmp_path):
    checkpoint = released(ours, tmp_path / "in")
    with pytest.raises(DataError, match="colour"):
        import_adapter(checkpoint, backbone, tmp_path / "a", modality="audio", rendering={"colour": 1})
    placement = backbone.placements[-1]
    import_adapter(
        checkpoint, backbone, tmp_path / "b",
        modality="audio", name="ears", rendering={"n_mels": 32}, placement=placement,
    )  # fmt: skip
    adapter = read_adapter_config(tmp_path / "b")
    assert (adapter.name, adapter.modality, adapter.rendering["n_mels"]) == ("ears", "audio", 32)
    assert adapter.placement == placement != "continue"
    if "share" not in backbone.placements:
        with pytest.raises(AdapterError, match="share"):
            import_adapter(checkpoint, backbone, tmp_path / "c", modality="audio", placement="share")
    assert adapter.training["imported"]["llm"]["alpha"] == 8 and adapter.rendering["hop_s"] == 0.01


def test_pictures_are_the_released_code_s_unless_another_style_is_named(ours, backbone, tmp_path):
    checkpoint = released(ours, tmp_path / "in")
    rendering = {"sound": None, "lynx": {"style": "lynx"}, "far": {"far": 4.0}, "turbo": {"show": "turbo"}}
    told = {
        name: import_adapter(
            checkpoint, backbone, tmp_path / name,
            modality="depth" if name in ("far", "turbo") else "audio", rendering=parameters,
        )
        for name, parameters in rendering.items()
    }  # fmt: skip
    written = {name: read_adapter_config(tmp_path / name) for name in told}
    assert [told[name]["style"] for name in told] == ["released", "lynx", "released", "released"]
    for name, adapter in written.items():
        assert adapter.rendering == told[name]["rendering"]
        assert adapter.token_pooling == told[name]["token_pooling"]
    assert written["sound"].rendering == {"style": "released"} | dataclasses.asdict(ReleasedAudioRendering())
    assert written["lynx"].rendering == Audio().to_dict()
    far = written["far"].rendering
    assert (far["far"], far["show"], far["style"]) == (4.0, "both", "released")
    assert [each.token_pooling for each in written.values()] == ["none", "none", "moments", "none"]
    other = import_adapter(checkpoint, backbone, tmp_path / "all", modality="depth", token_pooling="none")
    assert other["token_pooling"] == read_adapter_config(tmp_path / "all").token_pooling == "none"
    fast = import_adapter(checkpoint, backbone, tmp_path / "fast", modality="high_fps")
    assert fast["style"] == "lynx" and "style" not in fast["rendering"]


def test_an_imported_adapter_sees_the_released_pictures(ours, folder, tmp_path):
    """Rendered, encoded and averaged as one: through the model that loads it."""
    model = lynx.load(folder)
    import_adapter(released(ours, tmp_path / "in"), model.backbone, tmp_path / "out", modality="depth")
    model.load_adapter(tmp_path / "out")
    depth = np.full((2, 6, 8), 2.0, np.float32)
    depth[:, :, 4:] = 0
    camera = np.array([[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]])
    source, times = DepthClip.of(depth, intrinsics=camera), torch.tensor([0.5, 1.5])
    stream = model.stream("depth", source, times)
    expected = ReleasedDepth().render(source, times)
    assert stream.frames.pixels.equal(expected.pixels) and len(expected.pixels) == 4
    pictures = model.encode("depth", replace(expected, labels=()))
    assert len(stream.tokens) == model.tokens("depth", 2, pictures=2) <= len(pictures.tokens)
    cells = math.prod(stream.grid)
    whole = pictures.tokens[~pictures.times.isnan()].view(2, -1, cells, pictures.tokens.shape[1])
    found = stream.tokens[~stream.times.isnan()].view(2, cells, -1)
    torch.testing.assert_close(found, whole.mean(1))


def test_names_without_their_wrappers():
    mine = "model.vision_tower.encoder.layers.3.mlp.fc1"
    for vision, _ in families.FAMILIES["llava_onevision"].older_names.values():
        assert canonical(f"base_model.model.{vision}.layers.3.mlp.fc1") == canonical(mine)
    assert canonical("model.visual.blocks.0.attn.qkv") == canonical("visual.blocks.0.attn.qkv")
    assert canonical(mine) != canonical("model.language_model.layers.3.mlp.fc1")


def test_the_command_imports(ours, folder, tmp_path, capsys):
    checkpoint, out = released(ours, tmp_path / "in"), tmp_path / "adapters" / "audio"
    words = ["adapters", "import", str(checkpoint), "--out", str(out), "--json"]
    assert read_backbone_name(checkpoint) == "some/model"
    told_how = ["--rendering", '{"n_mels": 32}', "--placement", "parallel"]
    assert main([*words, "--backbone", str(folder), *told_how]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"] == str(out) and told["parts"]["llm"]["modules"] == 14
    assert (told["style"], told["token_pooling"]) == ("released", "none")
    written = json.loads((out / CONFIG).read_text())
    assert (written["rendering"]["n_mels"], written["placement"]) == (32, "parallel")
    assert main([*words, "--backbone", str(folder)]) == 1
    assert "there already" in capsys.readouterr().err
    for part in ("vision", "llm"):
        configure(checkpoint, part, base_model_name_or_path=None)
    words[4] = str(tmp_path / "other")
    assert main(words) == 1 and "--backbone" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--rendering", "[1]"])
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--placement", "elsewhere"])
