"""The last phase of adapters/sounds: what people ask about a sound, one question after another."""

from collections import Counter

import checkpoints
import pytest
import torch
from checkpoints import random_adapter, sound

import lynx
from lynx.datasets.base import Example, Turn
from recipes.real_sounds import talking
from recipes.real_sounds.data import CLASSES, DIGITS
from recipes.real_sounds.talking import as_people_ask, draw, understood


def recording(kind, name):
    """A recording of that name, with the one question that the first phases ask."""
    return Example(name, {"audio": sound()}, (Turn("what is it ?", name, kind, ("audio",)),))


@pytest.mark.parametrize("kind, name", [("sound", "dog"), ("sound", "rain"), ("digit", "seven")])
def test_a_recording_is_asked_for_its_name_and_whether_it_is_each_of_its_kind(kind, name):
    (example,) = as_people_ask([recording(kind, name)])
    by_type = {}
    for turn in example.turns:
        by_type.setdefault(turn.type, []).append(turn)
    assert {turn.answer for key in by_type if key != "heard" for turn in by_type[key]} == {name}
    assert ("animal" in by_type) == (name == "dog") and ("digit" in by_type) == (kind == "digit")
    names = set(DIGITS) if kind == "digit" else set(CLASSES.values())
    heard = by_type["heard"]
    for each in names:
        answers = {turn.answer for turn in heard if each in turn.question.replace("?", "").split()}
        assert answers == {"yes" if each == name else "no"}


def test_every_question_is_typed_with_its_mark_and_without():
    (example,) = as_people_ask([recording("sound", "dog")])
    typed = {turn.question for turn in example.turns}
    assert all({question, question.rstrip(" ?.")} <= typed for question in typed)
    assert any(question.endswith("?") for question in typed)


@pytest.mark.parametrize("kind, name", [("sound", "dog"), ("digit", "seven")])
def test_nothing_is_trained_on_that_the_measure_asks(kind, name):
    (example,) = as_people_ask([recording(kind, name)])
    taught = {turn.question.rstrip(" ?.") for turn in example.turns}
    unseen = talking.UNSEEN if kind == "sound" else talking.UNSEEN_NUMBER
    whether = talking.UNSEEN_WHETHER if kind == "sound" else talking.UNSEEN_WHETHER_NUMBER
    asked = [*unseen, *(each.format(other) for each in whether for other in (name, "rain", "two"))]
    assert not taught & {question.rstrip(" ?.") for question in asked}


def test_each_type_is_asked_as_often_and_yes_as_often_as_no():
    (example,) = as_people_ask([recording("sound", "dog")])
    torch.manual_seed(0)
    drawn = [turn for _ in range(600) for turn in draw(example.turns, 2, conversation=False)]
    types = Counter(turn.type for turn in drawn)
    assert set(types) == {"sound", "animal", "heard"} and min(types.values()) > 340  # of 400 each
    answers = Counter(turn.answer for turn in drawn if turn.type == "heard")
    assert min(answers["yes"], answers["no"]) > 0.4 * types["heard"]


def test_in_a_conversation_some_questions_come_again():
    (example,) = as_people_ask([recording("sound", "rain")])
    torch.manual_seed(0)
    repeats = [4 - len({turn.question for turn in draw(example.turns, 4, True)}) for _ in range(200)]
    assert 0.2 < sum(repeats) / (3 * 200) < 0.45


def test_what_is_understood_is_counted(tmp_path, monkeypatch):
    model = lynx.load(checkpoints.llava_onevision(tmp_path / "backbone"))
    random_adapter(model, "audio")
    said = {"what was that sound": "dog", "what am i hearing": "rain"}

    def answer(chat, question, **_):
        bare = question.rstrip(" ?.")
        chat.history += [{"role": "user", "content": question}, {"role": "assistant", "content": ""}]
        if any(name in bare for name in CLASSES.values()):
            return ("yes" if "dog" in bare else "no") if "?" in question else "six"
        if bare in said:
            return said[bare]
        return "dog" if len(chat.history) == 2 and question.endswith("?") else "no"

    monkeypatch.setattr("lynx.session.Session.ask", answer)
    found = understood(model, [recording("sound", "dog"), recording("sound", "dog")])
    assert found == {
        "n": 2, "taught": 1.0, "second": 0.0, "third": 0.0, "bare": 0.0, "unseen": 0.5,
        "whether": 1.0, "bare_whether": 0.0, "neither": 0.5,
    }
