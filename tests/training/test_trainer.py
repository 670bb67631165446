"""The training loop: order, learning rate, exact resume, and refusals."""

import importlib.util
import logging
import math
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import stages
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from filelock import FileLock
from fits import CONFIG, POINTS, Fit, Judged, rows
from launched import PATHS
from torch import nn

from lynx.backbones.memory import checkpointed
from lynx.config import TrainConfig
from lynx.errors import AdapterError, DataError
from lynx.training.checkpoints import LOCK
from lynx.training.options import Watch
from lynx.training.trainer import VECTOR_RATE, Order, Trainer, seed_of, seeded, warmup_cosine


def test_learning_rate_rises_and_falls(tmp_path):
    by_hand = [1.0, 2.0] + [1 + math.cos(math.pi * k / 8) for k in range(8)]
    assert [warmup_cosine(step, 10, 2.0, 0.2) for step in range(10)] == pytest.approx(by_hand)
    assert warmup_cosine(0, 1, 2.0, 0.0) == 2.0
    to_half = by_hand[:2] + [1 + rate / 2 for rate in by_hand[2:]]
    assert [warmup_cosine(step, 10, 2.0, 0.2, floor=0.5) for step in range(10)] == pytest.approx(to_half)
    Fit().trainer(tmp_path, replace(CONFIG, lr=2.0, warmup=0.2, steps=10)).run()
    assert [row["lr"] for row in rows(tmp_path)] == pytest.approx(by_hand)


def test_every_epoch_sees_every_example_once_in_a_new_order():
    order = Order(10, 4, seed=0)
    drawn = [index for number in range(5) for index in order.batch(number)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert order.batch(1) == drawn[4:8]  # asked again, out of turn
    assert Order(10, 4, seed=1).batch(0) != drawn[:4]
    assert Order(2, 5, seed=0).batch(0)[:4] != []  # a batch larger than the data


def test_a_vector_moves_faster_and_may_go_unused_for_a_step(tmp_path):
    """AdamW's first step moves every number by the learning rate, towards the side its gradient says."""
    fit = Fit()
    fit.weights |= {"type_embedding.a": nn.Parameter(torch.zeros(3)), "unused": nn.Parameter(torch.ones(2))}

    def loss(indices):
        parts = fit.loss(indices)
        return parts | {"loss": parts["loss"] + fit.weights["type_embedding.a"].sum()}

    config = replace(CONFIG, steps=1, warmup=0.0)
    before = fit.weights["x.lora_B.weight"].detach().clone()
    Trainer(fit.weights, len(POINTS), loss, config, tmp_path, progress=False).run()
    moved = (fit.weights["x.lora_B.weight"] - before).abs().max()
    assert float(moved) == pytest.approx(0.05, rel=1e-3)
    assert fit.weights["type_embedding.a"].tolist() == pytest.approx([-0.05 * VECTOR_RATE] * 3, rel=1e-3)
    assert fit.weights["unused"].tolist() == [1, 1]


def test_small_updates_add_up_in_bf16_also_over_an_interruption(tmp_path):
    """Each of the 20 is a quarter of the distance between 1 and the next smaller number of bf16."""
    config = TrainConfig(lr=1e-3, steps=20, batch_size=2, warmup=0.0, save_every=5, weight_decay=0.0)

    def run(folder, stop_at=None):
        weight, calls = nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), []

        def loss(indices):
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            calls.append(indices)
            return {"loss": weight.sum()}

        trainer = Trainer({"x.lora_A.weight": weight}, len(POINTS), loss, config, folder, progress=False)
        if stop_at is None:
            trainer.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
        return weight

    whole = run(tmp_path / "whole")
    fallen = sum(warmup_cosine(step, 20, 1e-3, 0.0) for step in range(20))
    assert whole.tolist() == torch.full((3,), 1 - fallen).bfloat16().tolist() != [1.0] * 3
    run(tmp_path / "broken", stop_at=13)
    assert run(tmp_path / "broken").equal(whole)


