"""The app without a browser: engine, views, handlers and the endpoint, on a small random model."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep

import checkpoints
import gradio as gr
import pytest
import torch

import lynx
from lynx.adapters import Adapter, save_adapter
from lynx.config import LoraSettings
from lynx.errors import LynxError, MediaError
from lynx.evidence import TEXT
from lynx.media import Waveform, write_video
from lynx.ui import launch, views
from lynx.ui.engine import (
    Clip,
    Engine,
    Offer,
    Reply,
    Request,
    Setup,
    check,
    seconds_needed,
    sentence,
    thumbnails,
)
from lynx.ui.examples import find_adapters, find_examples, pick
from lynx.ui.page import Page, build
from lynx.ui.state import Chat, Turn

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
LABELS = {"video": "picture", "audio": "sound"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A model with an adapter, and files: with sound, mute, sound alone, and one that is no media."""
    folder = tmp_path_factory.mktemp("desk")
    model = lynx.load(checkpoints.llava_onevision(folder / "backbone"))
    model.add_adapter(Adapter("audio", "audio"))
    for part in ("vision", "llm"):
        model.add_lora("audio", part, LoraSettings(4, 8.0, 0.0))
    save_adapter(model, "audio", folder / "adapter")
    pixels = torch.randint(
        0, 255, (16, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    tone = Waveform(torch.sin(torch.arange(64000) / 16000 * 2000) * 0.5, 16000)
    write_video(folder / "clip.mp4", pixels, 4, tone)
    write_video(folder / "mute.mp4", pixels, 4)
    (folder / "text.mp4").write_text("no film at all\n" * 99)
    return folder


@pytest.fixture(scope="module")
def setup(desk):
    return Setup(str(desk / "backbone"), adapters=(str(desk / "adapter"),))


@pytest.fixture(scope="module")
def engine():
    return Engine(max_new_tokens=12)


def request_for(setup, desk, name="clip.mp4", senses=("video", "audio"), question="what is it ?", key="k"):
    return Request(key, setup, Clip(str(desk / name)), senses, (), question)


def test_an_answer_comes_in_pieces_then_whole_with_what_it_rests_on(engine, setup, desk):
    *pieces, reply = engine.answer(request_for(setup, desk))
    assert "".join(pieces).strip() == reply.answer
    assert reply.used == {"video": (16, 4.0), "audio": (16, pytest.approx(4.0, abs=0.1))}
    found = reply.findings
    assert len(found.shares) == len(found.words) + 1 == len(found.curves) == len(found.maps)
    assert all(sum(share.values()) == pytest.approx(1, abs=1e-4) for share in found.shares)
    assert found.maps[0]["audio"].shape[0] == len(found.frames["audio"]) == 16


def test_everything_that_crosses_processes_can_be_pickled(engine, setup, desk):
    request = request_for(setup, desk)
    *_, reply = engine.answer(pickle.loads(pickle.dumps(request)))
    copy = pickle.loads(pickle.dumps(reply))
    assert copy.answer == reply.answer and copy.findings.words == reply.findings.words
    assert len(pickle.dumps(reply)) < 20e6


def test_the_app_says_what_the_library_says(engine, setup, desk):
    model = lynx.load(setup.backbone, list(setup.adapters))
    chat = model.chat(video=str(desk / "clip.mp4"), audio=str(desk / "clip.mp4"))
    expected = [chat.ask(question, max_new_tokens=12) for question in ("what is it ?", "and then ?")]
    first = request_for(setup, desk, key="two turns")
    *_, one = engine.answer(first)
    *_, two = engine.answer(replace(first, history=(("what is it ?", one.answer),), question="and then ?"))
    assert [one.answer, two.answer] == expected


def test_a_conversation_goes_on_where_no_state_came_back(setup, desk):
    """As on ZeroGPU: another process answers the second turn."""
    first = request_for(setup, desk)
    history = (("what is it ?", "a b c"),)
    answers = []
    for engine in (Engine(12), Engine(12)):
        *_, reply = engine.answer(replace(first, history=history, question="why ?"))
        answers.append(reply.answer)
    assert answers[0] == answers[1]


def test_a_sense_that_is_off_is_not_used(engine, setup, desk):
    *_, reply = engine.answer(request_for(setup, desk, senses=("video",)))
    assert set(reply.used) == {"video"} and set(reply.findings.frames) == {"video"}


def test_with_all_senses_off_words_alone_answer(engine, setup, desk):
    *_, reply = engine.answer(request_for(setup, desk, senses=()))
    assert reply.used == {} and views.rests_on(reply.findings, 0, LABELS) is None
    assert reply.findings.shares[0] == {"text": pytest.approx(1)}


def test_a_video_without_sound_is_said_and_answered_from_the_picture(engine, setup, desk):
    *_, reply = engine.answer(request_for(setup, desk, "mute.mp4"))
    assert set(reply.used) == {"video"}
    assert any("'mute.mp4' has no audio track" in note for note in reply.notes)


def test_sound_from_another_file_and_sound_alone(engine, setup, desk):
    both = Request(
        "s", setup, Clip(str(desk / "mute.mp4"), str(desk / "clip.mp4")), ("video", "audio"), (), "what ?"
    )
    *_, reply = engine.answer(both)
    assert set(reply.used) == {"video", "audio"}
    *_, reply = engine.answer(replace(both, clip=Clip(None, str(desk / "clip.mp4"))))
    assert set(reply.used) == {"audio"}


def test_what_is_seen_is_shown_with_its_budget(engine, setup, desk):
    view = engine.look(request_for(setup, desk), encode=True)
    raw = engine.look(request_for(setup, desk), encode=False)
    assert set(view.frames) == {"video", "audio"} and sum(view.tokens.values()) < view.context
    assert torch.equal(view.frames["audio"].pixels, raw.frames["audio"].pixels)
    line = views.budget(view, LABELS)
    assert f"of {view.context:,} tokens" in line and "16 frames" in line
    assert views.seen(view, LABELS).width == views.SEEN_WIDTH
    assert set(engine.look(request_for(setup, desk, senses=("video",)), True).frames) == {"video"}


def test_stop_ends_the_answer_and_keeps_what_was_said(setup, desk):
    engine = Engine(max_new_tokens=800)
    request = request_for(setup, desk, key="stop me")
    engine.start("stop me")
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(lambda: list(engine.answer(request)))
        while not any(session.busy for session in list(engine._sessions.values())):
            sleep(0.01)
        engine.stop("stop me")
        *pieces, reply = answering.result(timeout=60)
    assert reply.answer == "".join(pieces).strip() and len(reply.answer) < 700
    assert engine.stopped("stop me")


def test_compare_gives_two_answers_and_leaves_the_history(engine, setup, desk):
    request = request_for(setup, desk, key="compare")
    result = engine.compare(request, "audio")
    *_, reply = engine.answer(request)
    assert result.with_sense == reply.answer
    *_, without = engine.answer(replace(request, senses=("video",)))
    assert result.without_sense == without.answer
    last = replace(request, history=((request.question, reply.answer),), question="")
    assert engine.compare(last, "audio").question == request.question


def test_hiding_a_sense_is_measured(engine, setup, desk):
    request = request_for(setup, desk, key="hide")
    with pytest.raises(LynxError, match="no answer"):
        engine.hide(request)
    *_, reply = engine.answer(request)
    drops = engine.hide(replace(request, history=((request.question, reply.answer),)))
    assert set(drops) == {"video", "audio"}
    assert views.hidden({"audio": 6.0, "video": 0.1}, LABELS).count("403 times less likely") == 1
    assert "over a million" in views.hidden({"audio": 99.0}, LABELS)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ((None, None), "Give a video"),
        (("text.mp4", None), "cannot be read"),
        (("gone.mp4", None), "no file"),
        (("clip.mp4", "mute.mp4"), "no audio track"),
    ],
)
def test_clips_that_cannot_be_used_are_one_sentence(desk, clip, message):
    with pytest.raises(MediaError, match=message) as error:
        check(Clip(*(str(desk / name) if name else None for name in clip)))
    assert sentence(error.value).count("\n") == 0 and sentence(error.value).endswith(".")


