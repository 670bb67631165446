"""What strangers may send to a hosted app: nothing is given away, each is refused with a sentence."""

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import torch
from served import file, hosted

import lynx
from lynx.config import LIMITS
from lynx.media.writer import write_video
from lynx.ui.visitors import FAILED, NOT_KEPT, NOT_TAKEN, workspace

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
SECRET = "the owner's own words"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "secret.txt").write_text(SECRET)
    with hosted(folder) as served:
        gradio = Path(workspace().name, "gradio")
        (gradio / "up").mkdir(parents=True)
        (gradio / "up" / "link.mp4").symlink_to(folder / "secret.txt")
        other = Path(workspace().name, "another")  # as what is unpacked for another visitor
        other.mkdir()
        (other / "0.npy").write_text(SECRET)
        guess = hashlib.sha256(SECRET.encode()).hexdigest()
        served.places = {
            "secret": str(folder / "secret.txt"), "folder": str(folder), "gradio": str(gradio),
            "workspace": workspace().name, "url": served.url, "guess": guess,
            "checkout": str(Path(lynx.__file__).parents[1]),
        }
        before = served.engine.models.kept()
        assert before
        yield served
        assert served.engine.models.kept() == before, "no request cost anybody the model"
        assert (gradio / "up" / "link.mp4").is_symlink(), "what strangers name is not deleted"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, torch.randint(255, (8, 3, 48, 64), dtype=torch.uint8), 4)
    return path


PATHS = (
    *("{secret}", "/etc/passwd", "/root", "{folder}/backbone/config.json", "{checkout}/pyproject.toml"),
    *("app.py", "{gradio}/../../secret.txt", "{gradio}/up/link.mp4", "{gradio}", "{workspace}/another/0.npy"),
    *("{gradio}/{guess}/a.mp4", "~/.ssh/id_rsa", "//etc/passwd", "", "\0", "{gradio}/\0.mp4", "x" * 9000),
    *("file:///etc/passwd", "file://{secret}", "http://127.0.0.1:1/x.mp4", "{url}/config", "HTTPS://x.test/a.mp4"),
)
ODD = (7, True, [], {}, "text", ["/etc/passwd"], {"path": 3}, {"path": ["/etc/passwd"]}, [[[[]]]], 1e308)
FIELDS = (("ask", "video"), ("ask", "audio"), ("ask", "depth"), ("ask", "views"), ("on_read", "video"))


def refused(app, said, *, given=""):
    """Asserts that an answer is a sentence that gives nothing away."""
    assert isinstance(said, str) and len(said) > 10, said
    told = said.replace(given, "") if given else said
    for place in ("folder", "workspace", "checkout"):
        assert app.places[place] not in told, said
    assert SECRET not in said and "root:x:" not in said and "Traceback" not in said and len(said) < 1000, said


def sent(field, value):
    return [value] if field in ("depth", "views") and isinstance(value, dict) else value


@pytest.mark.parametrize(("name", "field"), FIELDS)
@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_nobody_uploaded(app, name, field, path):
    given = path.format(**app.places)
    question = {"question": "what ?"} if name == "ask" else {}
    said = app.call(name, {field: sent(field, file(given))} | question)
    refused(app, said, given=given)
    told = ("not uploaded here", "no longer here", "no longer kept here")
    told += ("not what this field takes", "no file", "No sense here")
    assert any(each in said for each in told), said


def handlers(app, holds):
    """All handlers with a component of that kind, its place, and what a new page sends to them."""
    for function in app.blocks.fns.values():
        sent = [None if each.stateful else each.value for each in function.inputs]
        for at, component in enumerate(function.inputs if function.fn else ()):
            if holds(component):
                yield function, at, sent


def test_a_file_that_nobody_uploaded_is_refused_before_any_handler(app):
    """By the check of files itself, whatever else is sent: even where it could be an upload by its name."""
    taking = list(handlers(app, lambda each: each.get_block_name() in ("video", "audio", "file")))
    assert {function.name for function, *_ in taking} >= {"ask", "on_read", "on_send", "on_remember"}
    for path in ("{gradio}/{guess}/a.mp4", "{gradio}/up"):
        for function, at, sent in taking:
            given = file(path.format(**app.places))
            several = getattr(function.inputs[at], "file_count", "") == "multiple"
            values = [*sent[:at], [given] if several else given, *sent[at + 1 :]]
            said = app.call(function, values)
            assert said == NOT_KEPT, (function.name, function.inputs[at].elem_id)


def test_a_choice_that_is_no_longer_offered_is_answered_by_the_handler(app):
    """Whatever was chosen before its choices changed: no handler is kept from it by Gradio."""
    offering = list(handlers(app, lambda each: hasattr(each, "choices")))
    found = {function.inputs[at].elem_id for function, at, _ in offering}
    assert found == {"senses", "backbone", "precision", "adapters", "sound", "track", "unit", "up", "which"}
    for function, at, sent in offering:
        component = function.inputs[at]
        several = getattr(component, "multiselect", component.get_block_name() == "checkboxgroup")
        for stale in ("of before", -1):
            values = [*sent[:at], [stale] if several else stale, *sent[at + 1 :]]
            said = app.call(function, values)
            told = (function.name, component.elem_id, stale, said)
            assert "list of choices" not in str(said) and said not in (FAILED, NOT_TAKEN), told
    numbers = [each for each in app.blocks.blocks.values() if each.get_block_name() == "slider"]
    lists = list(handlers(app, lambda each: hasattr(each, "samples")))
    assert not numbers and not lists, "a value or an index of these can be stale as well"


