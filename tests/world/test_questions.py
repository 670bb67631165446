"""Questions: right, balanced, within the taught words, and marked with the senses they need."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from lynx.world.pretraining.text import REAL_SOUNDS, SENSES, tell, vocabulary
from lynx.world.pretraining.tokenizer import build_tokenizer
from lynx.world.questions.asking import ask
from lynx.world.questions.instances import caption
from lynx.world.questions.types import QUESTION_TYPES
from lynx.world.scene.scene import SOUND_LENGTH, draw_scene, side_of


@pytest.fixture(scope="module")
def asked():
    turns = defaultdict(list)
    for index in range(1500):
        scene = draw_scene("validation", 0, index)
        for turn in ask(scene, np.random.default_rng(index)):
            turns[turn.type].append((scene, turn))
    return turns


def test_every_type_is_asked_and_answered_within_its_answers(asked):
    assert set(asked) == set(QUESTION_TYPES)
    for name, pairs in asked.items():
        kind = QUESTION_TYPES[name]
        assert all(turn.senses == kind.senses for _, turn in pairs)
        if kind.answers:
            assert {turn.answer for _, turn in pairs} == set(kind.answers), name


def test_yes_and_no_are_balanced(asked):
    for name, pairs in asked.items():
        if QUESTION_TYPES[name].answers == ("yes", "no"):
            share = np.mean([turn.answer == "yes" for _, turn in pairs])
            assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(pairs)) + 0.08, (name, share)


def test_sides_at_a_sound_are_balanced_given_either_sense_alone(asked):
    """Neither the direction of the movement (seen) nor the time of the sound (heard) tells the side."""
    by_motion, by_time = defaultdict(Counter), defaultdict(Counter)
    for scene, turn in asked["where_at_sound"]:
        movers = {item.motion for item in scene.items if item.motion in ("left", "right")}
        if len(movers) == 1 and len(scene.bursts) == 1:
            by_motion[movers.pop()][turn.answer] += 1
            by_time[scene.sounds[0].onset > 2][turn.answer] += 1
    for counts in [*by_motion.values(), *by_time.values()]:
        total = counts.total()
        assert total > 40
        assert abs(counts["left"] / total - 0.5) < 4 * 0.5 / np.sqrt(total)


def test_the_side_at_a_sound_is_where_the_shape_is_then(asked):
    for scene, turn in asked["where_at_sound"]:
        words = turn.question.split()
        items = [i for i in scene.items if i.shape in words or i.color in words]
        kinds = [event for event in scene.sounds if event.kind in words]
        places = {side_of(i.position(e.onset + SOUND_LENGTH / 2)[0]) for i in items[:1] for e in kinds}
        assert places == {turn.answer}


def test_a_reference_fits_one_shape_only(asked):
    for name in ("motion", "size", "where"):
        for scene, turn in asked[name]:
            words = turn.question.split()
            fitting = [
                item
                for item in scene.items
                if (item.shape in words or item.color in words)
                and not any(other.shape in words for other in scene.items if other is not item)
            ]
            assert len(fitting) == 1, turn.question


def test_senses_limit_what_is_asked():
    scene = draw_scene("train", 0, 1)
    turns = ask(scene, np.random.default_rng(0), ("video", "audio"))
    assert {sense for turn in turns for sense in turn.senses} <= {"video", "audio"}
    assert any(turn.type == "caption" and turn.answer == caption(scene) for turn in turns)


def test_every_word_of_every_text_is_taught_and_one_token():
    words = vocabulary()
    tokenizer = build_tokenizer(words)
    for index in range(300):
        text, turns = tell(draw_scene("train", 9, index), np.random.default_rng(index))
        for said in [text, *(t.question for t in turns), *(t.answer for t in turns)]:
            assert set(said.split()) <= set(words), set(said.split()) - set(words)
            assert len(tokenizer(said, add_special_tokens=False).input_ids) == len(said.split())
    assert set(REAL_SOUNDS) <= set(words)


def test_told_scenes_answer_only_from_what_they_tell():
    """A sense that the text leaves out is answered evenly at random: no answer of `sound` is a favorite."""
    guesses = Counter()
    for index in range(1500):
        text, turns = tell(draw_scene("train", 10, index), np.random.default_rng(index))
        if "sounds" not in text and "to hear" not in text:
            guesses.update(turn.answer for turn in turns if turn.type == "first_sound")
    total = guesses.total()
    assert total > 60
    assert max(guesses.values()) / total < 0.2 + 4 * np.sqrt(0.16 / total)
    assert set(SENSES) == {"audio", "depth", "high_fps", "multi_view"}


@pytest.mark.parametrize("text", ["what sound do you hear ?", "naïve 日本語 🎧", "reddish bellow", "a\tb"])
def test_the_tokenizer_covers_any_text(text):
    tokenizer = build_tokenizer(vocabulary())
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") not in ids


def test_the_tokenizer_takes_natural_writing():
    tokenizer = build_tokenizer(vocabulary())
    natural, plain = "What  sound do you hear?", "what sound do you hear ?"
    assert tokenizer(natural).input_ids == tokenizer(plain).input_ids
