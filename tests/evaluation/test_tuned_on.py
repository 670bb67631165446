"""What was selected on a set is not measured on it: evaluation knows the clips that were tuned on."""

import json
import shutil
import wave
from dataclasses import replace

import pytest
import stages
import torch
from safetensors.torch import save_file

from lynx.adapters.format import inspect_adapter
from lynx.adapters.tuned_on import TUNED_ON_FILE, TunedOn
from lynx.cli.main import main
from lynx.config import TuneConfig
from lynx.datasets.base import Example
from lynx.errors import AdapterError
from lynx.evaluation.own_data import compare_own, for_card, remarks
from lynx.evaluation.runner import Setting
from lynx.streams.key import recording_digests
from lynx.training.options import Validation
from lynx.training.tuning import tune

SHORT = TuneConfig(steps=2, rank=2, alpha=4, batch_size=2, frames=stages.FRAMES)
FEW = Setting(frames=stages.FRAMES, max_new_tokens=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The small model's backbone, and its adapter tuned on five clips, of which two were held out."""
    place = tmp_path_factory.mktemp("tuned")
    stages.small_adapter(stages.small_model(place), place / "audio")
    held_out = {"validation": Validation(val_share=0.4), "progress": False}
    tune(stages.small_model_with(place), "audio", stages.clips(5), SHORT, place / "audio", **held_out)
    return place


def test_the_adapter_on_disk_knows_what_it_was_tuned_on(folder):
    known = stages.small_model_with(folder).tuned_on["audio"]
    assert len(known.trained) == 2 * 3 and len(known.held_out) == 2 * 2  # a video and a sound each
    assert known.trained.isdisjoint(known.held_out)


def test_questions_are_counted_by_what_their_clips_were(folder, tmp_path):
    new = stages.clips(2, seed=9)
    report = compare_own(stages.small_model_with(folder), [*stages.clips(5), *new], FEW, tmp_path)
    assert report["tuned_on"] == {"trained": 3 * 6, "held_out": 2 * 6, "new": 2 * 6}
    assert report["no_record"] == []
    parts = report["scores"]["exact"]["with"]["by_tuned_on"]
    assert {role: part["n"] for role, part in parts.items()} == report["tuned_on"]
    told = "\n".join(remarks(report))
    assert "18 questions are about recordings that the adapter was tuned on" in told
    assert "12 questions are about recordings that were held out while the adapter was tuned" in told
    assert json.loads((tmp_path / "scores.json").read_text())["tuned_on"] == report["tuned_on"]
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert {row["tuned_on"] for row in rows} == {"trained", "held_out", "new"}
    card = for_card(report)
    assert (card["questions"], card["clips"], card["of these new to it"]) == (42, 7, 12)
    kinds = {row["type"] for row in card["table"].values()}
    assert {"clips it was tuned on", "clips held out in tuning", "clips new to it"} <= kinds


def test_it_is_the_recording_that_counts_and_not_the_senses_or_the_adapter(folder):
    model = stages.small_model_with(folder)
    other = [Example("x", {"video": e.media["video"]}, e.turns[2:3]) for e in stages.clips(5)]
    other[0] = Example("y", {"audio": stages.clips(1)[0].media["audio"]}, other[0].turns)
    counted = compare_own(model, other, FEW)["tuned_on"]
    assert counted == {"trained": 3, "held_out": 2, "new": 0}
    del model.tuned_on["audio"]
    report = compare_own(model, other, FEW)
    assert report["no_record"] == ["audio"] and set(report["tuned_on"].values()) == {0}
    assert "the adapter audio does not say which recordings it was tuned on" in remarks(report)


def test_a_warm_start_adds_to_what_was_tuned_on_and_a_fresh_one_does_not(folder, tmp_path):
    model, more = stages.small_model_with(folder), stages.clips(2, seed=5)
    before = model.tuned_on["audio"]
    again = TuneConfig(**{**SHORT.to_dict(), "warm_start": True})
    tune(model, "audio", more, again, tmp_path / "warm", progress=False)
    assert model.tuned_on["audio"].trained > before.trained
    assert model.tuned_on["audio"].held_out == before.held_out
    tune(model, "audio", more, SHORT, tmp_path / "fresh", progress=False)
    assert len(model.tuned_on["audio"].trained) == 4 and not model.tuned_on["audio"].held_out


def test_tuning_that_fails_leaves_what_was_known(folder, tmp_path, monkeypatch):
    model = stages.small_model_with(folder)
    before = model.tuned_on["audio"]

    def full(*_, **__):
        raise AdapterError("the disk is full")

    monkeypatch.setattr("lynx.training.tuning.save_adapter", full)
    with pytest.raises(AdapterError, match="the disk is full"):
        tune(model, "audio", stages.clips(2, seed=5), SHORT, tmp_path, progress=False)
    assert model.tuned_on["audio"] == before


def test_figures_of_former_weights_leave_with_them(folder, tmp_path):
    model = stages.small_model_with(folder)
    model.adapters["audio"] = replace(model.adapter("audio"), metrics={"with": 0.9})
    tune(model, "audio", stages.clips(2), SHORT, tmp_path, progress=False)
    assert not model.adapter("audio").metrics
    assert "Not measured yet" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"trained": torch.zeros(2), "held_out": torch.zeros(0)}, "values that are no numbers"),
        ({"trained": torch.zeros(2, dtype=torch.int64)}, "expected two lists of digests"),
        ({n: torch.zeros(2, 2, dtype=torch.int64) for n in ("trained", "held_out")}, "expected two lists"),
    ],
)
def test_a_damaged_record_is_refused(folder, tmp_path, tensors, said):
    copy = shutil.copytree(folder / "audio", tmp_path / "audio")
    save_file(tensors, copy / TUNED_ON_FILE)
    with pytest.raises(AdapterError, match=said):
        inspect_adapter(copy)
    (copy / TUNED_ON_FILE).unlink()
    inspect_adapter(copy)


def test_labelled_recordings_are_known_again_by_the_command_that_asks_about_them(folder, tmp_path, capsys):
    sounds = tmp_path / "sounds"
    for pitch, name in enumerate(("bell", "drum")):
        (sounds / name).mkdir(parents=True)
        with wave.open(str(sounds / name / "1-a.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 8000, "NONE", ""))
            file.writeframes(bytes([0, 0, pitch, 40]) * 4000)
    copy = shutil.copytree(folder / "audio", tmp_path / "audio")
    TunedOn(recording_digests({"audio": sounds / "bell/1-a.wav"})).save(copy / TUNED_ON_FILE)
    words = ["eval", "recordings", "--data", "labelled", str(sounds), "--adapter", str(copy)]
    assert main([*words, "--backbone", str(folder / "backbone0"), "--json"]) == 0
    out = capsys.readouterr()
    report = json.loads(out.out)
    assert report["tuned_on"] == {"trained": 1, "held_out": 0, "new": 1} and report["no_record"] == []
    assert "1 questions are about recordings that the adapter was tuned on" in out.err


def test_roles():
    known = TunedOn(frozenset({1, 2}), frozenset({2, 3}))
    assert [known.role({n}) for n in range(5)] == ["new", "trained", "trained", "held_out", "new"]
    assert known.role({3, 1}) == "trained" and known.role(set()) == "new"
