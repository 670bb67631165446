"""The app without a browser: engine, views, handlers and the endpoint, on a small random model."""

import json
import pickle
import re
import shutil
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from threading import Event
from time import sleep
from types import SimpleNamespace
from zipfile import ZipFile

import av
import checkpoints
import gradio as gr
import numpy as np
import pytest
import torch
from checkpoints import JSON_DAMAGES, damage_json
from PIL import Image

import lynx
from lynx import modalities
from lynx.adapters.format import Adapter
from lynx.adapters.saving import save_adapter
from lynx.config import Limits, LoraSettings
from lynx.errors import LynxError, MediaError
from lynx.media.depth import open_depth
from lynx.media.thumbnails import thumbnails
from lynx.media.writer import write_video
from lynx.types import Frames, Moments, Recording, Waveform
from lynx.ui import launch, views
from lynx.ui.edit_bar import pen
from lynx.ui.engine import THUMBNAIL_PIXELS, Engine, seconds_needed
from lynx.ui.evidence_panel import COMPUTING
from lynx.ui.example_gallery import example_gallery
from lynx.ui.examples import ExampleClip, as_written, find_adapters, find_examples, suggested_questions
from lynx.ui.kept_answers import ANSWERS_KEPT, CONVERSATIONS_KEPT
from lynx.ui.layout import Layout
from lynx.ui.page import Page, build
from lynx.ui.types import (
    PICTURE,
    WHOLE,
    AdapterOption,
    Chat,
    ChatTurn,
    Clip,
    Reply,
    Request,
    Sense,
    Setup,
)
from lynx.ui.uploads import Uploads, further_views
from lynx.ui.views import sentence
from lynx.visualization.drawing import color

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
LABELS = {"video": "picture", "audio": "sound"}
ADDED = ("audio", "depth", "high_fps", "multi_view")
NEEDS = (("video",), ("audio",), ("audio", "video"), ("depth",), ("high_fps",), ("multi_view",))
SENSES = (PICTURE, Sense("audio", "sound", "audio", "audio"))


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
def full(desk, setup):
    """The model with an adapter for each sense, and `fast.mp4`, `depth/` with its texts and `other.mp4`."""
    model = lynx.load(setup.backbone)
    for sense in ADDED[1:]:
        model.add_adapter(Adapter(sense, sense))
        model.add_lora(sense, "llm", LoraSettings(2, 2.0, 0.0))
        save_adapter(model, sense, desk / f"{sense}_adapter")
    noise = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 255, (80, 3, 48, 64), dtype=torch.uint8, generator=noise)
    write_video(desk / "fast.mp4", pixels, 20, Waveform(torch.rand(64000, generator=noise) - 0.5, 16000))
    write_video(desk / "other.mp4", pixels[:60].flip(0), 20)
    for folder in ("depth", "pose"):
        (desk / folder).mkdir()
    for i in range(4):
        metres = np.full((24, 32), 800 + 700 * i, dtype=np.uint16)
        Image.fromarray(metres).save(desk / "depth" / f"{i}.png")
        np.savetxt(desk / "pose" / f"{i}.txt", np.eye(4))
    np.savetxt(desk / "times.txt", np.arange(4.0))
    np.savetxt(desk / "intrinsic_depth.txt", np.diag([30, 30, 1.0]))
    adapters = (*setup.adapters, *(str(desk / f"{sense}_adapter") for sense in ADDED[1:]))
    return replace(setup, adapters=adapters)


@pytest.fixture(scope="module")
def engine():
    return Engine(max_new_tokens=12)


def request_for(setup, desk, name="clip.mp4", senses=("video", "audio"), question="what is it ?", key="k"):
    return Request(key, setup, Clip(str(desk / name)), senses, (), question)


def test_an_answer_comes_in_pieces_then_whole_with_what_it_rests_on(engine, setup, desk):
    *pieces, reply = engine.answer(request_for(setup, desk))
    assert "".join(pieces).strip() == reply.answer
    assert reply.used == {"video": (16, 4.0), "audio": (16, pytest.approx(4.0, abs=0.1))}
    record, frames = reply.evidence.record, reply.evidence.frames
    known = record["attributions"]
    assert [each["word"] for each in known] == [None, *range(len(record["words"]))]
    assert all(each["method"] == "attention" for each in known), "what takes passes is computed later"
    assert all(sum(each["totals"].values()) == pytest.approx(1, abs=1e-4) for each in known)
    assert len(known[0]["values"]["audio"]) == len(frames["audio"]) == 16
    assert record["senses"]["audio"]["label"] == "sound" and json.loads(json.dumps(record)) == record


def test_everything_that_crosses_processes_can_be_pickled(engine, setup, desk):
    request = request_for(setup, desk)
    *_, reply = engine.answer(pickle.loads(pickle.dumps(request)))
    copy = pickle.loads(pickle.dumps(reply))
    assert copy.answer == reply.answer and copy.evidence.record == reply.evidence.record
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
    assert set(reply.used) == {"video"} and set(reply.evidence.frames) == {"video"}


def test_with_all_senses_off_words_alone_are_refused(engine, setup, desk):
    with pytest.raises(MediaError, match="switch one on"):
        list(engine.answer(request_for(setup, desk, senses=())))
    assert views.evidence(None) == ""


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
    view = engine.preview(request_for(setup, desk), encode=True)
    raw = engine.preview(request_for(setup, desk), encode=False)
    assert set(view.frames) == {"video", "audio"} and sum(view.tokens.values()) < view.context
    assert torch.equal(view.frames["audio"].pixels, raw.frames["audio"].pixels)
    line = views.budget(view, LABELS)
    assert f"of {view.context:,} tokens" in line and "16 frames" in line
    assert views.seen(view, SENSES).width == views.SEEN_WIDTH
    assert set(engine.preview(request_for(setup, desk, senses=("video",)), True).frames) == {"video"}


def test_the_preview_notes_what_inspect_notes_and_each_once(engine, setup, desk):
    path = desk / "two_sounds.mkv"
    with av.open(str(desk / "clip.mp4")) as source, av.open(str(path), "w") as target:
        copies = [target.add_stream_from_template(source.streams[index]) for index in (0, 1, 1)]
        for packet in source.demux():
            data, tracks = bytes(packet), copies[:1] if packet.stream.index == 0 else copies[1:]
            for track in tracks if packet.dts is not None else []:
                copy = av.Packet(data)
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, track
                target.mux(copy)
    seen = lynx.inspect(path)
    assert [track.type for track in seen.tracks] == ["video", "audio", "audio"]
    view = engine.preview(request_for(setup, desk, path.name), encode=True)
    assert [view.notes.count(note) for note in seen.notes] == [1] * len(seen.notes)


def test_stop_ends_the_answer_and_keeps_what_was_said(setup, desk):
    engine = Engine(max_new_tokens=800)
    request = request_for(setup, desk, key="stop me")
    with engine.sessions.answering("stop me") as stop, ThreadPoolExecutor() as pool:
        answering = pool.submit(lambda: list(engine.answer(request)))
        while not any(session.busy for session in list(engine.sessions._sessions.values())):
            sleep(0.01)
        engine.sessions.stop("stop me")
        *pieces, reply = answering.result(timeout=60)
        assert stop.is_set() and engine.sessions.stopped("stop me")
    assert reply.answer == "".join(pieces).strip() and len(reply.answer) < 700


def test_no_list_of_stopped_conversations_grows(engine):
    sessions = engine.sessions
    for number in range(1000):
        with sessions.answering(str(number)):
            sessions.stop(str(number))
            assert sessions.stopped(str(number))
        sessions.stop(f"never answered {number}")
        assert not sessions.stopped(str(number)), "a Stop is for one answer"
    assert not sessions._stops
    with sessions.answering("again") as first, sessions.answering("again") as second:
        sessions.stop("again")
        assert second.is_set() and not first.is_set()


def test_a_film_goes_with_its_conversation(setup, desk, monkeypatch):
    monkeypatch.setattr("lynx.ui.sessions.SESSIONS_KEPT", 2)
    write_video(desk / "short.mp4", torch.zeros(4, 3, 48, 64, dtype=torch.uint8), 20)
    engine, answers = Engine(max_new_tokens=4), []

    def film(key):
        request = request_for(setup, desk, "short.mp4", ("video",), key=key)
        *_, reply = engine.answer(request)
        saved = engine.export(reply.evidence, (None, "attention"), "json")
        assert saved.parent == (film := engine.film(reply.evidence.given, WHOLE).path).parent
        answers.append(reply.evidence.given)
        return film

    first = film("1")
    folder = first.parent.parent
    assert film("1") == first and first.is_file(), "a conversation has one film"
    others = [film(key) for key in "234"]
    assert {path.parent for path in folder.glob("*/*.*")} == {path.parent for path in others[-2:]}
    engine.sessions.forget("4")
    assert {path.parent for path in folder.glob("*/*.*")} == {others[-2].parent}
    engine.models.get(replace(setup, adapters=()))
    assert not list(folder.iterdir()), "the model before went, and its sessions with it"
    assert not engine.sessions._sessions
    again = engine.film(answers[0], (0, "attention"))
    assert again.path.is_file(), "made again from the clip and the answer's tokens"
    for number in range(CONVERSATIONS_KEPT):
        engine.downloads.path(f"more {number}", "evidence.csv")
    assert len(list(folder.iterdir())) == CONVERSATIONS_KEPT and not list(folder.glob("*/answer.mp4"))


def test_comparing_leaves_the_conversation_as_it_is(engine, setup, desk):
    request = request_for(setup, desk, key="compare")
    *_, reply = engine.answer(request)
    session = next(kept for key, kept in engine.sessions._sessions.items() if key[0] == "compare")
    before = dict(session.senses), list(session.history)
    assert engine.to_leave_out(request) == ("audio",)
    assert engine.answer_without(request) == reply.answer
    silent = engine.answer_without(request, "audio")
    assert (dict(session.senses), session.history) == before
    *_, without = engine.answer(replace(request, senses=("video",)))
    assert silent == without.answer
    last = replace(request, history=((request.question, reply.answer),), question="")
    assert engine.answer_without(last, "audio") == silent, "the question of the history"
    with pytest.raises(LynxError, match="no question"):
        engine.to_leave_out(replace(request, question=" "))


