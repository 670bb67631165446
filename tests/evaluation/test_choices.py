"""What an answer chooses: a letter of this question's options, or one of a closed set; else nothing."""

import pytest

from lynx.evaluation.choices import choose, choose_as_lmms_eval, choose_first_letter, only_answer

FOUR = ("a bell", "Two men", "a man", "none of these")
MUSIC = ("yes", "no", "one", "zero", "piano", "acoustic_guitar", "more than ten")


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        (" (B). ", "B"),
        ("**C**", "C"),
        ("B. two men", "B"),
        ("B a dog", "B"),
        ("(D) none of these", "D"),
        ("The answer is C, not A.", "C"),
        ("A. is wrong and B. is wrong. The best option is: (D)", "D"),
        ("A man", "C"),  # the text of an option
        ("two men.", "B"),
        ("a man is seen", None),
        ("A man is seen", None),
        ("I see nothing", None),
        ("Because of it", None),
        ("A. B. C. D.", None),
        ("A or B", None),
        ("E", None),
        ("a", None),
        ("", None),
    ],
)
def test_the_option_that_an_answer_means(said, letter):
    assert choose(said, FOUR) == letter


def test_letters_are_those_of_the_options():
    six = ("red", "green", "blue", "black", "white", "I")
    assert choose("The answer is F.", six) == "F"
    assert choose("F", six[:4]) is None
    assert choose("B", ("B", "A")) == "B"  # a letter, also where an option has its text


def test_options_of_the_same_text_are_chosen_by_letter_alone():
    assert choose("red", ("red", "Red.")) is None
    assert choose("B", ("red", "Red.")) == "B"


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("A man", "A"),
        ("Because", "B"),
        ("the answer is C.", "C"),
        ("(B) or A", "A"),
        ("a man", None),
        ("", None),
    ],
)
def test_as_lmms_eval_finds_it(said, letter):
    assert choose_as_lmms_eval(said, FOUR) == letter


def test_as_lmms_eval_finds_it_in_mvbench():
    assert choose_first_letter("this is a man") == "A"
    assert choose_first_letter("Because") is None


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("Yes.", "yes"),
        ("it is the piano", "piano"),
        ("an acoustic guitar", "acoustic_guitar"),
        ("1", "one"),
        ("more than 10", "more than ten"),
        ("none", None),
        ("not at all", None),
        ("yes or no", None),
        ("", None),
    ],
)
def test_the_only_answer_of_a_closed_set(said, answer):
    assert only_answer(said, MUSIC) == answer


def test_an_answer_inside_a_longer_one_is_not_another():
    assert only_answer("more than ten of them", (*MUSIC, "ten")) == "more than ten"