def test_senses_of_the_endpoint(engine, setup, desk):
    clip, mute = request_for(setup, desk, senses=()), request_for(setup, desk, "mute.mp4", senses=())
    assert engine.usable(clip, None) == ("video", "audio")
    assert engine.usable(clip, ["audio"]) == ("audio",)
    assert engine.usable(mute, None) == ("video",)
    with pytest.raises(LynxError, match="no audio track"):
        engine.usable(mute, ["video", "audio"])
    with pytest.raises(LynxError, match="no sense smell"):
        engine.usable(clip, ["smell"])


def test_a_sense_the_page_has_no_place_for_is_said_and_not_fed_the_video(setup, desk, tmp_path):
    model = lynx.load(setup.backbone)
    model.add_adapter(Adapter("depth", "depth"))
    model.add_lora("depth", "llm", LoraSettings(2, 2.0, 0.0))
    save_adapter(model, "depth", tmp_path / "depth")
    deep = replace(setup, adapters=(str(tmp_path / "depth"),))
    *_, reply = Engine(2).answer(request_for(deep, desk, senses=("video", "depth")))
    assert set(reply.used) == {"video"} and any("no place for depth" in note for note in reply.notes)


def test_old_sessions_and_models_make_room(setup, desk):
    engine = Engine(2)
    for number in range(6):
        list(engine.answer(request_for(setup, desk, key=str(number))))
    assert len(engine._sessions) == 4
    bare = replace(setup, adapters=())
    assert list(engine.senses(bare)) == ["video"]
    assert list(engine._models) == [bare] and not engine._sessions
    with pytest.raises(LynxError):
        engine.model(replace(setup, backbone=str(desk / "nothing here")))