# --- what an answer rests on ---------------------------------------------------------------------

HIDDEN = (None, "hiding")


def test_what_a_word_rests_on_is_computed_on_request_and_once(engine, setup, desk):
    *_, reply = engine.answer(request_for(setup, desk, key="once"))
    view, passes = reply.evidence, []
    found = engine.explain(view.given, (0, "attribution"), lambda *done: passes.append(done))
    assert passes and passes[-1][0] == passes[-1][1]
    assert (found["word"], found["method"], found["unit"]) == (0, "attribution", "nats")
    assert not view.known((0, "attribution"))
    view.join(found)
    view.join(found)
    known = [(each["word"], each["method"]) for each in view.record["attributions"]]
    assert known.count((0, "attribution")) == 1 and view.known((0, "attribution"))
    engine.explain(view.given, (0, "attribution"), lambda *done: pytest.fail("it is known"))
    assert set(engine.explain(view.given, HIDDEN)["totals"]) == {"video", "audio"}


def test_what_an_answer_rests_on_is_the_same_where_it_is_gone(engine, setup, desk):
    """As on ZeroGPU, or after other visitors: it is made again from the clip and the answer's tokens."""
    first = request_for(setup, desk, key="gone")
    *_, one = engine.answer(first)
    history = ((first.question, one.answer),)
    *_, two = engine.answer(replace(first, history=history, question="why ?", senses=("audio", "video")))
    given = pickle.loads(pickle.dumps(two.evidence.given))
    assert given == two.evidence.given and given.request.history == history
    other = Engine(12)
    for chosen in ((None, "attribution"), (0, "attention"), HIDDEN):
        here, there = engine.explain(given, chosen), other.explain(given, chosen)
        assert here["totals"] == pytest.approx(there["totals"], abs=1e-3), chosen
        for sense, values in here["values"].items():
            assert torch.tensor(values).allclose(torch.tensor(there["values"][sense]), atol=1e-3)
    assert not other.sessions._sessions, "the conversation's own session may be answering meanwhile"


def test_the_last_answers_of_a_conversation_are_kept_and_go_with_it(setup, desk):
    engine, history, views_of = Engine(2), (), []
    request = request_for(setup, desk, key="many")
    for _ in range(ANSWERS_KEPT + 2):
        *_, reply = engine.answer(replace(request, history=history))
        history += ((request.question, reply.answer),)
        views_of.append(reply.evidence)
    kept = [engine.answers.get(view.given) is not None for view in views_of]
    assert kept == [False] * 2 + [True] * ANSWERS_KEPT
    views_of[0].join(engine.explain(views_of[0].given, WHOLE))
    assert views_of[0].known(WHOLE), "an earlier answer is explained as well"
    engine.sessions.forget("many")
    assert not engine.answers._kept
    list(engine.answer(request))
    engine.models.get(replace(setup, adapters=()))
    assert not engine.answers._kept, "or the model before would stay in memory"


def test_others_are_answered_between_two_passes_of_an_explanation(engine, setup, desk):
    *_, mine = engine.answer(request_for(setup, desk, key="mine"))
    said = []
    with ThreadPoolExecutor() as pool:

        def ask_meanwhile(done, total):
            other = request_for(setup, desk, question="and you ?", key="other")
            said.append(pool.submit(lambda: list(engine.answer(other))[-1]).result(timeout=60))

        engine.explain(mine.evidence.given, WHOLE, ask_meanwhile)
    assert len(said) > 1 and all(isinstance(reply, Reply) for reply in said)


def test_results_of_other_moments_are_refused(engine, setup, desk):
    *_, reply = engine.answer(request_for(setup, desk, key="moments"))
    found = engine.explain(reply.evidence.given, WHOLE)
    fewer = found | {"values": {sense: values[::2] for sense, values in found["values"].items()}}
    with pytest.raises(LynxError, match="ask again"):
        reply.evidence.join(fewer)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ((None, None), "Give a video"),
        (("text.mp4", None), "is a text"),
        (("gone.mp4", None), "no file"),
        (("clip.mp4", "mute.mp4"), "no audio track"),
    ],
)
def test_clips_that_cannot_be_used_are_one_sentence(desk, clip, message):
    with pytest.raises(MediaError, match=message) as error:
        Clip(*(str(desk / name) if name else None for name in clip)).check()
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
    deep = replace(clip, clip=replace(clip.clip, depth=str(desk / "clip.mp4")))
    assert engine.usable(deep, ["video"]) == ("video",)
    with pytest.raises(LynxError, match="No sense here takes depth"):
        engine.usable(deep, None)


# --- all senses at once --------------------------------------------------------------------------


def everything(full, desk, key="all", **changed):
    """A question about all that there is, with all senses on."""
    clip = {
        "video": "fast.mp4",
        "depth": "depth",
        "views": (("other.mp4", 0.0), ("fast.mp4", -0.5)),
    } | changed
    paths = {kind: str(desk / name) for kind, name in clip.items() if kind != "views" and name}
    views = tuple((str(desk / name), offset) for name, offset in clip["views"])
    return Request(key, full, Clip(**paths, views=views), ("video", *ADDED), (), "what is it ?")


def test_all_senses_answer_together_and_are_shown(engine, full, desk):
    senses, request = engine.models.senses(full), everything(full, desk)
    *_, reply = engine.answer(request)
    moments = reply.used["video"][0]  # less than usual: more do not fit this model
    assert set(reply.used) == {"video", *ADDED} and reply.used["multi_view"][0] == 2 * moments
    assert any(note.startswith("other does not record at") for note in reply.notes)
    view = engine.preview(request, encode=True)
    assert view.tokens["depth"] == view.tokens["high_fps"] < view.tokens["multi_view"] / 1.9
    assert view.frames["multi_view"].labels[:2] == ("other", "fast")
    drawn = engine.preview(request, encode=False).frames
    assert all(torch.equal(view.frames[sense].pixels, drawn[sense].pixels) for sense in ("video", *ADDED))
    times = {sense: known["times"] for sense, known in reply.evidence.record["senses"].items()}
    assert sorted(set(times["multi_view"])) == times["video"] and len(times["video"]) == moments
    assert views.seen(view, senses).height < 1200 and json.loads(views.evidence(reply.evidence))["lanes"]
    assert len({color(sense.name) for sense in senses}) == 5


def test_each_added_sense_is_left_out_in_turn(engine, full, desk):
    request = everything(full, desk, "each")
    assert engine.to_leave_out(request) == ADDED
    *_, reply = engine.answer(replace(request, senses=("video", "audio", "high_fps", "multi_view")))
    assert engine.answer_without(request, "depth") == reply.answer
    assert engine.to_leave_out(replace(request, senses=("depth", "video"))) == ("depth",)
    with pytest.raises(LynxError, match="switch one on"):
        engine.to_leave_out(replace(request, senses=("video",)))


def test_what_the_video_does_not_hold_is_a_note_and_a_bad_file_an_error(engine, full, desk):
    slow = everything(full, desk, "slow", video="clip.mp4")
    *_, reply = engine.answer(slow)
    assert "high_fps" not in reply.used and set(reply.used) > {"video", "depth", "multi_view"}
    assert any(note.startswith("There is no fast motion: The recording has 4 frames") for note in reply.notes)
    with pytest.raises(MediaError, match="faster motion"):
        list(engine.answer(replace(slow, strict=True)))
    for bad in ({"depth": "text.mp4"}, {"views": (("text.mp4", 0.0),)}, {"views": (("other.mp4", 60.0),)}):
        with pytest.raises(MediaError, match=r"is a text|check their offsets"):
            list(engine.answer(everything(full, desk, "bad", **bad)))


def test_a_file_for_a_sense_that_is_off_is_said_and_need_not_be_readable(engine, full, desk):
    request = replace(everything(full, desk, "off", depth="text.mp4"), senses=("video",))
    view = engine.preview(request, encode=True)
    assert set(view.frames) == {"video"}
    assert "depth is switched off, though a file was given for it" in view.notes
    assert not any("sound" in note for note in view.notes), "it reads the video"
    with pytest.raises(MediaError, match="is a text"):
        engine.preview(replace(request, senses=("video", "depth")), encode=True)
    *_, reply = engine.answer(request)
    assert set(reply.used) == {"video"}


def test_a_mesh_alone_can_be_asked_about_and_needs_a_sense_that_reads_it(engine, full, setup, desk):
    trimesh = pytest.importorskip("trimesh")
    trimesh.creation.box().export(desk / "box.ply")
    request = everything(full, desk, "mesh", video=None, depth="box.ply", views=())
    *_, reply = engine.answer(request)
    assert set(reply.used) == {"depth"}
    with pytest.raises(MediaError, match="No sense of this model reads 'box.ply'"):
        list(engine.answer(replace(request, setup=setup)))


def test_a_sense_that_somebody_adds_gets_its_place_and_its_word(full, desk, monkeypatch):
    class Warmth(modalities.depth.Depth):
        name, label = "warmth", "depth"  # it takes the same file, and has the same word

    monkeypatch.setitem(modalities.REGISTRY, "warmth", Warmth)
    model = lynx.load(full.backbone)
    model.add_adapter(Adapter("warmth", "warmth"))
    model.add_lora("warmth", "llm", LoraSettings(2, 2.0, 0.0))
    save_adapter(model, "warmth", desk / "warmth")
    engine, setup = Engine(2), replace(full, adapters=(str(desk / "warmth"), full.adapters[1]))
    senses = engine.models.senses(setup)
    assert [sense.label for sense in senses] == ["picture", "depth (warmth)", "depth (depth)"]
    assert engine.models.expected_senses(setup) == senses, "they can be told before the model is loaded"
    assert Chat("w", setup, senses).places == {"video", "depth"}
    names = tuple(sense.name for sense in senses)
    *_, reply = engine.answer(replace(everything(setup, desk), senses=names))
    assert set(reply.used) == {"video", "warmth", "depth"}


# --- uploads -------------------------------------------------------------------------------------


