"""Exact match of ScanQA and SQA3D: the cleaning, and the published flaws beside the right figure."""

import pytest

from lynx.evaluation.refined_match import clean, refined, refined_words, strict


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The 2 brown chairs.", "two brown chairs"),
        ("none", "zero"),
        ("a TV", "TV"),
        ("O'clock 3 oclock", "o'clock three o'clock"),
        ("an armchair and a desk", "armchair and desk"),
        ("three (3)", "three three"),
        ("a", "a"),
        ("mat2 brght letf", "mat right left"),
        ("23 backwards", "twenty-three backward"),
    ],
)
def test_clean(answer, plain):
    assert clean(answer) == plain


@pytest.mark.parametrize(
    ("said", "answer", "published", "words"),
    [
        ("brown", "dark brown", (0, 1), 1),
        ("dark brown table", "brown", (0, 1), 1),
        ("one", "none", (0, 0), 0),
        ("a", "apple", (0, 1), 0),
        ("right", "bright", (0, 1), 0),
        ("", "x", (0, 0), 0),
        ("The 2 chairs", "two chairs", (1, 1), 1),
    ],
)
def test_strict_refined_and_on_whole_words(said, answer, published, words):
    assert (strict(said, [answer]), refined(said, [answer])) == published
    assert refined_words(said, [answer]) == words
    assert strict(said, ["other", answer]) == published[0]
