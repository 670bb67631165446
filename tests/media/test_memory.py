"""Long clips and little memory: drawn and encoded in parts, measured, and said where memory runs out."""

import ctypes
import gc
import resource
import wave
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import clip, random_adapter, sound
from transformers import AutoModelForImageTextToText, PreTrainedModel

import lynx
from lynx import BackboneError
from lynx.adapters.saving import save_adapter
from lynx.media.audio import read_audio
from lynx.media.writer import write_video
from lynx.modalities.audio import Audio, AudioRendering
from lynx.types import DepthClip, sample_times
from lynx.ui import views
from lynx.ui.engine import Engine
from lynx.ui.models import ModelCache
from lynx.ui.types import Clip, Request, Setup

QUESTION = "what is it ?"


@pytest.fixture(params=sorted(checkpoints.FAMILIES))
def family(request, tmp_path):
    return lynx.load(checkpoints.FAMILIES[request.param](tmp_path))


# --- in parts -------------------------------------------------------------------------------------


def test_a_long_clip_in_parts_is_the_clip_in_one(family, monkeypatch):
    frames = 2 * family.backbone.frames_per_pass + 3
    video = clip(frames)
    parts = family.stream("video", video, video.times)
    monkeypatch.setattr(type(family.backbone), "frames_per_pass", 2 * frames)
    whole = family.encode("video", video)
    torch.testing.assert_close(parts.tokens, whole.tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.times, whole.times, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(parts.cells, whole.cells) and parts.grid == whole.grid
    assert torch.equal(parts.frames.pixels, video.pixels) and parts.frames.duration == video.duration


SOURCES = {
    "audio": ("audio", sound(4.0)),
    "fast": ("high_fps", clip(96, 20, 30)),
    "views": ("multi_view", {"left": clip(8), "right": clip(8, seed=1)}),
    "depth": ("depth", DepthClip.of(clip(9).pixels[:, 0].numpy() / 10)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_other_senses_in_parts_are_what_they_are_in_one(family, name, monkeypatch):
    modality, source = SOURCES[name]
    if name == "fast":  # 24 frames a second
        source = replace(source, times=torch.arange(96).double() / 24, duration=4.0)
    random_adapter(family, name, modality)
    monkeypatch.setattr(type(family.backbone), "frames_per_pass", 4)
    times = sample_times(4.0, 11)
    parts = family.stream(name, source, times)
    whole = family.encode(name, family.modality(name).render(source, times))
    assert torch.equal(parts.tokens, whole.tokens) and torch.equal(parts.cells, whole.cells)
    torch.testing.assert_close(parts.times, whole.times, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(parts.frames.pixels, whole.frames.pixels)
    for what in ("labels", "notes", "duration"):
        assert getattr(parts.frames, what) == getattr(whole.frames, what)
    family.unload_adapter(name)


@pytest.mark.parametrize("level", [None, -14.0])
def test_sound_in_small_parts_is_drawn_the_same(tmp_path, monkeypatch, level):
    """From a file, and where pictures are so wide that only a few are held."""
    write_sound(tmp_path / "sound.wav", 70)
    audio, times = Audio(AudioRendering(level_db=level)), sample_times(70.0, 7)
    expected = audio.render(tmp_path / "sound.wav", times)
    held = read_audio(tmp_path / "sound.wav", 16000)
    assert torch.equal(audio.render(held, times).pixels, expected.pixels)
    monkeypatch.setattr("lynx.modalities.audio.COLUMNS_A_PART", 2600)
    monkeypatch.setattr("lynx.modalities.audio.WINDOWS_AT_ONCE", 300)
    parts = list(audio.parts(tmp_path / "sound.wav", times, 16))
    assert [len(part) for part in parts] == [2, 2, 2, 1] and parts[-1].duration == expected.duration
    assert torch.equal(torch.cat([part.pixels for part in parts]), expected.pixels)


def write_sound(path, seconds):
    """Noise at 16 kHz, a minute at a time."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        for start in range(0, seconds, 60):
            noise = torch.randint(-9999, 9999, (16000 * min(60, seconds - start),), dtype=torch.int16)
            file.writeframes(noise.numpy().tobytes())


def status(key):
    """A figure of /proc/self/status in megabytes."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1024


def peak(model, work):
    """Megabytes that `work` takes at most, beside what was taken before.

    The less of two runs: threads that an earlier test of this process left behind take some as well.
    """
    found = []
    for _ in range(2):
        model.drop_kept(in_use=0)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free but held would hide what `work` takes
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
        before = status("VmRSS")
        work()
        found.append(status("VmHWM") - before)
    return min(found)


def test_memory_does_not_grow_with_the_number_of_frames(model, tmp_path):
    pixels = torch.arange(0, 240, 24).view(10, 1, 1, 1).expand(10, 3, 720, 1280).to(torch.uint8)
    write_video(tmp_path / "large.mp4", pixels, fps=1.0)

    def see(frames):
        stream = model.stream("video", tmp_path / "large.mp4", sample_times(10.0, frames))
        assert stream.frames.pixels.shape == (frames, 3, 270, 480)

    see(4)  # what is loaded on first use
    one, three = (peak(model, lambda n=n: see(n)) for n in (32, 96))
    assert three - one < 90  # 64 frames more are 169 MB; small, as they are kept, 24, and joined once more 24


@pytest.mark.parametrize("level", [None, -14.0])
def test_memory_does_not_grow_with_the_length_of_the_sound(model, tmp_path, level):
    random_adapter(model, "level", rendering={"level_db": level})

    def listen(minutes):
        stream = model.stream("level", tmp_path / f"{minutes}.wav", sample_times(60.0 * minutes, 16))
        assert len(stream.frames) == 16 and stream.frames.duration == 60 * minutes

    for minutes in (1, 10, 40):
        write_sound(tmp_path / f"{minutes}.wav", 60 * minutes)
    listen(1)
    short, long = (peak(model, lambda n=n: listen(n)) for n in (10, 40))
    assert long - short < 110  # 30 minutes more are 115 MB of samples and 43 MB of pictures


def test_memory_does_not_grow_with_the_number_of_depth_maps(model):
    random_adapter(model, "depth", "depth")

    def measure(indices):
        return np.stack([np.full((480, 640), 1 + index % 9, np.float32) for index in indices])

    def look(maps):
        source = DepthClip(maps, measure, np.arange(maps) / 2, maps / 2)
        stream = model.stream("depth", source, sample_times(maps / 2, maps))
        assert stream.frames.pixels.shape == (maps, 3, 240, 320)

    look(31)
    one, five = (peak(model, lambda n=n: look(n)) for n in (32, 160))
    # 128 maps more are 157 MB; their pictures, as they are kept, 29, and joined 29
    assert five - one < 110


# --- too little -----------------------------------------------------------------------------------


@contextmanager
def memory_left(megabytes):
    """Only so much more can be allocated in this process inside the `with`."""
    before, taken = resource.getrlimit(resource.RLIMIT_AS), status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (int((taken + megabytes) * 2**20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_too_little_memory_is_tried_once_more_with_half_of_the_frames(tmp_path):
    """For real: the widest activation has 255 MB at 64 frames, and the LLM holds three of them."""
    model = lynx.load(checkpoints.llava_onevision(tmp_path, ffn=60_000, layers=1))
    chat = model.chat(video=clip(), frames=64)
    chat.encode()
    with memory_left(560):
        chat.ask(QUESTION, max_new_tokens=2)
    assert chat.notes[0] == "32 frames instead of 64: the memory ran out" and chat.plan.frames == 32
    assert chat.used == {"video": (32, 4.0)} and len(chat.history) == 2
    other = model.chat(video=clip(), frames=64)
    with memory_left(150), pytest.raises(BackboneError, match="out of memory: use fewer frames"):
        other.ask(QUESTION, max_new_tokens=2)
    assert other.history == [] and other.ask(QUESTION, max_new_tokens=2) is not None


@contextmanager
def gpu_that_holds(model, tokens):
    """The LLM fails as CUDA's allocator does, with any longer sequence."""

    def check(module, args, kwargs):
        if kwargs["inputs_embeds"].shape[1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = model.backbone.model.get_decoder().register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_little_memory_in_streams_and_comparisons(model, chat):
    expected = model.chat(video=clip(), audio=sound(), frames=3).ask(QUESTION, max_new_tokens=6)
    with gpu_that_holds(model, 180):
        assert "".join(chat.stream(QUESTION, max_new_tokens=6)).strip() == expected
        assert chat.plan.frames == 3 and chat.notes[0] == "3 frames instead of 6: the memory ran out"
        other = model.chat(video=clip(), audio=sound(), frames=6)
        assert other.compare(QUESTION, without="audio", max_new_tokens=6).answer == expected
    third = model.chat(video=clip(), audio=sound(), frames=6)
    with gpu_that_holds(model, 20):
        with pytest.raises(BackboneError, match="out of memory"):
            list(third.stream(QUESTION))
        assert third.plan.frames == 3 and third.history == [] and not third.busy
        with pytest.raises(BackboneError, match="out of memory"):
            model.chat(video=clip(), frames=1).ask(QUESTION * 9)  # no frame to leave out
    assert third.ask(QUESTION, max_new_tokens=6) == expected


def test_the_app_says_that_the_memory_ran_out(folder, model, tmp_path):
    setup = Setup(str(folder), adapters=(str(save_adapter(model, "audio", tmp_path / "audio")),))
    write_video(tmp_path / "clip.mp4", clip().pixels[:, :, :48, :64], 2, sound())
    request = Request("k", setup, Clip(str(tmp_path / "clip.mp4")), ("video", "audio"), (), QUESTION)
    engine = Engine(max_new_tokens=4)
    with gpu_that_holds(engine.models.get(setup), 320):
        *_, reply = engine.answer(request)
        assert reply.used["video"][0] == reply.used["audio"][0] == 8
        assert "8 frames instead of 16: the memory ran out" in views.chips(reply, {}, stopped=False)
    with gpu_that_holds(engine.models.get(setup), 20), pytest.raises(BackboneError, match="out of memory"):
        list(engine.answer(replace(request, conversation="another")))
    *_, reply = engine.answer(replace(request, conversation="a third"))
    assert reply.used["video"][0] == 16 and reply.answer is not None


@pytest.mark.parametrize("fails", [(PreTrainedModel, "to"), (AutoModelForImageTextToText, "from_pretrained")])
def test_memory_that_runs_out_while_loading_is_said(folder, monkeypatch, fails):
    def allocate(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(*fails, allocate)
    for load in (lynx.load, lambda source: ModelCache().get(Setup(str(source)))):
        with pytest.raises(BackboneError, match=r"ran out of memory.*int8 or nf4.*smaller backbone"):
            load(folder)


def test_what_is_kept_goes_before_frames_do(model, chat):
    """A GPU that holds the prompt, but not beside the caches of other senses."""
    chat.ask(QUESTION, max_new_tokens=2)

    def check(module, args, kwargs):
        if len(model.kv_caches):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.backbone.model.get_decoder().register_forward_pre_hook(check, with_kwargs=True)
    chat.senses["audio"] = False
    chat.ask(QUESTION, max_new_tokens=2)
    hook.remove()
    assert chat.plan.frames == 6 and len(model.streams) == 0
    assert not any("memory" in note for note in chat.notes)
