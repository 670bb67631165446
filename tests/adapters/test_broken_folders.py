"""A folder in adapters/ that is broken, whatever is in it, is listed with the reason, and stops no other."""

import json
import os
import shutil
import struct

import pytest
import torch
from checkpoints import random_adapter
from safetensors.torch import load_file, save_file

import lynx
from lynx import AdapterError
from lynx.adapters.format import CONFIG, TYPE_EMBEDDING_FILE, WEIGHTS
from lynx.adapters.released_code import read_part
from lynx.adapters.saving import save_adapter
from lynx.cli.main import main
from lynx.config import LIMITS

HEADER = LIMITS.max_weights_header_bytes


@pytest.fixture(scope="module")
def saved(folder, tmp_path_factory):
    model = lynx.load(folder)
    random_adapter(model, "audio")
    return save_adapter(model, "audio", tmp_path_factory.mktemp("adapters") / "audio")


def weights(change):
    """Change the first tensor of the llm part: a matrix A."""

    def damage(place):
        tensors = load_file(place / "llm" / WEIGHTS)
        key = next(iter(tensors))
        save_file(tensors | {key: change(tensors[key])}, place / "llm" / WEIGHTS)

    return damage


def replaced(name, content):
    def damage(place):
        (place / name).unlink()
        (place / name).write_bytes(content)

    return damage


def directory(name):
    def damage(place):
        (place / name).unlink()
        (place / name).mkdir()

    return damage


def pipe(name):
    def damage(place):
        (place / name).unlink(missing_ok=True)
        os.mkfifo(place / name)

    return damage


def rendering(**values):
    def damage(place):
        config = json.loads((place / CONFIG).read_text())
        config["rendering"] |= values
        (place / CONFIG).write_text(json.dumps(config))

    return damage


