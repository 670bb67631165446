"""A page that is loaded again: what comes back, to whom, and what a browser may not make the server do."""

import json
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import torch
from served import hosted

import lynx.ui.visitors as visitors_module
from lynx.config import Limits
from lynx.media.writer import write_video
from lynx.ui.remembered import LONGEST, VISITORS_KEPT, Kept, KeptVisitors, new_secret, read_record, record_of
from lynx.ui.types import Chat, ChatTurn, Clip, Setup
from lynx.ui.visitors import Visitors, workspace

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
SETUP = Setup("lynx-tiny")
EVIL = '<img src=x onerror="alert(1)">'


def turn(**given):
    told = {"question": "what ?", "answer": "a ball", "setup": SETUP, "clip": Clip("/tmp/of/mine/clip.mp4")}
    told |= {"used": {"video": (8, 4.0)}, "labels": {"video": "picture"}, "chips": "<div>"}
    return ChatTurn(**told | given)


def test_what_a_tab_remembers_is_read_again_and_names_no_folder():
    chat = Chat("k", SETUP, secret="s", turns=(turn(), turn(question=EVIL, stopped=True)))
    text = record_of(chat)
    assert "/tmp" not in text and "<div>" not in text
    record = read_record(text)
    assert (record.secret, record.setup) == ("s", SETUP)
    first, second = record.turns
    assert (first.question, first.answer, first.used) == ("what ?", "a ball", {"video": (8, 4.0)})
    assert first.clip == Clip("clip.mp4") and "picture · 8 frames · 4.0 s" in first.chips
    assert second.question == EVIL and second.stopped and "stopped" in second.chips


def test_of_a_long_conversation_the_last_turns_are_remembered():
    turns = tuple(turn(question=f"{number} ?", answer="long " * 900) for number in range(150))
    text = record_of(Chat("k", SETUP, secret="s", turns=turns))
    kept = read_record(text).turns
    assert 10 < len(kept) <= 100 and kept[-1].question == "149 ?" and len(text) < LONGEST


