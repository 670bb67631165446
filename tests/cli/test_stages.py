"""The options of the stages on the command line, from end to end on `lynx-tiny`."""

import importlib.util
import json
import shutil

import pytest
from stages import written

from lynx.cli.main import main

SHORT = ("--frames", "2", "--rank", "2", "--batch-size", "2", "--replay-from", "data", "--json")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six clips in train.jsonl, two of them in val.jsonl as well, and an adapter that is not aligned."""
    place = tmp_path_factory.mktemp("data")
    rows = written(place, 6)
    (place / "train.jsonl").write_text("\n".join(rows[:4]))
    (place / "val.jsonl").write_text("\n".join(rows[4:]))
    guidance = str(place / "guidance.safetensors")
    given = ("--data", "jsonl", str(place), "--frames", "2", "--json")
    assert main(["guide", *given, "--out", guidance]) == 0
    words = ["align", *given, "--guidance", guidance, "--modality", "audio", "--steps", "0", "--rank", "2"]
    assert main([*words, "--out", str(place / "aligned")]) == 0
    return place


@pytest.fixture
def out(data, tmp_path):
    """A copy of that adapter, to be tuned."""
    return shutil.copytree(data / "aligned", tmp_path / "audio")


def test_tuning_is_measured_on_held_out_clips_of_its_own_or_of_another_file(data, out, capsys):
    words = ["tune", "--modality", "audio", "--data", "jsonl", str(data), "--out", str(out), *SHORT]
    words += ["--steps", "4", "--val-every", "2"]
    capsys.readouterr()
    assert main([*words, "--val-data", "jsonl", str(data)]) == 0, "the folder's val.jsonl"
    report = json.loads(capsys.readouterr().out)
    assert (report["examples"], report["encoded"], report["validation"]["step"]) == (4, 6, 4)
    assert "val_data:" in (run := out / "training" / "tune" / "run.yaml").read_text()
    capsys.readouterr()
    again = [*words[:3], "--out", str(out), "--config", str(run), "--json"]
    assert main(again) == 0, "finished already, by the options it has saved"
    assert json.loads(capsys.readouterr().out)["run"] == report["run"]
    more = ["--val-share", "0.25", "--keep-best", "--cache", "off", "--cache-dir", str(out), "--workers"]
    assert main([*words, *more, "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["examples"], report["encoded"], report["cache"]) == (3, 0, "off")
    assert "workers: 1" in run.read_text()


@pytest.mark.parametrize("stage", ["guide", "align", "tune"])
def test_workers_are_a_number_of_processes(stage, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([stage, "--out", "out", "--workers", "-1"])
    assert "'-1' is no number of processes" in capsys.readouterr().err


def test_options_that_would_do_nothing_are_refused_before_anything_is_read(data, out, capsys):
    words = ["tune", "--modality", "audio", "--data", "jsonl", str(data / "not there"), "--out", str(out)]
    assert main([*words, "--keep-best"]) == 1
    assert "keep_best: no clips are held out; give --val-data" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
@pytest.mark.parametrize("stage", ["align", "tune"])
def test_a_tracker_that_is_not_installed_is_said_before_anything_is_read(stage, tmp_path, capsys):
    words = [stage, "--modality", "audio", "--data", "jsonl", "not there", "--out", str(tmp_path)]
    words += ["--guidance", str(tmp_path / "none")] if stage == "align" else []
    assert main([*words, "--log-with", "wandb"]) == 1
    assert "log_with is 'wandb', and its package is not installed: pip" in capsys.readouterr().err
