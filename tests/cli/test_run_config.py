"""Options from a file, and back into one."""

import argparse

import pytest
import yaml

from lynx.cli.main import main
from lynx.cli.registry import COMMANDS, parser_of
from lynx.cli.run_config import as_values, as_words, read_yaml, with_config
from lynx.errors import DataError

WORDS = [
    *("--modality", "audio", "depth", "--out", "runs/x", "--data", "jsonl", "a.jsonl", "--data", "world"),
    *("--steps", "7", "--lr", "0.001", "--no-resume", "--type-embedding", "--allow-unknown-words"),
    *("--adapter", "one", "--adapter", "two", "--replay-from", "self"),
]


def parsed(words, command="tune"):
    parser = parser_of(COMMANDS[command])
    return parser, parser.parse_args(with_config(parser, words))


def test_a_run_s_options_come_back_from_its_file(tmp_path):
    parser, options = parsed(WORDS)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(as_values(parser, options)))
    _, again = parsed(["--config", str(file)])
    assert {**vars(again), "config": None} == vars(options)
    assert again.resume is False and again.lr == 0.001 and again.adapter == ["one", "two"]


def test_what_is_typed_counts_more(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 5\nlr: 0.5\ndata: [[jsonl, b.jsonl]]\nout: there\nmodality: [audio]\n")
    _, options = parsed([f"--config={file}", "--steps", "9", "--data", "world"])
    assert (options.steps, options.lr, options.data) == (9, 0.5, [["world"]])
    _, options = parsed(["--config", str(file), "--lr=0.25"])
    assert (options.steps, options.lr, options.data) == (5, 0.25, [["jsonl", "b.jsonl"]])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stepz: 5", "lynx tune has no option 'stepz'"),
        ("json: true", "no option 'json'"),
        ("- 5", "expected options by name"),
        ("a: [", "is not YAML"),
        ("resume: maybe", "run.yaml: resume is 'maybe', expected true or false"),
        ("steps: [1, 2]", "run.yaml: steps is [1, 2], expected one value, and no list"),
        ("steps: 1\nlr: 0.1\nsteps: 2", "run.yaml: 'steps' stands twice in it"),
        ("config: other.yaml", "no option 'config'"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, capsys, text, reason):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["tune", "--config", str(file)]) == 1
    assert reason in capsys.readouterr().err
    with pytest.raises(DataError):
        as_words(argparse.ArgumentParser(), read_yaml(file), str(file))


def test_a_file_that_is_not_there_and_a_value_of_a_wrong_type(tmp_path, capsys):
    assert main(["tune", "--config", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err
    file = tmp_path / "run.yaml"
    file.write_text("steps: many\nout: x\nmodality: audio\n")
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--config", str(file)])
    assert ended.value.code == 2 and "invalid int value: 'many'" in capsys.readouterr().err


def test_commands_without_it_refuse_it(capsys):
    with pytest.raises(SystemExit):
        main(["params", "--backbone", "lynx-tiny", "--config", "x.yaml"])
    assert "unrecognized arguments: --config" in capsys.readouterr().err
