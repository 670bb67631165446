"""Caption metrics: the values of pycocoevalcap 1.2, and the words of its tokenizer."""

import pytest

from lynx.errors import DataError
from lynx.evaluation.captions import bleu, cider, meteor, rouge_l, tokenize

ROWS = [
    ("brown table", ["a brown wooden table", "Brown table."]),
    ("two chairs", ["two", "2 chairs"]),
    ('left of sink, (maybe) "yes" 3.5 don\'t', ["left of the sink", "it's next to the o'clock lamp"]),
]


def corpus(rows):
    return [tokenize(said) for said, _ in rows], [[*map(tokenize, answers)] for _, answers in rows]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("He's wearing a T-shirt; it's 3:30 p.m.", "he 's wearing a t-shirt it 's 3:30 p.m."),
        ("cannot gonna", "can not gon na"),
        ("I'll wouldn't they've I'm", "i 'll would n't they 've i 'm"),
        ("a/b and/or #1 @home [x] {y}", "a/b and/or # 1 @home -lsb- x -rsb- -lcb- y -rcb-"),
        ("“quoted” 50% $5 & more", "quoted 50 % $ 5 & more"),
        ("well-known -- yes...", "well-known yes"),
        ("U.S. Mr. Smith etc.", "u.s. mr. smith etc."),
        ("no , he is silent .", "no he is silent"),
        ("the dog's 2,000 (o'clock) won't", "the dog 's 2,000 -lrb- o'clock -rrb- wo n't"),
        ("", ""),
    ],
)
def test_words_are_those_of_the_penn_treebank(text, words):
    assert " ".join(tokenize(text)) == words


def test_scores_are_those_of_the_coco_evaluation():
    said, answers = corpus(ROWS)
    assert bleu(said, answers) == pytest.approx([0.5, 0.30151, 2.248e-6, 6.348e-9], rel=1e-3)
    rouge = list(map(rouge_l, said, answers))
    assert rouge == pytest.approx([1, 0.709302, 0.464467], abs=1e-6)
    assert sum(rouge) / 3 == pytest.approx(0.724590, abs=1e-6)
    assert cider(said, answers) == pytest.approx([3.336118, 1.496692, 0.505537], abs=1e-6)


def test_empty_predictions_stay_in_the_mean():
    said, answers = corpus([ROWS[0], ("", ROWS[1][1]), ("", ROWS[2][1])])
    scores = cider(said, answers)
    assert sum(scores) / 3 == pytest.approx(1.112039, abs=1e-6)
    assert scores[1:] == [0, 0]
    assert rouge_l([], [["two"]]) == 0


def test_a_single_row_has_no_cider_and_its_mean_length_in_bleu():
    said, answers = corpus(ROWS[:1])
    assert cider(said, answers) == [0]
    assert bleu(said, answers)[0] == pytest.approx(2.718281828 ** (1 - 3 / 2))  # the mean of 4 and 2 words


def test_every_row_needs_references():
    with pytest.raises(DataError, match="row 1 has no reference"):
        cider([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(DataError, match="0 predictions"):
        bleu([], [])


def test_equal_to_pycocoevalcap():
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = {row: [{"caption": said}] for row, (said, _) in enumerate(ROWS)}
    wanted = {row: [{"caption": each} for each in answers] for row, (_, answers) in enumerate(ROWS)}
    theirs, their_answers = PTBTokenizer().tokenize(texts), PTBTokenizer().tokenize(wanted)
    said, answers = corpus(ROWS)
    assert [" ".join(each) for each in said] == [theirs[row][0] for row in theirs]
    assert bleu(said, answers) == pytest.approx(Bleu(4).compute_score(their_answers, theirs)[0])
    rouge = Rouge().compute_score(their_answers, theirs)[1]
    assert list(map(rouge_l, said, answers)) == pytest.approx(list(rouge))
    assert cider(said, answers) == pytest.approx(list(Cider().compute_score(their_answers, theirs)[1]))
    assert meteor(said, answers) == pytest.approx(0.431068, abs=1e-6)
