"""Examinations are balanced, reproducible and never ask too much about one clip."""

from collections import Counter

import pytest

from lynx.errors import DataError
from lynx.evaluation.metrics import chance_level
from lynx.world.balanced_sampling import (
    PER_CLIP,
    Question,
    sample_questions,
    split_evenly,
    subsample,
    types_for,
)
from lynx.world.questions.types import QUESTION_TYPES
from lynx.world.scene.scene import SOUNDS, draw_scene

COUNTS = split_evenly(220, types_for(("video", "audio"), ("audio",)))
TASKS = sample_questions(COUNTS, "test", 7)


def answer_counts(questions: list[Question], name: str) -> Counter[str]:
    return Counter(question.turn.answer for question in questions if question.turn.type == name)


def test_every_type_and_every_answer_is_asked_for_equally_often() -> None:
    assert Counter(question.turn.type for question in TASKS) == COUNTS
    for name in COUNTS:
        counts = answer_counts(TASKS, name)
        assert set(counts) == set(QUESTION_TYPES[name].answers)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_chance_is_one_in_as_many_as_there_are_answers() -> None:
    answers = [question.turn.answer for question in TASKS if question.turn.type == "heard"]
    assert chance_level(answers) == 0.5


def test_who_sees_the_picture_guesses_one_of_its_shapes() -> None:
    counts = {"nearest": 24, "nearest_color": 24, "nearest_and_sound": 6, "heard": 2}
    questions = sample_questions(counts, "test", 7)
    for question in questions:
        items = draw_scene("test", 7, question.index).items
        colors = Counter(item.color for item in items)
        same = max(colors.values()) / len(items)
        expected = {
            "nearest": 1 / len(items),
            "nearest_color": same,
            "nearest_and_sound": same / len(SOUNDS),
            "heard": None,
        }
        assert question.guess == pytest.approx(expected[question.turn.type])


def test_no_clip_is_asked_more_than_twice_for_one_type() -> None:
    assert max(Counter((question.index, question.turn.type) for question in TASKS).values()) <= PER_CLIP


def test_the_same_seed_gives_the_same_tasks_and_another_one_others() -> None:
    assert TASKS == sample_questions(COUNTS, "test", 7)
    assert TASKS != sample_questions(COUNTS, "test", 8)


def test_a_smaller_examination_is_balanced_too() -> None:
    smaller = subsample(TASKS, {"heard": 10, "sound_time": 7})
    assert Counter(question.turn.type for question in smaller) == {"heard": 10, "sound_time": 7}
    assert answer_counts(smaller, "heard") == {"yes": 5, "no": 5}
    assert set(smaller) <= set(TASKS)


def test_types_by_the_senses_they_need() -> None:
    assert "where_at_sound" in types_for(("video", "audio"), ("audio",))
    assert "color" not in types_for(("video", "audio"), ("audio",))
    assert all(QUESTION_TYPES[name].senses == ("video",) for name in types_for(("video",), ("video",)))


def test_captions_have_no_fixed_answers_and_are_drawn_all_the_same() -> None:
    assert len(sample_questions({"caption": 6}, "validation", 0)) == 6


@pytest.mark.parametrize(
    "wrong", [({"riddle": 3}, "test", 0), ({"heard": 3}, "exam", 0), ({"heard": 3}, "test", -2)]
)
def test_what_does_not_exist_is_said(wrong: tuple) -> None:
    with pytest.raises(DataError):
        sample_questions(*wrong)
