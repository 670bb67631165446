"""The requests of lmms-eval are answered as a chat answers them, whichever of its two forms they have.

lmms-eval is not needed here: a request is its `args`, and what it calls is called. `test_plugin` runs it.
"""

import logging
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import lynx
from lynx.errors import AdapterError, DataError, LynxError, MediaError
from lynx.evaluation.batch_answers import answer_alone
from lynx.lmms.documents import PICTURE_RATE
from lynx.lmms.model import ChatModel, SimpleModel
from lynx.media.frame_folder import frames_of
from lynx.media.writer import write_video
from lynx.model import Lynx

SOUND, COLOR, SCENE = "what sound do you hear", "which color does the circle have ?", "describe the video"
GREEDY = {"max_new_tokens": 20, "do_sample": False, "until": ["\n\n"]}


@pytest.fixture(scope="module")
def clips(root, tmp_path_factory):
    """Two clips with sound, and one without."""
    silent = tmp_path_factory.mktemp("clips") / "silent.mp4"
    write_video(silent, torch.full((8, 3, 64, 64), 90, dtype=torch.uint8), 4)
    named = {name: root / "examples" / name / "clip.mp4" for name in ("bell", "sirens")}
    return {name: str(path) for name, path in {**named, "silent": silent}.items()}


def opened(kind, rows, **options):
    """A model that lmms-eval has told the rows of a task."""
    model = kind(**options)
    model.task_dict = {"clips": {"test": rows}}
    return model


def visuals(row):
    return row["shown"]


def messages(row):
    content = [{"type": "video", "url": each} for each in row["shown"]]
    return [{"role": "user", "content": [*content, {"type": "text", "text": row["question"]}]}]


def requests(kind, rows, wanted=GREEDY):
    """As a task makes them of its rows."""
    found = []
    for number, row in enumerate(rows):
        asked = (row["question"], wanted, visuals) if kind is SimpleModel else (None, messages, wanted)
        found.append(SimpleNamespace(args=(*asked, number, "clips", "test")))
    return found


def rows(clips, *asked):
    return [{"shown": [clips[name]], "question": question} for name, question in asked]


@pytest.mark.parametrize("kind", [SimpleModel, ChatModel])
def test_the_answers_are_those_of_a_chat_in_the_order_of_the_requests(clips, kind):
    asked = [(name, question) for question in (SOUND, COLOR, SCENE) for name in ("bell", "sirens")]
    said = opened(kind, rows(clips, *asked), adapter="audio", batch_size="3").generate_until(
        requests(kind, rows(clips, *asked))
    )
    model = lynx.load(adapters=["audio"])
    chats = {name: model.chat(video=clips[name], audio=clips[name]) for name in ("bell", "sirens")}
    for chat in chats.values():
        chat.encode()
    alone = []
    for name, question in asked:
        chats[name].clear()
        alone.append(chats[name].ask(question, max_new_tokens=20))
    assert said == alone
    assert said[:2] == ["bell", "siren"]  # the sound of the clip's own track


def test_a_sense_that_is_not_named_is_off(clips):
    asked = rows(clips, ("bell", SOUND), ("sirens", SCENE))
    model = opened(SimpleModel, asked, adapter="audio", senses="video", frames=5)
    stock = lynx.load()
    alone = [stock.chat(video=row["shown"][0], frames=5).ask(row["question"]) for row in asked]
    assert model.generate_until(requests(SimpleModel, asked)) == alone
    heard = opened(SimpleModel, asked, adapter="audio", senses="audio")
    assert heard.generate_until(requests(SimpleModel, asked))[0] == "bell"


def test_each_request_ends_where_it_asks_for(clips):
    asked = rows(clips, ("bell", SCENE), ("bell", SCENE), ("bell", SCENE))
    wanted = [{"max_new_tokens": 20}, {"max_new_tokens": 3}, {"max_new_tokens": 20, "until": " and"}]
    each = [requests(SimpleModel, asked, options)[i] for i, options in enumerate(wanted)]
    whole, short, cut = opened(SimpleModel, asked, batch_size=8).generate_until(each)
    assert " and " in whole and cut == whole.partition(" and")[0]
    assert whole.startswith(short) and len(short) < len(whole)


