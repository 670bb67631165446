"""A stranger's way from six clips and twenty questions to a card, by the commands of docs/training.md."""

import json
import re
import shlex
import shutil

import pytest
import torch
from stages import clips

from lynx.cli.main import main
from lynx.media.writer import write_video

HEADING = "## From six phone clips to a card"


def commands(root):
    """The commands of the walk-through, and the two rows that it shows."""
    section = (root / "docs" / "training.md").read_text(encoding="utf-8").split(HEADING)[1].split("\n## ")[0]
    lines = re.findall(r"^    (lynx .*)$", re.sub(r"\\\n +", "", section), flags=re.MULTILINE)
    rows = re.findall(r"```json\n(.*?)```", section, flags=re.DOTALL)[0].splitlines()
    return [shlex.split(line)[1:] for line in lines], [json.loads(row) for row in rows]


@pytest.fixture
def place(root, tmp_path, monkeypatch):
    """Six clips, and twenty questions about them as the page asks."""
    monkeypatch.chdir(tmp_path)
    garden, window = commands(root)[1]
    for number, example in enumerate(clips(6), 1):
        pixels = torch.nn.functional.interpolate(example.media["video"].pixels, (64, 64))
        write_video(tmp_path / f"IMG_{number:04}.mp4", pixels, 2, example.media["audio"])
    rows = []
    for number in range(1, 7):
        row = json.loads(json.dumps(garden if number % 2 else window))
        row["id"] = str(number)
        row["media"] = dict.fromkeys(row["media"], f"IMG_{number:04}.mp4")
        rows.append(row)
    assert 15 <= sum(len(row["turns"]) for row in rows) <= 20
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[4:]))
    return tmp_path


def test_the_walk_through_ends_in_a_card_with_an_honest_table(root, place, capsys):
    asked, _ = commands(root)
    assert [words[0] for words in asked] == ["inspect", "tune", "eval", "guide", "align", "tune", "eval"]
    for words in asked:
        fewer = ["2" if word == "20" else "12" if word == "100" else word for word in words]
        assert main(fewer) == 0, (words, capsys.readouterr().err)
    out = capsys.readouterr()
    assert "step 12 of 12" in out.err, "where there is no terminal, lines say how far it is"
    table = out.out[out.out.rindex("metric") :].splitlines()
    assert table[0].split() == ["metric", "type", "n", "with", "without", "withheld"]
    assert table[-1].startswith("the intervals are of 2 clips"), "no clip was tuned on"
    card = (place / "runs/audio/README.md").read_text()
    measured = card.split("## Measured")[1].split("## Rendered")[0]
    assert "    lynx eval jsonl val.jsonl --adapter audio\n" in measured
    assert "- questions: 5\n- clips: 2\n- of these new to it: 5\n" in measured
    assert "| metric | type | n | with | without | withheld |" in measured
    assert re.search(r"\| exact \| all \| 5 \| \d+\.\d \(\d+\.\d-\d+\.\d\) \|", measured)
    trained = card.split("## Trained")[1]
    assert "Tuned on 4 clips with 10 questions, in 12 steps of 4 clips; 0 clips were held out." in trained
    assert "general questions get the answer that the backbone gives without it" in trained
    assert 'adapters=["runs/audio"]' in card, "the folder that the adapter is in"
    assert (place / "runs/audio/training/tune/curve.png").is_file()
    assert main(["adapters", "check", "runs/audio"]) == 0
    capsys.readouterr()
    assert main(["eval", "jsonl", "train.jsonl", "--adapter", "runs/audio", "--card"]) == 0
    told = capsys.readouterr().out
    assert "10 questions are about recordings that the adapter was tuned on" in told
    card = (place / "runs/audio/README.md").read_text()
    assert "### eval jsonl val.jsonl" in card and "- of these new to it: 0\n" in card
    assert str(place) not in card + (place / "runs/audio/lynx_config.json").read_text()


def test_a_card_needs_an_adapter_of_ones_own_and_a_run(place, capsys):
    for more, said in (
        ([], "--card is for the card of one adapter"),
        (["--adapter", "audio"], "--card is for the card of one adapter"),
        (["--score", "predictions.jsonl"], "--card needs a run of the model"),
    ):
        assert main(["eval", "jsonl", "val.jsonl", "--card", *more]) == 1
        assert said in capsys.readouterr().err


def test_figures_that_cannot_be_put_on_the_card_are_told_and_the_card_stays(root, place, capsys):
    adapter = shutil.copytree(root / "adapters" / "audio", place / "mine")
    before = [(adapter / name).read_bytes() for name in ("lynx_config.json", "README.md")]
    words = ["eval", "jsonl", "val.jsonl", "--adapter", "mine", "--frames", "2", "--max-new-tokens", "1"]
    (adapter / ".README.md.half").mkdir()  # in the way of the second of the two files
    assert main([*words, "--n", "1", "--card"]) == 1
    out = capsys.readouterr()
    assert "cannot write the figures to mine" in out.err and out.out.startswith("metric")
    assert [(adapter / name).read_bytes() for name in ("lynx_config.json", "README.md")] == before
    assert not (adapter / ".lynx_config.json.half").exists()


def test_a_check_of_questions_opens_their_recordings_and_reads_their_words(place, capsys):
    (place / "IMG_0005.mp4").write_bytes((place / "IMG_0005.mp4").read_bytes()[:900])
    said = {"question": "what ?", "answers": ["a dachshund barking", "a barking dog"]}
    row = {"media": {"video": "IMG_0005.mp4"}, "turns": [said]}
    (place / "val.jsonl").write_text(json.dumps(row))
    assert main(["eval", "jsonl", "val.jsonl", "--check", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "media: 1 damaged; --allow-missing" in err
    found = json.loads(out)
    assert main(["eval", "jsonl", "val.jsonl", "--check", "--allow-missing"]) == 0
    assert found["cannot_say"] == {"barking": 1} and "IMG_0005.mp4" in found["damaged"][0]
    (place / "none.jsonl").write_text(json.dumps({"media": {"video": "IMG_0001.mp4"}}))
    assert main(["eval", "jsonl", "none.jsonl", "--check"]) == 1
    assert "the data have no questions" in capsys.readouterr().err
