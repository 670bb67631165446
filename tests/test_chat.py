import shutil
import threading
from dataclasses import replace

import checkpoints
import pytest
import torch
from checkpoints import clip, random_adapter, sound

import lynx
from lynx import BackboneError, LynxError, MediaError
from lynx.chat import plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def model(folder):
    model = lynx.load(folder)
    random_adapter(model, "audio")
    return model


@pytest.fixture
def chat(model):
    return model.chat(video=clip(), audio=sound(), frames=6)


def test_an_answer_joins_the_history_and_says_what_it_used(chat):
    answer = chat.ask("what is it ?", max_new_tokens=8)
    assert chat.history == [
        {"role": "user", "content": "what is it ?"},
        {"role": "assistant", "content": answer},
    ]
    assert chat.used == {"video": (6, 4.0), "audio": (6, 4.0)} and chat.notes == []
    assert {sense: len(stream.tokens) for sense, stream in chat.streams.items()} == dict(chat.plan.tokens)


def test_the_answer_is_what_the_model_generates_from_the_composed_prompt(model, chat):
    answer = chat.ask("what is it ?", max_new_tokens=8)
    with model.using("audio"):
        messages = [{"role": "user", "content": "what is it ?"}]
        prompt = model.backbone.compose(messages, list(chat.streams.values()))
        ids = model.generate(prompt, max_new_tokens=8)
    assert answer == model.backbone.tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def test_streaming_gives_the_same_answer_in_pieces(model, chat):
    other = model.chat(video=clip(), audio=sound(), frames=6)
    pieces = list(other.stream("what is it ?", max_new_tokens=20))
    assert "".join(pieces).strip() == chat.ask("what is it ?", max_new_tokens=20)
    assert other.history == chat.history and torch.equal(other.evidence.rows, chat.evidence.rows)


def test_later_turns_reuse_the_cache_and_equal_a_full_prefill(model, chat):
    for question in ("what is it ?", "and now ?", "why ?"):
        with torch.no_grad(), model.using("audio"):
            chat.encode()
            messages = [*chat.history, {"role": "user", "content": question}]
            prompt = model.backbone.compose(messages, list(chat.streams.values()))
            full = model.generate(prompt, max_new_tokens=8)
        turn = chat._begin(messages, 8, 0.0)
        reused = turn.cache.get_seq_length()
        assert torch.equal(chat._run(turn), full[0])
        chat._finish(turn, full[0])
        assert reused == 0 if question == "what is it ?" else reused > sum(chat.plan.tokens.values())
    chat.clear()
    turn = chat._begin([{"role": "user", "content": "what is it ?"}], 8, 0.0)
    assert turn.cache.get_seq_length() > sum(chat.plan.tokens.values())  # the media are not prefilled again


def test_a_cache_that_a_failure_left_half_full_is_dropped(chat, monkeypatch):
    expected = chat.ask("what is it ?", max_new_tokens=8)
    chat.clear()
    generate = type(chat.model).generate
    monkeypatch.setattr(
        type(chat.model), "generate", lambda *a, **k: (_ for _ in ()).throw(MemoryError("full"))
    )
    with pytest.raises(MemoryError):
        chat.ask("and this ?")
    with pytest.raises(MemoryError, match="full"):
        list(chat.stream("and this ?"))
    monkeypatch.setattr(type(chat.model), "generate", generate)
    assert chat.history == [] and chat._kept is None
    assert chat.ask("what is it ?", max_new_tokens=8) == expected
    assert chat.model.lora.on == ()


def test_stop_ends_the_answer_and_keeps_what_was_said(chat):
    pieces = []
    for piece in chat.stream("what is it ?", max_new_tokens=1500):
        pieces.append(piece)
        chat.stop()
    assert chat.history[-1]["content"] == "".join(pieces).strip()
    assert len(chat.evidence.tokens) < 1000
    assert chat.ask("and now ?", max_new_tokens=4) and len(chat.history) == 4


def test_leaving_a_stream_early_ends_its_thread_and_leaves_no_turn(chat):
    stream = chat.stream("what is it ?", max_new_tokens=1500)
    next(stream)
    with pytest.raises(LynxError, match="being written"):
        chat.ask("another ?")
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("lynx-generate")]
    assert chat.history == [] and chat.model.lora.on == ()
    assert chat.ask("another ?", max_new_tokens=4)


def test_two_sessions_stream_at_once(model):
    sessions = [model.chat(video=clip(seed=i), audio=sound(seed=i), frames=4) for i in range(3)]
    expected = [s.ask("what is it ?", max_new_tokens=12) for s in sessions]
    for session in sessions:
        session.clear()
    found = {}

    def work(index):
        found[index] = "".join(sessions[index].stream("what is it ?", max_new_tokens=12)).strip()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [found[i] for i in range(3)] == expected


def test_a_sense_switched_off_leaves_the_stock_model(model, folder, chat):
    alone = lynx.load(folder).chat(video=clip(), frames=6)
    expected = alone.ask("what is it ?", max_new_tokens=12)
    assert chat.ask("what is it ?", max_new_tokens=12) != expected
    chat.clear()
    chat.senses["audio"] = False
    assert chat.ask("what is it ?", max_new_tokens=12) == expected
    assert list(chat.used) == ["video"]
    chat.senses["depth"] = True
    with pytest.raises(MediaError, match="depth"):
        chat.ask("what is it ?")