def test_the_system_message_and_the_turns_before_are_told(clips):
    told = [{"role": "user", "content": SOUND}, {"role": "assistant", "content": "bell"}]
    asked = [
        {"dialog": [{"role": "system", "content": "count"}], "question": COLOR},
        {"dialog": [], "question": "how many times ?"},
        {"dialog": [*told], "question": "how many times ?"},
    ]

    def dialog(row):
        shown = [{"type": "video", "url": clips["bell"]}]
        whole = [*row["dialog"], {"role": "user", "content": row["question"]}]
        first = next(each for each in whole if each["role"] == "user")
        content = [*shown, {"type": "text", "text": first["content"]}]
        return [each if each is not first else {"role": "user", "content": content} for each in whole]

    model = opened(ChatModel, asked, adapter="audio", senses="audio", batch_size=8)
    given = [SimpleNamespace(args=(None, dialog, GREEDY, i, "clips", "test")) for i in range(len(asked))]
    backbone = model.model.backbone
    streams = list(model.model.chat(audio=clips["bell"]).encode().values())
    alone = []
    for row in asked:
        prompt = backbone.compose([*row["dialog"], {"role": "user", "content": row["question"]}], streams)
        with model.model.using("audio"):
            alone.append(answer_alone(backbone, prompt))
    assert model.generate_until(given) == alone
    assert len(set(alone)) == 3


def test_a_clip_is_encoded_once_for_the_questions_about_it(clips, monkeypatch):
    asked = rows(clips, ("bell", SOUND), ("sirens", SOUND), ("bell", COLOR), ("bell", SCENE))
    model = opened(SimpleModel, asked, adapter="audio")
    opened_chats, chat = [], Lynx.chat

    def counted(self, **media):
        opened_chats.append(media["video"])
        return chat(self, **media)

    monkeypatch.setattr(Lynx, "chat", counted)
    model.generate_until(requests(SimpleModel, asked))
    assert sorted(opened_chats) == sorted([clips["bell"], clips["sirens"]])


def test_pictures_are_shown_once_each():
    pictures = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "green")]
    asked = [{"shown": pictures, "question": SCENE}]
    said = opened(SimpleModel, asked, frames=8).generate_until(requests(SimpleModel, asked))
    assert said == [lynx.load().chat(video=frames_of(pictures, PICTURE_RATE), frames=3).ask(SCENE)]


def test_a_sense_that_a_clip_lacks_ends_the_run_or_is_left_out_and_counted(clips, caplog):
    asked = rows(clips, ("bell", SOUND), ("silent", SCENE))
    asked.append({"shown": [], "question": "what is it ?"})
    strict = opened(SimpleModel, asked, adapter="audio", batch_size=4)
    with pytest.raises(MediaError, match=r"clips 1.*sound"):
        strict.generate_until(requests(SimpleModel, asked)[:2])
    with pytest.raises(DataError, match=r"clips 2: it has no picture; leave the sense video out"):
        strict.generate_until(requests(SimpleModel, asked)[2:])
    model = opened(SimpleModel, asked, adapter="audio", batch_size=4, allow_missing=True)
    with caplog.at_level(logging.WARNING):
        said = model.generate_until(requests(SimpleModel, asked))
    assert said[:2] == ["bell", lynx.load().chat(video=clips["silent"]).ask(SCENE)]
    assert [record.getMessage() for record in caplog.records if record.name == "lynx.lmms.model"] == [
        "audio was left out of 2 clips that do not have it",
        "video was left out of 1 clips that do not have it",
    ]


def test_what_cannot_be_answered_is_named_and_never_empty(clips):
    asked = [{"shown": ["gone.mp4"], "question": SOUND}, *rows(clips, ("bell", SOUND))]
    model = opened(SimpleModel, asked, allow_missing=True)
    with pytest.raises(DataError, match=r"clips 0: gone\.mp4 does not exist"):
        model.generate_until(requests(SimpleModel, asked)[:1])
    with pytest.raises(DataError, match=r"clips 1: lynx has no generation option 'stop'"):
        model.generate_until(requests(SimpleModel, asked, {"stop": ["."]})[1:])
    with pytest.raises(LynxError, match="compare likelihoods"):
        model.loglikelihood([])
    with pytest.raises(LynxError, match="several rounds"):
        model.generate_until_multi_round([])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"senses": "video+audio"}, AdapterError, "no adapter for 'audio' is loaded"),
        ({"adapter": "depth"}, DataError, "depth is read from depth, and lmms-eval gives videos"),
        ({"adapter": "no_such"}, AdapterError, "no_such"),
        ({"frame": 8}, DataError, "no model argument 'frame'"),
    ],
)
def test_what_a_model_cannot_be_made_of_is_refused(options, error, said):
    with pytest.raises(error, match=said):
        SimpleModel(**options)
