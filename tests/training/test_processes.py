"""Processes that a launcher started: together they train what one trains alone, and one error ends all."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import stages
import torch
from fits import CONFIG, Fit, Judged, rows
from launched import launch
from safetensors.torch import load_file, save_file

from lynx.config import AlignConfig, GuideConfig, Sampling, TuneConfig
from lynx.datasets.base import Example
from lynx.errors import DataError
from lynx.model import load
from lynx.training.alignment import align
from lynx.training.guidance import guide
from lynx.training.options import Validation
from lynx.training.processes import Processes
from lynx.training.sharding import local_bytes, shard_llm
from lynx.training.tuning import tune

FRAMES = {"frames": stages.FRAMES}
SMALL = {"rank": 2, "alpha": 4, "lr": 1e-2, **FRAMES}


def script(folder: Path, call: str) -> list[object]:
    """The words that call a function of this module in another process."""
    path = folder / "script.py"
    lines = ["import sys; from pathlib import Path; import torch; torch.set_num_threads(1)"]
    path.write_text("\n".join([*lines, "import test_processes as here", f"here.{call}"]) + "\n")
    return [path, folder]


def train(folder: Path, accumulate: int, checkpointing: str = "off", **more: object) -> None:
    """All three stages in `folder`, as many passes a step as `accumulate` says times the processes."""
    model = stages.small_model(folder.parent)
    videos = stages.clips(5, ("video",))
    guidance = guide(model, videos, GuideConfig(batch_size=4, **FRAMES), progress=False)
    aligning = AlignConfig(steps=4, batch_size=4, accumulate=accumulate, **SMALL)
    sounds = stages.clips(5, ("audio",))
    align(model, "audio", sounds, guidance, aligning, folder / "audio", progress=False)
    steps = {"steps": 6, "batch_size": 2, "save_every": 2, "accumulate": accumulate}
    tuning = TuneConfig(checkpointing=checkpointing, **steps, **SMALL)
    report = tune(
        model, "audio", stages.clips(7), tuning, folder / "audio", progress=False,
        sampling=Sampling(replay_from="self"), validation=Validation(val_share=0.3, val_every=3), **more,
    )  # fmt: skip
    index = Processes().index
    moments = {"mean": guidance.token_mean, "var": guidance.token_var}
    pairs = zip(guidance.keys, guidance.values, strict=True)
    layers = {f"{i}": torch.stack(pair) for i, pair in enumerate(pairs)}
    save_file(moments | layers, folder / f"guidance-{index}")
    told = {"frames": guidance.frames, "tokens": guidance.tokens, **report}
    told["held"] = local_bytes(model.backbone.model.get_decoder().layers)
    (folder / f"report-{index}").write_text(json.dumps(told))


def train_twice(folder: Path) -> None:
    """With the whole LLM in every process, then with a part of it in each."""
    train(folder / "two", 1)
    train(folder / "divided", 1, checkpointing="non-reentrant", shard=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of one run in two processes, and of one in a single process that accumulates twice.

    Beside them is one in two processes that divide the LLM, `divided`.
    """
    folder = tmp_path_factory.mktemp("processes")
    stages.small_model(folder)
    two, one, divided = (folder / name for name in ("two", "one", "divided"))
    for each in (two, one, divided):
        each.mkdir()
    done = launch(script(folder, "train_twice(Path(sys.argv[1]))"))
    assert done.returncode == 0, done.stderr
    train(one, 2)
    return two, one


@pytest.mark.parametrize("stage", ["align", "tune"])
def test_two_processes_log_the_losses_of_one_with_their_batches_together(trained, stage):
    two, one = (rows(folder / "audio" / "training" / stage) for folder in trained)
    assert len(two) == len(one) == {"align": 4, "tune": 6}[stage]
    for row, alone in zip(two, one, strict=True):
        assert row == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert len({row["loss"] for row in two}) == len(two)


def test_a_divided_llm_learns_what_a_whole_one_does_and_its_adapter_is_whole(trained):
    two, divided = trained[0], trained[0].with_name("divided")
    for row, whole in zip(*(rows(each / "audio/training/tune") for each in (divided, two)), strict=True):
        assert row == pytest.approx(whole, rel=1e-5, abs=1e-5)
    files = [next((each / "audio").rglob("llm/*.safetensors")) for each in (divided, two)]
    saved, expected = map(load_file, files)
    assert saved.keys() == expected.keys()
    for name, weight in saved.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-5, msg=name)
    reports = [json.loads((each / "report-1").read_text()) for each in (divided, two)]
    assert reports[0]["held"] == reports[1]["held"] / 2
    assert reports[0]["damage"] == pytest.approx(reports[1]["damage"], abs=1e-4)


def test_what_cannot_be_divided_is_said(trained):
    model = stages.small_model_with(trained[1])
    with pytest.raises(DataError, match="there is one: start several by torchrun"):
        shard_llm(model.backbone, Processes())
    pytest.importorskip("bitsandbytes")
    quantized = load(model.backbone.source, precision="nf4")
    with pytest.raises(DataError, match="in bf16 or fp32, and this LLM's are in torch.uint8"):
        shard_llm(quantized.backbone, Processes())


@pytest.mark.parametrize("part", ["vision", "llm"])
def test_two_processes_end_with_the_weights_of_one(trained, part):
    two, one = (load_file(next((each / "audio").rglob(f"{part}/*.safetensors"))) for each in trained)
    assert two.keys() == one.keys()
    for name, weight in two.items():
        torch.testing.assert_close(weight, one[name], rtol=1e-5, atol=1e-5, msg=name)
    assert any(bool(weight.abs().max() > 1e-3) for name, weight in two.items() if "lora_B" in name)