def tensors_file(header, size=12):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def tensor(shape, begin, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


VISION = f"vision/{WEIGHTS}"
BEYOND = tensors_file({"base_model.model.x.lora_A.weight": tensor([2**40, 2**40], 0, 8)})
OVERLAP = tensors_file({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)})
BROKEN = {
    "floats of 8 bits": (weights(lambda t: t.to(torch.float8_e4m3fn)), "no numbers .*float8_E4M3.*expected"),
    "other floats of 8 bits": (weights(lambda t: t.to(torch.float8_e5m2)), "float8_E5M2"),
    "integers": (weights(lambda t: t.int()), "int32"),
    "truths": (weights(lambda t: t > 0), "BOOL"),
    "complex numbers": (weights(lambda t: t.to(torch.complex64)), "complex64"),
    "a pointer of Git LFS": (replaced(VISION, b"version https://git-lfs.github.com/"), "git lfs pull"),
    "another rank": (weights(lambda t: t[:2].contiguous()), r"rank 4: 1 shapes differ, .*\(2, "),
    "a tensor of one axis": (weights(lambda t: t.flatten()), "no matrix of a LoRA"),
    "a tensor of another method": (replaced(VISION, tensors_file({"ia3": tensor([3], 0, 12)})), "no matrix"),
    "no tensors": (replaced(VISION, tensors_file({}, 0)), "holds no tensors"),
    "a long header": (
        replaced(VISION, struct.pack("<Q", HEADER + 2) + b"{" + b" " * HEADER + b"}"),
        "header of 16,777,218 bytes: at most 16 MB",
    ),
    "a header without end": (replaced(VISION, struct.pack("<Q", 2**62) + b"{}"), "header of 4,611,686"),
    "tensors that overlap": (replaced(VISION, OVERLAP), "cannot read .*offset"),
    "a shape beyond the file": (replaced(VISION, BEYOND), "cannot read"),
    "an empty file": (replaced(VISION, b""), "cannot read"),
    "weights that are a folder": (directory(VISION), "no plain file"),
    "weights that are a pipe": (pipe(VISION), "no plain file"),
    "a description that is a folder": (directory(CONFIG), "not a plain file"),
    "a description that is a pipe": (pipe(CONFIG), "not a plain file"),
    "an empty description": (replaced(CONFIG, b""), "cannot read"),
    "a huge description": (replaced(CONFIG, b'{"a": "' + b"x" * 2_000_000 + b'"}'), "2,000,009 bytes"),
    "a part's description that is a pipe": (pipe("llm/adapter_config.json"), "not a plain file"),
    "a type embedding that is a pipe": (pipe(TYPE_EMBEDDING_FILE), "no plain file"),
    "a type embedding that leads nowhere": (
        lambda place: (place / TYPE_EMBEDDING_FILE).symlink_to(place / "nowhere"), "no plain file",
    ),
    "no description": (lambda place: (place / CONFIG).unlink(), f"has no {CONFIG}"),
    "a link to itself inside": (lambda place: (place / "loop").symlink_to(place / "loop"), "cannot read"),
    "a window of no sample": (rendering(window_s=1e-300), "window of 1e-300 s does not fit"),
    "a floor without end": (rendering(floor_db=-1e308), "floor_db=-1e[+]308 must lie between"),
    "a level without end": (rendering(level_db=1e300), "level_db=1e[+]300 must lie between"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_listed_with_the_reason_and_not_loaded(folder, saved, tmp_path, capsys, case):
    damage, message = BROKEN[case]
    for name in ("a", "broken", "c"):
        shutil.copytree(saved, tmp_path / name)
    damage(tmp_path / "broken")
    assert main(["adapters", "list", "--dir", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [name.rpartition("/")[2] for name in listed] == ["a", "broken", "c"]
    reason = listed[str(tmp_path / "broken")]["unusable"]
    assert listed[str(tmp_path / "a")]["name"] == listed[str(tmp_path / "c")]["name"] == "audio"
    assert len(reason) < 600
    model = lynx.load(folder)
    with pytest.raises(AdapterError, match=message) as error:
        model.load_adapter(tmp_path / "broken")
    assert str(error.value) == reason and not model.adapters and not model.lora.settings
    model.load_adapter(tmp_path / "a")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_import_refuses_the_same_kinds_of_numbers(folder, saved, tmp_path, dtype, suffix):
    part = shutil.copytree(saved / "llm", tmp_path / "llm")
    tensors = {key: tensor.to(dtype) for key, tensor in load_file(part / WEIGHTS).items()}
    (part / WEIGHTS).unlink()
    path = (part / WEIGHTS).with_suffix(suffix)
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    with pytest.raises(AdapterError, match="no numbers"):
        read_part(part, "llm", lynx.load(folder).backbone)


def test_what_lies_beside_adapters_is_listed_where_it_should_be_one(saved, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    (tmp_path / "notes").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "half" / "vision").mkdir(parents=True)
    shutil.copytree(saved, tmp_path / "two\nlines")
    shutil.copytree(saved, tmp_path / "saving" / ".new")  # a first save that was interrupted
    assert main(["adapters", "list", "--dir", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    usable = {name.rpartition("/")[2]: "name" in row for name, row in listed.items()}
    assert usable == {"half": False, "loop": False, "nowhere": False, "saving": True, "two\\nlines'": True}
    assert main(["adapters", "list", "--dir", str(tmp_path / "file")]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into everything")
@pytest.mark.parametrize("name", ["", CONFIG, "vision", VISION])
def test_what_nobody_may_look_into_stops_no_other(saved, tmp_path, capsys, name):
    for each in ("a", "broken", "c"):
        shutil.copytree(saved, tmp_path / each)
    closed = tmp_path / "broken" / name
    closed.chmod(0)
    try:
        assert main(["adapters", "list", "--dir", str(tmp_path), "--json"]) == 0
    finally:
        closed.chmod(0o700)
    listed = json.loads(capsys.readouterr().out)
    assert ["unusable" in row for row in listed.values()] == [False, True, False]
    assert "Permission denied" in listed[str(tmp_path / "broken")]["unusable"]
