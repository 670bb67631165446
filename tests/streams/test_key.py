import os
import time
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import clip, random_adapter, sound
from PIL import Image

import lynx
from lynx.adapters.format import PARTS
from lynx.media.thumbnails import THUMBNAIL_PIXELS, thumbnails
from lynx.modalities.multi_view import View
from lynx.streams.key import media_key, recording_digests, stream_key
from lynx.types import Frames, Recording


@pytest.fixture
def model(tmp_path):
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    random_adapter(model, "audio")
    return model


def changed(model, lora, by=1.0):
    """Fill a LoRA with other weights."""
    model.lora.fill(lora, {key: weight + by for key, weight in model.lora.tensors(lora).items()})


def test_a_key_changes_with_each_thing_that_decides_a_stream_and_with_nothing_else(model, tmp_path):
    times = clip().times
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"one")

    def key(sense="audio", source=None, times=times):
        return model.stream_key(sense, sound() if source is None else source, times)

    first = key()
    assert key(source=sound()) == first
    keys = [first, key(source=sound(seed=1)), key(times=times[:-1]), key(times=times + 0.01)]
    keys += [key("video", file), key("video", clip()), key("video", clip(seed=1))]
    file.write_bytes(b"two")
    keys.append(key("video", file))
    other = lynx.load(checkpoints.llava_onevision(tmp_path / "other", seed=1))
    other.add_adapter(model.adapters["audio"])
    other.add_lora("audio", "vision", model.lora.settings["audio_vision"])
    other.lora.fill("audio_vision", model.lora.tensors("audio_vision"))
    keys.append(stream_key(other, "audio", sound(), times))
    changed(model, "audio_vision")
    keys.append(key())
    for change in ({"rendering": {"hop_s": 0.004}}, {"token_pooling": "space"}, {"placement": "parallel"}):
        model.adapters["audio"] = replace(model.adapters["audio"], **change)
        keys.append(key())
    model.type_embeddings["audio"] = torch.ones(48)
    keys.append(key())
    assert len(set(keys)) == len(keys)
    changed(model, "audio_llm")  # the LLM has no part in it
    model.adapters["audio"] = replace(model.adapters["audio"], metrics={"accuracy": 1.0})
    assert key() == keys[-1]


def write_maps(root):
    """A ScanNet-like folder of two maps with times, intrinsics and poses."""
    for name in ("depth", "pose"):
        (root / name).mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.full((8, 8), 1000 + number, np.uint16)).save(root / "depth" / f"{number}.png")
        np.savetxt(root / "pose" / f"{number}.txt", np.eye(4))
    np.savetxt(root / "times.txt", [0.0, 1.0])
    np.savetxt(root / "intrinsic_depth.txt", np.eye(3))
    return root


def write_stack(root):
    np.save(root / "maps.npy", np.ones((2, 8, 8), np.float32))
    np.savetxt(root / "times.txt", [0.0, 1.0])
    np.savetxt(root / "intrinsics.txt", np.eye(3))
    return root / "maps.npy"


def write_scan(root):
    (root / "pose").mkdir()
    np.savetxt(root / "pose" / "0.txt", np.eye(4))
    (root / "mesh.obj").write_text("v 0 0 1\nv 1 0 1\nv 0 1 1\nf 1 2 3\n")
    return root


def write_views(root):
    for name in ("left", "right"):
        (root / f"{name}.mp4").write_bytes(name.encode())
    (root / "offsets.json").write_text('{"left": 1}')
    return root


@pytest.mark.parametrize(
    ("sense", "write", "path", "read"),
    [
        ("depth", write_maps, "", ("times.txt", "intrinsic_depth.txt", "pose/1.txt", "depth/1.png")),
        ("depth", write_maps, "depth", ("times.txt", "intrinsic_depth.txt", "pose/1.txt", "depth/1.png")),
        ("depth", write_stack, "maps.npy", ("times.txt", "intrinsics.txt", "maps.npy")),
        ("depth", write_scan, "", ("pose/0.txt", "mesh.obj")),
        ("multi_view", write_views, "", ("left.mp4", "offsets.json")),
    ],
)
def test_a_key_follows_every_file_that_is_read_and_no_other(sense, write, path, read, tmp_path):
    write(tmp_path)
    source = tmp_path / path

    def key():
        return media_key({sense: source})

    keys = [key()]
    for unread in ("notes.md", "color/0.jpg"):
        (tmp_path / unread).parent.mkdir(exist_ok=True)
        (tmp_path / unread).write_bytes(b"x")
    assert key() == keys[0]
    for name in read:
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before + b" ")
        keys.append(key())
        (tmp_path / name).unlink()
        keys.append(key())
        (tmp_path / name).write_bytes(before)
        assert key() == keys[0]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("named", [True, False])
def test_a_view_that_is_a_folder_of_pictures_is_known_by_these_pictures(named, tmp_path):
    for number in range(2):
        Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(tmp_path / f"{number}.jpg")
    source = {"left": View(tmp_path)} if named else View(tmp_path)
    before = media_key({"multi_view": source})
    Image.new("RGB", (8, 8), (0, 200, 0)).save(tmp_path / "1.jpg")
    changed = media_key({"multi_view": source})
    (tmp_path / "times.txt").write_text("0\n5\n")
    assert len({before, changed, media_key({"multi_view": source})}) == 3


