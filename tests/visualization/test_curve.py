"""The curve of a run: a mean that follows the values, panels for what the log has, and what is said."""

import numpy as np
import pytest

from lynx.visualization.curve import LINES, draw_curve, smoothed

pytest.importorskip("matplotlib")


def rows(n=60, *names):
    return [{"step": i, "lr": 1e-3, "loss": 2 - i / n, **dict.fromkeys(names, 0.5)} for i in range(n)]


def shows(picture, name):
    """Whether a line's own color is in the picture."""
    color = [int(LINES[name][1][i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(np.asarray(picture).astype(int) - color).sum(-1) < 12).any())


def test_the_mean_follows_a_straight_line_without_lag_and_calms_noise():
    line = [3 - 0.01 * i for i in range(200)]
    assert smoothed(line)[5:-5] == pytest.approx(line[5:-5])
    noise = np.random.default_rng(0).normal(size=400)
    assert np.std(smoothed(noise)) < 0.4 * np.std(noise)
    assert smoothed([1.0, 5.0, 2.0]) == [1.0, 5.0, 2.0], "so few are drawn as they are"


def test_a_panel_is_drawn_for_what_the_log_has():
    plain, asked = draw_curve(rows(), "align"), draw_curve(rows(60, "accuracy", "replay_accuracy"), "tune")
    assert asked.height > plain.height and asked.width == plain.width
    assert shows(asked, "replay_accuracy") and not shows(plain, "replay_accuracy")
    assert shows(plain, "loss") and shows(plain, "lr") and not shows(plain, "val_loss")


def test_held_out_values_are_dots_and_the_kept_one_has_a_ring():
    found = rows()
    for i in (19, 39, 59):
        found[i]["val_loss"] = 1.5
    with_dots, with_ring = draw_curve(found, "tune"), draw_curve(found, "tune", best=39)
    assert shows(with_dots, "val_loss")
    assert np.asarray(with_dots).tolist() != np.asarray(with_ring).tolist()


@pytest.mark.parametrize("values", [[0.0] * 12, [1e-4, 5.0] * 6, [2.0]])
def test_any_loss_can_be_drawn(values):
    draw_curve([{"step": i, "loss": value, "lr": 0.0} for i, value in enumerate(values)], "odd")