def test_the_gpu_is_asked_for_a_short_time(setup, desk):
    assert 10 <= seconds_needed(request_for(setup, desk)) <= 60


def test_long_spectrograms_become_small_and_keep_their_rows():
    frames = lynx.media.Frames(torch.zeros(2, 3, 64, 5000, dtype=torch.uint8), torch.tensor([1.0, 2.0]), 3.0)
    assert thumbnails(frames).pixels.shape == (2, 3, 64, 320)
    big = lynx.media.Frames(torch.zeros(1, 3, 720, 1280, dtype=torch.uint8), torch.tensor([1.0]), 3.0)
    assert thumbnails(big).pixels.shape == (1, 3, 180, 320)


def test_an_adapter_is_offered_where_it_fits_and_greyed_with_the_reason_where_not(setup, desk, tmp_path):
    engine, adapter = Engine(2), str(desk / "adapter")
    other = checkpoints.llava_onevision(tmp_path / "other", hidden=64)
    same_shape = checkpoints.llava_onevision(tmp_path / "same", seed=5)
    fits, gone = engine.offers(setup.backbone, [adapter, str(tmp_path / "gone")])
    assert (fits.reason, fits.modality) == ("", "audio") and "expected" in gone.reason
    assert "not of the size" in engine.offers(str(other), [adapter])[0].reason
    assert engine.offers(str(same_shape), [adapter])[0].reason == "", "its weights are not read yet"
    engine.senses(Setup(str(same_shape)))
    assert "projector" in engine.offers(str(same_shape), [adapter])[0].reason


def test_offers_are_chips_and_notes():
    found = (
        Offer("owner/ears", "audio", "owner/ears@0123456789abcdef0123456789abcdef01234567"),
        Offer("owner/<b>eyes", reason="for the family 'qwen2_5_vl' & no other"),
    )
    shown = views.offers(found)
    assert "owner/ears · audio · 0123456<" in shown and shown.count('class="chip off"') == 1
    assert "&#x27;qwen2_5_vl&#x27; &amp; no other" in shown and "<b>" not in shown and views.offers(()) == ""


