import dataclasses
import json
import subprocess
import sys

import pytest

import lynx
from lynx.cli import main
from lynx.commands import COMMANDS
from lynx.config import AlignConfig, GuideConfig, TuneConfig
from lynx.errors import LynxError

STAGES = {"guide": GuideConfig, "align": AlignConfig, "tune": TuneConfig}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    try:
        code = main(list(words))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_overview_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(f"  {name} " in out for name in COMMANDS)
    assert run(capsys)[0] == 2, "no command at all is wrong usage"


def test_a_group_lists_its_own_commands(capsys):
    code, out, _ = run(capsys, "world", "--help")
    assert code == 0
    assert "world render" in out and "align" not in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_it_accepts(capsys, name):
    code, out, _ = run(capsys, *name.split(), "--help")
    assert code == 0
    example = COMMANDS[name].example
    assert example in " ".join(out.split()) and "--json" in out
    options = set(word for word in example.split() if word.startswith("--"))
    assert all(f" {option}" in out.split("example:")[0] for option in options)


@pytest.mark.parametrize(
    "words",
    [
        ("fly",),
        ("world",),
        ("params",),
        ("params", "--backbone", "lynx-tiny", "--rank", "0"),
        ("env", "--fast"),
        ("align", "--lr", "high"),
    ],
)
def test_wrong_usage_ends_with_two(capsys, words):
    code, out, err = run(capsys, *words)
    assert code == 2
    assert not out and "usage:" in err


def test_a_failure_ends_with_one_and_one_line(capsys):
    code, out, err = run(capsys, "params", "--backbone", "no-such-model")
    assert code == 1
    assert not out
    assert err.startswith("lynx: ") and err.count("\n") == 1 and "no-such-model" in err


def test_a_setting_out_of_range_is_refused_before_anything_is_loaded(capsys, tmp_path):
    words = ("--modality", "audio", "--guidance", str(tmp_path / "g"), "--out", str(tmp_path / "o"))
    code, _, err = run(capsys, "align", *words, "--warmup", "2")
    assert code == 1
    assert "warmup" in err and err.count("\n") == 1


def test_an_error_of_the_system_is_one_line_too(capsys, monkeypatch):
    def refuse(options):
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setitem(COMMANDS, "env", dataclasses.replace(COMMANDS["env"], run=refuse))
    assert run(capsys, "env") == (1, "", "lynx: /somewhere: Permission denied\n")


def test_the_cause_of_a_bug_stays_visible(capsys, monkeypatch):
    def broken(options):
        raise ZeroDivisionError

    monkeypatch.setitem(COMMANDS, "env", dataclasses.replace(COMMANDS["env"], run=broken))
    assert not issubclass(ZeroDivisionError, LynxError)
    with pytest.raises(ZeroDivisionError):
        main(["env"])


@pytest.mark.parametrize("name, config", STAGES.items())
def test_the_options_of_a_stage_are_the_fields_of_its_config(capsys, name, config):
    _, out, _ = run(capsys, name, "--help")
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in out
        assert field.metadata["help"].split()[0] in out


@pytest.mark.parametrize(
    "name, vision, llm", [("llava-onevision-0.5b", 33.493, 35.193), ("llava-onevision-7b", 33.493, 161.481)]
)
def test_params_are_those_of_the_paper(capsys, name, vision, llm):
    code, out, _ = run(capsys, "params", "--backbone", name, "--json")
    counts = json.loads(out)
    assert code == 0
    assert list(counts) == ["vision", "llm", "total"]
    assert counts["vision"] / 1e6 == pytest.approx(vision, abs=5e-4)
    assert counts["llm"] / 1e6 == pytest.approx(llm, abs=5e-4)
    assert counts["total"] == counts["vision"] + counts["llm"]


def test_env_reports_versions(capsys):
    import torch

    code, out, _ = run(capsys, "env", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["lynx"] == lynx.__version__
    assert report["packages"]["torch"] == torch.__version__
    assert report["ready"] == (not report["missing"]["library"] and not report["missing"]["app"])


def test_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-m", "lynx", "env"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
