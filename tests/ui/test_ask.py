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
from lynx.media.writer import write_video
from lynx.types import Waveform
from lynx.ui import launch
from lynx.ui.engine import Engine
from lynx.ui.types import Setup

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
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
NAMES += ("max_frames", "track", "unit", "up")
GOOD = {"video": CLIP, "question": "what is it ?"}


def post(app, *more, **given):
    """What `/ask` sends to a plain HTTP client: "complete" or "error", and the data."""
    address, _ = app
    values = [given.get(name) for name in NAMES]
    # CLIP; and NaN is written as such
    body = json.dumps({"data": [*values, *more]}, default=lambda _: uploaded(app))
    url, kind = f"{address}gradio_api/call/ask", {"Content-Type": "application/json"}
    asked = httpx.post(url, content=body, headers=kind, timeout=60)
    told = httpx.get(f"{url}/{asked.json()['event_id']}", timeout=120).text
    event, data = re.search(r"event: (\w+)\ndata: (.*)\n", told).groups()
    return event, json.loads(data)


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
    ({"fps": "abc"}, "Fps is 'abc': expected a number"),
    ({"fps": math.nan}, "Fps is nan: expected a number"),
    ({"fps": math.inf}, "Fps is inf: expected a number"),
    ({"fps": True}, "Fps is True: expected a number"),
    ({"fps": []}, "expected a number"),
    ({"fps": -2}, "Frames a second: '-2' is no number above 0"),
    ({"fps": 0}, "no number above 0"),
    ({"max_frames": 1.5}, "Max_frames is 1.5: expected a whole number"),
    ({"max_frames": -1}, "Most frames"),
    ({"max_frames": "many"}, "expected a number"),
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
]


IDS = [f"{i} {list(given)}" for i, (given, _) in enumerate(WRONG)]  # the same in every process


@pytest.mark.parametrize(("given", "said"), WRONG, ids=IDS)
def test_a_wrong_request_is_answered_with_one_sentence(app, given, said):
    given = GOOD | given
    event, data = post(app, **given)
    assert event == "error" and isinstance(data, dict), data
    error = data["error"]
    assert said in error and "Traceback" not in error and "\n" not in error and len(error) < 500
    assert error.endswith(".") and error[0] == error[0].upper()


def test_more_values_than_there_are_names_for_are_refused(app):
    event, data = post(app, "beside", **GOOD)
    assert event == "error" and data["error"] == "15 values were given: expected at most 14."


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