def test_recordings_are_known_by_their_bytes_whatever_their_names_and_senses(tmp_path):
    files = {"a.mp4": b"one", "copy.mov": b"one", "b.mp4": b"two", "rgb/1.jpg": b"three"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    one = recording_digests({"video": tmp_path / "a.mp4"})
    assert len(one) == 1 and one == recording_digests({"audio": Recording(tmp_path / "copy.mov", track=2)})
    views = {"left": View(tmp_path / "b.mp4", 1.5)}
    both = recording_digests({"video": tmp_path / "a.mp4", "multi_view": views})
    assert len(both) == 2 and one < both and one.isdisjoint(recording_digests({"video": tmp_path / "b.mp4"}))
    scene = recording_digests({"video": tmp_path / "rgb"})
    assert len(scene) == 1
    (tmp_path / "rgb").rename(tmp_path / "moved")
    assert recording_digests({"video": tmp_path / "moved"}) == scene
    assert recording_digests({"video": tmp_path / "gone.mp4"}) == frozenset()
    assert recording_digests({"video": clip()}) == recording_digests({"video": clip()}) != one
    assert len(recording_digests({"audio": sound()}, "world-7")) == 1
    assert recording_digests({}, "world-7") != recording_digests({}, "world-8")


def test_a_file_that_lay_still_is_hashed_once_and_anew_after_a_change(tmp_path, monkeypatch):
    file, opened = tmp_path / "clip.mp4", []
    file.write_bytes(b"one")
    past = time.time_ns() - 10**10
    monkeypatch.setattr("lynx.streams.key.SETTLED", -1.0)  # else the test had to wait for it
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    keys = [media_key({"video": file}) for _ in range(3)]
    assert len(set(keys)) == 1 and len(opened) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(past, past))
    assert media_key({"video": file}) != keys[0]


def test_a_lora_is_hashed_once_until_its_weights_change(model, monkeypatch):
    lora, read = model.lora_name("audio", "vision"), []
    real = model.lora.tensors
    monkeypatch.setattr(model.lora, "tensors", lambda name: read.append(name) or real(name))

    def digest():
        return model.lora.digest(lora)

    first = digest()
    assert digest() == first and read == [lora]
    model.lora.fill(lora, {key: weight + 1 for key, weight in real(lora).items()})
    read.clear()
    digests = [first, digest()]
    assert digest() == digests[1] and read == [lora]
    with model.sensing("audio", train=True):
        for _ in range(2):
            next(iter(real(lora).values())).data += 1  # as an optimizer's step does
            digests.append(digest())
        with model.using():
            digest()
        next(iter(real(lora).values())).data += 1
    digests.append(digest())
    assert len(set(digests)) == 5
    read.clear()
    assert digest() == digests[-1] and read == []


def test_adapters_of_one_name_are_told_apart_by_their_weights(model, tmp_path):
    random_adapter(model, "other")
    times = clip().times
    before = model.stream_key("audio", sound(), times), model.llm_identity("audio", "video")
    assert model.llm_identity("video") == () and len(model.llm_identity("audio", "other")) == 2
    settings, adapter = model.lora.settings["audio_llm"], model.adapters["audio"]
    weights = {part: {k: w.clone() for k, w in model.lora.tensors(f"audio_{part}").items()} for part in PARTS}
    seen = [before]
    for by in (0.5, 0.0):
        model.unload_adapter("audio")
        model.add_adapter(adapter)
        for part in PARTS:
            lora = model.add_lora("audio", part, settings)
            model.lora.fill(lora, {key: weight + by for key, weight in weights[part].items()})
        seen.append((model.stream_key("audio", sound(), times), model.llm_identity("audio", "video")))
    assert seen[2] == before and seen[1][0] != before[0] and seen[1][1] != before[1]


def test_a_lora_scaled_alike_has_the_same_key_as_it_was_trained_and_as_it_was_read(model):
    name = model.lora_name("audio", "vision")
    settings = model.lora.settings[name]
    first = stream_key(model, "audio", sound(), clip().times)
    model.lora.settings[name] = replace(settings, alpha=int(settings.alpha), dropout=0.5)
    assert stream_key(model, "audio", sound(), clip().times) == first
    model.lora.settings[name] = replace(settings, alpha=2 * settings.alpha)
    assert stream_key(model, "audio", sound(), clip().times) != first


def test_frames_to_be_shown_are_small_and_keep_what_was_said_of_them():
    frames = Frames(
        torch.full((2, 3, 720, 1280), 9, dtype=torch.uint8), torch.arange(2.0), 2.0, ("a", "b"), ("c",)
    )
    small = thumbnails(frames)
    assert small.pixels.shape == (2, 3, 270, 480) and (small.pixels == 9).all()
    assert (small.labels, small.notes, small.duration) == (("a", "b"), ("c",), 2.0)
    assert 270 * 480 <= THUMBNAIL_PIXELS and thumbnails(small) is small
