"""`lynx verify` on every family in small, and that it sees what is wrong."""

import json
from dataclasses import replace

import checkpoints
import pytest
import torch
from checkpoints import clip, random_adapter
from families.smolvlm import stock_text
from safetensors.torch import load_file, save_file
from transformers.video_utils import VideoMetadata

import lynx
from lynx.adapters.saving import save_adapter
from lynx.cli.main import main
from lynx.evaluation import verify as verifying
from lynx.evaluation.verify import DESCRIBE, FAILED, MEASURED, OK, SKIPPED, verify


def verdicts(report):
    return {check.check: check.verdict for check in report.checks}


@pytest.mark.parametrize("kind", sorted(checkpoints.VARIANTS))
def test_every_family_keeps_its_promises(kind, tmp_path):
    folder = checkpoints.VARIANTS[kind](tmp_path / "backbone")
    model = lynx.load(folder)
    random_adapter(model, "audio")
    save_adapter(model, "audio", tmp_path / "audio")
    seen = []
    report = verify(folder, [tmp_path / "audio"], progress=seen.append)
    assert not report.failed, [check for check in report.checks if check.verdict == FAILED]
    found, told = verdicts(report), {check.check: check.seen for check in report.checks}
    assert [*seen, "memory"] == list(found)
    assert found.pop("stock processor") == SKIPPED  # it needs torchvision, and files these have not
    assert {name for name in found if found[name] == MEASURED} == {"decoding", DESCRIBE, "memory"}
    assert found[f"adapter {tmp_path / 'audio'} on and off"] == OK
    assert "16 tokens are stock's" in told["no adapter: an answer"]
    assert report.environment["precision"] == "fp32"


def test_int8_and_bf16_too(tmp_path):
    folder = checkpoints.llava_onevision(tmp_path, hidden=64, tied=False)
    for precision in ("bf16", "int8", "nf4"):
        report = verify(folder, precision=precision)
        assert not report.failed, report
        assert report.environment["precision"] == precision


def test_weights_without_a_place_fail_and_the_table_is_printed_all_the_same(tmp_path, capsys):
    folder = checkpoints.internvl(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.vision_tower.other.weight"] = next(iter(weights.values())).clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert main(["verify", str(folder)]) == 1
    out = capsys.readouterr()
    assert "1 in the files have no place, such as model.vision_tower.other.weight" in out.out
    assert "1 of 11 checks failed: weights" in out.err
    assert main(["verify", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == ["weights"]


def test_other_pixels_than_stock_s_are_seen(tmp_path):
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    run = verifying._Run(model, str(tmp_path), clip(4), "auto", "auto")
    assert run.prefill()[0] == run.second_turn()[0] == OK
    run.pixels = run.pixels.roll(1, dims=-1)
    verdict, seen = run.prefill()
    assert verdict == FAILED and "logits differ by up to" in seen
    assert run.answer()[0] == FAILED


def test_a_stock_processor_is_told_the_moments_of_the_frames(tmp_path):
    """They are in the prompts of SmolVLM2 and Qwen3-VL, and seldom at even distances from 0."""
    model = lynx.load(checkpoints.FAMILIES["smolvlm"](tmp_path))
    video = replace(clip(4), times=torch.tensor([0.4, 1.9, 2.6, 3.9]).double(), duration=4.5)
    run = verifying._Run(model, str(tmp_path), video, "auto", "auto")
    told = VideoMetadata(**run.metadata())
    assert isinstance(told.frames_indices, list), "Qwen3-VL's processor takes nothing else"
    assert told.timestamps == run.frames.times.tolist()
    text = stock_text(len(run.frames), told.timestamps, told.duration, model.backbone.tokens(1))
    prompt = model.backbone.compose([{"role": "user", "content": DESCRIBE}], [run.stream])
    assert text in model.backbone.tokenizer.decode(prompt.input_ids[0])


def test_weights_that_are_no_numbers_are_not_said_to_be_lynx_s_fault(tmp_path):
    model = lynx.load(checkpoints.internvl(tmp_path))
    model.backbone.model.lm_head.weight.data[0, 0] = float("nan")
    run = verifying._Run(model, str(tmp_path), clip(2), "auto", "auto")
    assert run.prefill()[0] == FAILED and "damaged, or overflow" in run.prefill()[1]


def test_a_backbone_that_is_not_there_is_one_sentence(capsys):
    assert main(["verify", "nowhere"]) == 1
    assert "no backbone 'nowhere'" in capsys.readouterr().err