def zipped(path, files):
    with ZipFile(path, "w") as archive:
        for name, source in files.items():
            archive.writestr(name, source if isinstance(source, bytes) else source.read_bytes())
    return str(path)


def test_loose_files_and_zips_are_the_same_recording(full, desk, tmp_path):
    uploads = Uploads()
    maps, poses = sorted((desk / "depth").glob("*.png")), sorted((desk / "pose").glob("*.txt"))
    beside = [desk / "times.txt", desk / "intrinsic_depth.txt"]
    loose = uploads.depth([str(path) for path in (*maps, *poses, *beside)])
    assert uploads.depth([str(path) for path in (*beside, *poses, *maps)]) == loose
    inside = {f"a/room/{path.relative_to(desk)}": path for path in (*maps, *poses, *beside)}
    flat = {path.name: path for path in (*maps, *poses, *beside)}
    deep = zipped(tmp_path / "depth.zip", inside | {"a/room/color/0.jpg": maps[0], "__MACOSX/._0.png": b"x"})
    for recording in (loose, uploads.depth([deep]), uploads.depth([zipped(tmp_path / "flat.zip", flat)])):
        clip = open_depth(recording)
        assert clip.count == 4 and clip.poses is not None and clip.intrinsics is not None
        assert clip.times.tolist() == [0, 1, 2, 3] and clip.measure([1])[0, 0, 0] == pytest.approx(1.5)
    assert uploads.depth([uploads.as_one_file(desk / "depth")]) and uploads.depth([]) is None
    np.save(tmp_path / "stack.npy", np.ones((3, 4, 5)))
    assert uploads.depth([str(tmp_path / "stack.npy")]) == str(tmp_path / "stack.npy")
    alone = uploads.depth([zipped(tmp_path / "stack.zip", {"x/stack.npy": tmp_path / "stack.npy"})])
    assert alone.endswith("stack.npy") and open_depth(alone).count == 3


def test_uploads_that_are_no_depth_are_one_sentence(full, desk, tmp_path, monkeypatch):
    maps = [str(path) for path in sorted((desk / "depth").glob("*.png"))]
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "0.png").write_bytes(Path(maps[0]).read_bytes())
    (tmp_path / "a.pdf").write_bytes(b"x")
    bad = {
        "leads out": [zipped(tmp_path / "escape.zip", {"../../0.png": b"x"})],
        "damaged, encrypted or no .zip": [str(tmp_path / "torn.zip")],
        "not one recording": [zipped(tmp_path / "other.zip", {"read.me": b"x"})],
        "belongs to no depth map": [*maps, str(tmp_path / "notes.txt")],
        "called '0.png'": [*maps, str(tmp_path / "0.png")],
        ".pdf is no depth": [str(tmp_path / "a.pdf")],
        "without other files": [str(tmp_path / "escape.zip"), *maps],
        "no longer here": [str(tmp_path / "gone.zip")],
    }
    for message, files in bad.items():
        with pytest.raises(MediaError, match=re.escape(message)):
            Uploads().depth(files)
    monkeypatch.setattr("lynx.ui.uploads.LIMITS", Limits(max_unpacked_bytes=1000))
    with pytest.raises(MediaError, match=r"at most .* 1000 bytes \(LYNX_MAX_UNPACKED_BYTES\)"):
        Uploads().depth([zipped(tmp_path / "bomb.zip", {"depth/0.png": bytes(2000)})])
    assert not (tmp_path.parent / "0.png").exists()


def test_further_views_begin_when_they_are_said_to():
    files = ("a.mp4", "b.mp4")
    assert further_views(files, "") == further_views(files, None) == (("a.mp4", 0.0), ("b.mp4", 0.0))
    assert (
        further_views(files, " 0, -0.4 ")
        == further_views(files, "0 -0.4")
        == (*(("a.mp4", 0.0), ("b.mp4", -0.4)),)
    )
    assert further_views((), "left over") == ()
    for wrong in ("0.4", "0, 1, 2", "a, b", "0, nan"):
        with pytest.raises(MediaError, match="one number of seconds for each of the 2, such as '0, 0.4'"):
            further_views(files, wrong)
    twice = Clip("v.mp4", views=(("x/cam.mp4", 0.0), ("y/cam.mp4", 1.0)))
    assert {name: view.offset for name, view in twice.source("view").items()} == {"cam": 0.0, "cam 2": 1.0}


# --- the engine's memory -------------------------------------------------------------------------


def test_old_sessions_and_models_make_room(setup, desk):
    engine = Engine(2)
    for number in range(6):
        list(engine.answer(request_for(setup, desk, key=str(number))))
    assert len(engine.sessions._sessions) == 4
    bare = replace(setup, adapters=())
    assert engine.models.senses(bare) == (PICTURE,)
    assert list(engine.models._models) == [bare] and not engine.sessions._sessions
    with pytest.raises(LynxError):
        engine.models.get(replace(setup, backbone=str(desk / "nothing here")))


@pytest.fixture
def slow_load(setup, monkeypatch):
    """An engine that has one model, and is loading another one for as long as the test lasts."""
    engine, begun, go_on = Engine(2), Event(), Event()
    engine.models.get(setup)
    real = lynx.load

    def load(*args, **options):
        begun.set()
        assert go_on.wait(60)
        return real(*args, **options)

    monkeypatch.setattr(lynx, "load", load)
    monkeypatch.setattr("lynx.ui.models.EMBEDDED", setup.backbone)  # of which several are kept
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(engine.models.get, replace(setup, adapters=()))
        assert begun.wait(60)
        yield engine
        assert not loading.done()
        go_on.set()
        assert loading.result(timeout=60)


def test_what_needs_no_other_model_does_not_wait_for_its_load(slow_load, setup, full, desk):
    engine = slow_load
    with gr.Blocks() as blocks:
        page = Page(Layout(setup, [], []), engine, blocks)
    page.ui.examples = [ExampleClip({"video": desk / "clip.mp4", "depth": desk / "depth"})]
    new, unloaded = Chat("k", setup, SENSES), Chat("", full)
    calls = {
        "an example, for who has a model": lambda: page.examples.on_example(0, new)[page.ui.depth] is None,
        "an example, for who has just come": lambda: bool(
            page.examples.on_example(0, unloaded)[page.ui.depth]
        ),
        "which adapters fit": lambda: bool(page.model.on_choose(setup.backbone, list(setup.adapters))),
        "what a model needs": lambda: isinstance(page.model.on_plan(setup.backbone, "auto", []), str),
        "a model that is there": lambda: engine.models.senses(setup) == SENSES,
        "an answer of it": lambda: bool(list(engine.answer(request_for(setup, desk)))),
        "a stop": lambda: page.chat.on_stop(new) is None,
    }
    with ThreadPoolExecutor() as pool:
        for name, call in calls.items():
            assert pool.submit(call).result(timeout=30), name


def test_what_needs_no_model_is_not_queued_behind_those_that_do(page):
    light = {"on_choose", "on_plan", "on_views", "on_stop", "on_clear", "on_choice", "on_which", "on_clip"}
    light |= {"on_answered", "on_wanted", "on_explain", "on_explained", "on_film"}
    queues = {block.name: block.concurrency_id for block in page.blocks.fns.values()}
    assert light <= set(queues) and all(queues[name] != "model" for name in light)
    assert queues["on_send"] == queues["on_setup"] == queues["on_media"] == "model"


def test_the_gpu_is_asked_for_a_short_time(setup, desk):
    assert 10 <= seconds_needed(request_for(setup, desk)) <= 60


def test_long_spectrograms_become_small_and_keep_their_rows():
    frames = Frames(torch.zeros(2, 3, 64, 5000, dtype=torch.uint8), torch.tensor([1.0, 2.0]), 3.0)
    assert thumbnails(frames, THUMBNAIL_PIXELS).pixels.shape == (2, 3, 64, 900)
    big = Frames(torch.zeros(1, 3, 720, 1280, dtype=torch.uint8), torch.tensor([1.0]), 3.0)
    assert thumbnails(big, THUMBNAIL_PIXELS).pixels.shape == (1, 3, 180, 320)


def test_an_adapter_is_offered_where_it_fits_and_grayed_with_the_reason_where_not(setup, desk, tmp_path):
    engine, adapter = Engine(2), str(desk / "adapter")
    other = checkpoints.llava_onevision(tmp_path / "other", hidden=64)
    same_shape = checkpoints.llava_onevision(tmp_path / "same", seed=5)
    fits, gone = engine.models.options(setup.backbone, [adapter, str(tmp_path / "gone")])
    assert (fits.reason, fits.modality) == ("", "audio") and "expected" in gone.reason
    assert "not of the size" in engine.models.options(str(other), [adapter])[0].reason
    assert engine.models.options(str(same_shape), [adapter])[0].reason == "", "its weights are not read yet"
    engine.models.senses(Setup(str(same_shape)))
    assert "projector" in engine.models.options(str(same_shape), [adapter])[0].reason


@pytest.mark.parametrize("case", JSON_DAMAGES)
def test_a_broken_folder_is_listed_with_the_reason_and_the_app_goes_on(setup, desk, tmp_path, case):
    engine, message = Engine(2), JSON_DAMAGES[case][2]
    broken = str(shutil.copytree(desk / "adapter", tmp_path / "broken"))
    damage_json(tmp_path / "broken", case)
    shutil.copytree(desk / "adapter", tmp_path / "sound")
    found = find_adapters("backbone", tmp_path)
    assert found and set(found) <= {broken, str(tmp_path / "sound")}
    bad, good = engine.models.options(setup.backbone, [broken, *setup.adapters])
    assert re.search(message, bad.reason) and good.reason == ""
    both = replace(setup, adapters=(broken, *setup.adapters))
    kept, (reason,) = engine.models.without_broken(both)
    assert kept == setup and re.search(message, reason)
    assert engine.models.without_broken(setup) == (setup, ())


