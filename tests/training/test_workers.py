"""What is trained does not depend on who draws the clips, nor does where a run goes on."""

import json
from dataclasses import replace

import pytest
import stages
from training.test_tuning import SHORT, Killed

from lynx.config import AlignConfig, GuideConfig, Sampling
from lynx.errors import MediaError
from lynx.training.alignment import align
from lynx.training.guidance import guide
from lynx.training.options import Validation
from lynx.training.tuning import tune

pytest.importorskip("resource")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return stages.clip_files(tmp_path_factory.mktemp("clips"), 6)


def rows(folder):
    """The log of a run, without what differs from run to run."""
    (path,) = (folder / "training").glob("*/log.jsonl")
    return [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]


def same_weights(one, other, lora):
    theirs = other.lora.tensors(lora)
    return all(tensor.equal(theirs[name]) for name, tensor in one.lora.tensors(lora).items())


def test_tuning_without_a_cache_has_the_same_bits_whoever_draws_and_wherever_it_goes_on(
    folder, files, tmp_path, monkeypatch
):
    """Losses, held-out losses, damage and weights, with dropout of LoRA and senses, over several epochs."""
    config = replace(SHORT, dropout=0.1, accumulate=2)
    given = {"sampling": Sampling(drop_modality=0.3, conversation=0.5, drop_video=0.2), "progress": False}
    given |= {"validation": Validation(val_share=0.3, val_every=2), "cache": "off"}
    models, reports = {}, {}
    for count in (0, 2):
        models[count] = stages.small_model_with(folder)
        out = tmp_path / f"{count}"
        reports[count] = tune(models[count], "audio", files, config, out, workers=count, **given)
    models["resumed"] = stages.small_model_with(folder)
    again = models["resumed"], "audio", files, config, tmp_path / "resumed"
    with monkeypatch.context() as patch:
        Killed(patch, 7)  # in the fourth step: two passes each, and one of the held-out clips
        with pytest.raises(KeyboardInterrupt):
            tune(*again, workers=2, **given)
    assert len(rows(tmp_path / "resumed")) == 3 and not stages.clip_workers()
    assert (tmp_path / "resumed" / "training" / "tune" / "checkpoint.safetensors").exists()
    reports["resumed"] = tune(*again, workers=1, **given)
    for name in (2, "resumed"):  # by two workers, then by one
        assert rows(tmp_path / f"{name}") == rows(tmp_path / "0")
        assert same_weights(models[0], models[name], "audio_llm")
        assert reports[name]["damage"] == reports[0]["damage"] and reports[name]["cache"] == "off"
    assert len({row["loss"] for row in rows(tmp_path / "0")}) == config.steps
    assert not stages.clip_workers(), "nothing is left running"


def test_streams_that_workers_drew_lie_on_disk_as_those_that_this_process_drew(folder, files, tmp_path):
    reports, models = {}, {}
    for count in (0, 2):
        models[count] = stages.small_model_with(folder)
        given = {"workers": count, "progress": False}
        reports[count] = tune(models[count], "audio", files, SHORT, tmp_path / f"{count}", **given)
    assert [reports[count]["encoded"] for count in (0, 2)] == [6, 6]
    assert same_weights(models[0], models[2], "audio_llm") and rows(tmp_path / "0") == rows(tmp_path / "2")


def test_guidance_and_alignment_have_the_same_bits_whoever_draws(folder, files, tmp_path):
    found = [
        guide(stages.small_model(folder), files, GuideConfig(frames=3, batch_size=4), False, workers=count)
        for count in (0, 2)
    ]
    assert found[0].frames == 18 and found[0].token_mean.equal(found[1].token_mean)
    assert all(a.equal(b) for a, b in zip(found[0].keys, found[1].keys, strict=True))
    models = {}
    for count in (0, 2):
        models[count] = stages.small_model(folder)
        config = AlignConfig(steps=5, rank=2, alpha=4, batch_size=4, frames=2, save_every=2)
        given = {"workers": count, "progress": False}
        align(models[count], "audio", files, found[0], config, tmp_path / f"{count}", **given)
    assert rows(tmp_path / "0") == rows(tmp_path / "2")
    assert same_weights(models[0], models[2], "audio_vision")
    assert not stages.clip_workers()


@pytest.mark.parametrize("cache", ["off", "disk"])
def test_a_clip_that_becomes_unreadable_ends_the_run_with_its_name_and_no_worker(folder, tmp_path, cache):
    files = stages.clip_files(tmp_path / "clips", 3)
    files = [replace(example, key=example.id) for example in files]  # found by their keys, not by their bytes
    model = stages.small_model_with(folder)
    files[1].media["video"].write_bytes(b"no film any more")
    with pytest.raises(MediaError, match="^example 'clip1': 'clip1.mp4' "):
        tune(model, "audio", files, SHORT, tmp_path / "out", cache=cache, workers=2, progress=False)
    assert not stages.clip_workers() and model.parts("audio") == ("vision",)