def test_a_run_without_a_terminal_says_now_and_then_how_far_it_is(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lynx.training")
    fit = Fit()
    config = replace(CONFIG, steps=45, save_every=0)
    Trainer(fit.weights, len(POINTS), fit.loss, config, tmp_path, progress=True).run()
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith("10 steps took") and "the other 35 take about 0:00:0" in told[0]
    assert [line.split(":")[0] for line in told[1:]] == [f"step {k} of 45" for k in (20, 40, 45)]


def test_seeds_differ_and_last():
    assert len({seed_of(0, "step", k) for k in range(1000)}) == 1000
    assert seed_of(1, "a") == seed_of(1, "a") < 2**63


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, stop_at):
    whole, broken, resumed = Fit(), Fit(stop_at), Fit()
    report = whole.trainer(tmp_path / "whole").run()
    with pytest.raises(KeyboardInterrupt):
        broken.trainer(tmp_path / "broken").run()
    again = resumed.trainer(tmp_path / "broken").run()
    assert resumed.calls == 7 - stop_at // 2 * 2
    for name, weight in whole.weights.items():
        assert weight.equal(resumed.weights[name]), name
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")
    assert again["last"] == report["last"]


@pytest.mark.parametrize("stop_at", [None, 7])
def test_what_is_to_come_is_told_before_the_first_step_and_comes(tmp_path, stop_at):
    """Indices and seeds of every pass; of a run that goes on those that are left."""
    expected, seeds, config = [], [], replace(CONFIG, accumulate=2)
    if stop_at:
        with pytest.raises(KeyboardInterrupt):
            Fit(stop_at).trainer(tmp_path, config).run()
    fit = Fit()
    whole = fit.loss
    fit.loss = lambda indices: seeds.append(torch.initial_seed()) or whole(indices)
    fit.trainer(tmp_path, config, expect=expected.extend).run()
    assert expected == list(zip(seeds, fit.seen, strict=True))
    assert len(expected) == (2 * (7 - 2) if stop_at else 14) and len({seed for seed, _ in expected}) > 9