def test_a_visitor_is_told_which_adapter_was_left_out_and_is_answered(setup, desk, tmp_path):
    broken = str(shutil.copytree(desk / "adapter", tmp_path / "broken"))
    damage_json(tmp_path / "broken", "a rank without end")
    both = replace(setup, adapters=(broken, *setup.adapters))
    with gr.Blocks() as blocks:
        page = Page(Layout(both, [], []), Engine(2), blocks)
    update = page.model.on_load(Chat("", both))
    chat = update[page.ui.chat]
    assert chat.setup == setup and [sense.name for sense in chat.senses] == ["video", "audio"]
    assert "was left out" in update[page.ui.notice] and "r is inf" in update[page.ui.notice]
    assert isinstance(page.endpoint.ask(str(desk / "clip.mp4"), None, "what is it ?", ["audio"]), str)


def test_offers_are_chips_and_notes():
    found = (
        AdapterOption("owner/ears", "audio", "owner/ears@0123456789abcdef0123456789abcdef01234567"),
        AdapterOption("owner/<b>eyes", reason="for the family 'qwen2_5_vl' & no other"),
    )
    shown = views.adapter_options(found)
    assert "owner/ears · audio · 0123456<" in shown and shown.count('class="chip off"') == 1
    assert "&#x27;qwen2_5_vl&#x27; &amp; no other" in shown and "<b>" not in shown
    assert views.adapter_options(()) == ""


# --- views ---------------------------------------------------------------------------------------


def test_text_of_models_and_users_is_escaped(setup):
    evil = "<img src=x onerror=alert(1)>"
    turn = ChatTurn(evil, evil, setup, Clip("a.mp4"))
    shown = str(views.messages((turn, replace(turn, clip=Clip(f"{evil}.mp4")))))
    pieces = [shown, views.notice(evil), views.comparison(evil, {None: evil, evil: "x"}, {evil: evil})]
    pieces.append(views.chips(Reply(evil, {evil: (1, 2.0)}, (evil,)), {"video": evil}, False))
    assert all("<img" not in piece for piece in pieces)
    typed = "![x](http://a.b/c.png) $$x^2$$ *a* <b> & `c`"
    shown = views.messages((replace(turn, question=typed),))
    asked, said = (message["content"][0]["text"] for message in shown)
    asked = asked.removesuffix(pen(0))
    assert unescape(asked) == typed and "<" not in asked and said.startswith("<p>&lt;img")


def test_chips_say_which_senses_were_used(setup):
    chips = views.chips(Reply("x", {"video": (8, 4.0)}, ("a note",)), LABELS, stopped=True)
    assert "picture · 8 frames · 4.0 s" in chips and "sound" not in chips, "nothing is said of unused senses"
    assert "stopped" in chips and "A note" in chips


def test_a_new_clip_draws_a_line_and_starts_a_new_history(setup):
    old, new = Clip("a.mp4"), Clip("b.mp4")
    asked = (("1", "one", old), ("2", "two", new), ("3", "three", new))
    turns = tuple(ChatTurn(question, answer, setup, clip) for question, answer, clip in asked)
    assert [m["role"] for m in views.messages(turns)] == ["user", "assistant", "assistant"] + [
        "user",
        "assistant",
    ] * 2
    chat = Chat("k", setup, turns=turns)
    assert chat.about(new) == (("2", "two"), ("3", "three")) and chat.about(old) == ()


def test_a_message_that_is_clicked_is_of_its_turn(setup):
    clips = (Clip("a.mp4"), Clip("b.mp4"), Clip("b.mp4"))
    turns = tuple(ChatTurn(str(number), f"answer {number}", setup, clip) for number, clip in enumerate(clips))
    shown = [message["content"][0]["text"] for message in views.messages(turns)]
    assert len(shown) == 7 and "divider" in shown[2]
    found = [views.turn_of_message(turns, index) for index in range(8)]
    assert found == [0, 0, None, 1, 1, 2, 2, None]
    assert views.answer_choices(turns) == [], "none of them has evidence"


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
    assert [example.clip.parent.name for example in found] == ["good"] and found[0].questions == (
        ("Q?", ("audio",)),
    )
    assert "torn" in caplog.text
    assert str(desk / "adapter") in find_adapters("backbone", desk)
    assert find_adapters("another", desk) == ()


def test_questions_are_offered_as_people_write_them():
    written = {
        "when the bell rings , where is the red circle ?": "When the bell rings, where is the red circle?",
        "how many times does a shape flash": "How many times does a shape flash?",
        "What is it?": "What is it?",
        "": "",
    }
    assert {question: as_written(question) for question in written} == written


def test_of_two_adapters_that_hear_the_same_recording_one_is_on_at_first(tmp_path):
    for name, modality in (("audio", "audio"), ("depth", "depth"), ("sounds", "audio")):
        (tmp_path / name).mkdir()
        config = {"backbone": {"source": "b"}, "modality": modality}
        (tmp_path / name / "lynx_config.json").write_text(json.dumps(config))
    assert find_adapters("b", tmp_path) == (str(tmp_path / "audio"), str(tmp_path / "depth"))


@pytest.mark.parametrize("damage", ["cut off", "not fetched", "no weights", "no settings", "no parts"])
def test_a_whole_adapter_is_taken_before_a_broken_one_of_the_same_sense(desk, tmp_path, damage):
    broken, whole = (shutil.copytree(desk / "adapter", tmp_path / name) for name in ("audio", "sounds"))
    weights = next(broken.glob("*/adapter_model.safetensors"))
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "not fetched":
        weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no settings":
        (weights.parent / "adapter_config.json").unlink()
    else:
        for part in ("vision", "llm"):
            shutil.rmtree(broken / part, ignore_errors=True)
    assert find_adapters("backbone", tmp_path) == (str(whole),)
    shutil.rmtree(whole)
    assert find_adapters("backbone", tmp_path) == (str(broken),)  # which the page says is left out, and why


def test_questions_offered_are_of_every_sense_that_is_there():
    questions = [(f"{'+'.join(need)}{i}", need) for need in NEEDS for i in range(3)]
    assert suggested_questions(questions, ("video", "audio")) == (
        *("audio0", "audio1", "audio+video0", "audio+video1", "video0", "video1"),
    )
    every = suggested_questions(questions, ("video", "audio", "depth", "high_fps", "multi_view"))
    assert len(every) == len(NEEDS) and every[0] == "audio0" and every[-1] == "video0"
    assert all(any(question.startswith("+".join(need)) for question in every) for need in NEEDS)
    assert suggested_questions(questions, ("video",)) == ("video0", "video1", "video2")
    assert suggested_questions(questions, ()) == ()


def test_one_description_may_hold_several_examples_and_gone_files_are_left_out(tmp_path, desk):
    clips = [{"media": {"audio": "here.mp4"}, "caption": "a tone"}, {"media": {"audio": "gone.ogg"}}]
    told = {"title": "Tones", "adapter": "ears", "questions": [], "clips": clips}
    (tmp_path / "tones").mkdir()
    (tmp_path / "tones" / "qa.json").write_text(json.dumps(told))
    shutil.copy(desk / "clip.mp4", tmp_path / "tones" / "here.mp4")
    (example,) = find_examples(tmp_path)
    assert (example.title, example.caption, example.adapter, example.clip) == (
        "Tones",
        "a tone",
        "ears",
        None,
    )


def test_every_example_has_a_picture_and_a_name(desk, tmp_path):
    evil = '"><img src=x onerror=alert(1)>'
    (tmp_path / "torn.mp4").write_text("no film")
    examples = [
        ExampleClip({"video": desk / "clip.mp4"}, caption="what moves"),
        ExampleClip({"audio": desk / "clip.mp4"}, caption=evil, title=evil, credit=evil),
        ExampleClip({"video": tmp_path / "torn.mp4"}, title="torn"),
    ]
    with gr.Blocks():
        drawn = example_gallery(examples).html_template
    assert drawn.count("<button") == 3 and drawn.count('role="toolbar"') == 3
    assert "data:image/jpeg;base64," in drawn and "<rect" in drawn and "What moves" in drawn
    assert f">{tmp_path.name.capitalize()}<" in drawn, "without a caption the folder names it"
    assert "<img src=x" not in drawn


# --- the page and its endpoint -------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(engine, setup):
    """The handlers, without a server."""
    made = []
    original = Page.__init__

    def keep(self, ui, engine, blocks):
        original(self, ui, engine, blocks)
        self.blocks = blocks
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "__init__", keep)
        build(engine, setup, [setup.backbone], [])
    return made[0]


SETTINGS = {"start": "", "end": "", "fps": "", "max_frames": "", "track": None, "unit": "", "up": ""}
SETTINGS |= {"max_new_tokens": "", "temperature": ""}


def media(desk, name, chat, senses=("video", "audio"), **settings):
    settings = (SETTINGS | settings).values()
    return (str(desk / name) if name else None, "the video", None, (), (), "", *settings, list(senses), chat)


def test_an_error_leaves_the_conversation_and_the_question(page, setup, desk):
    chat = Chat("e", setup, turns=(ChatTurn("q", "a", setup, Clip()),))
    for name, question in (("text.mp4", "what ?"), (None, "what ?"), ("clip.mp4", "  ")):
        *_, last = page.chat.on_ask(question, *media(desk, name, chat))
        assert "notice" in last[page.ui.notice] and last[page.ui.question] == question
        assert page.ui.chat not in last and len(last[page.ui.chatbot]) == 2
        assert "answering" not in str(last[page.ui.chatbot])


def test_ask_retry_and_clear(page, setup, desk):
    ui, chat = page.ui, Chat("r", setup, SENSES)
    *given, last, _ = page.chat.on_ask("what ?", *media(desk, "clip.mp4", chat))
    assert given and all("answering" in str(update[ui.chatbot]) for update in given)
    assert "answering" not in str(last[ui.chatbot])
    told = last[ui.chat]
    assert len(told.turns) == 1 and "chips" in told.turns[0].chips
    shown = page.evidence.on_answered(told, last[ui.shown], None)
    assert shown[ui.evidence]["visible"] and json.loads(shown[ui.evidence_view])["answer"]
    *_, last, _ = page.chat.on_retry(*media(desk, "clip.mp4", told, ("video",)))
    again = last[ui.chat]
    assert len(again.turns) == 1 and "sound ·" not in again.turns[0].chips
    *_, failed = page.chat.on_retry(*media(desk, "text.mp4", again))
    assert failed[ui.notice] and len(failed[ui.chatbot]) == 2
    cleared = page.chat.on_clear(again)
    assert cleared[ui.chatbot] == [] and cleared[ui.chat].turns == ()
    *_, nothing = page.chat.on_retry(*media(desk, "clip.mp4", cleared[ui.chat]))
    assert "no question" in nothing[ui.notice]


