"""Scorers: every row counts, and the published figure stands beside the right one where they differ."""

import os
from pathlib import Path
from statistics import fmean

import pytest

from lynx.errors import DataError
from lynx.evaluation.benchmarks import get
from lynx.evaluation.metrics import contains, interval
from lynx.evaluation.scorers import (
    Answered,
    choices,
    closed_set,
    dialog,
    labels,
    mlvu,
    mvbench,
    own,
    scanqa,
    situated,
    summarize,
    video_mme,
)

OPTIONS = ("red", "a man", "blue", "green")


def rows(*said_and_right, **more):
    """Answered rows from (prediction, answer, type)."""
    return [
        Answered(str(number), said, (right,) if isinstance(right, str) else right, type=kind, **more)
        for number, (said, right, kind) in enumerate(said_and_right)
    ]


def test_unparsed_and_failed_rows_are_wrong_and_counted():
    given = rows(("A", "A", "x"), ("a man is seen", "A", "x"), options=OPTIONS)
    given += [Answered("2", "", ("A",), OPTIONS, "y", error="there is no clip.mp4")]
    scores = summarize(given, choices(given))
    assert (scores["n"], scores["failed"], scores["unparsed"]) == (3, 1, 1)
    assert scores["accuracy"]["mean"] == pytest.approx(1 / 3)
    assert scores["by_type"] == {"x": {"n": 2, "accuracy": 0.5}, "y": {"n": 1, "accuracy": 0}}


def test_groups_are_counted_apart():
    given = [
        Answered("0", "A", ("A",), OPTIONS, "", (("duration", "short"), ("domain", "Film"))),
        Answered("1", "B", ("A",), OPTIONS, "", (("duration", "long"), ("domain", "Film"))),
    ]
    scores = summarize(given, video_mme(given))
    assert scores["by_duration"]["short"]["accuracy"] == 1 and scores["by_duration"]["long"]["accuracy"] == 0
    assert scores["by_domain"]["Film"]["n"] == 2
    assert "by_type" not in scores


def test_an_answer_that_is_no_option_is_wrong_for_everybody():
    given = rows(("A", "not among them", ""), options=OPTIONS)
    assert choices(given).values["accuracy"] == [0]


def test_mlvu_is_the_mean_of_the_tasks_beside_the_mean_of_the_rows():
    given = rows(*[("A", "A", "plotQA")] * 3, ("B", "A", "count"), options=OPTIONS)
    assert mlvu(given).corpus == {"m_avg": 0.5, "micro": 0.75}


def test_mvbench_takes_no_article_for_an_option_and_drops_no_row():
    given = rows(("this is a dog", "A", "x"), ("", "A", "x"), ("C", "C", "y"), options=OPTIONS)
    judged = mvbench(given)
    assert judged.values["accuracy"] == [0, 0, 1]
    assert judged.corpus == {"mean_of_tasks": 0.5, "accuracy_lmms_eval": 1}


def test_lmms_eval_finds_letters_in_words():
    judged = video_mme(rows(("Because", "B", ""), ("A dog", "A", ""), options=OPTIONS))
    assert judged.values == {"accuracy": [0, 0], "accuracy_lmms_eval": [1, 1]}


def test_music_avqa_as_published_finds_no_in_piano():
    answers = ("yes", "no", "one", "zero", "piano", "acoustic_guitar")
    given = rows(
        ("piano", "no", ""),
        ("none", "one", ""),
        ("An acoustic guitar.", "acoustic_guitar", ""),
        options=answers,
    )
    judged = closed_set(given)
    assert judged.values == {"accuracy": [0, 0, 1], "accuracy_substring": [1, 1, 0]}
    assert judged.parsed == ["piano", None, "acoustic_guitar"]


def test_labels_are_beside_the_commonest():
    levels = ("Novice", "Early Expert", "Late Expert")
    said = [("a late expert.", "Late Expert", ""), ("Expert", "Late Expert", ""), ("", "Novice", "")]
    given = rows(*said, options=levels)
    judged = labels(given)
    assert judged.values == {"accuracy": [1, 0, 0]}
    assert judged.corpus == {"majority": pytest.approx(2 / 3)}


