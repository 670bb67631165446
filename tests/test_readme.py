"""What the README and the packaging files promise is run or compared here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(lines: list[str]) -> set[str]:
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def commands() -> list[list[str]]:
    """The words of every `lynx ...` line of the README."""
    import shlex

    lines = re.findall(r"^    (lynx .*)$", README, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_the_quick_start_runs():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    assert "lynx.load" in code and "chat.ask" in code
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "bell", "the first answer names the sound of the example"


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[1:3]))
def test_the_command_lines_are_understood(words):
    from lynx.cli.main import _parser
    from lynx.cli.registry import COMMANDS

    name = " ".join(words[1:3]) if " ".join(words[1:3]) in COMMANDS else words[1]
    _parser(COMMANDS[name]).parse_args(words[1 + len(name.split()) :])


def test_the_files_that_the_readme_names_are_there():
    assert len(commands()) >= 4
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    files = re.findall(r"(?:examples|adapters|docs)/[\w./-]+\w", README)
    missing = [name for name in {*links, *files} if not (ROOT / name).exists()]
    assert not missing


def test_the_front_matter_is_what_a_space_needs():
    front = yaml.safe_load(README.split("---")[1])
    assert front["sdk"] == "gradio" and (ROOT / front["app_file"]).is_file()
    assert tuple(map(int, front["python_version"].split("."))) >= (3, 11), "transformers 5 needs 3.11"
    assert f"gradio=={front['sdk_version']}" in PROJECT["optional-dependencies"]["app"]
    assert len(front["short_description"]) <= 60


def test_the_space_installs_what_the_package_asks_for():
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["app"], *extras["world"], *extras["mesh"], *extras["quant"]]
    assert requirements((ROOT / "requirements.txt").read_text().splitlines()) == set(wanted)


def test_torch_is_a_range_in_the_package_and_a_pin_where_it_is_tested():
    torch = next(line for line in PROJECT["dependencies"] if line.startswith("torch"))
    assert torch == "torch>=2.8"
    for file in ("Makefile", ".ci/run"):
        assert "torch==2.13.0" in (ROOT / file).read_text()
    assert "torchvision" not in (ROOT / "requirements.txt").read_text()