def test_retry_and_undo_replace_the_last_turn(chat):
    first = chat.ask("what is it ?", max_new_tokens=8)
    chat.ask("and now ?", max_new_tokens=8)
    assert chat.undo() == "and now ?" and len(chat.history) == 2
    assert chat.retry(max_new_tokens=8) == first and len(chat.history) == 2
    chat.clear()
    with pytest.raises(LynxError, match="no question"):
        chat.retry()


def test_compare_answers_with_and_without_outside_the_history(chat):
    first = chat.ask("what is it ?", max_new_tokens=8)
    chat.senses["audio"] = False
    chat.clear()
    without = chat.ask("what is it ?", max_new_tokens=8)
    chat.senses["audio"] = True
    history = list(chat.history)
    found = chat.compare(without="audio", max_new_tokens=8)
    assert (found.question, found.with_sense, found.without_sense) == ("what is it ?", first, without)
    assert chat.history == history
    with pytest.raises(LynxError, match="depth"):
        chat.compare(without="depth")


def test_evidence_covers_the_answer_the_senses_and_their_grids(chat):
    answer = chat.ask("what is it ?", max_new_tokens=8)
    evidence = chat.evidence
    assert "".join(evidence.tokens).strip() == answer
    assert sum(evidence.share(0).values()) == pytest.approx(1) and set(evidence.share()) == {
        "video",
        "audio",
        "text",
    }
    times, values = evidence.curve(0, "audio")
    assert torch.allclose(times, chat.plan.times) and values.shape == (6,)
    assert evidence.heatmap(None, "video").shape == (6, 4, 4)
    first = evidence.baseline
    chat.ask("and now ?", max_new_tokens=8)
    assert torch.equal(chat.evidence.baseline, first)  # of the first turn: the media were not computed again


def test_occlusion_measures_what_hiding_a_sense_does_to_the_answer(chat):
    with pytest.raises(LynxError, match="no answer"):
        chat.occlusion("audio")
    chat.ask("what is it ?", max_new_tokens=8)
    whole = chat.occlusion("audio")
    parts = [chat.occlusion("audio", window) for window in ((0.0, 2.0), (2.0, 4.0))]
    assert whole != 0 and parts[0] != parts[1]
    assert chat.occlusion("audio", (9.0, 10.0)) == 0
    audio = chat.streams["audio"]
    flat = audio.tokens[:-1].mean(dim=0).expand_as(audio.tokens[:-1])
    chat.streams["audio"] = replace(audio, tokens=torch.cat([flat, audio.tokens[-1:]]))
    assert chat.occlusion("audio") == pytest.approx(0, abs=1e-4)  # what is uniform already cannot be hidden


def test_the_budget_is_known_before_anything_is_read(model):
    budget = plan(model, {"video": clip(), "audio": sound()}, 10)
    assert dict(budget.tokens) == {"video": 161, "audio": 161} and budget.total == 322 and budget.frames == 10
    assert budget.times[0] == pytest.approx(0.2) and budget.duration == 4.0 and budget.context == 2048
    with pytest.raises(BackboneError, match="at most 47 frames"):
        plan(model, {"video": clip(), "audio": sound()}, 100)
    model.backbone.default_frames = 100
    less = plan(model, {"video": clip(), "audio": sound()})
    assert less.frames == 47 and "47 frames instead of 100" in less.notes[0]
    with pytest.raises(BackboneError, match="at least one"):
        plan(model, {"video": clip()}, 0)


def test_sound_alone_and_words_alone_are_conversations_too(model):
    chat = model.chat(audio=sound(2.0), frames=4)
    assert chat.ask("what is it ?", max_new_tokens=4) is not None and chat.plan.duration == 2.0
    words = model.chat()
    assert words.ask("what is it ?", max_new_tokens=4) is not None and words.used == {}
    assert words.evidence.share(0) == {"text": 1.0}


def test_a_sense_that_cannot_be_used_is_an_error(model, tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError):
        model.chat(video=tmp_path / "empty.mp4")
    with pytest.raises(LynxError, match="depth"):
        model.chat(video=clip(), depth=clip())
    with pytest.raises(MediaError):
        model.chat(video=clip(), audio=clip())
    with pytest.raises(LynxError, match="empty"):
        model.chat(video=clip()).ask("  ")


def test_words_the_backbone_was_never_taught_are_said(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "lynx_tiny.json").write_text('{"words": ["what", "is", "it", "?"], "frames": 4}')
    chat = lynx.load(tmp_path / "copy").chat(video=clip())
    assert chat.plan.frames == 4 and chat.unknown_words("What is it?") == []
    chat.ask("what is a giraffe, a Giraffe ?", max_new_tokens=2)
    assert chat.notes == ["words this model was never taught: a, giraffe"]
    chat.ask("what is it ?", max_new_tokens=2)
    assert chat.notes == []
