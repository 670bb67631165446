"""Metrics of free answers against several references: BLEU, ROUGE-L and CIDEr-D of the COCO evaluation.

They equal pycocoevalcap's on the same tokens. Its tokenizer is a Java program; `tokenize` has its rules, and
gives the same words for plain answers. METEOR needs Java and pycocoevalcap itself.

A prediction with no words scores 0 and stays in the mean.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from lynx.errors import DataError

Tokens = list[str]
Ngram = tuple[str, ...]
LONGEST = 4
"""Words of the longest n-gram of BLEU and CIDEr."""
BETA = 1.2
"""Weight of recall in ROUGE-L."""
SIGMA = 6.0
"""Standard deviation, in bigrams, of CIDEr-D's penalty for another length."""

_REWRITES = [
    (re.compile("[‘’´]"), "'"),
    (re.compile("[“”\"]|``|''"), " "),  # quotes become tokens that are dropped
    (re.compile(r"\bcan(not)\b"), r"can \1"),
    (re.compile(r"\b(gon|got|wan)([nt]a)\b"), r"\1 \2"),
    (re.compile(r"\b(gim|lem)(me)\b"), r"\1 \2"),
    (re.compile(r"(?<=\w)(n't|'(?:s|m|d|ll|re|ve))\b"), r" \1"),
]
_TOKEN = re.compile(
    r"""
    n't | '(?:s|m|d|ll|re|ve)\b                                  # endings of contractions
    | (?:[a-z]\.){2,}                                            # p.m. u.s.
    | \b(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|inc|co|corp|ave)\.  # other words that keep their full stop
    | \.\.\. | --+
    | @?\w+(?:(?:[-/'&]|(?<=\d)[.,:](?=\d))\w+)*                 # t-shirt, and/or, o'clock, 3:30, 3.5
    | \.\d+
    | \S
    """,
    re.VERBOSE,
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DROPPED = frozenset("' ` . ? ! , : - -- ... … ;".split())


def tokenize(text: str) -> Tokens:
    """Words as the Penn Treebank has them, lower case, without punctuation; brackets stay, by their names."""
    text = text.lower()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    tokens = (token if not token.startswith("--") else "--" for token in _TOKEN.findall(text))
    return [_BRACKETS.get(token, token) for token in tokens if token not in _DROPPED]


def ngrams(tokens: Sequence[str], n: int) -> Counter[Ngram]:
    """How often each n-gram occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def bleu(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """BLEU-1 to BLEU-4 of a corpus, each 0..1."""
    _check(predictions, references)
    hits, guesses, length, wanted = [0] * LONGEST, [0] * LONGEST, 0, 0.0
    for said, answers in zip(predictions, references, strict=True):
        length += len(said)
        lengths = sorted(map(len, answers))
        closest = min(lengths, key=lambda each: abs(each - len(said)))  # of two as close the shorter
        wanted += closest if len(predictions) > 1 else sum(lengths) / len(lengths)
        for n in range(1, LONGEST + 1):
            given, most = ngrams(said, n), Counter[Ngram]()
            for answer in answers:
                most |= ngrams(answer, n)
            hits[n - 1] += (given & most).total()
            guesses[n - 1] += given.total()
    ratio = (length + 1e-15) / (wanted + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    logs = [math.log((hit + 1e-15) / (guess + 1e-9)) for hit, guess in zip(hits, guesses, strict=True)]
    return [brevity * math.exp(sum(logs[:n]) / n) for n in range(1, LONGEST + 1)]


def rouge_l(prediction: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L, 0..1: the best precision and the best recall over the references, each found apart."""
    common = [_longest_common(prediction, answer) for answer in references]
    precision = max(common) / len(prediction) if prediction else 0.0
    recall = max(c / len(answer) if answer else 0.0 for c, answer in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(one: Tokens, other: Tokens) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for token in one:
        before = row
        row = [0]
        for i, each in enumerate(other):
            row.append(before[i] + 1 if token == each else max(before[i + 1], row[i]))
    return row[-1]


def cider(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """CIDEr-D of each row, 0..10; the corpus' is their mean, which papers print times 100.

    How much an n-gram counts depends on the references of all rows: a subset's scores are not comparable
    with those of the whole, and a single row's is 0.
    """
    _check(predictions, references)
    rows = Counter(
        ngram
        for answers in references
        for ngram in {each for answer in answers for n in range(LONGEST) for each in ngrams(answer, n + 1)}
    )  # how many rows have an n-gram among their references
    whole = math.log(len(references))

    def vectors(tokens: Tokens) -> list[dict[Ngram, float]]:
        counts = [ngrams(tokens, n) for n in range(1, LONGEST + 1)]
        return [{g: c * (whole - math.log(max(1, rows[g]))) for g, c in each.items()} for each in counts]

    scores = []
    for said, answers in zip(predictions, references, strict=True):
        mine, total = vectors(said), 0.0
        for answer in answers:
            difference = max(0, len(said) - 1) - max(0, len(answer) - 1)  # in bigrams
            alike = sum(map(_similarity, mine, vectors(answer))) / LONGEST
            total += alike * math.exp(-(difference**2) / (2 * SIGMA**2))
        scores.append(10 * total / len(answers))
    return scores


def _similarity(said: dict[Ngram, float], answer: dict[Ngram, float]) -> float:
    """Cosine of two vectors, where nothing counts more often than the answer has it."""
    norm = math.hypot(*said.values()) * math.hypot(*answer.values())
    product = sum(min(value, answer.get(gram, 0.0)) * answer.get(gram, 0.0) for gram, value in said.items())
    return product / norm if norm else 0.0


def meteor(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float | None:
    """METEOR of a corpus, 0..1, by pycocoevalcap; None where that is not installed."""
    try:
        from pycocoevalcap.meteor.meteor import Meteor
    except ModuleNotFoundError:
        return None
    given = {row: [" ".join(tokens)] for row, tokens in enumerate(predictions)}
    wanted = {row: [" ".join(tokens) for tokens in answers] for row, answers in enumerate(references)}
    try:
        return float(Meteor().compute_score(wanted, given)[0])
    except FileNotFoundError as error:
        raise DataError("METEOR is a Java program: install Java, or uninstall pycocoevalcap") from error


def _check(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    """Raise DataError unless every prediction has references."""
    if len(predictions) != len(references) or not predictions:
        raise DataError(f"{len(predictions)} predictions and {len(references)} rows of references to compare")
    if empty := [row for row, answers in enumerate(references) if not answers]:
        raise DataError(f"row {empty[0]} has no reference; every prediction needs one at least")
