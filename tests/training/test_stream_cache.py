"""Streams are encoded once and kept as they are, whatever several processes do."""

import shutil
from dataclasses import replace

import pytest
import stages
from stages import SENSES, streams_of

from lynx.datasets.base import Example
from lynx.datasets.clips import content_key
from lynx.errors import DataError
from lynx.training.stream_cache import StreamCache


def open_cache(root, model, frames=stages.FRAMES):
    return StreamCache(root, model, SENSES, frames)


def test_streams_are_encoded_once_and_kept_as_they_are(model, tmp_path):
    examples = stages.clips(3)
    examples[2] = stages.clips(3, ("video",), seed=1)[2]
    keys = [content_key(example) for example in examples]
    assert (
        open_cache(tmp_path, model).prepare([*examples, examples[0]], [*keys, keys[0]], progress=False) == 3
    )
    cache = open_cache(tmp_path, model)
    assert cache.prepare(examples, keys, progress=False) == 0
    for example, key in zip(examples[:2], keys[:2], strict=True):
        for stream in streams_of(model, example):
            assert cache.stream(stream.sense, key).tokens.equal(stream.tokens)
    with pytest.raises(DataError, match="has no stream of 'audio'"):
        cache.stream("audio", keys[2])


def test_processes_share_the_work(model, tmp_path):
    examples = stages.clips(3)
    keys = [content_key(example) for example in examples]
    first, second = open_cache(tmp_path, model), open_cache(tmp_path, model)
    assert first.prepare(examples, keys, (0, 2), progress=False) == 2
    assert second.prepare(examples, keys, (1, 2), progress=False) == 1
    first.refresh()
    assert first.prepare(examples, keys, progress=False) == 0


def test_a_share_without_a_sense_writes_no_shard_of_it(model, tmp_path):
    """As `torchrun` does it: nothing of a sense to write, in several processes at once."""
    examples = stages.clips(2, ("video",))
    keys = [content_key(example) for example in examples]
    caches = [open_cache(tmp_path, model) for _ in range(2)]
    for part, cache in enumerate(caches):
        assert cache.prepare(examples, keys, (part, 2), progress=False) == 1
    assert not list(caches[0].folders["audio"].iterdir())
    assert len(list(caches[0].folders["video"].iterdir())) == 2


def test_runs_that_encode_the_same_clips_at_once_do_not_disturb_each_other(model, tmp_path, monkeypatch):
    """The second writes the same shards while the first is writing its first one."""
    import lynx.training.stream_cache as module

    examples = stages.clips(2)
    keys = [content_key(example) for example in examples]
    first, second, save = open_cache(tmp_path, model), open_cache(tmp_path, model), module.save_file

    def interrupted(tensors, path):
        save(tensors, path)
        monkeypatch.setattr(module, "save_file", save)
        second.prepare(examples, keys, progress=False)

    monkeypatch.setattr(module, "save_file", interrupted)
    first.prepare(examples, keys, progress=False)
    assert not list(tmp_path.rglob("*.part"))
    third = open_cache(tmp_path, model)
    for example, key in zip(examples, keys, strict=True):
        for stream in streams_of(model, example):
            assert third.stream(stream.sense, key).tokens.equal(stream.tokens)


def test_what_decides_a_stream_decides_its_folder(folder, model, tmp_path):
    base = open_cache(tmp_path, model)
    longer = open_cache(tmp_path, model, frames=3)
    assert longer.folders["video"] != base.folders["video"]
    model.adapters["audio"] = replace(model.adapters["audio"], token_pooling="space")
    pooled = open_cache(tmp_path, model)
    assert pooled.folders["video"] == base.folders["video"]
    assert pooled.folders["audio"] != base.folders["audio"]
    model.adapters["audio"] = replace(model.adapters["audio"], token_pooling="none")
    weights = model.lora.tensors("audio_vision")
    model.lora.fill("audio_vision", {key: weight + 1e-3 for key, weight in weights.items()})
    changed = open_cache(tmp_path, model)
    assert changed.folders["video"] == base.folders["video"]
    assert changed.folders["audio"] != base.folders["audio"]
    assert open_cache(tmp_path, stages.small_model_with(folder)).folders == base.folders


def test_content_decides_a_key_unless_the_source_vouches_for_it(tmp_path):
    one, same, other = stages.clips(1)[0], stages.clips(1)[0], stages.clips(1, seed=1)[0]
    assert content_key(one) == content_key(replace(same, id="renamed"))
    assert len({content_key(e) for e in (one, other, replace(one, key="a"), replace(one, key="b"))}) == 4
    assert content_key(replace(one, key="a")) == content_key(replace(other, key="a"))
    (tmp_path / "a").write_bytes(b"1")
    file = Example("f", {"audio": tmp_path / "a"})
    before = content_key(file)
    (tmp_path / "a").write_bytes(b"2")
    assert content_key(file) != before


def test_a_disk_that_is_too_small_is_said_before_the_work(model, tmp_path, monkeypatch):
    space = shutil.disk_usage(tmp_path)
    examples = stages.clips(2)
    keys = [content_key(example) for example in examples]
    bytes_needed = 2 * 2 * (2 * 4 + 1) * 32 * 4  # clips, senses, tokens, width, float32
    monkeypatch.setattr(shutil, "disk_usage", lambda path: space._replace(free=bytes_needed - 1))
    with pytest.raises(DataError, match=r"streams of 2 clips take 0\.00461 MB, .* has 0\.00461 MB: "):
        open_cache(tmp_path, model).prepare(examples, keys, progress=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: space._replace(free=bytes_needed))
    assert open_cache(tmp_path, model).prepare(examples, keys, progress=False) == 2


def test_damaged_shards_are_named(model, tmp_path):
    cache = open_cache(tmp_path, model)
    cache.folders["video"].mkdir(parents=True)
    (cache.folders["video"] / "0.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="0.safetensors is damaged"):
        cache.refresh()
