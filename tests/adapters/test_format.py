import json
import os
import shutil
import warnings
from pathlib import Path

import checkpoints
import pytest
import torch
import yaml
from checkpoints import JSON_DAMAGES, clip, damage_json, random_adapter, sound
from safetensors.torch import load_file, save_file

import lynx
from lynx import AdapterError, hub
from lynx.adapters.format import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    Adapter,
    read_adapter,
    read_adapter_config,
    resolve_adapter,
)
from lynx.adapters.model_card import model_card
from lynx.adapters.released_code import read_backbone_name, read_part
from lynx.adapters.saving import save_adapter
from lynx.adapters.sharing import describe
from lynx.backbones import CATALOG
from lynx.cli.registry import ADAPTERS


@pytest.fixture(scope="module")
def saved(folder, tmp_path_factory):
    model = lynx.load(folder)
    random_adapter(model, "audio", rendering={"n_mels": 32}, token_pooling="space")
    out = tmp_path_factory.mktemp("adapters") / "audio"
    return save_adapter(model, "audio", out, training={"seed": 3}, metrics={"with": 0.9})


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "adapter")


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def streams(model):
    video = clip()
    frames = model.modality("audio").render(sound(), video.times)
    return model.encode("video", video), model.encode("audio", frames)


def test_what_was_saved_is_what_is_loaded(folder, saved):
    model, other = lynx.load(folder, adapters=[saved]), lynx.load(folder)
    random_adapter(other, "audio", rendering={"n_mels": 32}, token_pooling="space")
    assert model.adapters["audio"].training == {"seed": 3} and model.parts("audio") == ("vision", "llm")
    for mine, theirs in zip(streams(model), streams(other), strict=True):
        assert torch.equal(mine.tokens, theirs.tokens)
    for name in ("audio_vision", "audio_llm"):
        for key, weight in model.lora.tensors(name).items():
            assert torch.equal(weight, other.lora.tensors(name)[key])
        assert model.lora.settings[name] == other.lora.settings[name]


