"""An answer is looked at again without keeping the model from others, and without a trace."""

import threading
from dataclasses import replace

import pytest
import torch
from checkpoints import random_adapter

from lynx import LynxError
from lynx.evidence.integrated_gradients import integrated_gradients
from lynx.evidence.replay import blank_token
from lynx.modalities.audio import Audio

QUESTION = "what is it ?"


@pytest.fixture
def answered(chat):
    chat.ask(QUESTION, max_new_tokens=4)
    return chat.evidence.answered


def is_free(lock):
    """Whether another thread could take the lock now."""
    found = []

    def take():
        found.append(lock.acquire(timeout=0.05))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return found[0]


def test_the_model_is_free_between_two_passes_of_an_attribution(model, chat):
    chat.ask(QUESTION, max_new_tokens=4)
    free, told = [], []

    def progress(done, total):
        free.append(is_free(model.lock) and model.lora.on == ())
        told.append((done, total))

    found = chat.evidence.attribution(None, progress=progress)
    assert len(free) > 3 and all(free)
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    with chat.evidence.answered.replay():
        assert not is_free(model.lock)  # as others who record something need it
    asked = len(told)
    assert chat.evidence.attribution(None, progress=progress) is found and len(told) == asked  # kept


def test_whoever_waits_for_the_model_gets_it_before_the_attribution_ends(model, chat):
    chat.ask(QUESTION, max_new_tokens=4)
    done, got, asking = [], [], threading.Event()

    def other():
        asking.wait()
        for _ in range(3):
            with model.lock:
                got.append(len(done))

    thread = threading.Thread(target=other)
    thread.start()
    chat.evidence.attribution(None, progress=lambda *now: (done.append(now), asking.set()))
    thread.join()
    assert got[-1] < len(done)


@pytest.mark.parametrize("change", ["weights", "unload", "type embedding"])
def test_adapters_that_change_meanwhile_end_it(model, chat, change):
    chat.ask(QUESTION, max_new_tokens=4)

    def progress(done, total):
        if change == "unload":
            model.unload_adapter("audio")
            random_adapter(model, "audio", token_pooling="space")
        elif change == "weights":
            name = model.lora_name("audio", "llm")
            model.lora.fill(name, {key: weight + 0.1 for key, weight in model.lora.tensors(name).items()})
        else:
            model.remove_lora("audio", "llm")

    with pytest.raises(LynxError, match="adapters have changed"):
        chat.evidence.attribution(None, progress=progress)
    assert is_free(model.lock) and model.lora.on == ()
    with pytest.raises(LynxError, match="adapters have changed"):
        chat.evidence.attribution(None)


def test_an_error_of_whoever_is_told_leaves_the_model_as_it_was(model, chat):
    answer = chat.ask(QUESTION, max_new_tokens=4)

    def progress(done, total):
        raise KeyError(done)

    with pytest.raises(KeyError):
        chat.evidence.attribution(None, progress=progress)
    assert is_free(model.lock) and model.lora.on == ()
    weights = list(model.backbone.model.parameters())
    assert all(weight.grad is None and not weight.requires_grad for weight in weights)
    assert chat.evidence.attribution(None).gained is not None
    assert model.chat(**chat.media, frames=6).ask(QUESTION, max_new_tokens=4) == answer


def test_a_second_word_needs_no_pass_of_the_vision_tower(model, answered, monkeypatch):
    passes, encode = [], model.backbone.encode
    monkeypatch.setattr(model.backbone, "encode", lambda pixels: passes.append(len(pixels)) or encode(pixels))
    blanks = []
    for token in (0, 1):
        with answered.replay() as replay:
            integrated_gradients(replay, [token], steps=2)
            blanks.append(replay.blank)
    assert passes == [1, 1]  # a blank picture of each sense, once
    assert torch.equal(*blanks)
    frames = answered.streams["audio"].frames
    before = blank_token(model, "audio", frames)
    assert len(passes) == 2
    blank_token(model, "audio", replace(frames, pixels=frames.pixels[..., :-2]))
    assert len(passes) == 3  # pictures of another size
    name = model.lora_name("audio", "vision")
    model.lora.fill(name, {key: weight + 0.1 for key, weight in model.lora.tensors(name).items()})
    assert not torch.equal(blank_token(model, "audio", frames), before)


def test_the_blank_token_is_the_mean_over_the_kinds_of_pictures_of_a_moment(model, answered, monkeypatch):
    frames, plain = answered.streams["audio"].frames, Audio.blank

    def white(self, frames):
        return torch.full_like(frames.pixels[:1], 255)

    tokens = []
    for blank in (plain, white, lambda self, frames: torch.cat([plain(self, frames), white(self, frames)])):
        monkeypatch.setattr(Audio, "blank", blank)
        model.blank_tokens.clear()
        tokens.append(blank_token(model, "audio", frames))
    black, other, both = tokens
    assert not torch.allclose(black, other, atol=1e-3)
    assert torch.allclose(both, (black + other) / 2, atol=1e-5)
