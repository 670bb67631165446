from dataclasses import replace

import pytest
import torch

from lynx.evidence.attention import Evidence
from lynx.types import Frames, Stream


def stream(sense, frames, rows, cols, seconds):
    n = frames * rows * cols
    times = torch.arange(frames).double() * seconds
    clip = Frames(torch.zeros(frames, 3, 4, 4, dtype=torch.uint8), times, frames * seconds)
    tokens = torch.zeros(n + 1, 8)
    at = torch.cat([times.repeat_interleave(rows * cols), torch.tensor([torch.nan])])
    return Stream(sense, tokens, at, torch.zeros(n + 1, 2, dtype=torch.long), (rows, cols), clip)


@pytest.fixture
def evidence():
    """A prompt of: first token | video 2 x (1 x 2) + newline | audio 2 x (1 x 1) + newline | two words."""
    rows = torch.tensor(
        [
            [0.4, 0.0, 0.1, 0.0, 0.1, 0.1, 0.1, 0.0, 0.0, 0.1, 0.1],
            [0.4, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0],
        ]
    )
    sinks = torch.zeros(11, dtype=torch.bool)
    sinks[[0, 5, 8]] = True
    return Evidence(
        ["a", " bell"],
        rows,
        {"video": slice(1, 6), "audio": slice(6, 9)},
        {"video": stream("video", 2, 1, 2, 0.5), "audio": stream("audio", 2, 1, 1, 0.5)},
        sinks,
        torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.0, 0.05, 0.05, 0.0, 0.0]),
    )


def test_shares_leave_the_sinks_out_and_sum_to_one(evidence):
    assert evidence.share(0) == pytest.approx({"video": 0.4, "audio": 0.2, "text": 0.4})
    assert evidence.share(1) == pytest.approx({"video": 1 / 3, "audio": 2 / 3, "text": 0.0})
    assert evidence.share() == pytest.approx({"video": 0.4 / 1.1, "audio": 0.5 / 1.1, "text": 0.2 / 1.1})


def test_maps_are_frames_by_rows_by_columns(evidence):
    plain = evidence.heatmap(0, "video", baseline=False)
    assert plain.shape == (2, 1, 2) and torch.allclose(plain.flatten(), torch.tensor([0.0, 0.1, 0.0, 0.1]))
    # the baseline of the video's cells is flat: scaled to the same sum (0.2 of 0.4), it takes 0.05 from each
    assert torch.allclose(
        evidence.heatmap(0, "video").flatten(), torch.tensor([0.0, 0.05, 0.0, 0.05]), atol=1e-6
    )


def test_an_empty_answer_rests_on_nothing(evidence):
    empty = replace(evidence, tokens=[], rows=evidence.rows[:0])
    assert set(empty.share().values()) == {0.0}
    assert not empty.heatmap(None, "video").any() and not empty.curve(None, "audio")[1].any()


def test_curves_have_a_value_for_every_moment(evidence):
    times, values = evidence.curve(1, "audio", baseline=False)
    assert times.tolist() == [0.0, 0.5] and torch.allclose(values, torch.tensor([0.0, 0.4]))
    times, values = evidence.curve([0, 1], "video", baseline=False)
    assert times.tolist() == [0.0, 0.5] and torch.allclose(values, torch.tensor([0.05, 0.15]))


def test_words_gather_their_tokens():
    def words(*tokens):
        return Evidence(
            list(tokens), torch.zeros(len(tokens), 4), {}, {}, torch.zeros(4, dtype=torch.bool)
        ).words

    assert words("a", " be", "ll", " rings", ".") == [
        ("a", [0]),
        ("bell", [1, 2]),
        ("rings", [3]),
        (".", [4]),
    ]
    assert words(" two", "\n", "bells") == [("two", [0]), ("bells", [2])]
    assert words() == []


def test_maps_are_what_exceeds_the_scaled_baseline(evidence):
    flat = torch.tensor([0.5, *[0.05] * 4, 0.0, 0.0, 0.0, 0.0, 0.0])
    values = replace(evidence, baseline=flat).heatmap(1, "video").flatten()  # 0.2 in the third cell alone
    assert torch.allclose(values, torch.tensor([0.0, 0.0, 0.15, 0.0]))
    values = replace(evidence, baseline=torch.zeros(10)).heatmap(1, "video").flatten()
    assert torch.equal(values, torch.tensor([0.0, 0.0, 0.2, 0.0]))