@pytest.mark.parametrize("part", ["vision", "llm"])
def test_both_parts_are_plain_peft_folders(folder, saved, part):
    """PEFT's own loader, on the stock model, computes what ours computes."""
    from peft import PeftModel
    from transformers import LlavaOnevisionForConditionalGeneration

    model = lynx.load(folder, adapters=[saved])
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads an attribute that transformers renames
        theirs = PeftModel.from_pretrained(stock, str(saved / part)).eval()
    pixels, ids = torch.randn(1, 2, 3, 28, 28), torch.randint(0, 256, (1, 9))
    with torch.no_grad(), model.lora.active([f"audio_{part}"]):
        mine, other = model.backbone.model, theirs.base_model.model
        if part == "vision":
            found = mine.model.get_video_features(pixels).pooler_output
            assert torch.allclose(found, other.model.get_video_features(pixels).pooler_output, atol=1e-6)
        else:
            assert torch.allclose(mine(input_ids=ids).logits, other(input_ids=ids).logits, atol=1e-6)
    assert json.loads((saved / part / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_an_adapter_after_stage_two_has_no_llm_part(folder, tmp_path):
    model = lynx.load(folder)
    random_adapter(model, "audio", parts=("vision",))
    save_adapter(model, "audio", tmp_path / "out")
    loaded = lynx.load(folder, adapters=[tmp_path / "out"])
    assert loaded.parts("audio") == ("vision",) and not (tmp_path / "out" / "llm").exists()
    with loaded.using("audio"):
        assert loaded.lora.on == ()


def test_saving_again_keeps_other_files_and_drops_stale_parts(folder, saved, copy):
    (copy / "notes.txt").write_text("mine")
    model = lynx.load(folder)
    random_adapter(model, "audio", parts=("vision",))
    save_adapter(model, "audio", copy)
    assert (copy / "notes.txt").read_text() == "mine" and not (copy / "llm" / WEIGHTS).exists()
    assert lynx.load(folder, adapters=[copy]).parts("audio") == ("vision",)


def test_a_type_embedding_travels_with_the_adapter(folder, saved, tmp_path):
    model = lynx.load(folder, adapters=[saved])
    plain = streams(model)[1]
    model.type_embeddings["audio"] = torch.linspace(-1, 1, 48)
    save_adapter(model, "audio", tmp_path / "out")
    other = lynx.load(folder, adapters=[tmp_path / "out"])
    video, marked = streams(other)
    assert video.embeds is video.tokens and marked.tokens.equal(plain.tokens)
    assert marked.embeds.equal(plain.tokens + torch.linspace(-1, 1, 48))
    assert read_adapter(tmp_path / "out", other.backbone).names == ("vision", "llm", "type_embedding")
    message = {"role": "user", "content": "hear ?"}
    prompt = other.backbone.compose([message], [video, marked])
    assert prompt.inputs_embeds[0, prompt.spans["audio"]].equal(marked.embeds)
    assert prompt.inputs_embeds[0, prompt.spans["video"]].equal(video.tokens)
    other.unload_adapter("audio")
    other.load_adapter(saved)
    assert other.type_embedding("audio") is None
    save_adapter(other, "audio", tmp_path / "out")
    assert lynx.load(folder, adapters=[tmp_path / "out"]).type_embedding("audio") is None


def test_a_type_embedding_of_another_width_is_refused(folder, copy):
    save_file({"type_embedding": torch.zeros(47)}, copy / "type_embedding.safetensors")
    model = lynx.load(folder)
    with pytest.raises(AdapterError, match=r"type_embedding \(47,\) instead of \(48,\)"):
        model.load_adapter(copy)
    assert not model.adapters and not model.lora.settings


def test_nothing_to_save_is_an_error(folder, tmp_path):
    model = lynx.load(folder)
    model.add_adapter(Adapter("audio", "audio"))
    with pytest.raises(AdapterError, match="no LoRA"):
        save_adapter(model, "audio", tmp_path / "out")


def drop_tensor(folder):
    tensors = load_file(folder / "vision" / WEIGHTS)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "vision" / WEIGHTS)


def add_tensor(folder):
    tensors = load_file(folder / "llm" / WEIGHTS) | {
        "base_model.model.lm_head.lora_A.weight": torch.zeros(4, 48)
    }
    save_file(tensors, folder / "llm" / WEIGHTS)


def widen(folder):
    tensors = load_file(folder / "llm" / WEIGHTS)
    key = next(iter(tensors))
    save_file(tensors | {key: torch.zeros(4, 47)}, folder / "llm" / WEIGHTS)


def poison(folder):
    tensors = load_file(folder / "llm" / WEIGHTS)
    key = next(iter(tensors))
    save_file(tensors | {key: tensors[key] * torch.nan}, folder / "llm" / WEIGHTS)


def pickle(folder):
    torch.save({}, folder / "vision" / "adapter_model.bin")


def escape(folder):
    outside = folder.parent / "outside.safetensors"
    shutil.move(folder / "llm" / WEIGHTS, outside)
    (folder / "llm" / WEIGHTS).symlink_to(outside)


def linked_folder(folder):
    shutil.move(folder / "llm", folder.parent / "llm")
    (folder / "llm").symlink_to(folder.parent / "llm")


def integers(folder):
    tensors = load_file(folder / "llm" / WEIGHTS)
    key = next(iter(tensors))
    save_file(tensors | {key: tensors[key].int()}, folder / "llm" / WEIGHTS)


def hidden_pickle(folder):
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    torch.save({}, folder / ".cache" / "huggingface" / "adapter_model.bin")


def other_backbone(folder):
    config = json.loads((folder / CONFIG).read_text())
    config["backbone"]["fingerprint"]["projector"] = "0" * 16
    (folder / CONFIG).write_text(json.dumps(config))


BROKEN = {
    "a tensor is missing": (drop_tensor, r"1 tensors are missing.*fc1|1 tensors are missing"),
    "a tensor too many": (add_tensor, "leaves out 1 modules .*lm_head"),
    "a wrong shape": (widen, r"shapes differ.*47"),
    "not a number": (poison, "no numbers"),
    "a pickle": (pickle, "pickle"),
    "a link out of the folder": (escape, "leads out"),
    "a pickle where nobody looks": (hidden_pickle, "pickle"),
    "a folder that is a link": (linked_folder, "leads out"),
    "integers": (integers, r"no numbers.*int32"),
    "another backbone": (other_backbone, "projector is 0000"),
    "a newer format": (lambda f: edit(f / CONFIG, format=FORMAT + 1), "update lynx"),
    "no format": (lambda f: edit(f / CONFIG, format=None), "no format"),
    "another family": (lambda f: edit(f / CONFIG, backbone={"family": "qwen"}), "'qwen'"),
    "a family that is no text": (lambda f: edit(f / CONFIG, backbone="llava_onevision"), "an object"),
    "no fingerprint": (lambda f: edit(f / CONFIG, backbone={"family": "llava_onevision"}), "not given"),
    "a fingerprint of another kind": (
        lambda f: edit(f / CONFIG, backbone={"family": "llava_onevision", "fingerprint": "0f"}),
        "not given",
    ),
    "a format that is no number": (lambda f: edit(f / CONFIG, format="1"), "no format"),
    "a format before the first": (lambda f: edit(f / CONFIG, format=0), "no format"),
    "a name that is no text": (lambda f: edit(f / CONFIG, name=7), "name is 7, expected a text"),
    "a rendering that is a list": (lambda f: edit(f / CONFIG, rendering=[1]), "expected an object"),
    "not an object": (lambda f: (f / CONFIG).write_text("[]"), "holds a list"),
    "an unknown rendering": (lambda f: edit(f / CONFIG, rendering={"colour": 1}), "colour"),
    "an unknown setting": (lambda f: edit(f / CONFIG, colour=1), "colour"),
    "a name that is a path": (lambda f: edit(f / CONFIG, name="../audio"), "cannot name"),
    "an unknown pooling": (lambda f: edit(f / CONFIG, token_pooling="time"), "'time'"),
    "an unknown modality": (lambda f: edit(f / CONFIG, modality="smell"), "smell"),
    "no config": (lambda f: (f / CONFIG).unlink(), f"no {CONFIG}"),
    "not JSON": (lambda f: (f / CONFIG).write_text("{"), "cannot read"),
    "no weights": (lambda f: (f / "llm" / WEIGHTS).unlink(), "missing"),
    "truncated weights": (lambda f: (f / "llm" / WEIGHTS).write_bytes(b"\x08\0\0"), "cannot read"),
    "no parts": (lambda f: [shutil.rmtree(f / part) for part in ("llm", "vision")], "no weights"),
    "not a LoRA": (lambda f: edit(f / "llm" / "adapter_config.json", peft_type="IA3"), "IA3"),
    "a LoRA of another kind": (lambda f: edit(f / "llm" / "adapter_config.json", use_dora=True), "use_dora"),
    "a scale that is no number": (
        lambda f: edit(f / "llm" / "adapter_config.json", lora_alpha=float("nan")),
        "lora_alpha is nan",
    ),
    "another rank": (lambda f: edit(f / "llm" / "adapter_config.json", r=8), r"shapes differ.*\(4, "),
    "no rank": (lambda f: edit(f / "llm" / "adapter_config.json", r=None), "does not describe"),
}


def test_an_adapter_with_a_figure_that_json_lacks_can_be_read_again(folder, tmp_path):
    model = lynx.load(folder)
    random_adapter(model, "audio")
    out = save_adapter(model, "audio", tmp_path / "a", metrics={"mean of nothing": float("nan"), "n": 0})
    assert read_adapter_config(out).metrics == {"mean of nothing": None, "n": 0}


@pytest.mark.parametrize("case", JSON_DAMAGES)
def test_whatever_json_an_adapter_holds_is_read_or_refused_with_the_reason(folder, copy, case):
    file, text, message = JSON_DAMAGES[case]
    damage_json(copy, case)
    with pytest.raises(AdapterError, match=message) as error:
        describe(copy)
    assert file in str(error.value) or str(copy) in str(error.value)
    assert len(str(error.value)) < 1000
    model = lynx.load(folder)
    with pytest.raises(AdapterError, match=message):
        model.load_adapter(copy)
    assert model.adapters == {} and not model.lora.settings
    if file != CONFIG:
        with pytest.raises(AdapterError, match=message):
            read_part(copy / "llm", "llm", model.backbone)


def test_a_description_that_is_a_pipe_is_not_waited_for(copy):
    (copy / CONFIG).unlink()
    os.mkfifo(copy / CONFIG)
    with pytest.raises(AdapterError, match="not a plain file"):
        describe(copy)


def test_a_link_to_itself_is_a_reason(copy):
    (copy / "loop").symlink_to(copy / "loop")
    with pytest.raises(AdapterError, match="cannot read"):
        describe(copy)


@pytest.mark.parametrize(
    "record",
    [
        "[" * 100_000,
        '{"repo": "a/b", "commit": "c", "files": {"lynx_config.json": Infinity}}',
        '{"repo": "a/b", "commit": "c", "files": {"a\\u0000b": "0"}}',
        '{"repo": "a/b\\nc", "commit": "c", "files": {}}',
        '{"repo": ["a/b"], "commit": "c", "files": {}}',
        '{"repo": "a/b", "commit": "c", "files": {"../outside": "0"}}',
    ],
)
def test_a_note_that_lynx_did_not_write_is_no_note(copy, record):
    (copy / hub.RECORD).write_text(record)
    assert hub.read_record(copy) is None and describe(copy)[1] is None


def test_a_checkpoint_whose_backbone_is_no_text_names_none(copy):
    for part in ("vision", "llm"):
        edit(copy / part / "adapter_config.json", base_model_name_or_path=[["x"]])
    assert read_backbone_name(copy) is None


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_refused_and_the_model_stays_as_it_was(folder, copy, case):
    damage, message = BROKEN[case]
    damage(copy)
    model = lynx.load(folder)
    before = [(name, type(module)) for name, module in model.backbone.model.named_modules()]
    with pytest.raises(lynx.LynxError, match=message):
        model.load_adapter(copy)
    assert [(name, type(module)) for name, module in model.backbone.model.named_modules()] == before
    assert model.adapters == {}


def test_the_metadata_that_hf_download_leaves_is_no_part_of_an_adapter(folder, copy):
    cache = copy / ".cache" / "huggingface"
    (cache / "download" / "llm").mkdir(parents=True)
    (cache / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (cache / "download" / "llm" / f"{WEIGHTS}.metadata").write_text("0" * 40 + "\netag\n1.0\n")
    (cache / "download" / "llm" / f"{WEIGHTS}.lock").touch()
    assert lynx.load(folder, adapters=[copy]).parts("audio") == ("vision", "llm")


def test_the_same_adapter_twice_is_refused_and_the_first_stays(folder, saved):
    model = lynx.load(folder, adapters=[saved])
    with pytest.raises(AdapterError, match="loaded already"):
        model.load_adapter(saved)
    assert model.parts("audio") == ("vision", "llm")


def test_an_adapter_of_other_weights_of_the_same_shape_is_refused(saved, tmp_path):
    other = lynx.load(checkpoints.llava_onevision(tmp_path, seed=5))
    with pytest.raises(AdapterError, match="projector"):
        other.load_adapter(saved)


def test_a_snapshot_in_the_hub_s_cache_is_read_through_its_links(folder, saved, tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0f"
    shutil.copytree(saved, snapshot)
    blobs.mkdir()
    for number, file in enumerate(sorted(p for p in snapshot.rglob("*") if p.is_file())):
        shutil.move(file, blobs / str(number))
        file.symlink_to(blobs / str(number))
    assert lynx.load(folder, adapters=[snapshot]).parts("audio") == ("vision", "llm")


def test_blobs_that_all_repositories_share_are_part_of_the_cache(folder, saved, tmp_path):
    """Large files of the Hub are links to links: snapshot, blobs of the repository, blobs of the cache."""
    shared, own = tmp_path / "blobs" / "0a", tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0f"
    shutil.copytree(saved, snapshot)
    shared.mkdir(parents=True)
    own.mkdir()
    for number, file in enumerate(sorted(p for p in snapshot.rglob("*") if p.is_file())):
        shutil.move(file, shared / str(number))
        (own / str(number)).symlink_to(shared / str(number))
        file.symlink_to(own / str(number))
    assert lynx.load(folder, adapters=[snapshot]).parts("audio") == ("vision", "llm")
    (own / "0").unlink()
    (own / "0").symlink_to(shutil.copy(shared / "0", tmp_path / "elsewhere"))
    with pytest.raises(AdapterError, match="leads out"):
        lynx.load(folder, adapters=[snapshot])


def test_sources_are_folders_or_hub_ids(saved, tmp_path):
    assert resolve_adapter(saved) == saved
    with pytest.raises(AdapterError, match="Hub could not give"):
        resolve_adapter("nobody/nothing")  # the tests run offline
    with pytest.raises(AdapterError, match="expected a folder"):
        resolve_adapter(tmp_path / "nowhere")


def test_the_card_and_the_config_say_what_was_measured(saved):
    card = (saved / "README.md").read_text()
    assert card.startswith("---\n") and "- with: 0.9" in card and '"seed": 3' in card
    config = read_adapter_config(saved)
    assert config.metrics == {"with": 0.9} and config.rendering == {"n_mels": 32}


def adapter_of(source, **more):
    return Adapter("my-ears", "audio", backbone={"source": source, "family": "llava_onevision"}, **more)


def front_matter(adapter):
    return yaml.safe_load(model_card(adapter, "me/ears").split("---")[1])


def test_a_card_names_its_base_model_and_carries_its_license():
    free = front_matter(adapter_of(CATALOG["llava-onevision-0.5b"].source))
    assert free["base_model"] == CATALOG["llava-onevision-0.5b"].source and free["license"] == "apache-2.0"
    assert free["base_model_relation"] == "adapter"
    bound = front_matter(adapter_of(CATALOG["qwen2.5-vl-3b"].source))
    assert (bound["license"], bound["license_name"]) == ("other", "qwen-research")
    assert "base_model" not in front_matter(adapter_of("lynx-tiny"))


def test_a_card_loads_the_adapter_from_where_it_is():
    card = model_card(adapter_of("lynx-tiny"), "me/ears")
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert 'lynx.load("lynx-tiny", adapters=["me/ears"])' in code and 'audio="clip.mp4"' in code


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ADAPTERS.glob("*/lynx_config.json")))
def test_the_code_of_a_shipped_card_runs(name, tmp_path, monkeypatch, capsys):
    root = Path(__file__).parents[2]
    example = root / "examples" / "sirens"
    for path in (root / ADAPTERS, example / "clip.mp4", example / "second_view.mp4"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "scan").symlink_to(example)
    monkeypatch.chdir(tmp_path)
    card = model_card(read_adapter_config(root / ADAPTERS / name), f"adapters/{name}")
    assert (root / ADAPTERS / name / "README.md").read_text() == card
    exec(card.split("```python\n")[1].split("```")[0], {})
    with_adapter, share, without = capsys.readouterr().out.splitlines()
    assert with_adapter and without and name in share


def test_a_card_puts_figures_under_the_command_that_made_them():
    metrics = {"command": "lynx eval a", "with": 0.9, "music": {"command": "lynx eval b", "accuracy": 0.5}}
    measured = model_card(adapter_of("lynx-tiny", metrics=metrics), "here").split("## Measured")[1]
    order = ("    lynx eval a\n", "- with: 0.9", "### music", "    lynx eval b\n", "- accuracy: 0.5")
    places = [measured.index(text) for text in order]
    assert places == sorted(places)
    assert "Not measured" in model_card(adapter_of("lynx-tiny"), "here")
