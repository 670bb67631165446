"""Streams are encoded once and kept as they are, whatever several processes do."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import stages
import torch
from stages import SENSES, streams_of

from lynx.adapters.format import Adapter
from lynx.datasets.base import Example
from lynx.datasets.clips import content_key
from lynx.errors import DataError
from lynx.training.stream_cache import StreamCache
from lynx.types import DepthClip


def open_cache(root, model, frames=stages.FRAMES, keep="disk"):
    return StreamCache(root, model, SENSES, frames, keep)


def counted(model, monkeypatch):
    """The sense of every clip that is encoded from now on."""
    encoded, encode = [], model.encode_clips

    def encode_clips(sense, clips):
        encoded.extend([sense] * len(clips))
        return encode(sense, clips)

    monkeypatch.setattr(model, "encode_clips", encode_clips)
    return encoded


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


def test_streams_that_are_not_kept_have_the_same_bits(model, tmp_path):
    examples = stages.clips(3)
    examples[2] = stages.clips(3, ("audio",), seed=1)[2]
    keys = [content_key(example) for example in examples]
    kept, needed = open_cache(tmp_path / "kept", model), open_cache(tmp_path / "off", model, keep="off")
    assert kept.prepare(examples, keys, progress=False) == 3
    assert needed.prepare(examples, keys, progress=False) == 0 and not (tmp_path / "off").exists()
    for example, key in zip(examples, keys, strict=True):
        for sense in example.media.keys() & SENSES.keys():
            one, other = kept.stream(sense, key), needed.stream(sense, key)
            assert one.tokens.equal(other.tokens) and one.cells.equal(other.cells)
            assert one.times.nan_to_num(-1).equal(other.times.nan_to_num(-1))
            assert (one.sense, one.grid, one.frames, one.placement, one.duration) == (
                other.sense, other.grid, other.frames, other.placement, other.duration,
            )  # fmt: skip
    with pytest.raises(DataError, match="has no stream of 'audio'"):
        needed.stream("audio", "another clip")


def test_only_what_a_step_shows_is_encoded_and_not_twice_in_a_row(model, tmp_path, monkeypatch):
    examples = stages.clips(2)
    keys = [content_key(example) for example in examples]
    cache, encoded = open_cache(tmp_path, model, keep="off"), counted(model, monkeypatch)
    cache.prepare(examples, keys, progress=False)
    for key in (keys[0], keys[0], keys[1]):
        cache.stream("audio", key)
    assert encoded == ["audio", "audio"]


def test_batches_are_encoded_together_as_each_clip_alone(model, tmp_path, monkeypatch):
    """What is on disk is read, the rest is encoded once a batch; the same bits whatever was asked before."""
    examples = stages.clips(4)
    keys = [content_key(example) for example in examples]
    kept = open_cache(tmp_path / "kept", model)
    kept.prepare(examples, keys, progress=False)
    open_cache(tmp_path, model).prepare(examples[:1], keys[:1], progress=False)
    cache, encoded = open_cache(tmp_path, model, keep="off"), counted(model, monkeypatch)
    cache.prepare(examples, keys, progress=False)
    both = ("video", "audio")
    shown = [
        [(keys[0], both), (keys[1], both), (keys[2], ("audio",)), (keys[1], both)],
        [(keys[0], ("video",))],
        [(keys[3], ()), (keys[2], both)],
    ]
    drawn = []
    render = model.modality("audio").render.__func__
    monkeypatch.setattr(
        type(model.modality("audio")), "render", lambda *given: drawn.append(given) or render(*given)
    )
    found = list(cache.batches(shown, 2))
    assert encoded == ["video", "audio", "audio", "video", "audio"] and len(drawn) == 3
    assert [[[stream.sense for stream in clip] for clip in batch] for batch in found] == [
        [list(senses) for _, senses in batch] for batch in shown
    ]
    for batch, streams in zip(shown, found, strict=True):
        for (key, senses), clip in zip(batch, streams, strict=True):
            for sense, stream in zip(senses, clip, strict=True):
                expected = kept.stream(sense, key)
                torch.testing.assert_close(stream.tokens, expected.tokens, rtol=1e-5, atol=1e-5)
                assert stream.cells.equal(expected.cells) and stream.frames is None
                assert (stream.grid, stream.placement) == (expected.grid, expected.placement)
    (last,) = cache.batches(shown[2:], 0)
    assert all(a.tokens.equal(b.tokens) for a, b in zip(last[1], found[2][1], strict=True))
    with pytest.raises(DataError, match="has no stream of 'audio'"):
        next(cache.batches([[("another", ("audio",))]], 0))


def test_what_is_on_disk_already_is_read(model, tmp_path, monkeypatch):
    examples = stages.clips(3)
    keys = [content_key(example) for example in examples]
    open_cache(tmp_path, model).prepare(examples[:2], keys[:2], progress=False)
    cache = open_cache(tmp_path, model, keep="off")
    assert cache.prepare(examples, keys, progress=False) == 0
    expected = [stream.tokens for stream in streams_of(model, examples[2])]
    encoded = counted(model, monkeypatch)
    for key in keys:
        found = [cache.stream(sense, key).tokens for sense in SENSES]
    assert encoded == list(SENSES) and all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("free", "place", "said"), [(2.0, "disk", "kept there"), (1.99, "off", "whenever")])
def test_auto_leaves_half_of_the_disk_free(model, tmp_path, monkeypatch, caplog, free, place, said):
    space = shutil.disk_usage(tmp_path)
    examples = stages.clips(2)
    examples[1] = stages.clips(2, ("video",))[1]
    keys = [content_key(example) for example in examples]
    bytes_needed = 3 * (2 * 4 + 1) * 32 * 4  # streams, tokens, width, float32
    monkeypatch.setattr(shutil, "disk_usage", lambda path: space._replace(free=free * bytes_needed))
    cache = open_cache(tmp_path, model, keep="auto")
    with caplog.at_level("INFO", "lynx"):
        assert cache.prepare(examples, keys, progress=False) == (2 if place == "disk" else 0)
    assert cache.keep == place
    (line,) = [line for line in caplog.messages if "streams of 2 clips take 0.00346 MB" in line]
    assert said in line
    for sense in SENSES:
        assert len(cache.stream(sense, keys[0]).tokens) == 9


def test_the_disk_is_asked_for_every_picture_of_a_moment(model, tmp_path):
    """Distance and surfaces: two streams' worth for each moment."""
    model.add_adapter(Adapter("depth", "depth", {"show": "both"}))
    clip = DepthClip.of(np.full((2, 8, 8), 2.0, np.float32))
    cache = StreamCache(tmp_path, model, {"depth": "depth"}, stages.FRAMES)
    example = Example("a", {"depth": clip}, key="a")
    assert cache._bytes([example]) == (2 * 2 * 4 + 1) * 32 * 4
    cache.prepare([example], ["a"], progress=False)
    assert cache.stream("depth", "a").tokens.nbytes == cache._bytes([example])