@pytest.mark.parametrize(("name", "field"), FIELDS)
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_in_place_of_a_file(app, name, field, value):
    said = app.call(name, {field: value})
    if not isinstance(said, str):  # an empty list is no file, which is said on the page
        assert value in ([], {}) and "Give a video" not in str(said).lower()
    else:
        refused(app, said)


@pytest.mark.parametrize("path", PATHS)
def test_files_of_the_server_are_not_served(app, path):
    given = path.format(**app.places)
    for route in ("gradio_api/file=", "file=", "gradio_api/file/", "gradio_api/proxy="):
        try:
            reply = app.client.get(f"{app.url}/{route}{given}")
        except Exception as error:  # this client refuses to ask for it
            assert "nvalid" in type(error).__name__ or "URL" in str(error)
            continue
        assert reply.status_code >= 400 and SECRET not in reply.text and "root:x:" not in reply.text
        for place in ("folder", "workspace", "checkout"):
            assert app.places[place] not in reply.text.replace(given, "")


NAMES = (
    *("/root", "{folder}/backbone", "{folder}", "../backbone", "{checkout}/adapters/audio", "adapters/../x"),
    *("Qwen/Qwen2.5-VL-72B-Instruct", "llava-onevision-72b", "owner/name@../../etc", "file:///etc"),
    *("~", "\0", "x" * 9000, "http://127.0.0.1:1/a/b", "{url}/config"),
)


@pytest.mark.parametrize("typed", [*NAMES, 7, ["a"], {"a": 1}, True], ids=str)
@pytest.mark.parametrize("name", ["on_setup", "on_plan", "on_choose"])
@pytest.mark.parametrize("field", ["backbone", "adapters"])
def test_a_model_that_is_not_offered(app, name, field, typed):
    value = typed.format(**app.places) if isinstance(typed, str) else typed
    values = {"backbone": "backbone", "precision": "auto", "adapters": []}
    if name == "on_choose":
        del values["precision"]
    said = app.call(name, values | {field: [value] if field == "adapters" else value})
    if not isinstance(said, str):
        said = str(said)
        assert "is not offered here" in said, said
    refused(app, said[:999], given=value if isinstance(value, str) else "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("question", 7), ("question", ["what"]), ("question", {"path": "/etc/passwd"}), ("question", None),
        ("senses", "/etc/passwd"), ("senses", {"path": "/etc/passwd"}), ("senses", [{"a": 1}]), ("senses", 7),
        ("offsets", ["/etc/passwd"]), ("start", "/etc/passwd"), ("end", {}), ("fps", "/etc/passwd"),
        ("track", "x"), ("unit", "/etc/passwd"), ("up", "../../etc/passwd"),
        ("history", "/etc/passwd"), ("history", {"path": "/etc/passwd"}), ("history", [["what ?"] * 9]),
        ("history", [["x" * 99_999, "y"]] * 99), ("history", [[]] * 99_999), ("history", [{"role": "me"}]),
        ("adapters", ["/etc/passwd"]), ("adapters", ["../../etc"]), ("adapters", ["Qwen/Qwen2.5-VL-7B"]),
        ("adapters", {"path": "/etc/passwd"}), ("temperature", "/etc/passwd"), ("temperature", 1e-320),
        ("max_new_tokens", 1e308), ("max_new_tokens", "/etc/passwd"), ("evidence", "/etc/passwd"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["ask", "stream"])
def test_odd_values_of_a_question(app, name, field, value):
    refused(app, app.call(name, {"question": "what ?"} | {field: value}))


def test_an_answer_has_no_more_words_than_a_hosted_app_gives(app, clip):
    asked = {"video": app.upload(clip), "question": "what ?", "max_new_tokens": LIMITS.max_answer_tokens + 1}
    said = app.call("ask", asked)
    assert said.startswith("513 tokens are too many for an answer: at most 512 tokens")
    asked = {"video": app.upload(clip), "question": "what ?", "max_new_tokens": 512, "temperature": 1e-320}
    assert isinstance(app.call("ask", asked), list), "the coldest answer is the likeliest"


ADDRESSES = (
    *("{url}/gradio_api/file={secret}", "{url}/gradio_api/file=", "{url}/gradio_api/file=%00.mp4"),
    *("{url}/gradio_api/file={workspace}/another/0.npy", "{url}/gradio_api/file=..%2F..%2Fsecret.txt"),
    *("http://x.test/gradio_api/file=/etc/passwd", "http://x.test/gradio_api/file=http://127.0.0.1:1/a.mp4"),
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_of_this_server_is_no_way_to_other_files(app, address):
    given = address.format(**app.places)
    refused(app, app.call("ask", {"video": file(given), "question": "what ?"}), given=given)


def test_an_upload_may_be_named_by_its_address(app, clip):
    uploaded = app.upload(clip)["path"]
    for host in (app.url, "https://behind.a.proxy/app"):
        asked = {"video": file(f"{host}/gradio_api/file={uploaded}"), "question": "what ?"}
        assert isinstance(app.call("ask", asked), list)
        uploaded = app.upload(clip)["path"]  # the answered one is deleted


@pytest.mark.parametrize("data", [None, 7, "x", {}, [None] * 999, [[]] * 14])
def test_a_request_of_another_shape(app, data):
    said = app.call("ask", data if isinstance(data, list) else [data])
    refused(app, said)
