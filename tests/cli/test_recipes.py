"""`lynx run`: recipes are read, checked, run and gone on with."""

import json
from pathlib import Path

import pytest
from stages import clips

from lynx.cli.main import main
from lynx.cli.recipes import planned, read_recipe
from lynx.config import AlignConfig, TuneConfig
from lynx.errors import DataError
from lynx.media.writer import write_video

PAPER = sorted((Path(__file__).parents[2] / "recipes" / "paper").glob("*.yaml"))
RECIPE = """
about: a test
backbone: lynx-tiny
modality: audio
guide: {data: [[jsonl, "{data}/train.jsonl"]], frames: 2}
align: {data: [[jsonl, "{data}/train.jsonl"]], frames: 2, steps: 2, rank: 2}
tune: {data: [[jsonl, "{data}/train.jsonl"]], frames: 2, steps: 2, rank: 2, batch_size: 2, replay_from: data}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    rows = []
    for example in clips(3):
        write_video(place / f"{example.id}.mp4", example.media["video"].pixels, 2, example.media["audio"])
        turn = {"question": "what sound ?", "answer": "bell", "senses": ["audio"]}
        media = {"video": f"{example.id}.mp4", "audio": f"{example.id}.mp4"}
        rows.append(json.dumps({"id": example.id, "media": media, "turns": [turn]}))
    (place / "train.jsonl").write_text("\n".join(rows))
    (place / "recipe.yaml").write_text(RECIPE)
    return place


def test_a_recipe_is_checked_run_and_gone_on_with(folder, tmp_path, capsys):
    words = ["run", str(folder / "recipe.yaml"), "--data", str(folder), "--json"]
    words += ["--out", str(tmp_path / "out")]
    assert main([*words, "--check"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[stage]["ready"] for stage in ("guide", "align", "tune")] == [True] * 3
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tune"]["steps"] == 2 and found["guide"]["frames"] == 6
    adapter = tmp_path / "out" / "adapter"
    assert (adapter / "training" / "tune" / "run.yaml").is_file()
    guidance = (tmp_path / "out" / "guidance.safetensors").stat().st_mtime_ns
    assert main(words) == 0  # finished: nothing is done twice
    again = json.loads(capsys.readouterr().out)
    assert (tmp_path / "out" / "guidance.safetensors").stat().st_mtime_ns == guidance
    assert again["tune"]["run"] == found["tune"]["run"]
    assert main([*words, "--set", "tune.steps=3"]) == 0
    assert json.loads(capsys.readouterr().out)["tune"]["steps"] == 3


def test_a_check_lists_what_every_stage_lacks(folder, tmp_path, capsys):
    words = ["run", str(folder / "recipe.yaml"), "--data", str(folder), "--out", str(tmp_path), "--check"]
    assert main([*words, "--set", "modality=depth"]) == 1
    said = capsys.readouterr().err
    assert "align: " in said and "tune: " in said and "no example has 'depth'" in said


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_paper_s_recipes_are_of_options_that_there_are(path):
    recipe = read_recipe(path, [])
    plan = {name: words for name, _, words in planned(recipe, Path("D"), Path("O"))}
    assert {"guide", "align", "tune"} < plan.keys() and len(plan) in (4, 6)
    effective = recipe["tune"]["batch_size"] * recipe["tune"]["accumulate"]
    assert effective == 1 * 4 * 3, "the paper's batch, accumulation and GPUs"
    audio = recipe["modality"] == "audio"
    assert recipe["align"]["lr"] == (5e-4 if audio else 2e-5)
    assert recipe["align"]["epochs"] == (2 if audio else 10)
    for config, stage in ((AlignConfig, "align"), (TuneConfig, "tune")):  # the rest is the paper's too
        assert config().rank == 64 and config().dropout == 0.05 and "rank" not in recipe[stage]


def test_all_runs_of_the_paper_are_there():
    names = ("avqa", "avsd", "ego-exo", "llava-video", "music-avqa", "scanqa", "sqa3d")
    assert [path.stem for path in PAPER] == sorted(f"{n}-{s}" for n in names for s in ("0.5b", "7b"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("tune", "expected NAME=VALUE"), ("a.b.c=1", "expected NAME=VALUE"), ("other=1", "has other"),
        ("tune=3", "expected its options by name"),
    ],
)  # fmt: skip
def test_a_wrong_change_is_named(folder, change, reason):
    with pytest.raises(DataError, match=reason):
        read_recipe(folder / "recipe.yaml", [change])
    with pytest.raises(DataError, match="has no option 'stepz'"):
        list(planned(read_recipe(folder / "recipe.yaml", ["tune.stepz=1"]), folder, folder))
