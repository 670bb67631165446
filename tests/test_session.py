import gc
import re
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import checkpoints
import pytest
import torch
from checkpoints import arguments, clip, followed, random_adapter, sound

import lynx
from lynx import BackboneError, LynxError, MediaError, session
from lynx.backbones.kv_cache import KvCaches
from lynx.streams.budget import plan
from lynx.types import Moments, sample_times

QUESTION = "what is it ?"


@pytest.fixture(params=sorted(checkpoints.FAMILIES))
def family(request, tmp_path):
    return lynx.load(checkpoints.FAMILIES[request.param](tmp_path))


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
    assert other.history == chat.history
    assert torch.equal(other.evidence.attention.rows, chat.evidence.attention.rows)


def test_later_turns_reuse_the_cache_and_equal_a_full_prefill(model, chat):
    for question in ("what is it ?", "and now ?", "why ?"):
        with torch.no_grad(), model.using("audio"):
            chat.encode()
            messages = [*chat.history, {"role": "user", "content": question}]
            prompt = model.backbone.compose(messages, list(chat.streams.values()))
            full = model.generate(prompt, max_new_tokens=8)
        with computed(model) as tokens:
            answer = chat.ask(question, max_new_tokens=8)
        assert answer == model.backbone.tokenizer.decode(full[0], skip_special_tokens=True).strip()
        kept = model.kv_caches.get(chat, ("video", "audio"))
        assert kept.labels[prompt.input_ids.shape[1] :] == full[0][:-1].tolist()
        assert tokens == [prompt.input_ids.shape[1]] if question == QUESTION else tokens[0] < 60
    chat.clear()
    with computed(model) as tokens:
        chat.ask(QUESTION, max_new_tokens=8)
    assert tokens == [], "of a prompt that was computed before, the last token alone is computed again"


