"""`lynx run`: recipes are read, checked, run and gone on with."""

import json
from pathlib import Path

import layouts
import pytest
from stages import written

from lynx.cli.main import main
from lynx.cli.recipes import planned, read_recipe
from lynx.config import AlignConfig, TuneConfig
from lynx.errors import DataError

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
    rows = written(place, 3)
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


SMALL = ("backbone=lynx-tiny", "tune.allow_unknown_words=true", "guide.frames=2", "align.frames=2")
SMALL += ("tune.frames=2", "align.steps=1", "tune.steps=1")


def layout(name, folder):
    """A folder as a recipe of the paper expects it, with a train split."""
    if name == "llava-video":
        for benchmark in ("video-mme", "mvbench", "mlvu"):
            layouts.WRITERS[benchmark](folder / benchmark)
        layouts.clip(folder / "videos" / "a.mp4")
        said = [{"from": "human", "value": "<video>\nWhat is it?"}, {"from": "gpt", "value": "a bell"}]
        layouts.dump(folder / "train.json", [{"id": "a", "video": "a.mp4", "conversations": said}])
        media = "media: {video: 'videos/{video}', high_fps: 'videos/{video}'}"
        (folder / "mapping.yaml").write_text(f"annotations: [train.json]\n{media}\n")
        return
    layouts.WRITERS[name](folder)
    for file in folder.rglob("*test*.json"):
        train = file.with_name(file.name.replace("test", "train"))
        if name in ("music-avqa", "sqa3d"):
            train.write_text(file.read_text())


@pytest.mark.parametrize("name", [path.stem.removesuffix("-0.5b") for path in PAPER[::2]])
def test_the_paper_s_recipes_are_checked_on_folders_in_their_layout(name, tmp_path, capsys):
    layout(name, tmp_path / "data")
    recipe = next(path for path in PAPER if path.stem == f"{name}-0.5b")
    words = ["run", str(recipe), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--check"]
    code = main([*words, "--json", *(word for change in SMALL for word in ("--set", change))])
    out = capsys.readouterr()
    assert code == 0, out.err
    found = json.loads(out.out)
    assert found["tune"]["ready"] and found["tune"]["data"]["elsewhere"] == 0
    measured = {key: each["media"]["missing"] for key, each in found.items() if key.startswith("eval ")}
    assert len(measured) == (3 if name == "llava-video" else 1) and set(measured.values()) == {0}
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_the_paper_runs_to_its_scores_and_its_card(tmp_path, capsys):
    layout("avqa", tmp_path / "data")
    recipe = next(path for path in PAPER if path.stem == "avqa-0.5b")
    words = ["run", str(recipe), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--json"]
    words += [word for change in (*SMALL, "eval.frames=2") for word in ("--set", change)]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)["eval avqa"]
    assert found["tuned_on"] == {"trained": 3, "held_out": 0, "new": 0}, "both splits are of the same clips"
    card = (tmp_path / "out" / "adapter" / "README.md").read_text()
    assert "### eval avqa data" in card and "3 questions are about recordings that the adapter was" in card
    assert main(words) == 0, "it goes on from where it was, which is its end"
    assert json.loads(capsys.readouterr().out)["eval avqa"] == found
