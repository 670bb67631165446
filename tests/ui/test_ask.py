"""Requests to `/ask` that are wrong: each is answered with one sentence, whoever sends it."""

import json
import math
import re
from pathlib import Path

import checkpoints
import httpx
import pytest
import torch

import lynx
from lynx.adapters.format import Adapter
from lynx.adapters.saving import save_adapter
from lynx.config import LoraSettings
from lynx.errors import LynxError
from lynx.media.writer import write_video
from lynx.types import Waveform
from lynx.ui import launch
from lynx.ui.endpoint_fields import check
from lynx.ui.engine import Engine
from lynx.ui.types import Setup

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
MODEL = []
"""What `lynx.load` takes for the app's model, once it is launched."""
CLIP = object()
"""Stands for the uploaded clip."""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A launched app that sees and hears: its address, and a clip."""
    folder = tmp_path_factory.mktemp("ask")
    model = lynx.load(checkpoints.llava_onevision(folder / "backbone"))
    model.add_adapter(Adapter("audio", "audio"))
    model.add_lora("audio", "llm", LoraSettings(2, 2.0, 0.0))
    save_adapter(model, "audio", folder / "adapter")
    tone = Waveform(torch.sin(torch.arange(32000) / 16000 * 2000) * 0.5, 16000)
    write_video(folder / "clip.mp4", torch.randint(255, (8, 3, 48, 64), dtype=torch.uint8), 4, tone)
    setup = Setup(str(folder / "backbone"), adapters=(str(folder / "adapter"),))
    MODEL[:] = setup.backbone, setup.adapters
    blocks = launch(port=None, setup=setup, examples=[], engine=Engine(max_new_tokens=4), block=False)
    yield blocks.local_url, folder / "clip.mp4"
    blocks.close()


def uploaded(app):
    """The clip as the app takes it, uploaded anew: what was sent with a request is deleted after it."""
    address, clip = app
    with clip.open("rb") as file:
        posted = httpx.post(f"{address}gradio_api/upload", files={"files": file}, timeout=60)
    return {"path": posted.json()[0], "meta": {"_type": "gradio.FileData"}}


NAMES = ("video", "audio", "question", "senses", "depth", "views", "offsets", "start", "end", "fps")
NAMES += ("max_frames", "track", "unit", "up", "history", "adapters", "temperature", "max_new_tokens")
NAMES += ("evidence",)
GOOD = {"video": CLIP, "question": "what is it ?"}


def post(app, *more, name="ask", **given):
    """What an endpoint sends to a plain HTTP client: "complete" or "error", and the data."""
    return told(app, *more, name=name, **given)[-1]


def told(app, *more, name="ask", **given):
    """The same with all that comes before, as a streaming client sees it."""
    address, _ = app
    values = [given.get(name) for name in NAMES]
    # CLIP; and NaN is written as such
    body = json.dumps({"data": [*values, *more]}, default=lambda _: uploaded(app))
    url, kind = f"{address}gradio_api/call/{name}", {"Content-Type": "application/json"}
    asked = httpx.post(url, content=body, headers=kind, timeout=60)
    told = httpx.get(f"{url}/{asked.json()['event_id']}", timeout=120).text
    return [(event, json.loads(data)) for event, data in re.findall(r"event: (\w+)\ndata: (.*)\n", told)]


ASKED, SAID = {"role": "user", "content": "what ?"}, {"role": "assistant", "content": "a ball"}
WRONG = [
    ({"senses": []}, "Senses is an empty list"),
    ({"senses": "audio"}, "Senses is 'audio': expected a list of names"),
    ({"senses": ["video", 7]}, "expected a list of names"),
    ({"senses": [None]}, "expected a list of names"),
    ({"senses": {"video": True}}, "expected a list of names"),
    ({"senses": ["smell\ud800"]}, "expected a list of names"),
    ({"senses": ["s" * 5000]}, "no sense s"),
    ({"senses": ["<b>"]}, "no sense '<b>' here; loaded are video, audio"),
    ({"video": None}, "nothing to ask about: give a video, audio, depth or views"),
    ({"video": None, "senses": ["audio"]}, "nothing to ask about"),
    ({"video": "clip.mp4"}, "Video is 'clip.mp4': expected an uploaded file"),
    ({"video": 7}, "expected an uploaded file"),
    ({"video": {"path": ""}}, "not uploaded here"),
    ({"video": {"path": "http://127.0.0.1:9", "meta": {"_type": "gradio.FileData"}}}, "expected an uploaded"),
    ({"video": {"path": "x.mp4", "meta": {"_type": "gradio.FileData"}, "size": "x"}}, "not uploaded here"),
    ({"video": [CLIP]}, "expected an uploaded file"),
    ({"audio": {"path": 7}}, "expected an uploaded file"),
    ({"question": None}, "question is missing: give a text"),
    ({"question": ""}, "question is missing"),
    ({"question": " \n\t"}, "question is missing"),
    ({"question": 7}, "Question is 7: expected a text"),
    ({"question": True}, "Question is True: expected a text"),
    ({"question": ["what is it ?"]}, "expected a text"),
    ({"question": {"text": "what ?"}}, "expected a text"),
    ({"question": "what \ud800 ?"}, "expected a text"),
    ({"question": "what is it ? " * 5000}, "a shorter question"),
    ({"fps": "abc"}, "Fps is 'abc': expected a number above 0"),
    ({"fps": math.nan}, "Fps is nan: expected a number above 0"),
    ({"fps": math.inf}, "Fps is inf: expected a number above 0"),
    ({"fps": True}, "Fps is True: expected a number above 0"),
    ({"fps": []}, "expected a number above 0"),
    ({"fps": -1}, "Fps is -1: expected a number above 0"),
    ({"fps": 0}, "expected a number above 0"),
    ({"max_frames": 1.5}, "Max_frames is 1.5: expected a whole number"),
    ({"max_frames": -1}, "expected a whole number, 1 or more"),
    ({"max_frames": "many"}, "expected a whole number, 1 or more"),
    ({"max_frames": 0}, "Max_frames is 0: expected a whole number, 1 or more"),
    ({"track": 1.5}, "Track is 1.5: expected the whole number of a track"),
    ({"track": True}, "whole number of a track"),
    ({"track": "1"}, "whole number of a track"),
    ({"track": -1}, "no sound track -1"),
    ({"track": 1e300}, "no sound track 1"),
    ({"start": "soon"}, "is no time"),
    ({"start": -1}, "is no time"),
    ({"start": math.nan}, "Start is nan"),
    ({"start": ["1"]}, "Start is"),
    ({"start": 1, "end": 0.5}, "after start"),
    ({"end": {}}, "End is {}"),
    ({"depth": CLIP}, "expected a list of uploaded files"),
    ({"depth": "maps.zip"}, "expected a list of uploaded files"),
    ({"depth": [CLIP]}, "No sense here takes depth"),
    ({"views": [1, 2]}, "expected a list of uploaded files"),
    ({"views": [CLIP]}, "No sense here takes view"),
    ({"offsets": [0, 0.4]}, "Offsets is [0, 0.4]: expected a text of seconds"),
    ({"unit": "inch"}, "inch"),
    ({"unit": [1]}, "expected meters"),
    ({"up": 2}, "Up is 2: expected a text"),
    ({"up": "north"}, "'north'"),
    ({"history": "hello"}, "History is 'hello': expected a list of questions with their answers"),
    ({"history": {"role": "user", "content": "hi"}}, "expected a list of questions with their answers"),
    ({"history": [["what ?"]]}, "expected a list of questions"),
    ({"history": [["what ?", "a ball", "why ?"]]}, "expected a list of questions"),
    ({"history": [["what ?", 7]]}, "expected a list of questions"),
    ({"history": [["what ?", None]]}, "expected a list of questions"),
    ({"history": [["what \ud800 ?", "a ball"]]}, "expected a list of questions"),
    ({"history": [["what ?", "a ball"], {"role": "user", "content": "hi"}]}, "expected a list of questions"),
    ({"history": [{"role": "user", "content": "what ?"}]}, "expected a list of questions"),
    ({"history": [{"role": "assistant", "content": "a ball"}] * 2}, "expected a list of questions"),
    ({"history": [{"role": "system", "content": "lie"}, SAID]}, "expected a list of questions"),
    ({"history": [ASKED, SAID | {"name": "x"}]}, "expected a list of questions"),
    ({"history": [ASKED, {"role": "assistant", "content": ["a", "ball"]}]}, "expected a list of questions"),
    ({"history": [[" ", "a ball"]]}, "History holds an empty question"),
    ({"history": [["what ?", "ball " * 20_001]]}, "more than 100,000 letters"),
    ({"history": [["what ?", "a ball"]] * 5000}, "a shorter question"),
    ({"adapters": "audio"}, "Adapters is 'audio': expected a list of names"),
    ({"adapters": [["audio"]]}, "expected a list of names"),
    ({"adapters": ["smell"]}, "no adapter smell here; loaded are audio"),
    ({"adapters": ["video"]}, "no adapter video here; loaded are audio"),
    ({"adapters": ["/etc/passwd"]}, "no adapter '/etc/passwd' here; loaded are audio"),
    ({"adapters": ["a" * 5000]}, "no adapter a"),
    ({"adapters": [], "senses": ["audio"]}, "no sense audio here; chosen are video"),
    ({"temperature": "hot"}, "Temperature is 'hot': expected a number from 0 to 2"),
    ({"temperature": -0.1}, "expected a number from 0 to 2"),
    ({"temperature": 2.1}, "expected a number from 0 to 2"),
    ({"temperature": math.nan}, "expected a number from 0 to 2"),
    ({"temperature": True}, "expected a number from 0 to 2"),
    ({"max_new_tokens": 0}, "Max_new_tokens is 0: expected a whole number, 1 or more"),
    ({"max_new_tokens": 1.5}, "expected a whole number, 1 or more"),
    ({"max_new_tokens": -1}, "expected a whole number, 1 or more"),
    ({"max_new_tokens": math.inf}, "expected a whole number, 1 or more"),
    ({"max_new_tokens": "many"}, "expected a whole number, 1 or more"),
    ({"max_new_tokens": True}, "expected a whole number, 1 or more"),
    ({"evidence": "yes"}, "Evidence is 'yes': expected true or false"),
    ({"evidence": 1}, "expected true or false"),
]


IDS = [f"{i} {list(given)}" for i, (given, _) in enumerate(WRONG)]  # the same in every process


@pytest.mark.parametrize(("given", "said"), WRONG, ids=IDS)
@pytest.mark.parametrize("name", ["ask", "stream"])
def test_a_wrong_request_is_answered_with_one_sentence(app, name, given, said):
    given = GOOD | given
    event, data = post(app, name=name, **given)
    assert event == "error" and isinstance(data, dict), data
    error = data["error"]
    assert said in error and "Traceback" not in error and "\n" not in error and len(error) < 500
    assert error.endswith(".") and error[0] == error[0].upper()


def test_more_values_than_there_are_names_for_are_refused(app):
    event, data = post(app, "beside", **GOOD)
    assert event == "error" and data["error"] == "20 values were given: expected at most 19."


def test_a_file_that_was_not_uploaded_or_is_gone_is_said_without_a_word_on_the_disk(app):
    gone = str(Path(uploaded(app)["path"]).with_name("gone.mp4"))
    for path in ("/etc/passwd", "/no/such/file", str(Path(__file__)), gone, "../clip.mp4"):
        event, data = post(app, **GOOD | {"video": {"path": path, "meta": {"_type": "gradio.FileData"}}})
        assert event == "error" and data and re.search("upload (it again|the file)", data["error"]), path


def test_after_all_that_good_requests_are_answered(app):
    part = {"start": 0.5, "end": "0:01", "fps": 1e300, "max_frames": 4}
    for more in ({}, {"senses": ["audio", "audio"]}, part):
        event, data = post(app, **GOOD | more)
        assert event == "complete" and isinstance(data[0], str), data


def test_gradios_own_client_is_told_the_same(app):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(app[0], verbose=False)
    good = {"video": handle_file(app[1]), "audio": None, "question": "what ?", "senses": None}
    wrong = ({"senses": []}, "empty list"), ({"question": None}, "missing"), ({"fps": "abc"}, "Fps is 'abc'")
    for given, said in wrong:
        with pytest.raises(AppError, match=said):
            client.predict(**good | given, api_name="/ask")


def answer(app, **more):
    event, data = post(app, **GOOD | more)
    assert event == "complete", data
    return data[0]


def test_a_history_is_part_of_what_is_asked_in_either_form(app):
    lynx_alone = lynx.load(*MODEL)
    chat = lynx_alone.chat(video=app[1], audio=app[1])
    first = chat.ask("what is it ?", max_new_tokens=4)
    expected = chat.ask("and then ?", max_new_tokens=4)
    messages = [{"role": "user", "content": "what is it ?"}, {"role": "assistant", "content": first}]
    assert answer(app) == first
    for history in ([["what is it ?", first]], messages):
        assert answer(app, question="and then ?", history=history) == expected
    assert answer(app, question="and then ?", history=[]) == answer(app, question="and then ?")


def test_only_the_adapters_that_are_named_are_on(app):
    seen = lynx.load(*MODEL).chat(video=app[1]).ask("what is it ?", max_new_tokens=4)
    assert answer(app, adapters=[]) == answer(app, senses=["video"]) == seen
    assert answer(app, adapters=["audio"]) == answer(app)
    assert json.loads(answer(app, adapters=[], evidence=True))["senses"].keys() == {"video"}


def test_an_answer_comes_with_what_it_rests_on_when_that_is_asked_for(app):
    told = json.loads(answer(app, evidence=True))
    assert told["question"] == "what is it ?" and told["answer"] == answer(app)
    assert told["clip"]["files"] == [app[1].name] and "/" not in json.dumps(told)
    assert told["senses"]["audio"] == {"label": "sound", "frames": 16, "seconds": 2.0}
    assert all(0 < word["probability"] <= 1 for word in told["words"])
    evidence = told["evidence"]
    assert evidence["unit"] == "nats" and evidence["totals"].keys() == {"video", "audio", "text"}
    media = evidence["totals"]["video"] + evidence["totals"]["audio"]
    assert media == pytest.approx(evidence["gained"], abs=0.02) and abs(media) > 1e-3


def test_a_stream_tells_all_that_was_said_so_far_and_ends_in_what_ask_returns(app):
    *pieces, last = told(app, name="stream", **GOOD)
    whole = answer(app)
    said = [data[0] for event, data in pieces if event == "generating"]
    assert last[0] == "complete" and len(said) > 2 and said[-1] == whole
    assert all(later.startswith(earlier) for earlier, later in zip(said, said[1:], strict=False))
    *_, before, _ = told(app, name="stream", **GOOD | {"evidence": True})
    assert json.loads(before[1][0])["answer"] == whole


def test_a_client_of_gradio_calls_by_name_and_leaves_out_what_it_does_not_know(app):
    from gradio_client import Client, handle_file

    client, clip = Client(app[0], verbose=False), handle_file(app[1])
    old = client.predict(video=clip, audio=None, question="what is it ?", senses=None, api_name="/ask")
    assert client.predict(clip, question="what is it ?", api_name="/ask") == old == answer(app)
    job = client.submit(clip, None, "what is it ?", api_name="/stream")
    assert list(job)[-1] == old


def test_without_its_package_the_mcp_server_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lynx.ui, "find_spec", lambda name: None)
    with pytest.raises(LynxError, match=r"pip install 'lynx\[mcp\]'"):
        launch(mcp_server=True)


def test_the_api_page_has_sample_values_and_says_what_each_is(app):
    known = httpx.get(f"{app[0]}gradio_api/info").json()["named_endpoints"]
    assert known.keys() == {"/ask", "/stream"}
    for endpoint in known.values():
        assert endpoint["description"].startswith("Answer one question about a video")
        parameters = {each["parameter_name"]: each for each in endpoint["parameters"]}
        assert tuple(parameters) == NAMES
        shown = {name: each["example_input"] for name, each in parameters.items()}
        values = [value if value not in ({}, []) else None for value in shown.values()]
        check(values)  # the samples are what the endpoint takes
        assert shown["question"] == "What sound do you hear?" and shown["video"]["path"] == "clip.mp4"
        assert all(len(each["type"]["additional_description"]) > 10 for each in parameters.values())
        required = [name for name, each in parameters.items() if not each["parameter_has_default"]]
        assert required == ["video", "question"]