def sent(page, editing, question, *given):
    """The conversation after a question was sent; None where that failed, with the last update."""
    update = {}
    for update in page.chat.on_send(editing, question, *given):
        if page.ui.chat in update:
            return update[page.ui.chat], update
    return None, update


def test_an_edited_question_replaces_it_and_what_follows_about_its_clip(page, setup, desk):
    ui, chat, name = page.ui, Chat("e", setup, SENSES), "clip.mp4"
    for question in ("what ?", "what <b>&amp; ?", "and then ?"):
        chat, _ = sent(page, None, question, *media(desk, name, chat))
    on_desk = (setup, Clip(str(desk / name)))
    begun = page.chat.on_edit(chat, on_desk, SimpleNamespace(turn=1))
    assert begun[ui.question] == "what <b>&amp; ?" and begun[ui.editing] == 1, "as it was typed"
    assert "it and what follows are replaced" in begun[ui.edit_bar]

    for question, file in ((" ", name), ("now ?", "text.mp4")):
        failed, update = sent(page, 1, question, *media(desk, file, chat))
        assert failed is None and update[ui.notice] and update[ui.question] == question
        assert update[ui.chatbot] == views.messages(chat.turns) and ui.editing not in update, "all stays"
    edited, update = sent(page, 1, "how many ?", *media(desk, name, chat, ("video",)))
    assert [turn.question for turn in edited.turns] == ["what ?", "how many ?"]
    assert edited.turns[0] is chat.turns[0] and edited.turns[1].used.keys() == {"video"}
    assert update[ui.editing] is None and update[ui.edit_bar] == ""

    moved, _ = sent(page, None, "and here ?", *media(desk, "mute.mp4", edited, ("video",)))
    elsewhere = page.chat.on_edit(moved, (setup, moved.turns[-1].clip), SimpleNamespace(turn=0))
    assert elsewhere[ui.editing] is None and "nothing is replaced" in elsewhere[ui.edit_bar]
    kept, _ = sent(page, 0, "what ?", *media(desk, "mute.mp4", moved, ("video",)))
    assert len(kept.turns) == 4, "a question about another clip is not replaced"
    for turn in (None, -1, 4, "0", 1.5, {}):
        assert page.chat.on_edit(kept, None, SimpleNamespace(turn=turn))[ui.editing] is None


def test_another_model_that_cannot_be_loaded_leaves_the_one_before_and_says_why(page, setup, desk):
    chat = Chat("m", setup)
    update = page.model.on_setup("no/such-model-here", "auto", [], chat)
    assert update[page.ui.chat] == chat and "notice" in update[page.ui.notice]
    then = page.media.on_media(*media(desk, None, chat))  # the page shows the clip anew after every load
    assert page.ui.notice not in then and not then[page.ui.seen_box]["visible"]
    assert "notice" in page.media.on_media(*media(desk, "text.mp4", chat))[page.ui.notice]
    update = page.model.on_setup(setup.backbone, "auto", [], chat)
    assert update[page.ui.chat].labels == {"video": "picture"}
    assert not update[page.ui.compare]["interactive"]


def test_adapters_that_do_not_fit_cannot_be_chosen(page, setup, desk, tmp_path):
    other = str(checkpoints.llava_onevision(tmp_path / "other", hidden=64))
    adapter = str(desk / "adapter")
    update = page.model.on_choose(setup.backbone, [adapter])
    assert update[page.ui.adapters]["value"] == [adapter] and ">adapter · audio<" in update[page.ui.offers]
    update = page.model.on_choose(other, [adapter])
    assert update[page.ui.adapters]["value"] == [] and adapter not in update[page.ui.adapters]["choices"]
    assert (
        'class="chip off">adapter<' in update[page.ui.offers] and "not of the size" in update[page.ui.offers]
    )


def test_compare_needs_an_added_sense(page, setup, desk):
    chat = Chat("c", setup, SENSES)
    (off,) = page.chat.on_compare("what ?", *media(desk, "clip.mp4", chat, ("video",)))
    assert "switch one on" in off[page.ui.notice]
    updates = page.chat.on_compare("what ?", *media(desk, "clip.mp4", chat))
    first, both = (update[page.ui.comparison] for update in updates)
    assert "with sound" in both and "without sound" in both
    assert "<p>…</p>" in first and "…" not in both, "each answer is shown as it comes"


def test_the_map_and_the_film_are_of_the_clip_and_the_answer_at_hand(page, setup, desk):
    ui, panel = page.ui, page.evidence
    given = media(desk, "clip.mp4", Chat("study", setup, SENSES))
    drawn = panel.on_map(*given)
    assert drawn[ui.map]["visible"] and "<th>sound, not aligned</th>" in drawn[ui.distances]
    assert "no answer to film" in panel.on_film(None, WHOLE)[ui.film_notes]
    *_, told, _ = page.chat.on_ask("what ?", *given)
    given = media(desk, "clip.mp4", told[ui.chat])
    film = panel.on_film(told[ui.shown], WHOLE)
    with av.open(film[ui.film]["value"]) as opened:
        assert float(opened.duration / av.time_base) == pytest.approx(4, abs=0.3) and opened.streams.audio
    assert "attribution" not in film[ui.film_notes]
    view = told[ui.shown]
    assert page.engine.film(view.given, (0, "attention")).method == "attention", "the chosen method's"
    hidden = panel.on_film(view, (0, "hiding"))
    assert "shows attribution" in hidden[ui.film_notes] and hidden[ui.film]["visible"]
    *_, more, _ = page.chat.on_ask("and now ?", *given)
    shown = panel.on_answered(more[ui.chat], more[ui.shown], None)
    assert shown[ui.film] == {"value": None, "visible": False, "__type__": "update"}
    assert not page.media.on_media(*given)[ui.map]["visible"]
    nothing = panel.on_map(*media(desk, "text.mp4", Chat("study", setup, SENSES)))
    assert not nothing[ui.map]["visible"] and "alert" in nothing[ui.distances]


def test_hiding_each_sense_takes_a_pass_or_two_a_sense_and_can_be_saved(engine, setup, desk):
    *_, reply = engine.answer(request_for(setup, desk, key="hide"))
    view, passes = reply.evidence, []
    found = engine.explain(view.given, HIDDEN, lambda *done: passes.append(done))
    assert passes == [(1, 2), (2, 2)], "no map, which would be hundreds of passes"
    evidence = engine.answers.get(view.given)
    assert found["totals"] == {sense: evidence.hidden(None, sense) for sense in ("video", "audio")}
    assert found["values"] == {} and found["unit"] == "nats"
    view.join(found)
    shown = json.loads(views.evidence(view))["attributions"][-1]
    assert (shown["method"], shown["maps"]) == ("hiding", {})
    for kind in ("png", "csv", "json"):
        assert engine.export(view, HIDDEN, kind).stat().st_size > 100


def test_how_often_each_method_is_right_is_said_as_in_the_docs():
    table = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8")
    for method, right in views.RIGHT.items():
        assert right in views.SENTENCES[method]
        figures = re.findall(r"\d[\d.,]*(?=\s%)", right)
        assert bool(figures) == bool(right)
        for figure in figures:
            assert f"{figure} %" in table, f"{method}: {figure} % is not in docs/evidence.md"


def test_where_there_is_no_evidence_the_page_says_why(page, setup, desk):
    ui, panel = page.ui, page.evidence
    assert "Ask about the clip" in panel.show(Chat("none", setup, SENSES), None)[ui.nothing]
    chat, shown = asked(page, desk, "what ?", Chat("none", setup, SENSES))
    assert panel.on_answered(chat, shown, None)[ui.nothing] == ""
    last = replace(chat, turns=(*chat.turns, replace(chat.turns[-1], answer="stopped", evidence=None)))
    told = panel.on_answered(last, None, None)
    assert told[ui.shown] is None and "it was stopped" in told[ui.nothing]
    assert "Earlier answers" in told[ui.nothing] and told[ui.which]["visible"]
    elsewhere = (setup, Clip("other.mp4"))
    assert "Ask about the clip" in panel.on_answered(last, None, elsewhere)[ui.nothing]


def test_with_all_senses_off_nothing_is_guessed_and_the_conversation_stays(page, setup, desk):
    ui, chat = page.ui, Chat("off", setup, SENSES, (ChatTurn("q", "a", setup, Clip()),))
    *_, last = page.chat.on_ask("and alone ?", *media(desk, "clip.mp4", chat, ()))
    assert "Every sense is switched off" in last[ui.notice] and ui.chat not in last
    assert last[ui.question] == "and alone ?" and len(last[ui.chatbot]) == 2


class Choice:
    """What the viewer says when a word or a method is chosen."""

    def __init__(self, word=None, method="attribution", index=None):
        self.word, self.method, self.index = word, method, index


def asked(page, desk, question, chat, name="clip.mp4"):
    """The conversation after one more answer, and what is shown of it."""
    *_, last, _ = page.chat.on_ask(question, *media(desk, name, chat))
    return last[page.ui.chat], last[page.ui.shown]


def explain(page, view, chosen):
    """What the viewer is told after it asked for that."""
    page.evidence.on_wanted(view, Choice(*chosen))
    return json.loads(page.evidence.on_explained(view, page.evidence.on_explain(view)))


