"""Exact match of ScanQA and SQA3D as it is published since LEO, and on whole words."""

import re
from collections.abc import Sequence

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
_SPELLING = {
    "letf": "left", "let": "left", "tehre": "there", "rigth": "right", "brght": "right", "behine": "behind",
    "tv": "TV", "chai": "chair", "wasing": "washing", "waslked": "walked", "oclock": "o'clock",
}  # fmt: skip
_WORDS = {**{str(n): word for n, word in enumerate(_NUMBERS)}, "23": "twenty-three", "none": "zero"}
_STEPS: list[tuple[str, str]] = [
    (r"^ +| +$", ""),
    (r" {2,}", " "),
    (r"\. {2,}", ". "),
    (r"[^a-zA-Z0-9,'\s\-:]+", ""),  # full stops and question marks, too
    *((rf"\b{wrong}\b", right) for wrong, right in _SPELLING.items()),
    (r"\bo' +clock\b", "o'clock"),
    *((rf"\b{digits}\b", word) for digits, word in _WORDS.items()),
    (r"\b([a-zA-Z]+)[0-9]\b", r"\1"),  # mat2
    *((rf"\b{article} ([a-zA-Z]+)", r"\1") for article in ("a", "an", "the")),
    (r"\bbackwards\b", "backward"),
]
_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in _STEPS]


def clean(answer: str) -> str:
    """An answer without punctuation, articles and common misspellings, numbers as words."""
    answer = answer.lower()
    for pattern, replacement in _COMPILED:
        answer = pattern.sub(replacement, answer)
    return answer.strip()


def strict(prediction: str, references: Sequence[str]) -> bool:
    """EM@1: a reference exactly, once both are cleaned. An empty prediction is none."""
    return bool(said := clean(prediction)) and said in map(clean, references)


def refined(prediction: str, references: Sequence[str]) -> bool:
    """Refined EM as published: without their spaces, prediction and reference contain one another.

    It has no word borders: "a" is right for "apple", and "right" for "bright".
    """
    said = "".join(clean(prediction).split())
    answers = ["".join(clean(answer).split()) for answer in references]
    return bool(said) and any(said in answer or answer in said for answer in answers)


def refined_words(prediction: str, references: Sequence[str]) -> bool:
    """The same on whole words, which is ours: "brown" is right for "dark brown", "a" is not for "apple"."""
    said = clean(prediction)
    pairs = [(f" {said} ", f" {clean(answer)} ") for answer in references]
    return bool(said) and any(mine in answer or answer in mine for mine, answer in pairs if answer.strip())