# --- views ---------------------------------------------------------------------------------------


def test_text_of_models_and_users_is_escaped(setup):
    evil = "<img src=x onerror=alert(1)>"
    turn = Turn(evil, evil, setup, Clip("a.mp4"))
    shown = str(views.messages((turn, replace(turn, clip=Clip(f"{evil}.mp4")))))
    pieces = [shown, views.notice(evil), views.comparison(evil, evil, evil, evil)]
    pieces.append(views.chips(Reply(evil, {evil: (1, 2.0)}, (evil,)), {"video": evil}, False))
    assert all("<img" not in piece for piece in pieces)


def test_chips_say_which_senses_were_used(setup):
    chips = views.chips(Reply("x", {"video": (8, 4.0)}, ("a note",)), LABELS, stopped=True)
    assert "picture · 8 frames · 4.0 s" in chips and "no sound" in chips
    assert "stopped" in chips and "A note" in chips


def test_a_new_clip_draws_a_line_and_starts_a_new_history(setup):
    old, new = Clip("a.mp4"), Clip("b.mp4")
    turns = (Turn("1", "one", setup, old), Turn("2", "two", setup, new), Turn("3", "three", setup, new))
    assert [m["role"] for m in views.messages(turns)] == ["user", "assistant", "assistant"] + [
        "user",
        "assistant",
    ] * 2
    chat = Chat("k", setup, turns=turns)
    assert chat.about(new) == (("2", "two"), ("3", "three")) and chat.about(old) == ()


def test_words_to_choose_from():
    assert views.word_choices(None) == [] and views.WORDS == TEXT


# --- examples ------------------------------------------------------------------------------------


def test_examples_and_adapters_are_found_and_broken_ones_skipped(tmp_path, desk, caplog):
    for name, text in {
        "good": '{"media": {"video": "c.mp4"}, "questions": [{"question": "q ?", "senses": ["audio"]}]}',
        "torn": '{"media": ',
        "gone": '{"media": {"video": "missing.mp4"}, "questions": []}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "qa.json").write_text(text)
    (tmp_path / "good" / "c.mp4").write_bytes((desk / "clip.mp4").read_bytes())
    found = find_examples(tmp_path)
    assert [example.clip.parent.name for example in found] == ["good"] and found[0].questions == ("q ?",)
    assert "torn" in caplog.text
    assert find_adapters("backbone", desk) == (str(desk / "adapter"),)
    assert find_adapters("another", desk) == ()


def test_questions_offered_need_sound_first():
    questions = [("v1", ("video",)), ("a1", ("audio",)), ("b1", ("video", "audio")), ("a2", ("audio",))]
    assert pick(questions) == ("a1", "a2", "b1", "v1")


# --- the page and its endpoint -------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(engine, setup):
    """The handlers, without a server."""
    made = []
    original = Page.__init__

    def keep(self, *args):
        original(self, *args)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "__init__", keep)
        build(engine, setup, [setup.backbone], [])
    return made[0]


def media(desk, name, chat, senses=("video", "audio")):
    return (str(desk / name) if name else None, "the video", None, list(senses), chat)


def test_an_error_leaves_the_conversation_and_the_question(page, setup, desk):
    chat = Chat("e", setup, turns=(Turn("q", "a", setup, Clip()),))
    for name, question in (("text.mp4", "what ?"), (None, "what ?"), ("clip.mp4", "  ")):
        *_, last = page.on_ask(question, *media(desk, name, chat))
        assert "notice" in last[page.ui.notice] and last[page.ui.question] == question
        assert page.ui.chat not in last and len(last[page.ui.window]) == 2
        assert last[page.ui.send]["visible"] and not last[page.ui.halt]["visible"]