def test_late_results_join_their_answer_and_are_shown_with_no_other(page, engine, setup, desk):
    ui, panel = page.ui, page.evidence
    chat, first = asked(page, desk, "what ?", Chat("late", setup, SENSES))
    panel.on_wanted(first, Choice(*first.first))
    begun = engine.explain(first.given, first.first)
    chat, second = asked(page, desk, "and now ?", chat)  # while the first one is being explained
    first.join(begun)
    assert first.known(first.first) and not second.known(second.first)
    for shown in (second, None):  # the next answer, or nothing: another clip, or all was cleared
        value = panel.on_explained(shown, (first, "of the first one"))
        assert not value if shown is None else json.loads(value)["notice"] == ""
        assert "nats" not in value, "it is not the first one's"
    assert panel.on_explain(second) is None and not second.known(second.first), "nothing of it is wanted yet"
    assert "nats" in panel.on_explained(first, None)
    back = panel.on_which(0, chat)
    assert back[ui.shown] is first and back[ui.which]["visible"] and back[ui.which]["value"] == 0
    assert panel.on_message(chat, Choice(index=3))[ui.shown] is second
    explain(page, first, first.first)
    methods = [(each["word"], each["method"]) for each in first.record["attributions"]]
    assert methods.count(first.first) == 1 and not first.wanted


def test_everything_that_was_wanted_is_computed_in_turn(page, setup, desk):
    _, view = asked(page, desk, "what ?", Chat("turns", setup, SENSES))
    both = [view.first, (view.first[0], "hiding")]
    for chosen in both:  # quicker than they are computed
        page.evidence.on_wanted(view, Choice(*chosen))
    assert page.evidence.on_explain(view) is None and [*map(view.known, both)] == [True, False]
    assert page.evidence.on_explain(view) is None and [*map(view.known, both)] == [True, True]


def test_evidence_goes_with_the_clip_and_comes_back_with_its_answer(page, setup, desk):
    ui, panel, chat = page.ui, page.evidence, Chat("comes back", setup, SENSES)
    before = panel.on_clip(*media(desk, "clip.mp4", chat), None)[ui.on_desk]
    chat, first = asked(page, desk, "what ?", chat)
    switched = panel.on_clip(*media(desk, "clip.mp4", chat, ("video",)), before)
    assert switched == {ui.on_desk: before}, "it is the same clip"
    away = panel.on_clip(*media(desk, "mute.mp4", chat), before)
    assert away[ui.shown] is None and away[ui.evidence_view] == "" and not away[ui.evidence]["visible"]
    assert "Earlier answers" in away[ui.nothing]
    assert away[ui.which]["visible"], "the answer about the clip before can still be chosen"
    assert panel.on_which(0, chat)[ui.shown] is first
    assert panel.on_clip(*media(desk, "clip.mp4", chat), away[ui.on_desk])[ui.shown] is first
    # the clip was changed while the answer was being given
    assert panel.on_answered(chat, first, away[ui.on_desk])[ui.shown] is None
    assert panel.on_answered(chat, first, before)[ui.shown] is first
    other = replace(chat, setup=replace(setup, adapters=()))
    assert panel.on_clip(*media(desk, "clip.mp4", other), before)[ui.shown] is None, "another model"
    cleared = page.chat.on_clear(chat)
    assert cleared[ui.evidence_view] == "" and "Ask about" in cleared[ui.nothing]
    assert panel.on_answered(cleared[ui.chat], first, before)[ui.shown] is None


def test_why_something_cannot_be_computed_stands_in_its_place(page, setup, desk):
    ui, panel = page.ui, page.evidence
    chat, view = asked(page, desk, "what ?", Chat("fails", setup, SENSES))
    told = explain(page, view, (99, "attribution"))
    assert "has no word" in told["notice"] and told["notice"].endswith(".") and len(chat.turns) == 1
    assert "still being computed" in panel.on_export("png", view, (99, "attribution"))[ui.film_notes]
    assert explain(page, view, view.first)["notice"] == ""


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_a_conversation_is_saved_as_data_and_as_one_page(page, setup, desk):
    ui = page.ui
    evil = '"><img src="http://x.test/a.png" onerror="alert(1)"></p></section><script>x</script> & ?'
    chat, view = asked(page, desk, evil, Chat("kept", setup, SENSES))
    explain(page, view, view.first)
    chat, _ = sent(page, None, "and then ?", *media(desk, "mute.mp4", chat))  # explained by nobody
    told, shown = (Path(page.chat.on_save(kind, chat)[ui.saved]["value"]) for kind in ("json", "html"))
    record = json.loads(told.read_text())
    assert (record["format"], record["version"]) == ("lynx-conversation", 1)
    assert (told.name, shown.name) == ("conversation.json", "conversation.html")
    first, second = record["turns"]
    assert first["question"] == evil.strip() and first["answer"] == chat.turns[0].answer
    assert first["clip"]["files"] == ["clip.mp4"] and str(desk) not in told.read_text() + shown.read_text()
    assert first["model"] == {"backbone": "backbone", "precision": "auto", "adapters": ["adapter"]}
    whole = next(each for each in view.record["attributions"] if (each["word"], each["method"]) == view.first)
    assert first["evidence"]["totals"] == whole["totals"] and first["evidence"]["unit"] == "nats"
    assert second["evidence"] is None and any("no audio track" in note for note in second["notes"])
    assert second["senses"].keys() == {"video"}

    read = Tags(shown.read_text())
    for each in (evil.strip(), chat.turns[0].answer, "and then ?", "mute.mp4", "no audio track"):
        assert each in read.text
    assert {"script", "iframe", "link", "a"}.isdisjoint(tag for tag, _ in read.tags)
    pictures = [known for tag, known in read.tags if tag == "img"]
    assert len(pictures) == 3 and "sound" in pictures[0]["alt"]
    for known in pictures:
        kind, _, data = known["src"].partition(",")
        assert kind == "data:image/jpeg;base64" and known.keys() == {"alt", "src"}
        assert np.asarray(Image.open(BytesIO(b64decode(data)))).std() > 1
    nothing = page.chat.on_save("html", Chat("kept", setup, SENSES))
    assert "no conversation" in nothing[ui.notice]


@pytest.mark.parametrize("kind", ["png", "csv", "json"])
def test_what_is_shown_can_be_saved(page, setup, desk, kind):
    ui, panel = page.ui, page.evidence
    assert "no answer yet" in panel.on_export(kind, None, WHOLE)[ui.film_notes]
    _, view = asked(page, desk, "what ?", Chat("saved", setup, SENSES))
    explain(page, view, view.first)
    path = Path(panel.on_export(kind, view, view.first)[ui.download]["value"])
    assert path.name == f"evidence.{kind}" and path.is_file()
    if kind == "json":
        assert json.loads(path.read_text())["attributions"] == view.record["attributions"]
        assert str(desk) not in path.read_text()


def test_on_zero_gpu_one_call_gives_the_answer_and_what_it_rests_on(page, engine, setup, desk, monkeypatch):
    ui, chat = page.ui, Chat("zero", setup, SENSES)
    monkeypatch.setattr(page.chat, "in_process", False)
    *_, last, done = page.chat.on_ask("what ?", *media(desk, "clip.mp4", chat))
    view = last[ui.shown]
    assert json.loads(last[ui.evidence_view])["loading"] == COMPUTING and view.known(view.first)
    shown = page.evidence.on_answered(last[ui.chat], view, None, done[ui.problem])
    assert not json.loads(shown[ui.evidence_view])["loading"]

    def fail(*_):
        raise LynxError("no room")

    monkeypatch.setattr(engine, "explain", fail)
    *_, last, done = page.chat.on_ask("and now ?", *media(desk, "clip.mp4", chat))
    shown = page.evidence.on_answered(last[ui.chat], last[ui.shown], None, done[ui.problem])
    assert json.loads(shown[ui.evidence_view])["notice"] == "No room." and len(last[ui.chat].turns) == 1


def test_an_example_fills_the_places_of_the_senses_that_are_there(page, setup, full, desk):
    ui, questions = page.ui, tuple((f"{'+'.join(need)} ?", need) for need in NEEDS)
    names = {"video": "fast.mp4", "audio": "fast.mp4", "depth": "depth", "multi_view": "other.mp4"}
    ui.examples = [ExampleClip({sense: desk / name for sense, name in names.items()}, questions)]
    filled = page.examples.on_example(0, Chat("x", full, page.engine.models.senses(full)))
    assert filled[ui.views] == [str(desk / "other.mp4")] and filled[ui.sound] == "the video"
    assert open_depth(page.media.uploads.depth(filled[ui.depth])).count == 4
    assert [sample[0] for sample in filled[ui.suggestions]["samples"]] == [
        *("audio ?", "depth ?", "high_fps ?", "multi_view ?", "audio+video ?", "video ?"),
    ]
    loading = page.examples.on_example(0, Chat("", full))
    assert loading.pop(ui.example) != filled.pop(ui.example), "each choice of an example is read"
    assert loading.pop(ui.picked).key != filled.pop(ui.picked).key
    assert loading == filled, "the model may still be loading"
    fewer = page.examples.on_example(0, Chat("x", setup, SENSES))
    assert fewer[ui.depth] is None and fewer[ui.views] is None
    assert [sample[0] for sample in fewer[ui.suggestions]["samples"]] == [
        "audio ?",
        "audio+video ?",
        "video ?",
    ]


@pytest.fixture
def world(page, monkeypatch):
    """The page with the checkout's examples, and a conversation with the adapters of the miniature world."""
    root = Path(__file__).parents[2]
    for needed in ("lynx/assets/lynx-tiny/model.safetensors", "adapters/sounds/lynx_config.json"):
        if not (root / needed).is_file():
            pytest.skip(f"needs {needed}")
    setup = Setup(adapters=find_adapters("lynx-tiny"))
    monkeypatch.setattr(page.ui, "examples", find_examples())
    return Chat("world", setup, page.engine.models.senses(setup))


def choose(page, title, chat):
    """The conversation after the first example of a row was chosen, and what the page was told."""
    index = next(i for i, example in enumerate(page.ui.examples) if example.title == title)
    filled = page.examples.on_example(index, chat)
    loaded = page.examples.on_picked(filled[page.ui.picked], chat)
    return loaded.get(page.ui.chat, chat), filled, loaded


