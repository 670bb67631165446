"""Metrics: whole answers, nothing dropped, and what guessing would reach."""

import pytest

from lynx.errors import DataError
from lynx.evaluation.metrics import chance_level, exact_match, normalize, score


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("A bell.", "bell"),
        ("the  red circle!", "red circle"),
        ("Three", "3"),
        ("left-most", "left most"),
        ("", ""),
    ],
)
def test_normalize(answer, plain):
    assert normalize(answer) == plain


def test_part_of_an_answer_is_no_answer():
    assert not exact_match("one", "none")
    assert not exact_match("none", "one")
    assert not exact_match("a red circle", "red")
    assert exact_match("1", "one")


def test_an_empty_prediction_is_wrong_and_counts():
    scores = score(["", "bell"], ["bell", "bell"])
    assert (scores.overall.accuracy, scores.overall.n) == (0.5, 2)
    assert not exact_match("the", "")


def test_chance_is_the_most_common_answer():
    assert chance_level(["yes", "Yes.", "no", "yes"]) == 0.75


def test_scores_by_type_with_the_level_of_guessing_each():
    scores = score(
        ["yes", "yes", "red", "blue", "red"],
        ["yes", "no", "red", "red", "red"],
        ["heard", "heard", "color", "color", "color"],
    )
    assert scores.by_type["heard"].to_dict() == {"accuracy": 0.5, "chance": 0.5, "n": 2}
    assert scores.by_type["color"].to_dict() == pytest.approx({"accuracy": 2 / 3, "chance": 1.0, "n": 3})
    assert scores.overall.accuracy == pytest.approx(3 / 5)
    assert scores.overall.chance == pytest.approx((2 * 0.5 + 3 * 1.0) / 5)
    assert list(scores.by_type) == ["color", "heard"]
    assert scores.to_dict()["by_type"]["color"]["n"] == 3


def test_a_guess_that_is_known_replaces_the_most_common_answer():
    scores = score(["a", "b", "c"], ["a", "b", "b"], ["x", "x", "y"], [0.5, 0.25, None])
    assert scores.by_type["x"].chance == pytest.approx(0.375)
    assert scores.by_type["y"].chance == 1
    assert score(["a"] * 3, ["a", "b", "b"], guesses=[0.1, None, None]).overall.chance == pytest.approx(0.7)


def test_lists_must_match():
    with pytest.raises(DataError, match="2 predictions, 1 references"):
        score(["a", "b"], ["a"])
    with pytest.raises(DataError, match="no questions"):
        score([], [])