def test_three_dimensional_questions():
    given = rows(("brown", ("dark brown", "black"), ""), ("a", ("apple",), ""), ("Two", ("2",), ""))
    assert situated(given).values == {"em": [0, 0, 1], "em_refined": [1, 1, 1], "em_words": [1, 0, 1]}
    judged = scanqa(given)
    assert judged.values["em_strict"] == [0, 0, 0]
    assert list(judged.values)[0] == "em" and judged.values["rouge_l"][2] == 1


def test_dialogs_say_how_many_references_they_have():
    given = rows(("he is alone .", ("he is alone .", "yes"), ""), ("no", ("yes he does",), ""))
    judged = dialog(given)
    assert list(judged.values)[0] == "cider"
    assert judged.values["rouge_l"] == [1, 0]
    assert judged.corpus["references"] == 1.5


def test_own_data_is_scored_as_its_rows_ask():
    given = [
        Answered("0", "a red ball", ("red", "ball"), metric="contains"),
        Answered("1", "a red ball", ("red",)),
        Answered("2", "A", ("A",), OPTIONS),
        Answered("3", "a man walks", ("a man walks in",), metric="rouge_l"),
    ]
    judged = own(given)
    firsts = {name: list(each.values.values())[0][0] for name, (_, each) in judged.items()}
    assert firsts == pytest.approx(
        {"contains": 1, "exact": 0, "options": 1, "rouge_l": (1 + 1.44) * 0.75 / (0.75 + 1.44)}
    )
    with pytest.raises(DataError, match="no metric 'bleurt'"):
        own([Answered("0", "a", ("a",), metric="bleurt")])


def test_intervals_hold_the_mean_and_narrow():
    low, high = interval([0.0, 1.0] * 50)
    assert (low, high) == pytest.approx((0.4, 0.6), abs=0.02)  # 0.5 +- 1.96 * 0.05
    assert interval([0.0, 1.0] * 50) == (low, high)
    with pytest.raises(DataError, match="no values"):
        interval([])


def test_intervals_of_few_values_show_their_doubt():
    # Clopper-Pearson: 0 of 6 may be as much as 1 - 0.025^(1/6), 6 of 6 as little as 0.025^(1/6)
    assert interval([0.0] * 6) == pytest.approx((0, 0.459258), abs=1e-6)
    assert interval([1.0] * 6) == pytest.approx((0.540742, 1), abs=1e-6)
    assert interval([0.0]) == pytest.approx((0, 0.975))
    # values of one clip depend on each other: two clips are no more than two values
    alone = interval([1.0, 1.0, 0.0, 0.0] * 10)
    clips = [str(i // 10) for i in range(40)]
    together = interval([1.0] * 10 + [0.0] * 20 + [1.0] * 10, clips)
    assert together == (0, 1) and alone == pytest.approx((0.35, 0.65), abs=0.03)
    assert interval([1.0] * 40, clips) == pytest.approx((0.025 ** (1 / 4), 1))
    assert interval([1.0, 0.0] * 20, ["a", "b"] * 20) == (0, 1)
    # two clips that are alike say nothing when they are drawn: the values' own interval is the wider one
    assert interval([1.0, 0.0, 0.0, 1.0], ["a", "a", "b", "b"]) == interval([1.0, 0.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("name", "folder", "said", "right", "published"),
    [
        ("music-avqa", "music_avqa", "none", 0, 0.2818),
        ("music-avqa", "music_avqa", "piano", 0.0182, 0.2107),
        ("sqa3d", "sqa3d", "a", 0, 0.2398),
        ("sqa3d", "sqa3d", "e", 0, 0.5448),
    ],
)
def test_what_published_metrics_give_one_word_to_all_real_questions(name, folder, said, right, published):
    if not (annotations := os.environ.get("BENCHMARK_ANNOTATIONS")):
        pytest.skip("BENCHMARK_ANNOTATIONS names no folder of annotations")
    benchmark = get(name)
    turns = [t for e in benchmark.dataset().examples(Path(annotations, folder), "test") for t in e.turns]
    answered = [Answered(turn.id, said, turn.references, turn.options) for turn in turns]
    values = list(benchmark.judge()(answered).values.values())
    expected = [right, published, right][: len(values)]  # SQA3D has em_words as well
    assert [fmean(each) for each in values] == pytest.approx(expected, abs=5e-5)


def test_contains_whole_words():
    assert contains("I hear one bell.", "1 bell")
    assert not contains("none", "one")
    assert not contains("anything", "")