def test_two_processes_gather_the_guidance_of_one_and_both_know_it(trained):
    two, one = trained
    alone = load_file(one / "guidance-0")
    for index in range(2):
        together = load_file(two / f"guidance-{index}")
        for name, mean in alone.items():
            torch.testing.assert_close(together[name], mean, rtol=1e-5, atol=1e-5, msg=name)


def test_what_is_made_once_is_shared_and_written_once(trained):
    two, one = trained
    reports = [json.loads((two / f"report-{index}").read_text()) for index in range(2)]
    alone = json.loads((one / "report-0").read_text())
    assert reports[0] == reports[1] | {"seconds": reports[0]["seconds"]}
    same = ("frames", "tokens", "encoded", "batch", "steps", "parameters")
    assert {name: reports[0][name] for name in same} == {name: alone[name] for name in same}
    assert reports[0]["damage"] == pytest.approx(alone["damage"], abs=1e-4)
    said = [(each / "audio/training/tune/own_answers.jsonl").read_text().splitlines() for each in trained]
    assert sorted(said[0]) == sorted(said[1]) and len(said[0]) == 5
    kept = [sorted(path.stem for path in (each / "audio").rglob("*") if "streams" not in str(path))
            for each in trained]  # fmt: skip
    assert kept[0] == kept[1]


def test_an_answer_s_token_counts_the_same_in_every_pass_of_a_step(tmp_path):
    """Two passes of 2 clips, whose answers differ in length, are one pass of 4, where nothing is drawn."""
    model = stages.small_model(tmp_path)
    stages.small_adapter(model, tmp_path / "audio")
    nothing_drawn = Sampling(replay=0.0, conversation=0.0)
    found = []
    for sizes in ({"batch_size": 4}, {"batch_size": 2, "accumulate": 2}):
        config = TuneConfig(steps=3, dropout=0.0, **SMALL, **sizes)
        folder = tmp_path / str(len(sizes))
        tune(model, "audio", unequal(6), config, folder, sampling=nothing_drawn, progress=False)
        found.append(rows(folder / "training" / "tune"))
    for whole, parts in zip(*found, strict=True):
        assert parts["loss"] == pytest.approx(whole["loss"], abs=1e-5)
        assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)


def unequal(n: int) -> list[Example]:
    """Clips of which every other one has a long answer."""
    found = []
    for place, clip in enumerate(stages.clips(n)):
        answer = "more dots far bell drum" if place % 2 else "far"
        found.append(replace(clip, turns=(replace(clip.turns[0], answer=answer),)))
    return found


# --- the loop alone ----------------------------------------------------------------------------------


def fit(folder: Path, accumulate: int, stop_at: int | None = None, **changes: object) -> Fit:
    """The linear fit, trained for 7 steps; in process 1 it fails as a damaged clip would."""
    fitted = Fit()
    loss = fitted.loss

    def failing(indices: list[int]) -> dict[str, torch.Tensor]:
        if fitted.calls == stop_at and Processes().index == 1:
            raise DataError("clip 3 is damaged")
        return loss(indices)

    fitted.loss = failing
    fitted.trainer(folder, replace(CONFIG, accumulate=accumulate, **changes)).run()
    return fitted


def fit_by_command(folder: Path, stop_at: int | None) -> None:
    """Like `lynx tune`: one sentence, and the exit code 1."""
    try:
        fit(folder, 1, stop_at)
    except DataError as error:
        print(f"process {Processes().index}: {error}", file=sys.stderr)
        sys.exit(1)


def test_an_error_in_one_process_ends_all_and_one_goes_on_where_two_were(tmp_path):
    done = launch(script(tmp_path, "fit_by_command(Path(sys.argv[1]), 5)"))  # in less than its timeout
    assert done.returncode != 0
    assert "process 1: clip 3 is damaged" in done.stderr
    assert "process 0: " not in done.stderr or "process 0: another process has ended" in done.stderr
    with pytest.raises(DataError, match=r"other settings \(accumulate times processes 2 -> 3\)"):
        fit(tmp_path, accumulate=3)
    resumed, whole = fit(tmp_path, accumulate=2), fit(tmp_path / "whole", accumulate=2)
    assert resumed.calls == 3 * 2, "from the checkpoint after step 4"
    for name, weight in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], weight, rtol=1e-5, atol=1e-6)
    for row, alone in zip(rows(tmp_path), rows(tmp_path / "whole"), strict=True):
        assert row == pytest.approx(alone, rel=1e-5)


JUDGED = {"val_every": 1, "keep_best": True}


def judge(folder: Path) -> None:
    """The fit with held-out points, whose measuring is shared; every process keeps its weights."""
    fitted = Judged(**JUDGED)
    report = fitted.trainer(folder, replace(CONFIG, steps=3)).run()
    processes = Processes()
    assert (processes.count, report["batch"]) == (2, 4)
    save_file({name: w.detach() for name, w in fitted.weights.items()}, folder / str(processes.index))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate launch"])
def test_both_launchers_start_processes_that_share_the_measuring(tmp_path, launcher):
    done = launch(script(tmp_path, "judge(Path(sys.argv[1]))"), launcher)
    assert done.returncode == 0, done.stderr
    fitted = Judged(**JUDGED)
    fitted.trainer(tmp_path / "one", replace(CONFIG, steps=3, accumulate=2)).run()
    ranks = [load_file(tmp_path / str(rank)) for rank in range(2)]
    for name, weight in fitted.weights.items():
        assert ranks[0][name].equal(ranks[1][name])
        torch.testing.assert_close(ranks[0][name], weight.detach())
    together, alone = rows(tmp_path), rows(tmp_path / "one")
    assert len(together) == 3 and together[0]["val_accuracy"] == 0.75
    for row, expected in zip(together, alone, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