def test_a_killed_process_can_be_resumed(tmp_path):
    script = (
        "import os, signal, sys; sys.path[:0] = sys.argv[1].split(os.pathsep)\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; from fits import Fit\n"
        "fit = Fit(); loss = fit.loss\n"
        "def fatal(indices):\n"
        "    if fit.calls == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return loss(indices)\n"
        "fit.loss = fatal; fit.trainer(Path(sys.argv[2])).run()\n"
    )
    command = [sys.executable, "-c", script, PATHS, str(tmp_path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    whole, resumed = Fit(), Fit()
    whole.trainer(tmp_path / "whole").run()
    resumed.trainer(tmp_path).run()
    assert resumed.calls == 3
    assert all(w.equal(resumed.weights[name]) for name, w in whole.weights.items())


def test_a_finished_run_leaves_its_log_and_no_checkpoint(tmp_path):
    trainer = Fit().trainer(tmp_path)
    report = trainer.run()
    assert trainer.checkpoint.exists()
    trainer.finish()
    assert not trainer.checkpoint.exists()
    assert [row["step"] for row in rows(tmp_path)] == list(range(7))
    assert report["parameters"] == 3 * 4 + 2 * 3
    assert (report["modules"], report["steps"], report["batch"]) == (1, 7, 2)
    assert report["last"]["loss"] == rows(tmp_path)[-1]["loss"]


def test_a_folder_has_one_run_at_a_time(tmp_path):
    lock = FileLock(tmp_path / LOCK)
    with lock:
        with pytest.raises(DataError, match="another run is writing to .*wait until it has ended"):
            Fit().trainer(tmp_path).run()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    Fit().trainer(tmp_path).run()
    with lock.acquire(timeout=0):  # it is free again
        assert len(rows(tmp_path)) == CONFIG.steps


def test_a_folder_whose_lock_cannot_be_taken_is_one_sentence(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(DataError, match="cannot write .*is there room"):
        Fit().trainer(tmp_path).run()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    Fit().trainer(tmp_path).run()
    with pytest.raises(DataError, match=r"other settings \(lr 0.05 -> 0.1\).*--no-resume"):
        Fit().trainer(tmp_path, replace(CONFIG, lr=0.1)).run()
    fit = Fit()
    fit.trainer(tmp_path, replace(CONFIG, lr=0.1, resume=False)).run()
    assert fit.calls == 7


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, keep):
    trainer = Fit().trainer(tmp_path)
    trainer.run()
    trainer.checkpoint.write_bytes(trainer.checkpoint.read_bytes()[:keep])
    with pytest.raises(DataError, match="checkpoint.safetensors is damaged .*--no-resume"):
        Fit().trainer(tmp_path).run()


def test_a_folder_that_cannot_be_made_and_a_disk_that_takes_no_more_are_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file/run \(Not a directory\)"):
        Fit().trainer(tmp_path / "file" / "run").run()
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write .*checkpoint.safetensors .*File too large"):
            Fit().trainer(tmp_path / "run").run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    fit = Fit()
    of = [{"rendering": {"n_mels": mels}, "clips": ["a", "b"]} for mels in (64, 128)]
    runs = [Trainer(fit.weights, 5, fit.loss, CONFIG, tmp_path, of=each, progress=False) for each in of]
    runs[0].run()
    with pytest.raises(DataError, match=r"rendering .*64.* -> .*128"):
        runs[1].run()
    runs[0].run()


def test_a_run_can_be_made_longer(tmp_path, caplog):
    Fit().trainer(tmp_path).run()  # 7 steps, the last checkpoint after 6
    longer = Fit()
    assert longer.trainer(tmp_path, replace(CONFIG, steps=10)).run()["steps"] == 10
    assert longer.calls == 4
    assert "10 steps now, no longer of 7" in caplog.text
    assert [row["step"] for row in rows(tmp_path)] == list(range(10))


def test_accumulated_steps_equal_one_large_batch(tmp_path):
    plain = {"steps": 2, "save_every": 0, "max_grad_norm": 0.0}
    fits = [Fit(), Fit()]
    for fit, sizes in zip(fits, ({"batch_size": 4}, {"batch_size": 2, "accumulate": 2}), strict=True):
        a, b = fit.weights.values()

        def loss(indices, a=a, b=b):
            return {"loss": (POINTS[indices] @ a.T @ b.T - 1).square().mean()}

        config = replace(CONFIG, **plain, **sizes)
        Trainer(fit.weights, 5, loss, config, tmp_path / str(len(sizes)), progress=False).run()
    for one, two in zip(fits[0].weights.values(), fits[1].weights.values(), strict=True):
        torch.testing.assert_close(one, two)


def test_epochs_count_examples(tmp_path):
    config = replace(CONFIG, steps=None, epochs=1.5)
    assert Fit().trainer(tmp_path, config).steps == math.ceil(1.5 * 5 / 2)
    assert Fit().trainer(tmp_path, replace(config, accumulate=2)).steps == 2


def test_gradients_are_clipped_to_the_norm(tmp_path):
    fit = Fit()
    fit.trainer(tmp_path, replace(CONFIG, max_grad_norm=0.25, steps=1)).run()
    norm = torch.stack([weight.grad.norm() for weight in fit.weights.values()]).norm()
    assert float(norm) == pytest.approx(0.25, rel=1e-3)
    assert rows(tmp_path)[0]["grad_norm"] > 1


def test_weights_without_a_gradient_are_an_error(tmp_path):
    fit = Fit()
    fit.weights["y.lora_B.weight"] = nn.Parameter(torch.zeros(2))
    with pytest.raises(AdapterError, match="1 weights get no gradient, such as y.lora_B.weight"):
        fit.trainer(tmp_path).run()


def test_weights_whose_gradient_stays_zero_are_reported(tmp_path):
    fit = Fit()
    silent = fit.weights["y.lora_B.weight"] = nn.Parameter(torch.zeros(2))
    loss = fit.loss
    fit.loss = lambda indices: (parts := loss(indices)) | {"loss": parts["loss"] + 0 * silent.sum()}
    assert fit.trainer(tmp_path).run()["without_gradient"] == ["y.lora_B.weight"]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    fit = Fit()
    with torch.no_grad():
        fit.weights["x.lora_A.weight"].fill_(torch.nan)
    with pytest.raises(AdapterError, match="loss is nan at step 0"):
        fit.trainer(tmp_path).run()


def test_no_data_is_said(tmp_path):
    with pytest.raises(DataError, match="nothing to train on"):
        Trainer(Fit().weights, 0, Fit().loss, CONFIG, tmp_path)


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Fit().trainer(tmp_path).run()
    with seeded(7):
        first = torch.rand(2)
    assert torch.rand(3).equal(expected)
    with seeded(7):
        assert torch.rand(2).equal(first)


def test_reentrant_checkpointing_is_refused(tmp_path):
    model = stages.small_model(tmp_path).backbone.model
    model.activation_checkpointing_enable({"use_reentrant": True})
    with (
        pytest.raises(DataError, match="reentrant gradient checkpointing.*wrong gradients"),
        checkpointed(model, "off"),
    ):
        pass
    model.activation_checkpointing_disable()
    with checkpointed(model, "non-reentrant"):
        assert any(module.training for module in model.modules())
    assert not any(module.training for module in model.modules())


def test_a_run_leaves_its_curve_and_says_once_where_it_cannot_be_drawn(tmp_path, monkeypatch, caplog):
    pytest.importorskip("matplotlib")
    caplog.set_level(logging.INFO, "lynx.training")
    config = replace(CONFIG, steps=12)
    Fit().trainer(tmp_path / "long", config).run()
    assert (tmp_path / "long" / "curve.png").read_bytes().startswith(b"\x89PNG")
    Fit().trainer(tmp_path / "short").run()
    assert not (tmp_path / "short" / "curve.png").exists(), "a few steps are no curve"
    monkeypatch.setattr("lynx.training.run_log.REDRAWN", 0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    Fit().trainer(tmp_path / "bare", config).run()
    assert caplog.text.count("no curve.png: drawing the curve of a run needs matplotlib") == 1
    assert not (tmp_path / "bare" / "curve.png").exists()


# --- held-out clips --------------------------------------------------------------------------------


def test_held_out_clips_are_measured_every_few_steps_and_after_the_last(tmp_path):
    fit = Judged(val_every=3)
    report = fit.trainer(tmp_path).run()
    found = rows(tmp_path)
    assert [row["step"] for row in found if "val_loss" in row] == [2, 5, 6]
    assert found[2]["val_accuracy"] == 0.75 and "val_replay_accuracy" not in found[2]
    assert report["validation"]["step"] == 7
    assert report["validation"]["loss"] == found[6]["val_loss"] < found[2]["val_loss"]
    assert not any(name.startswith("val_") for name in report["last"])
    plain = Fit()
    plain.trainer(tmp_path / "plain").run()
    for one, other in zip(fit.weights.values(), plain.weights.values(), strict=True):
        assert one.equal(other), "looking changes nothing"


def test_the_best_weights_are_kept_and_used(tmp_path):
    fit = Judged(val_every=2, keep_best=True, losses=[0.9, 0.4, 0.4, 0.6])
    report = fit.trainer(tmp_path).run()
    assert (report["validation"]["step"], report["validation"]["loss"]) == (4, 0.4)
    assert all(w.equal(kept) for w, kept in zip(fit.weights.values(), fit.measured[1], strict=True))
    assert not fit.weights["x.lora_A.weight"].equal(fit.measured[3][0])


def test_a_run_whose_held_out_loss_falls_no_more_ends(tmp_path):
    fit = Judged(val_every=1, patience=2, losses=[0.9, 0.8, 0.85, 0.8, 0.1])
    report = fit.trainer(tmp_path).run()
    assert report["steps"] == fit.calls == len(rows(tmp_path)) == 4
    assert report["validation"]["step"] == 4, "the last weights, as nobody asked for the best"


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_an_interrupted_run_keeps_the_same_best_weights_and_ends_at_the_same_step(tmp_path, stop_at):
    """It is killed before, at and after the best measurement; the next steps are measured anew."""
    losses = {1: 0.9, 2: 0.5, 3: 0.3, 4: 0.35, 5: 0.4, 6: 0.2}
    given = {"val_every": 1, "keep_best": True, "patience": 2}
    config = replace(CONFIG, steps=8)

    class Known(Judged):
        def measure(self, share):
            self.losses = [losses[self.before + self.calls]] * (len(self.measured) + 1)
            return super().measure(share)

    whole, broken, resumed = (Known(stop_at=stop, **given) for stop in (None, stop_at, None))
    whole.before = broken.before = 0
    report = whole.trainer(tmp_path / "whole", config).run()
    assert (report["steps"], report["validation"]["step"]) == (5, 3)
    with pytest.raises(KeyboardInterrupt):
        broken.trainer(tmp_path / "broken", config).run()
    resumed.before = stop_at // 2 * 2
    again = resumed.trainer(tmp_path / "broken", config).run()
    assert resumed.calls == 5 - stop_at // 2 * 2
    assert again["validation"] == report["validation"]
    for name, weight in whole.weights.items():
        assert weight.equal(resumed.weights[name]), name
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


def test_a_log_that_lacks_rows_cannot_say_what_was_best(tmp_path):
    Judged(val_every=2, keep_best=True).trainer(tmp_path).run()
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(DataError, match=r"log.jsonl lacks rows.*--no-resume"):
        Judged(val_every=2, keep_best=True).trainer(tmp_path).run()
    with pytest.raises(DataError, match="other settings .*val_every 2 -> 3"):
        Judged(val_every=3, keep_best=True).trainer(tmp_path).run()


def test_a_held_out_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(AdapterError, match="held-out clips is nan at step 1"):
        Judged(val_every=2, losses=[math.nan]).trainer(tmp_path).run()


# --- checkpoints that are kept ---------------------------------------------------------------------


def kept_of(folder):
    return sorted(path.name for path in folder.glob("checkpoint*"))


def test_as_many_checkpoints_are_kept_as_asked_and_the_run_goes_on_from_the_newest_that_is_there(tmp_path):
    config, watch = replace(CONFIG, steps=9, save_every=2), Watch(keep=3)
    whole = Fit()
    first = whole.trainer(tmp_path, config, watch=watch)
    first.run()
    first.finish()
    last_three = ["checkpoint-0000004.safetensors", "checkpoint-0000006.safetensors"]
    assert kept_of(tmp_path) == [*last_three, "checkpoint.safetensors"]
    ended = {name: weight.detach().clone() for name, weight in whole.weights.items()}
    newest = tmp_path / "checkpoint.safetensors"
    newest.write_bytes(newest.read_bytes()[:50])
    with pytest.raises(DataError, match="damaged .*delete it to go on from checkpoint-0000006.safetensors"):
        Fit().trainer(tmp_path, config, watch=watch).run()
    newest.unlink()
    again = Fit()
    again.trainer(tmp_path, config, watch=watch).run()
    assert again.calls == 3
    assert all(weight.equal(ended[name]) for name, weight in again.weights.items())
    assert kept_of(tmp_path) == [*last_three, "checkpoint.safetensors"]


def test_a_run_that_starts_anew_leaves_no_checkpoint_of_the_one_before(tmp_path):
    Fit().trainer(tmp_path, watch=Watch(keep=3)).run()
    broken = Fit(stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        broken.trainer(tmp_path, replace(CONFIG, resume=False)).run()
    assert kept_of(tmp_path) == []


# --- trackers ---------------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed_is_said_before_the_run(tmp_path):
    for name, package in (("wandb", "wandb"), ("comet_ml", "comet-ml"), ("trackio", "trackio")):
        if not importlib.util.find_spec(name):
            with pytest.raises(DataError, match=f"log_with is '{name}'.*pip install {package}"):
                Fit().trainer(tmp_path, watch=Watch(log_with=name))
    with pytest.raises(DataError, match="log_with is 'mlflow'; it can be none or tensorboard"):
        Watch(log_with="mlflow")


class Lines(GeneralTracker):
    """A tracker that writes what it is told."""

    name, requires_logging_directory = "lines", False

    def __init__(self):
        super().__init__()
        self.told, self.settings, self.ended = [], None, False

    @property
    def tracker(self):
        return self.told

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **more):
        self.told.append((step, values))

    def finish(self):
        self.ended = True


@pytest.mark.parametrize("stop_at", [None, 3])
def test_a_tracker_gets_the_settings_and_every_row(tmp_path, stop_at):
    trainer, lines = Fit(stop_at).trainer(tmp_path), Lines()
    trainer.accelerator = Accelerator(cpu=True, log_with=lines)
    with pytest.raises(KeyboardInterrupt) if stop_at else nullcontext():
        trainer.run()
    found = rows(tmp_path)
    assert [step for step, _ in lines.told] == [row["step"] + 1 for row in found]
    assert [values["loss"] for _, values in lines.told] == [row["loss"] for row in found]
    assert lines.settings["lr"] == 0.05 and lines.settings["examples"] == 5 and lines.ended


def test_tensorboard_gets_the_rows(tmp_path):
    pytest.importorskip("tensorboard")
    Fit().trainer(tmp_path, watch=Watch(log_with="tensorboard")).run()
    assert list(tmp_path.rglob("events.out.tfevents.*"))