GOOD = json.loads(record_of(Chat("k", SETUP, secret="s", turns=(turn(),))))
FORGED = [
    *(None, 7, [], "", "{}", "null", "[]", "7", "{", '{"turns": ', "\0", "[" * 9000, "x" * (LONGEST + 1)),
    *({"turns": 7}, {"turns": {}}, {"turns": [7]}, {"turns": [[]]}, {"turns": GOOD["turns"] * 101}),
    *({"secret": 7}, {"secret": None}, {"secret": ["s"]}, {"secret": "s" * 999}, {"secret": "\ud800"}),
    *({"setup": "lynx-tiny"}, {"setup": {}}, {"setup": GOOD["setup"] | {"adapters": "adapters/audio"}}),
    *({"setup": GOOD["setup"] | {"backbone": each}} for each in (None, 7, ["x"], {"path": ""}, "x" * 999)),
    {"setup": GOOD["setup"] | {"adapters": ["x"] * 99}},
    *(
        {"turns": [GOOD["turns"][0] | changed]}
        for changed in (
            {"question": 7}, {"question": None}, {"answer": ["x"]}, {"answer": "x" * 20_001}, {"senses": []},
            {"senses": {"video": {}}}, {"senses": {"video": {"label": 7, "frames": 1, "seconds": 1}}},
            {"senses": {"video": {"label": "x", "frames": "1", "seconds": 1}}}, {"clip": {"files": "x"}},
            {"senses": {"video": {"label": "x", "frames": 1e999, "seconds": 1}}}, {"clip": {"files": [7]}},
            {"clip": None}, {"setup": None},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("forged", FORGED, ids=[str(number) for number in range(len(FORGED))])
def test_what_is_no_record_is_ignored(forged):
    assert read_record(json.dumps(GOOD | forged) if isinstance(forged, dict) else forged) is None


def test_a_clip_of_a_record_is_a_name_and_no_file():
    paths = ["/etc/passwd", "../../etc/passwd", "a/../b.mp4"]
    told = GOOD | {"turns": [GOOD["turns"][0] | {"clip": {"files": paths}}]}
    (found,) = read_record(json.dumps(told)).turns
    assert found.clip.paths == ("passwd", "passwd", "b.mp4")


def test_a_secret_finds_what_was_kept_under_it_until_its_visitor_is_gone():
    kept = KeptVisitors()
    mine = Kept(Chat("me", SETUP, secret=new_secret()), ("clip.mp4",))
    kept.keep(mine)
    assert kept.find(mine.chat.secret) is mine
    for guess in ("", "me", mine.chat.secret[:-1], mine.chat.secret + "x", new_secret()):
        assert kept.find(guess) is None
    kept.forget("you")
    assert kept.find(mine.chat.secret) is mine
    for number in range(VISITORS_KEPT):
        kept.keep(Kept(Chat(f"{number}", SETUP, secret=new_secret())))
    assert kept.find(mine.chat.secret) is None, "the ones used longest ago make room"
    kept.keep(mine)
    kept.forget("me")
    assert kept.find(mine.chat.secret) is None


def test_a_visitor_is_here_as_long_as_one_of_the_pages_is_open(monkeypatch):
    monkeypatch.setattr(visitors_module, "LIMITS", Limits(max_away_seconds=1))
    root = Path(workspace().name, "gradio", "reload")
    root.mkdir(parents=True)
    early, late = root / "early", root / "late"
    gone = []
    visitors = Visitors(gone.append)
    for path in (early, late):
        path.write_bytes(bytes(10))
    visitors.came("first")
    visitors.note("first", [str(early)])
    visitors.came("second")  # the page is loaded again: whose it is is known only then
    visitors.note("second", [str(late)])
    visitors.returned("second", "first")
    visitors.left("first")  # which may be noticed later than the new page
    time.sleep(1.5)
    assert not gone and early.exists() and late.exists()
    visitors.left("second")
    time.sleep(1.5)
    assert gone == ["first"] and not root.exists()
    visitors.returned("third", "gone")  # whose connection never comes
    time.sleep(1.5)
    assert gone == ["first", "gone"]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reload")
    write_video(folder / "clip.mp4", torch.randint(255, (8, 3, 48, 64), dtype=torch.uint8), 4)
    with hosted(folder) as served:
        served.clip = folder / "clip.mp4"
        yield served


def loaded(app, session, record=""):
    """The page's events at its start, and what they show."""
    given = app.call("on_load", {"record": record}, session)
    assert isinstance(given, list), given
    shown = app.call("on_restore", {}, session)
    assert isinstance(shown, list), shown
    names = [getattr(each, "elem_id", None) for each in app.function("on_restore").outputs]
    return dict(zip(names, shown, strict=True))


def visit(app, session, question="what ?"):
    """A visitor asks once; returns what the tab remembers, and the clip's path."""
    loaded(app, session)
    video = app.upload(app.clip)
    values = {"video": video, "sound": "the video", "senses": ["video"]}
    app.call("on_send", values | {"question": question}, session)
    (record,) = app.call("on_remember", values, session)
    return record, video["path"]


def skipped(value):
    return isinstance(value, dict) and value.get("__type__") == "update" and "value" not in value


def test_a_reload_brings_back_the_conversation_the_clip_and_the_settings(app):
    record, path = visit(app, "first", EVIL)
    shown = loaded(app, "again", record)
    asked, said = shown["chat"]
    assert EVIL not in str(asked) and "&lt;img" in str(asked) and "picture · " in str(said)
    assert shown["video"]["path"] == path and shown["senses"] == ["video"]
    assert app.call("on_send", {"video": shown["video"], "question": "and ?"}, "again"), "it goes on"


def test_where_the_server_has_forgotten_the_text_comes_back_and_the_clip_does_not(app):
    record, _ = visit(app, "forgotten")
    app.blocks.visitors.forget("forgotten")
    shown = loaded(app, "late", record)
    assert "what ?" in str(shown["chat"]) and skipped(shown["video"])
    assert "no longer on this server" in shown["notice"]


def test_a_clip_that_is_gone_is_said(app):
    record, path = visit(app, "careless")
    Path(path).unlink()
    shown = loaded(app, "sorry", record)
    assert "what ?" in str(shown["chat"]) and skipped(shown["video"])
    assert "no longer on this server" in shown["notice"]


def test_nobody_comes_back_as_somebody_else(app):
    record, path = visit(app, "owner", "my own words ?")
    secret = json.loads(record)["secret"]
    for guess in ("owner", "", secret[:-1], secret.swapcase(), secret + "\0", "../" + secret):
        forged = json.dumps(GOOD | {"secret": guess, "key": "owner", "media": {"video": path}})
        shown = loaded(app, "thief", forged)
        assert "my own words" not in str(shown) and path not in str(shown) and skipped(shown["video"])


def test_a_record_loads_no_model_that_is_not_offered_and_names_no_file(app):
    loaded(app, "before")
    before = set(map(id, app.engine.models.kept()))
    for name in ("/etc", "Qwen/Qwen2.5-VL-72B-Instruct", "../backbone", str(app.clip.parent), "\0", "~"):
        for setup in ({"backbone": name}, {"adapters": [name]}, {"precision": name}):
            forged = GOOD | {"secret": "x", "setup": {**GOOD["setup"], "backbone": "backbone", **setup}}
            forged["turns"] = [GOOD["turns"][0] | {"clip": {"files": ["/etc/passwd", str(app.clip)]}}]
            shown = loaded(app, "forger", json.dumps(forged))
            assert "root:" not in str(shown) and str(app.clip.parent) not in str(shown)
            assert skipped(shown["video"]) and "what ?" in str(shown["chat"])
    assert set(map(id, app.engine.models.kept())) == before


@pytest.mark.parametrize("forged", [each for each in FORGED if not isinstance(each, dict)], ids=repr)
def test_garbage_in_place_of_a_record_is_a_first_visit(app, forged):
    shown = loaded(app, "garbage", forged)
    assert skipped(shown["chat"]) and skipped(shown["video"])
