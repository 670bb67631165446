"""Saving in the face of kills and full disks: the folder holds the old adapter or the new one, whole."""

import errno
import os
import shutil
import sys
from contextlib import contextmanager, suppress

import checkpoints
import pytest
import torch
from checkpoints import random_adapter

import lynx
from lynx import AdapterError
from lynx.adapters.format import CONFIG, NEW, PARTS, TYPE_EMBEDDING_FILE, WEIGHTS, read_adapter
from lynx.adapters.saving import PARTIAL, save_adapter
from lynx.config import LoraSettings

CHANGES = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.copyfile"}
"""Events by which Python tells that the disk is about to change; `open` for writing is the other one."""


class Killed(BaseException):
    """Nothing in lynx may catch it."""


class Disk:
    """Fails at the n-th change below a folder; one that is killed changes nothing afterwards either."""

    folder = None
    left = 0
    failure: BaseException = Killed()

    def __call__(self, event, arguments):
        if self.folder is None:
            return
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and str(arguments[0]).startswith(str(self.folder)):
            self.left -= 1
            if self.left == 0 or (self.left < 0 and isinstance(self.failure, Killed)):
                raise self.failure

    @contextmanager
    def failing(self, folder, at, failure):
        self.folder, self.left, self.failure = folder, at, failure
        try:
            yield
        finally:
            self.folder = None


DISK = Disk()
sys.addaudithook(DISK)  # cannot be taken away again; it does nothing outside of `failing`


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"))


def adapter_of(backbone, rank, value, parts=PARTS):
    """A model with an adapter of that rank, whose weights are all `value`."""
    model = lynx.load(backbone)
    random_adapter(model, "audio", parts=())
    for part in parts:
        lora = model.add_lora("audio", part, LoraSettings(rank, 8.0, 0.0))
        model.lora.fill(lora, {k: torch.full_like(w, value) for k, w in model.lora.tensors(lora).items()})
    model.type_embeddings["audio"] = torch.full((48,), value)
    return model


@pytest.fixture(scope="module")
def held(backbone):
    """Parts, rank and weights of the adapter in a folder, read with every check that loading makes."""
    model = lynx.load(backbone)

    def look(folder):
        files = read_adapter(folder, model.backbone)
        ranks = {settings.rank for settings, _ in files.parts.values()}
        tensors = [weight for _, weights in files.parts.values() for weight in weights.values()]
        values = {float(value) for tensor in (*tensors, files.type_embedding) for value in tensor.unique()}
        assert len(values) == len(ranks) == 1
        return tuple(files.parts), ranks.pop(), values.pop()

    return look


@pytest.mark.parametrize(
    ("failure", "parts"),
    [(Killed(), PARTS), (Killed(), ("vision",)), (OSError(errno.ENOSPC, "No space left"), PARTS)],
    ids=["killed", "killed without an LLM part", "disk full"],
)
def test_a_save_that_fails_at_any_moment_leaves_the_old_adapter_or_the_new(
    backbone, held, tmp_path, parts, failure
):
    old, new = adapter_of(backbone, 4, 1.0), adapter_of(backbone, 2, 0.5, parts)
    before, after = (PARTS, 4, 1.0), (parts, 2, 0.5)
    start = save_adapter(old, "audio", tmp_path / "start")
    (start / "training").mkdir()
    (start / "training" / "log.jsonl").write_text("mine")
    seen = []
    for at in range(1, 200):
        folder = shutil.copytree(start, tmp_path / str(at))
        with DISK.failing(folder, at, failure), suppress(Killed, AdapterError):
            save_adapter(new, "audio", folder)
        if DISK.left > 0:  # it had fewer steps than that
            break
        seen.append(held(folder))
        assert (folder / "training" / "log.jsonl").read_text() == "mine"
        if at % 5 == 0:
            save_adapter(new, "audio", folder)  # whatever was left lying around
            assert not any((folder / name).exists() for name in (NEW, PARTIAL)) and held(folder) == after
            assert not list(folder.rglob("*.part"))
    assert len(seen) > 20 and set(seen) == {before, after} and seen == sorted(seen, key=[before, after].index)


def test_a_first_save_that_is_killed_leaves_no_adapter_or_the_new(backbone, held, tmp_path):
    new, seen = adapter_of(backbone, 2, 0.5), []
    for at in range(1, 200):
        folder = tmp_path / str(at)
        try:
            with DISK.failing(folder, at, Killed()):
                save_adapter(new, "audio", folder)
                break
        except Killed:
            there = (folder / NEW).is_dir() or (folder / CONFIG).is_file()
            seen.append(there and held(folder) == (PARTS, 2, 0.5))
    assert seen == sorted(seen) and set(seen) == {False, True}


def test_a_file_system_without_links_is_written_as_well(backbone, held, tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for rank in (4, 2):
        save_adapter(adapter_of(backbone, rank, rank / 4), "audio", tmp_path / "out")
        assert held(tmp_path / "out") == (PARTS, rank, rank / 4)
    files = {CONFIG, "README.md", TYPE_EMBEDDING_FILE, *PARTS}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    assert (tmp_path / "out" / "llm" / WEIGHTS).is_file()