def test_a_cache_that_a_failure_left_half_full_is_dropped(chat, monkeypatch):
    expected = chat.ask("what is it ?", max_new_tokens=8)
    chat.clear()
    generate = session.generate
    monkeypatch.setattr(session, "generate", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        chat.ask("and this ?")
    with pytest.raises(RuntimeError, match="broken"):
        list(chat.stream("and this ?"))
    monkeypatch.setattr(session, "generate", generate)
    assert chat.history == [] and len(chat.model.kv_caches) == 0 and chat.plan.frames == 6
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
    for one in sessions:
        one.clear()
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
    assert (found.question, found.answer, found.without) == ("what is it ?", first, {"audio": without})
    assert chat.history == history
    with pytest.raises(LynxError, match="depth"):
        chat.compare(without="depth")


def test_each_added_sense_is_left_out_in_turn_and_the_conversation_loses_nothing(model):
    added = ("audio", "ears", "echo", "hum")
    for name in added[1:]:
        random_adapter(model, name)
    media = {"video": clip(), **{name: sound() for name in added}}
    chat = model.chat(**media, frames=3)
    answer = chat.ask(QUESTION, max_new_tokens=6)
    with computed(model) as tokens:
        found = chat.compare(max_new_tokens=6)
        assert len(tokens) == 4 < 60 < min(tokens), "with all of them nothing is new"
        chat.ask("and now ?", max_new_tokens=6)
        assert tokens[4] < 60
    assert found.answer == answer and tuple(found.without) == added
    for left in ("ears", "hum"):
        rest = {sense: source for sense, source in media.items() if sense != left}
        assert model.chat(**rest, frames=3).ask(QUESTION, max_new_tokens=6) == found.without[left]
    assert list(chat.compare(without=("hum", "video"), max_new_tokens=2).without) == ["hum", "video"]
    chat.senses |= dict.fromkeys(added, False)
    with pytest.raises(LynxError, match="switch one on"):
        chat.compare()


def test_the_budget_is_known_before_anything_is_read(model):
    budget = plan(model, {"video": clip(), "audio": sound()}, Moments(10))
    assert dict(budget.tokens) == {"video": 161, "audio": 161} and budget.frames == 10
    assert budget.times[0] == pytest.approx(0.2) and budget.duration == 4.0 and budget.context == 2048
    with pytest.raises(BackboneError, match="at most 47 frames"):
        plan(model, {"video": clip(), "audio": sound()}, Moments(100))
    model.backbone.default_frames = 100
    less = plan(model, {"video": clip(), "audio": sound()})
    assert less.frames == 47 and "47 frames instead of 100" in less.notes[0]
    with pytest.raises(BackboneError, match="frames is 0: expected a whole number of moments"):
        plan(model, {"video": clip()}, Moments(0))


def test_the_most_frames_that_are_planned_make_a_prompt(family):
    """What stands between the frames counts too: a third of InternVL's prompt here."""
    lasts = 90.0  # some captions say how late it is
    with pytest.raises(BackboneError, match="use at most") as refused:
        plan(family, {"video": replace(clip(), duration=lasts)}, Moments(999))
    most = int(re.search(r"at most (\d+) frames", str(refused.value))[1])
    video = replace(clip(most), times=sample_times(lasts, most), duration=lasts)
    assert plan(family, {"video": video}, Moments(most)).frames == most
    family.backbone.default_frames = 999
    assert plan(family, {"video": video}).frames == most
    stream, question = family.encode("video", video), [{"role": "user", "content": QUESTION}]
    prompt = family.backbone.compose(question, [stream])
    room = family.backbone.context - prompt.input_ids.shape[1]
    assert 0 < room < 512 + 40, "and no frame more would leave room for words"


def test_a_sense_with_several_pictures_a_moment_is_budgeted_for(model):
    random_adapter(model, "multi_view", "multi_view")
    chat = model.chat(video=clip(), multi_view={"left": clip(seed=1), "right": clip(seed=2)}, frames=4)
    assert dict(chat.plan.tokens) == {"video": 65, "multi_view": 129}
    assert {sense: len(stream.tokens) for sense, stream in chat.encode().items()} == dict(chat.plan.tokens)


def test_sound_alone_is_a_conversation_too(model):
    chat = model.chat(audio=sound(2.0), frames=4)
    assert chat.ask("what is it ?", max_new_tokens=4) is not None and chat.plan.duration == 2.0


def test_words_alone_are_refused_not_guessed_at_and_the_history_stays(model):
    for ask in ("ask", "stream"):
        with pytest.raises(MediaError, match="give a video"):
            list(getattr(model.chat(), ask)("what is it ?"))
    chat = model.chat(video=clip(), audio=sound(), frames=4)
    chat.ask("what is it ?", max_new_tokens=4)
    said, chat.senses = list(chat.history), {"video": False, "audio": False}
    for call in (lambda: chat.ask("and now ?"), lambda: list(chat.stream("and now ?")), chat.retry):
        with pytest.raises(MediaError, match=r"switched off \(video, audio\): switch one on"):
            call()
        assert chat.history == said and not chat.busy
    chat.senses["video"] = True
    assert chat.retry(max_new_tokens=4) and chat.compare(without="video", max_new_tokens=4).without["video"]


@pytest.mark.parametrize("question", [None, 7, ["what is it ?"], b"what", "", " \n", "what is \ud800 ?"])
def test_a_question_is_a_text(model, question):
    chat = model.chat(video=clip(), frames=4)
    with pytest.raises(LynxError, match="question"):
        chat.ask(question)
    with pytest.raises(LynxError, match="question"):
        list(chat.stream(question))
    assert chat.history == [] and not chat.busy


@pytest.mark.parametrize(
    "wrong",
    [
        *({"max_new_tokens": n} for n in (0, -1, 1.5, "8", True, None, float("nan"))),
        *({"temperature": t} for t in (-0.1, float("inf"), float("nan"), "hot", True, None)),
    ],
)
def test_length_and_temperature_of_an_answer_are_checked(model, wrong):
    chat = model.chat(video=clip(), frames=4)
    with pytest.raises(LynxError, match=f"^{next(iter(wrong))} is .* expected a"):
        chat.ask("what is it ?", **wrong)
    with pytest.raises(LynxError, match="expected a"):
        list(chat.stream("what is it ?", **wrong))


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
    assert chat.plan.frames == 4 and chat.model.backbone.unknown_words("What is it?") == []
    chat.ask("what is a giraffe, a Giraffe ?", max_new_tokens=2)
    assert chat.notes[0] == "words this model was never taught: a, giraffe"
    chat.ask("what is it ?", max_new_tokens=2)
    assert not any("taught" in note for note in chat.notes)


# --- nothing is paid for twice --------------------------------------------------------------------


@contextmanager
def computed(model):
    """How many tokens the LLM computes in each prefill inside the `with`."""
    found = []

    def count(module, args, kwargs):
        if kwargs["inputs_embeds"].shape[1] > 1:
            found.append(kwargs["inputs_embeds"].shape[1])

    hook = model.backbone.model.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def full_prefill(chat, senses):
    """Keys and values of everything that the cache of these senses holds, computed at once."""
    model, kept = chat.model, chat.model.kv_caches.get(chat, senses)
    with torch.no_grad():
        prompt = model.backbone.compose(chat.history[:-1], [chat.streams[sense] for sense in senses])
    answer = torch.tensor(kept.labels[prompt.input_ids.shape[1] :], dtype=torch.long)
    with torch.no_grad(), model.using(*senses):
        given = arguments(model.backbone, followed(model.backbone, prompt, answer))
        filled = model.backbone.model(**given, use_cache=True).past_key_values
    return kept.cache, filled


def test_turns_switches_and_comparisons_compute_only_what_is_new(family):
    random_adapter(family, "audio")
    chat = family.chat(video=clip(), audio=sound(), frames=6)
    media, on, off = sum(chat.plan.tokens.values()), ("video", "audio"), ("video",)
    with computed(family) as tokens, frames_encoded(family) as passes:
        chat.ask(QUESTION, max_new_tokens=6)
        chat.ask("and now ?", max_new_tokens=6)
        assert tokens[0] > media and tokens[1] < 60
        chat.senses["audio"] = False  # under other LoRAs nothing can be taken over
        chat.ask("and without ?", max_new_tokens=6)
        assert tokens[2] > chat.plan.tokens["video"]
        chat.senses["audio"] = True
        chat.ask("and again ?", max_new_tokens=6)
        chat.compare(QUESTION, without="audio", max_new_tokens=6)
        assert len(tokens) == 6 and max(tokens[3:]) < 100 < media
        chat.undo()
        chat.ask("and last ?", max_new_tokens=6)
        assert tokens[6] < 60
        chat.clear()
        chat.ask(QUESTION, max_new_tokens=6)
        assert passes == [6, 6], "each sense went through the tower once, in the first turn"
    for senses in (on, off):
        chat.senses["audio"] = "audio" in senses
        chat.ask(QUESTION, max_new_tokens=6)
        reused, whole = full_prefill(chat, senses)
        for mine, full in zip(reused.layers, whole.layers, strict=True):
            for found, expected in ((mine.keys, full.keys), (mine.values, full.values)):
                assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_what_senses_share_under_the_same_loras_is_taken_over(family):
    random_adapter(family, "audio", parts=("vision",))  # nothing of it is in the LLM
    chat = family.chat(video=clip(), audio=sound(), frames=6)
    chat.senses["audio"] = False
    chat.ask(QUESTION, max_new_tokens=6)
    chat.senses["audio"] = True
    with computed(family) as tokens:
        answer = chat.retry(max_new_tokens=6)
    video, audio = chat.plan.tokens["video"], chat.plan.tokens["audio"]
    prompt = family.backbone.compose(chat.history[:-1], list(chat.streams.values()))
    assert audio < tokens[0] < prompt.input_ids.shape[1] - video
    assert answer == family.chat(video=clip(), audio=sound(), frames=6).ask(QUESTION, max_new_tokens=6)
    assert chat.evidence.attention.baseline is not None
    chat.senses["video"] = False  # its placeholders look alike, what stands there does not
    answer = chat.retry(max_new_tokens=6)
    assert answer == family.chat(audio=sound(), frames=6).ask(QUESTION, max_new_tokens=6)


def test_kv_caches_of_all_sessions_are_bounded_in_bytes(model):
    """Those used least recently go first; that of an answer being written is nobody's to drop."""
    first = model.chat(video=clip(), audio=sound(), frames=6)
    first.ask(QUESTION, max_new_tokens=2)
    both = model.kv_caches.nbytes
    model.kv_caches = KvCaches(limit=int(2.3 * both))
    second = model.chat(video=clip(seed=1), frames=6)
    first.ask(QUESTION, max_new_tokens=2)
    second.ask(QUESTION, max_new_tokens=2)  # about half as many tokens
    with computed(model) as tokens:
        for chat in (first, second, first):
            chat.ask("and now ?", max_new_tokens=2)
        assert max(tokens) < 60, "all are there"
        third = model.chat(video=clip(seed=2), frames=6)
        third.ask(QUESTION, max_new_tokens=2)
        assert model.kv_caches.nbytes <= 2.3 * both
        del tokens[:]
        first.ask("and then ?", max_new_tokens=2)
        second.ask("and then ?", max_new_tokens=2)
    assert tokens[0] < 60 < tokens[1], "the second was used least recently"


def test_a_session_that_is_gone_leaves_no_cache(model):
    for seed in range(3):
        model.chat(video=clip(seed=seed), frames=4).ask(QUESTION, max_new_tokens=2)
        gc.collect()
        assert len(model.kv_caches) == 1


def exchanged(model, name, weight):
    """Unload an adapter and load another one of the same name, modality and size."""
    model.unload_adapter(name)
    random_adapter(model, name)
    for part in ("vision", "llm"):
        lora = model.lora_name(name, part)
        model.lora.fill(lora, {key: weight * x for key, x in model.lora.tensors(lora).items()})


def trained(model, name, weight, parts=("vision", "llm")):
    """Change an adapter's weights where they are, as a training run does."""
    loras = [model.lora_name(name, part) for part in parts]
    with model.lora.active(loras, loras), torch.no_grad():
        for lora in loras:
            for x in model.lora.tensors(lora).values():
                x.mul_(weight)


@pytest.mark.parametrize("change", [exchanged, trained])
def test_an_adapter_exchanged_or_trained_between_questions_is_the_one_that_answers(model, change):
    """Of the same name: neither its tokens nor its keys and values may be those of the one before."""
    chat = model.chat(video=clip(), audio=sound(), frames=6)
    before = chat.ask(QUESTION, max_new_tokens=12)
    tokens = chat.streams["audio"].tokens
    change(model, "audio", -0.7)
    with pytest.raises(LynxError, match="adapters have changed"):
        chat.occlusion("audio")
    chat.undo()
    after = chat.ask(QUESTION, max_new_tokens=12)
    fresh = model.chat(video=clip(), audio=sound(), frames=6)
    assert after == fresh.ask(QUESTION, max_new_tokens=12) != before
    assert not torch.equal(chat.streams["audio"].tokens, tokens)
    assert torch.equal(chat.streams["audio"].tokens, fresh.streams["audio"].tokens)
    rows = chat.evidence.attention.rows
    assert torch.equal(rows, fresh.evidence.attention.rows), "no key or value of before is left"
    assert chat.occlusion("audio") == fresh.occlusion("audio")


def test_only_what_the_llm_learned_anew_is_computed_anew(model):
    chat = model.chat(video=clip(), audio=sound(), frames=6)
    chat.ask(QUESTION, max_new_tokens=6)
    trained(model, "audio", -0.7, ("llm",))
    chat.undo()
    with frames_encoded(model) as passes:
        after = chat.ask(QUESTION, max_new_tokens=6)
    fresh = model.chat(video=clip(), audio=sound(), frames=6)
    assert passes == [] and after == fresh.ask(QUESTION, max_new_tokens=6)
    assert torch.equal(chat.evidence.attention.rows, fresh.evidence.attention.rows)


def test_an_adapter_that_takes_fewer_tokens_is_planned_anew(model):
    chat = model.chat(video=clip(), audio=sound(), frames=6)
    chat.ask(QUESTION, max_new_tokens=2)
    model.unload_adapter("audio")
    random_adapter(model, "audio", token_pooling="space")
    chat.undo()
    chat.ask(QUESTION, max_new_tokens=2)
    assert dict(chat.plan.tokens) == {sense: len(stream.tokens) for sense, stream in chat.streams.items()}
    assert chat.plan.tokens["audio"] == 7


@contextmanager
def frames_encoded(model):
    """How many frames go through the tower inside the `with`, at each pass."""
    found, encode = [], model.backbone.encode
    model.backbone.encode = lambda pixels: (found.append(len(pixels)), encode(pixels))[1]
    try:
        yield found
    finally:
        del model.backbone.encode


def test_sessions_of_one_model_encode_a_clip_once(model):
    with frames_encoded(model) as passes:
        first = model.chat(video=clip(), audio=sound(), frames=6).ask(QUESTION, max_new_tokens=6)
        assert passes == [6, 6]
        second = model.chat(video=clip(), audio=sound(), frames=6)
        assert second.ask(QUESTION, max_new_tokens=6) == first and passes == [6, 6]
        model.chat(video=clip(), audio=sound(seed=1), frames=6).encode()
        assert passes == [6, 6, 6]  # other sound, the same video
        model.chat(video=clip(), frames=4).encode()
        assert passes[3:] == [4]


def test_what_a_sense_has_to_say_is_a_note(chat):
    audio = chat.encode()["audio"]
    chat.streams["audio"] = replace(audio, frames=replace(audio.frames, notes=("it is quiet",)))
    chat.ask(QUESTION, max_new_tokens=2)
    assert chat.notes[0] == "it is quiet"
