"""`torchrun -m lynx`: recipes and evaluations in two processes give what one gives, and say it once."""

import json
from pathlib import Path

import layouts
import pytest
from launched import launch
from stages import written

from lynx.cli.main import main
from lynx.cli.registry import COMMANDS, parse

RECIPE = """
backbone: lynx-tiny
modality: audio
guide: {data: [[jsonl, "{data}/train.jsonl"]], frames: 2}
align: {data: [[jsonl, "{data}/train.jsonl"]], frames: 2, steps: 2, rank: 2, batch_size: 2}
tune: {data: [[jsonl, "{data}/train.jsonl"]], frames: 2, steps: 2, rank: 2, batch_size: 1, lr: 0.01}
eval: {data: "{data}/music", benchmark: music-avqa}
"""
TWICE = ["--set", "align.accumulate=2", "--set", "tune.accumulate=2"]
"""What one process needs to do the steps of two."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four clips with a question each, a recipe, a benchmark."""
    place = tmp_path_factory.mktemp("data")
    rows = written(place, 4, "which sound do you hear ?", "a bell")
    (place / "train.jsonl").write_text("\n".join(rows))
    (place / "recipe.yaml").write_text(RECIPE)
    layouts.music_avqa(place / "music")
    return place



def test_a_recipe_in_two_processes_is_that_of_one_and_goes_on_with_any_number(folder, tmp_path, capsys):
    words = ["run", str(folder / "recipe.yaml"), "--data", str(folder), "--json", "--out"]
    done = launch(["-m", "lynx", *words, tmp_path / "two"])
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)  # one process prints
    assert main([*words, str(tmp_path / "one"), *TWICE]) == 0
    one = json.loads(capsys.readouterr().out)
    assert two["guide"]["frames"] == one["guide"]["frames"] == 8
    for stage in ("align", "tune"):
        assert two[stage]["last"]["loss"] == pytest.approx(one[stage]["last"]["loss"], abs=1e-5)
        assert (two[stage]["batch"], two[stage]["steps"]) == (one[stage]["batch"], 2)
    scores = one["eval music-avqa"]
    assert two["eval music-avqa"] == scores and scores["n"] > 3
    for name in ("predictions.jsonl", "scores.json"):
        files = [tmp_path / each / "music-avqa" / name for each in ("two", "one")]
        assert files[0].read_text() == files[1].read_text(), name
    left = sorted(path.name for path in (tmp_path / "two" / "music-avqa").iterdir())
    assert left == ["predictions.jsonl", "run.json", "scores.json"]
    lines = (tmp_path / "two/music-avqa/predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "two/music-avqa/predictions.jsonl").write_text(lines[1] + lines[0][:20])  # killed,
    (tmp_path / "two/music-avqa/predictions-1.jsonl").write_text(lines[2])  # both of them
    assert main([*words, str(tmp_path / "two"), *TWICE]) == 0, "stages that two ended are ended for one"
    again = json.loads(capsys.readouterr().out)
    assert again["eval music-avqa"] == scores and again["tune"]["run"] == two["tune"]["run"]
    assert (tmp_path / "two/music-avqa/predictions.jsonl").read_text() == "".join(lines)
    assert not (tmp_path / "two/music-avqa/predictions-1.jsonl").exists()


def evaluations(folder: Path, words: Path) -> list[list[str]]:
    """Evaluations of the adapter for sound that comes with lynx."""
    audio = ["--adapter", "audio", "--json"]
    return [
        ["eval jsonl", str(folder / "train.jsonl"), *audio, "--out", str(words), "--frames", "2"],
        ["eval world", "--modality", "audio", "--n", "4", "--cache", str(folder / "world"), *audio],
        ["eval recordings", "--data", "jsonl", str(folder / "train.jsonl"), *audio],
    ]


EVALUATE = """
import json, sys
from pathlib import Path
import torch
from lynx.cli.main import main  # registers the commands
from lynx.cli.registry import COMMANDS, parse
from lynx.training.processes import Processes, join
torch.set_num_threads(1)
if __name__ == "__main__":
    join(torch.device("cpu"))
    found = [COMMANDS[name].run(parse(COMMANDS[name], words)) for name, *words in json.loads(sys.argv[1])]
    file = Path(sys.argv[2]) / f"found-{Processes().index}.json"
    file.write_text(json.dumps(found))
"""


def test_evaluations_in_two_processes_are_those_of_one_in_both(folder, tmp_path):
    (tmp_path / "script.py").write_text(EVALUATE)
    words = json.dumps(evaluations(folder, tmp_path / "two"))
    done = launch([tmp_path / "script.py", words, tmp_path])
    assert done.returncode == 0, done.stderr
    alone = [
        COMMANDS[name].run(parse(COMMANDS[name], more))
        for name, *more in evaluations(folder, tmp_path / "one")
    ]
    for index in range(2):
        assert json.loads((tmp_path / f"found-{index}.json").read_text()) == json.loads(json.dumps(alone))
    for name in ("predictions.jsonl", "scores.json", "run.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert alone[1]["n"] == 4 and alone[2]["n"] == 4 and alone[0]["questions"] == 4
