from dataclasses import replace

import checkpoints
import pytest
import torch
from checkpoints import clip, random_adapter, sound

import lynx
from lynx.media.thumbnails import THUMBNAIL_PIXELS, thumbnails
from lynx.streams.key import stream_key
from lynx.streams.store import StreamStore, size_of
from lynx.types import Frames


@pytest.fixture
def model(tmp_path):
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    random_adapter(model, "audio")
    return model


def test_a_key_changes_with_all_that_decides_a_stream(model, tmp_path):
    times = clip().times
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"one")

    def key(sense="audio", source=None, times=times):
        return stream_key(model, sense, sound() if source is None else source, times)

    first = key()
    assert key(source=sound()) == first
    keys = [first, key(source=sound(seed=1)), key(times=times[:-1]), key(times=times + 0.01)]
    keys += [key("video", file), key("video", clip()), key("video", clip(seed=1))]
    file.write_bytes(b"two")
    keys.append(key("video", file))
    weight = next(iter(model.lora.tensors("audio_vision").values()))
    weight.data += 1
    keys.append(key())
    for change in ({"rendering": {"hop_s": 0.004}}, {"token_pooling": "space"}):
        model.adapters["audio"] = replace(model.adapters["audio"], **change)
        keys.append(key())
    model.type_embeddings["audio"] = torch.ones(48)
    keys.append(key())
    llm = next(iter(model.lora.tensors("audio_llm").values()))
    llm.data += 1  # the LLM has no part in it
    assert key() == keys[-1] and len(set(keys)) == len(keys)


def test_a_lora_scaled_alike_has_the_same_key_as_it_was_trained_and_as_it_was_read(model):
    name = model.lora_name("audio", "vision")
    settings = model.lora.settings[name]
    first = stream_key(model, "audio", sound(), clip().times)
    model.lora.settings[name] = replace(settings, alpha=int(settings.alpha), dropout=0.5)
    assert stream_key(model, "audio", sound(), clip().times) == first
    model.lora.settings[name] = replace(settings, alpha=2 * settings.alpha)
    assert stream_key(model, "audio", sound(), clip().times) != first


def test_streams_that_were_asked_for_least_recently_make_room(model):
    streams = [model.encode("video", clip(4, seed=seed)) for seed in range(4)]
    store = StreamStore(limit=3 * size_of(streams[0]))
    for number, stream in enumerate(streams[:3]):
        store.put(bytes([number]), stream)
    assert store.get(b"\0") is streams[0]
    store.put(b"\3", streams[3])
    assert store.get(b"\1") is None and store.get(b"\0") is streams[0] and len(store) == 3
    assert store.nbytes == store.limit == 3 * (65 * (48 * 4 + 8 + 16) + 4 * 3 * 50 * 70)
    store.put(b"\4", model.encode("video", clip(40)))  # more than all of the room
    assert len(store) == 0


def test_frames_to_be_shown_are_small_and_keep_what_was_said_of_them():
    frames = Frames(
        torch.full((2, 3, 720, 1280), 9, dtype=torch.uint8), torch.arange(2.0), 2.0, ("a", "b"), ("c",)
    )
    small = thumbnails(frames)
    assert small.pixels.shape == (2, 3, 270, 480) and (small.pixels == 9).all()
    assert (small.labels, small.notes, small.duration) == (("a", "b"), ("c",), 2.0)
    assert 270 * 480 <= THUMBNAIL_PIXELS and thumbnails(small) is small