def test_a_real_sound_takes_its_adapter_in_place_of_the_worlds_and_gives_it_back(page, world):
    ui = page.ui
    heard, filled, loaded = choose(page, "Real sounds", world)
    assert {Path(source).name for source in heard.setup.adapters} == {
        *({Path(source).name for source in world.setup.adapters} - {"audio"}),
        "sounds",
    }
    assert filled[ui.video] is None and filled[ui.sound] == "a separate file"
    assert "sounds" in filled[ui.senses]["value"] and "audio" not in filled[ui.senses]["value"]
    assert filled[ui.suggestions]["samples"][0] == ["What sound do you hear?"]
    assert ui.example not in filled and loaded[ui.example], "the clip is read when the model is there"
    assert "ten real sounds" in loaded[ui.hint]
    again, filled, loaded = choose(page, "Real sounds", heard)
    assert again is heard and filled[ui.example] and ui.chat not in loaded
    back, _, loaded = choose(page, "Miniature world", heard)
    assert back.setup == world.setup and back.before is None and "real sounds" not in loaded[ui.hint]


def test_an_example_leaves_a_model_that_was_chosen_as_it_is(page, world, setup):
    mine = replace(world, setup=replace(world.setup, adapters=world.setup.adapters[:1]))
    assert choose(page, "Miniature world", mine)[0] == mine
    other = Chat("other", setup, SENSES)
    chat, filled, _ = choose(page, "Real sounds", other)
    assert chat == other and filled[page.ui.example], "a real backbone hears it with its own adapters"


def test_the_example_chosen_last_decides_which_model_is_loaded(page, world):
    """Two quick clicks: the first one's model is still being loaded when the second is taken."""
    first, last = (
        next(i for i, each in enumerate(page.ui.examples) if each.title == title)
        for title in ("Real sounds", "Miniature world")
    )
    picked = page.ui.picked
    page.examples.on_example(first, world)
    newest = page.examples.on_example(last, world)[picked]
    heard = page.examples.on_picked(page.examples.on_example(first, world)[picked], world)[page.ui.chat]
    assert page.examples.on_picked(newest, heard)[page.ui.chat].setup == world.setup


def test_of_two_adapters_of_one_sense_the_last_is_kept_unless_both_are_wanted(page, world):
    ui, choose = page.ui, page.model.on_choose
    given = list(world.setup.adapters)
    audio, sounds = (next(each for each in page.model.offered if Path(each).name == name)
                     for name in ("audio", "sounds"))  # fmt: skip
    one = choose("lynx-tiny", [*given, sounds])
    assert sounds in one[ui.adapters]["value"] and audio not in one[ui.adapters]["value"]
    assert len(one[ui.adapters]["value"]) == len(given) and "audio was taken out" in one[ui.offers]
    both = choose("lynx-tiny", [*given, sounds], True)
    assert {audio, sounds} <= set(both[ui.adapters]["value"]) and "taken out" not in both[ui.offers]
    loaded = page.model.on_setup("lynx-tiny", "auto", [audio, sounds], world)
    assert loaded[ui.adapters]["value"] == [audio, sounds], "who asks for both has both"
    assert loaded[ui.several] is True
    assert page.model.on_setup("lynx-tiny", "auto", given, world)[ui.several] == gr.skip()


def test_adapters_say_what_they_were_trained_on_and_how_good_they_are(page, world, root):
    shown = page.model.on_choose("lynx-tiny", list(world.setup.adapters))[page.ui.offers]
    told = json.loads((root / "adapters" / "sounds" / "lynx_config.json").read_text())["metrics"]
    named = f"esc10 {told['esc10']:.1%}".replace("%", " %")
    assert f"trained on ten real sounds and spoken digits; {named}, " in shown
    assert "trained on the miniature world; with 94.8 %, without 35.1 %" in shown


def test_the_banner_speaks_of_the_adapters_that_are_loaded():
    tiny, offered = Setup(), ("lynx-tiny", "qwen2.5-vl-3b")
    assert "a few sounds" in views.hint(tiny, offered, ("the miniature world",))
    assert "backbone, loaded below" in views.hint(tiny, offered)
    assert "backbone, which is not offered here" in views.hint(tiny, ("lynx-tiny",))
    both = views.hint(tiny, offered, ("the miniature world", "<i>whale</i> songs"))
    assert "&lt;i&gt;whale&lt;/i&gt; songs" in both and "a few sounds" not in both
    assert views.hint(Setup("qwen2.5-vl-3b"), offered, ("the miniature world",)) == ""


def test_an_answer_has_the_length_and_the_temperature_that_were_asked_for(page, setup, desk):
    given = media(desk, "clip.mp4", Chat("t", setup, SENSES), max_new_tokens="3", temperature="0.7")
    asked = page.media.request("what ?", *given)
    assert (asked.max_new_tokens, asked.temperature) == (3, 0.7)
    usual = page.media.request("what ?", *media(desk, "clip.mp4", Chat("t", setup, SENSES)))
    assert (usual.max_new_tokens, usual.temperature) == (128, 0.0)
    free = Engine()
    torch.manual_seed(0)
    drawn = {list(free.answer(replace(asked, conversation=str(i))))[-1].answer for i in range(4)}
    assert len(drawn) > 1, "at a temperature above 0 answers differ"
    *_, reply = free.answer(replace(asked, temperature=0.0))
    assert len(reply.evidence.given.ids) <= 3


def test_places_are_those_of_the_model_and_their_errors_one_sentence(page, engine, full, desk):
    ui = page.ui
    update = page.model.on_setup(full.backbone, "auto", list(full.adapters), Chat("p", full))
    chat = update[ui.chat]
    assert [update[ui.places[kind]]["visible"] for kind in ("audio", "depth", "view")] == [True] * 3
    assert update[ui.compare]["value"] == "Leave out each sense"
    fewer = page.model.on_setup(full.backbone, "auto", list(full.adapters[:1]), chat)
    assert [fewer[ui.places[kind]]["visible"] for kind in ("audio", "depth", "view")] == [True, False, False]
    assert fewer[ui.compare]["value"] == "With / without sound"

    def desk_with(depth=(), further=(), offsets="", senses=("video", *ADDED), chat=chat):
        clip = str(desk / "fast.mp4")
        return (clip, "the video", None, depth, further, offsets, *SETTINGS.values(), list(senses), chat)

    further = (str(desk / "other.mp4"),)
    seen = page.media.on_media(*desk_with((str(desk / "depth" / "0.png"),), further, "0.5"))
    assert seen[ui.seen_box]["visible"] and "second view 16 frames" in seen[ui.budget]
    for place, message in (
        (((str(desk / "text.mp4"),), ()), "is a text"),
        (((str(desk / "times.txt"),), ()), "not one recording"),
        (((), (str(desk / "text.mp4"),)), "is a text"),
        (((), further, "soon"), "one number of seconds"),
    ):
        *_, asked = page.chat.on_ask("what ?", *desk_with(*place))
        for shown in (page.media.on_media(*desk_with(*place))[ui.notice], asked[ui.notice]):
            assert message in shown and "Traceback" not in shown
        assert asked[ui.question] == "what ?" and ui.chat not in asked
        off = page.media.on_media(*desk_with(*place, senses=("video",)))
        assert ui.notice not in off and off[ui.seen_box]["visible"], "no sense that is on reads it"


@pytest.fixture(scope="module")
def two_tracks(desk):
    """A clip of four seconds with two sound tracks: the first, silent, and a tone, which is the default."""
    path = desk / "two.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=4)
        video.width, video.height = 64, 48
        tracks = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        tracks[0].disposition, tracks[1].disposition = 0, av.stream.Disposition.default
        for i in range(16):
            picture = np.full((48, 64, 3), 10 * i, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            tone = np.sin(np.arange(4000 * i, 4000 * (i + 1)) / 16000 * 2000) * 16000
            for track, samples in zip(tracks, (tone * 0, tone), strict=True):
                levels = samples.astype(np.int16)[None]
                sound = av.AudioFrame.from_ndarray(levels, format="s16", layout="mono")
                sound.sample_rate, sound.pts = 16000, 4000 * i
                container.mux(track.encode(sound))
        container.mux(video.encode())
    return path


def test_a_part_and_what_belongs_to_a_clip_are_of_the_request(page, engine, setup, full, desk):
    chat, ui = Chat("part", full, engine.models.senses(full)), page.ui
    given = {"start": "1", "end": "0:03", "fps": "1.5", "max_frames": "9", "unit": "tum", "up": "-y"}
    request = page.media.request("what ?", *media(desk, "clip.mp4", chat, **given))
    assert request.clip.moments == Moments(None, 1.5, 9, 1.0, 3.0)
    assert (request.clip.unit, request.clip.up, request.clip.track) == (0.0002, "-y", None)
    assert pickle.loads(pickle.dumps(request)) == request
    without = page.media.request("", *media(desk, "clip.mp4", Chat("part", setup, SENSES), unit="inch"))
    assert without.clip.unit is None, "no sense of this model reads depth"
    deep = Clip(depth=str(desk / "depth"), unit=0.0002, up="-y").source("depth")
    assert deep == Recording(desk / "depth", unit=0.0002, up="-y")
    chat = Chat("part", setup, SENSES)
    seen = page.media.on_media(*media(desk, "clip.mp4", chat, start="1", end="3", fps="2"))
    assert "1.0–3.0 s" in seen[ui.budget] and "picture 4 frames" in seen[ui.budget]


def test_an_answer_about_a_part_says_its_seconds_and_begins_a_history(page, setup, desk):
    chat, ui = Chat("one part", setup, SENSES), page.ui
    *_, first, _ = page.chat.on_ask("what ?", *media(desk, "clip.mp4", chat, start="1", end="3"))
    said = first[ui.chat]
    assert "picture · 16 frames · 1.0–3.0 s" in said.turns[0].chips
    view = said.turns[0].evidence
    assert view.frames["video"].times.min() > 1 and view.frames["video"].times.max() < 3
    assert view.part == (1, 3) and json.loads(views.evidence(view))["start"] == 1
    film = page.evidence.on_film(view, WHOLE)
    with av.open(film[ui.film]["value"]) as made:
        assert made.duration / av.time_base == pytest.approx(2, abs=0.1)
    *_, second, _ = page.chat.on_ask("what ?", *media(desk, "clip.mp4", said, start="2"))
    shown = views.messages(second[ui.chat].turns)
    assert "clip.mp4, 2 s to the end" in shown[2]["content"][0]["text"]
    assert second[ui.chat].about(second[ui.chat].turns[0].clip) == ()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"start": "soon"}, "'soon' is no time"),
        ({"start": "9"}, "Start is 9 s, but the recording lasts 4.00 s."),
        ({"start": "3", "end": "2"}, "End is 2.0: expected seconds after start"),
        ({"fps": "many"}, "Frames a second: 'many' is no number"),
        ({"max_frames": "0"}, "Most frames: '0' is no number"),
        ({"max_frames": "2.5"}, "expected a whole number"),
        ({"unit": "inch"}, "depth unit is 'inch'"),
        ({"max_new_tokens": "2.5"}, "Most tokens of an answer: '2.5' is no whole number"),
        ({"max_new_tokens": "-1"}, "Most tokens of an answer: '-1' is no number above 0"),
        ({"temperature": "hot"}, "Temperature: 'hot' is no number from 0 to 2"),
        ({"temperature": "nan"}, "Temperature: 'nan' is no number from 0 to 2"),
    ],
)
def test_wrong_values_are_one_sentence_and_nothing_is_lost(page, engine, full, desk, given, said):
    chat, ui = Chat("wrong", full, engine.models.senses(full)), page.ui
    senses = ("video", "depth") if "unit" in given else ("video",)
    *_, asked = page.chat.on_ask("what ?", *media(desk, "clip.mp4", chat, senses, **given))
    assert asked[ui.question] == "what ?" and ui.chat not in asked
    for notice in (page.media.on_media(*media(desk, "clip.mp4", chat, senses, **given)), asked):
        assert said in notice[ui.notice].replace("&#x27;", "'") and "Traceback" not in notice[ui.notice]