def test_ask_retry_and_clear(page, setup, desk):
    ui, chat = page.ui, Chat("r", setup, tuple(LABELS.items()))
    *_, last = page.on_ask("what ?", *media(desk, "clip.mp4", chat))
    told = last[ui.chat]
    assert len(told.turns) == 1 and "chips" in told.turns[0].chips and last[ui.evidence]["visible"]
    assert last[ui.rests_on].width == 1200
    *_, last = page.on_retry(*media(desk, "clip.mp4", told, ("video",)))
    again = last[ui.chat]
    assert len(again.turns) == 1 and "no sound" in again.turns[0].chips
    *_, failed = page.on_retry(*media(desk, "text.mp4", again))
    assert failed[ui.notice] and len(failed[ui.window]) == 2
    cleared = page.on_clear(again)
    assert cleared[ui.window] == [] and cleared[ui.chat].turns == ()
    *_, nothing = page.on_retry(*media(desk, "clip.mp4", cleared[ui.chat]))
    assert "no question" in nothing[ui.notice]


def test_another_model_that_cannot_be_loaded_leaves_the_one_before(page, setup):
    chat = Chat("m", setup)
    update = page.on_setup("no/such-model-here", "auto", [], chat)
    assert update[page.ui.chat] == chat and "notice" in update[page.ui.notice]
    update = page.on_setup(setup.backbone, "auto", [], chat)
    assert update[page.ui.chat].words == {"video": "picture"}
    assert not update[page.ui.versus]["interactive"]


def test_adapters_that_do_not_fit_cannot_be_chosen(page, setup, desk, tmp_path):
    other = str(checkpoints.llava_onevision(tmp_path / "other", hidden=64))
    adapter = str(desk / "adapter")
    update = page.on_choose(setup.backbone, [adapter])
    assert update[page.ui.adapters]["value"] == [adapter] and ">adapter · audio<" in update[page.ui.offers]
    update = page.on_choose(other, [adapter])
    assert update[page.ui.adapters]["value"] == [] and adapter not in update[page.ui.adapters]["choices"]
    assert (
        'class="chip off">adapter<' in update[page.ui.offers] and "not of the size" in update[page.ui.offers]
    )


def test_compare_needs_an_added_sense(page, setup, desk):
    chat = Chat("c", setup, tuple(LABELS.items()))
    off = page.on_compare("what ?", *media(desk, "clip.mp4", chat, ("video",)))
    assert "Switch an added sense on" in off[page.ui.notice]
    on = page.on_compare("what ?", *media(desk, "clip.mp4", chat))
    assert "with sound" in on[page.ui.versus_view] and "without sound" in on[page.ui.versus_view]


@pytest.fixture(scope="module")
def client(engine, setup):
    from gradio_client import Client

    blocks = launch(port=None, setup=setup, examples=[], engine=engine, block=False)
    yield Client(blocks.local_url, verbose=False)
    blocks.close()


def test_the_endpoint_answers(client, desk, engine, setup):
    from gradio_client import handle_file

    file = handle_file(str(desk / "clip.mp4"))
    answer = client.predict(file, None, "what is it ?", ["video", "audio"], api_name="/ask")
    *_, reply = engine.answer(request_for(setup, desk, key="direct"))
    assert answer == reply.answer
    named = client.predict(video=file, audio=None, question="what is it ?", senses=None, api_name="/ask")
    assert named == answer
    alone = client.predict(None, file, "what is it ?", ["audio"], api_name="/ask")
    assert isinstance(alone, str)


def test_the_endpoint_says_what_is_wrong_in_one_sentence(client, desk):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    for name, senses, message in (
        ("mute.mp4", ["video", "audio"], "no audio track"),
        ("text.mp4", None, "cannot be read"),
        ("clip.mp4", ["smell"], "no sense smell"),
    ):
        with pytest.raises(AppError, match=message) as error:
            client.predict(handle_file(str(desk / name)), None, "what ?", senses, api_name="/ask")
        assert "Traceback" not in str(error.value)


def test_only_the_endpoint_is_public(client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/ask"]


def test_gradio_is_the_version_the_page_was_made_for():
    assert (
        gr.__version__.startswith("6.") and Path(launch.__code__.co_filename).with_name("style.css").is_file()
    )
