import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import ROOT
from benchmarks.evidence_truth.maps import all_maps, merged, record_layers, relevance, rollout
from benchmarks.evidence_truth.measures import area, mass, needed_nats, pointing
from benchmarks.evidence_truth.questions import TYPES, ask_task, load, tasks
from benchmarks.evidence_truth.sanity import spearman
from benchmarks.evidence_truth.summary import mean_interval, wilson


@pytest.fixture(scope="module")
def case():
    task = next(task for task in tasks(10, 1, ["picture"]) if task.type == "color")
    return next(ask_task(load(), task))


def test_pointing_and_mass():
    cells, truth = np.array([[[1.0, 3.0], [-5.0, 0.0]]]), np.array([[[False, True], [True, False]]])
    assert pointing(cells, truth) == 1 and mass(cells, truth) == 0.75
    assert pointing(cells, ~truth) == 0 and mass(-abs(cells), truth) == 0


def test_needed_nats_leave_out_words_and_what_speaks_against():
    totals = {"video": -1.0, "audio": 3.0, "depth": 1.0, "text": 9.0}
    assert needed_nats(totals, ["audio", "video"]) == (3.0, 4.0)


def test_intervals():
    assert wilson(0.9, 100) == [0.8256, 0.9448]  # a published example
    low, high = mean_interval([0.4, 0.6] * 50)
    assert 0.48 < low < 0.5 < high < 0.52


def test_rank_correlation():
    one = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(one, one.exp()) == pytest.approx(1)
    assert spearman(one, -one) == pytest.approx(-1)
    assert spearman(one, torch.ones(4)) == 0
    assert spearman(one, torch.tensor([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.8944, abs=1e-4)


def test_area_under_a_curve():
    assert area([1.0] * 11) == pytest.approx(1)
    assert area([1.0] + [0.0] * 10) == pytest.approx(0.005)


def test_rules_of_attention_by_hand():
    one = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    gradient = torch.tensor([[[2.0, 0.0], [4.0, -2.0]]])
    layers = [(one, gradient), (one, gradient)]
    step = torch.tensor([[3.0, 0.0], [2.0, 1.0]])  # 1 + (gradient * attention)+
    assert torch.allclose(relevance(layers), step @ step)
    half = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    assert torch.allclose(rollout(layers), half @ half)


def test_tasks_share_no_clip_and_make_n_of_each_sense():
    work = tasks(30, 1, list(TYPES))
    assert len({task.first % task.step for task in work}) == len(work) <= work[0].step
    assert sum(task.count for task in work if task.group == "sound") == 30


def test_recorded_layers_are_the_attention_of_the_answer(case):
    evidence = case.evidence
    with evidence.answered.replay() as replay:
        layers = record_layers(replay, [0])
        row = torch.stack([attention.mean(0) for attention, _ in layers]).mean(0)[replay.start - 1]
        recorded = evidence.attention.rows[0, : replay.start]
        assert torch.allclose(row[: replay.start], recorded, atol=1e-5)


def test_merged_weights_say_the_same_and_come_back_bit_for_bit(case):
    with case.evidence.answered.replay() as replay:
        before = {name: w.clone() for name, w in replay.backbone.model.named_parameters()}
        score = replay.log_probs(replay.blank, [0])
        with merged(case.evidence.answered.model):
            assert torch.allclose(replay.log_probs(replay.blank, [0]), score, atol=1e-3)
            layer = "model.language_model.layers.0.self_attn.q_proj.weight"
            after = dict(replay.backbone.model.named_parameters())
            assert not torch.equal(after[layer], before[layer])
        assert all(torch.equal(w, before[name]) for name, w in replay.backbone.model.named_parameters())


def test_maps_have_a_value_for_each_token_of_the_needed_sense(case):
    names = ("attention", "attribution", "rollout", "midpoints_mean_4", "log_odds")
    maps = all_maps(case.evidence, names, case.truth)
    count = len(case.evidence.streams["video"].times)
    assert list(maps) == list(names) and all(each["video"].shape == (count,) for each in maps.values())


def test_the_command_prints_an_object_with_every_asked_key(tmp_path):
    arguments = ["--n", "1", "--seed", "2", "--senses", "sound", "--methods", "attention,attribution"]
    arguments += ["--json", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.evidence_truth", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert set(figures["sound"]) == {"attention", "attribution"}
    assert figures["sound"]["attribution"]["n"] == 1
    assert 0 <= figures["needed_share"]["sound"] <= 1
    rows = sorted(tmp_path.rglob("*.jsonl"))[0].read_text()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["sound"] == figures["sound"]
    assert sorted(tmp_path.rglob("*.jsonl"))[0].read_text() == rows
