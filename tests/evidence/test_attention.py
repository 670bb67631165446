from dataclasses import replace

import pytest
import torch

from lynx.evidence.attention import AttentionRows
from lynx.evidence.evidence import Evidence


@pytest.fixture
def attention(stream):
    """A prompt of: first token | video 2 x (1 x 2) + newline | audio 2 x (1 x 1) + newline | two words."""
    rows = torch.tensor(
        [
            [0.4, 0.0, 0.1, 0.0, 0.1, 0.1, 0.1, 0.0, 0.0, 0.1, 0.1],
            [0.4, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0],
        ]
    )
    sinks = torch.zeros(11, dtype=torch.bool)
    sinks[[0, 5, 8]] = True
    return AttentionRows(
        rows,
        {"video": torch.arange(1, 6), "audio": torch.arange(6, 9)},
        {"video": stream("video", 2, 1, 2, 0.5), "audio": stream("audio", 2, 1, 1, 0.5)},
        sinks,
        torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.0, 0.05, 0.05, 0.0, 0.0]),
    )


def test_shares_leave_the_sinks_out_and_sum_to_one(attention):
    assert attention.shares([0]) == pytest.approx({"video": 0.4, "audio": 0.2, "text": 0.4})
    assert attention.shares([1]) == pytest.approx({"video": 1 / 3, "audio": 2 / 3, "text": 0.0})
    both = {"video": 0.4 / 1.1, "audio": 0.5 / 1.1, "text": 0.2 / 1.1}
    assert attention.shares([0, 1]) == pytest.approx(both)


def test_maps_are_frames_by_rows_by_columns(attention):
    plain = replace(attention, baseline=None).attribution([0]).heatmap("video")
    assert plain.shape == (2, 1, 2) and torch.allclose(plain.flatten(), torch.tensor([0.0, 0.1, 0.0, 0.1]))
    # the baseline of the video's cells is flat: scaled to the same sum (0.2 of 0.4), it takes 0.05 from each
    assert torch.allclose(
        attention.attribution([0]).heatmap("video").flatten(), torch.tensor([0.0, 0.05, 0.0, 0.05]), atol=1e-6
    )


def test_an_empty_answer_rests_on_nothing(attention):
    empty = Evidence([], replace(attention, rows=attention.rows[:0]))
    assert set(empty.share().values()) == {0.0}
    found = empty.attribution(None, "attention")
    assert not found.heatmap("video").any() and not found.curve("audio")[1].any()


def test_curves_have_a_value_for_every_moment(attention):
    plain = replace(attention, baseline=None)
    times, values = plain.attribution([1]).curve("audio")
    assert times.tolist() == [0.0, 0.5] and torch.allclose(values, torch.tensor([0.0, 0.4]))
    times, values = plain.attribution([0, 1]).curve("video")
    assert times.tolist() == [0.0, 0.5] and torch.allclose(values, torch.tensor([0.05, 0.15]))


def test_words_gather_their_tokens():
    def words(*tokens):
        rows = AttentionRows(torch.zeros(len(tokens), 4), {}, {}, torch.zeros(4, dtype=torch.bool))
        return Evidence(list(tokens), rows).words

    assert words("a", " be", "ll", " rings", ".") == [
        ("a", [0]),
        ("bell", [1, 2]),
        ("rings", [3]),
        (".", [4]),
    ]
    assert words(" two", "\n", "bells") == [("two", [0]), ("bells", [2])]
    assert words() == []


def test_maps_are_what_exceeds_the_scaled_baseline(attention):
    flat = torch.tensor([0.5, *[0.05] * 4, 0.0, 0.0, 0.0, 0.0, 0.0])
    values = replace(attention, baseline=flat).attribution([1]).heatmap("video").flatten()  # one cell alone
    assert torch.allclose(values, torch.tensor([0.0, 0.0, 0.15, 0.0]))
    values = replace(attention, baseline=torch.zeros(10)).attribution([1]).heatmap("video").flatten()
    assert torch.equal(values, torch.tensor([0.0, 0.0, 0.2, 0.0]))
