"""Which option an answer chooses, which of a closed set of answers it gives; None where that is not clear."""

import re
import string
from collections.abc import Sequence
from functools import lru_cache

from lynx.datasets.base import LETTERS
from lynx.evaluation.metrics import normalize

WORDS = frozenset("AI")
"""Letters that are words, too: "A man" and "I see" choose nothing."""
_WRAPPING = string.punctuation + string.whitespace
_PHRASE = re.compile(
    r"\b(?i:answer|option|choice)\b(?:\s+(?i:is|would be))?[\s:]*\W{0,3}([A-Z])(?!\w|\s+[a-z])"
)
_MARKED = re.compile(r"\(([A-Z])\)|(?<![\w'.])([A-Z])[.:)](?=\s|$)")
_ALONE = re.compile(r"(?<![\w'])([A-Z])(?![\w'])(\s+(?!or\b|and\b)[a-z])?")


def choose(prediction: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer means; None where it means none, or several.

    A letter that is all of the answer; else the option whose text it is (`normalize`); else a letter behind
    "the answer is"; else the only letter that is marked as in "(B)" or "B."; else the only one that stands
    alone. Letters are capitals, of these options alone.
    """
    letters = LETTERS[: len(options)]
    if (bare := prediction.strip(_WRAPPING)) and bare in letters and len(bare) == 1:
        return bare
    if said := normalize(prediction):
        texts = [normalize(option) for option in options]
        if texts.count(said) == 1:
            return letters[texts.index(said)]
    if behind := [letter for letter in _PHRASE.findall(prediction) if letter in letters]:
        return str(behind[-1])  # what it ends up with
    marked = {one or other for one, other in _MARKED.findall(prediction)} & set(letters)
    if marked:
        return marked.pop() if len(marked) == 1 else None
    alone = {letter for letter, word in _ALONE.findall(prediction) if not (word and letter in WORDS)}
    alone &= set(letters)
    return alone.pop() if len(alone) == 1 else None


_FORMS = (
    (10, re.compile(r"^([A-Z])(?!\w)")),
    (9, re.compile(r"(?<!\w)([A-Z])$")),
    (7, re.compile(r"(?i:answer|option|choice)(?i:\s+is)?:?\s*\(?([A-Z])(?!\w)")),
    (6, re.compile(r"\(([A-Z])\)")),
    (5, re.compile(r"([A-Z])\.")),
    (4, re.compile(r"([A-Z]):")),
    (3, re.compile(r"([A-Z])\)")),
    (2, re.compile(r"([A-Z]) ")),
    (0, re.compile(r"([A-Z])")),
)
"""Forms of a letter, the best first."""


def choose_as_lmms_eval(prediction: str, options: Sequence[str]) -> str | None:
    """The letter that lmms-eval's `mcq_extract` finds: what its published figures of Video-MME and MLVU are.

    Any capital counts, where there is nothing better: "A man" is A, "Because" is B.
    """
    text = prediction.strip().strip(",.!?;:'\"").strip()
    letters = LETTERS[: len(options)]
    for _, form in _FORMS:
        if found := [letter for letter in form.findall(text) if letter in letters]:
            return str(found[-1])
    return None


def choose_first_letter(prediction: str) -> str | None:
    """The first letter from a to e that stands alone in the answer in lower case, as lmms-eval's MVBench:
    the article of "a man" is A.
    """
    found = re.search(r"\b([a-e])\b", prediction.lower())
    return found[1].upper() if found else None


_plain = lru_cache(4096)(normalize)  # the same few answers in thousands of rows


def only_answer(prediction: str, answers: Sequence[str]) -> str | None:
    """The one of a closed set of answers that occurs in a prediction, as whole words; None: none or several.

    Words are compared after `normalize`. An answer inside a longer one that occurs ("ten" in "more than
    ten") is not counted.
    """
    said = f" {normalize(prediction)} "
    found = {plain: answer for answer in answers if (plain := _plain(answer)) and f" {plain} " in said}
    inside = {one for one in found for other in found if one != other and f" {one} " in f" {other} "}
    longest = [plain for plain in found if plain not in inside]
    return found[longest[0]] if len(longest) == 1 else None