def test_a_sound_track_is_chosen_where_there_are_several(page, engine, setup, desk, two_tracks):
    chat, ui = Chat("tracks", setup, SENSES), page.ui
    choice = page.media.on_sound(str(two_tracks), "the video", None)[ui.track]
    labels = [label for label, _ in choice["choices"]]
    assert labels == ["#1 pcm_s16le mono", "#2 pcm_s16le mono (default)"]
    assert choice["visible"] and choice["value"] == 2
    alone = page.media.on_sound(str(desk / "clip.mp4"), "the video", None)[ui.track]
    assert not alone["visible"] and not page.media.on_sound(None, "the video", None)[ui.track]["visible"]
    given = [media(desk, two_tracks.name, chat, track=track) for track in (2, 1, 7)]
    clips = [page.media.request("", *each).clip for each in given]
    assert [clip.track for clip in clips] == [None, 1, None], "the default one, and one of another file"
    assert clips[1].source("audio") == Recording(two_tracks, track=1)
    seen = page.media.on_media(*given[1])
    shown = seen[ui.budget] + seen[ui.clip_notes]
    assert "sound 16 frames" in shown and "2 sound tracks; #1 is heard" in shown
    assert "is heard" not in shown.replace("#1 is heard", ""), "the video's own track is not"
    other = list(given[0])
    other[1:3] = ["a separate file", str(desk / "clip.mp4")]
    assert "is heard" not in page.media.on_media(*other)[ui.clip_notes], "no track of the video is"


def test_a_clip_is_opened_before_the_model_is_waited_for(page, engine, setup, desk, monkeypatch):
    chat, ui = Chat("opened", setup, SENSES), page.ui
    monkeypatch.setattr(engine.sessions, "open", lambda request: pytest.fail("that is the model's turn"))
    first, again = (page.media.on_read(*media(desk, "clip.mp4", chat)) for _ in range(2))
    assert set(first) == {ui.opened, ui.notice} and first != again, "each time the page looks at it anew"
    assert first[ui.notice] == ""
    refused = page.media.on_read(*media(desk, "text.mp4", chat))
    assert "is a text" in refused[ui.notice] and ui.opened not in refused
    assert not refused[ui.seen_box]["visible"]


def test_a_sense_that_finds_nothing_in_the_clip_says_so_where_it_is_ticked(page, setup, desk):
    chat, ui = Chat("lacking", setup, SENSES), page.ui
    plain = [(sense.label, sense.name) for sense in SENSES]
    lacking = [plain[0], ("sound – not in this clip", "audio"), *plain[2:]]
    for name, senses, choices in (
        ("mute.mp4", ("video", "audio"), lacking), ("clip.mp4", ("video", "audio"), plain),
        ("mute.mp4", ("video",), plain), (None, ("video", "audio"), plain),
    ):  # fmt: skip
        boxes = page.media.on_media(*media(desk, name, chat, senses))[ui.senses]
        assert boxes["choices"] == choices and "value" not in boxes, "what is ticked is the visitor's"
    assert page.media.on_read(*media(desk, "text.mp4", chat))[ui.senses]["choices"] == plain


def test_notes_on_a_clip_are_said_once_in_its_conversation_and_in_the_words_of_the_page(page, setup, desk):
    chat, ui = Chat("once", setup, SENSES), page.ui
    seen = page.media.on_media(*media(desk, "mute.mp4", chat))
    assert "no audio track" in seen[ui.clip_notes] and "no audio track" not in seen[ui.budget]
    *_, answered, _ = page.chat.on_ask("what ?", *media(desk, "mute.mp4", chat))
    turn = answered[ui.chat].turns[-1]
    assert "no audio track" not in turn.chips, "it stands below the clip"
    assert any("no audio track" in note for note in turn.notes)
    later = views.chips(Reply("", {}, ("of the clip", "of the words"), of_clip=("of the clip",)), {}, False)
    assert "Of the words" in later and "Of the clip" not in later
    chips = views.chips(Reply("", {}, ("Z is up: give --depth-up y if it lies",)), {}, stopped=False)
    assert "give &#x27;Up axis&#x27; y" in chips


@pytest.fixture(scope="module")
def client(engine, full):
    from gradio_client import Client

    blocks = launch(port=None, setup=full, examples=[], engine=engine, block=False)
    yield Client(blocks.local_url, verbose=False)
    blocks.close()


def test_the_endpoint_answers(client, desk, engine, full):
    from gradio_client import handle_file

    file = handle_file(str(desk / "clip.mp4"))
    answer = client.predict(file, None, "what is it ?", ["video", "audio"], api_name="/ask")
    *_, reply = engine.answer(request_for(full, desk, key="direct"))
    assert answer == reply.answer
    named = client.predict(video=file, audio=None, question="what is it ?", senses=None, api_name="/ask")
    assert isinstance(named, str)
    alone = client.predict(None, file, "what is it ?", ["audio"], api_name="/ask")
    assert isinstance(alone, str)


def test_the_endpoint_takes_depth_and_views(client, desk, engine, full):
    from gradio_client import handle_file

    maps = [handle_file(str(path)) for path in sorted((desk / "depth").glob("*.png"))]
    beside = [handle_file(str(desk / name)) for name in ("times.txt", "intrinsic_depth.txt")]
    given = {"depth": [*maps, *beside], "views": [handle_file(str(desk / "other.mp4"))], "offsets": "0.5"}
    common = {"video": handle_file(str(desk / "fast.mp4")), "audio": None, "question": "what is it ?"}
    answer = client.predict(**common, senses=["video", "depth", "multi_view"], **given, api_name="/ask")
    request = everything(full, desk, "direct", views=(("other.mp4", 0.5),))
    *_, reply = engine.answer(replace(request, senses=("video", "depth", "multi_view")))
    assert answer == reply.answer and set(reply.used) == {"video", "depth", "multi_view"}


def test_the_endpoint_takes_a_part_and_what_belongs_to_the_clip(client, desk, engine, full, two_tracks):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    common = {"video": handle_file(str(desk / "clip.mp4")), "audio": None, "question": "what is it ?"}
    common |= {"senses": ["video"], "api_name": "/ask"}
    answer = client.predict(**common, start="1", end="0:03", fps=2, max_frames=3, up="z", unit="mm")
    part = Clip(str(desk / "clip.mp4"), moments=Moments(None, 2, 3, 1.0, 3.0))
    *_, reply = engine.answer(replace(request_for(full, desk, senses=("video",), key="direct"), clip=part))
    assert answer == reply.answer and reply.used == {"video": (3, 2.0)}
    for wrong, said in (
        ({"start": "soon"}, "is no time"),
        ({"start": "9"}, "lasts 4.00 s"),
        ({"fps": 0}, "expected a number above 0"),
        ({"track": 7}, "no sound track 7; it has #1"),
        ({"up": "north"}, "axis that points up is 'north'"),
    ):
        with pytest.raises(AppError, match=said) as error:
            client.predict(**common, **wrong)
        assert "Traceback" not in str(error.value)


def test_a_client_from_before_there_was_depth_is_answered(client, desk):
    """It posts the four values that it knows, without asking what the endpoint takes."""
    import httpx

    base = f"{client.src}gradio_api"
    with (desk / "clip.mp4").open("rb") as file:
        path = httpx.post(f"{base}/upload", files={"files": file}).json()[0]
    clip = {"path": path, "meta": {"_type": "gradio.FileData"}}
    asked = httpx.post(f"{base}/call/ask", json={"data": [clip, None, "what is it ?", ["video", "audio"]]})
    told = httpx.get(f"{base}/call/ask/{asked.json()['event_id']}", timeout=60).text
    assert told.startswith("event: complete")


def test_the_endpoint_says_what_is_wrong_in_one_sentence(client, desk):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    for name, senses, message in (
        ("mute.mp4", ["video", "audio"], "no audio track"),
        ("text.mp4", None, "is a text"),
        ("clip.mp4", ["smell"], "no sense smell"),
        ("clip.mp4", ["high_fps"], "faster motion"),
        ("clip.mp4", ["depth"], "Nothing was given for depth"),
    ):
        with pytest.raises(AppError, match=message) as error:
            client.predict(handle_file(str(desk / name)), None, "what ?", senses, api_name="/ask")
        assert "Traceback" not in str(error.value)


def test_only_the_endpoint_is_public(client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/ask", "/stream"]


def test_gradio_is_the_version_the_page_was_made_for():
    assert (
        gr.__version__.startswith("6.") and Path(launch.__code__.co_filename).with_name("style.css").is_file()
    )
