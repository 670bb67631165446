"""What the README, the docs and the packaging files promise is run or compared here."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md")
}
"""What a user reads, by its path in the checkout."""
PLACEHOLDER = re.compile(r"NAME|^adapters/(lynx-audio|audio-ov)$")
"""Paths that stand for the reader's own."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(lines: list[str]) -> set[str]:
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def commands() -> list[tuple[str, str]]:
    """Every `lynx ...` command line of a code block, and every one between backticks that has options."""
    found = []
    for page, text in PAGES.items():
        blocks = re.sub(r"\\\n +", "", text)
        found += [(page, line) for line in re.findall(r"^    (lynx .*)$", blocks, flags=re.MULTILINE)]
        inline = re.findall(r"`(lynx [^`\n]* --[^`\n]*)`", text)
        found += [(page, line) for line in inline if "..." not in line and "<" not in line]
    return found


def slugs(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_quick_start_runs():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    assert "lynx.load" in code and "chat.ask" in code
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "bell", "the first answer names the sound of the example"


@pytest.mark.parametrize(("page", "line"), commands())
def test_the_command_lines_are_understood(page, line):
    from lynx.cli.registry import COMMANDS, parser_of

    words = shlex.split(line, comments=True)
    name = " ".join(words[1:3]) if " ".join(words[1:3]) in COMMANDS else words[1]
    try:
        parser_of(COMMANDS[name]).parse_args(words[1 + len(name.split()) :])
    except SystemExit:
        pytest.fail(f"{page} has a command that lynx does not understand: {line}")


def test_every_page_has_commands():
    assert sum(page == "README.md" for page, _ in commands()) >= 4
    assert len(commands()) >= 20


@pytest.mark.parametrize("page", PAGES)
def test_the_files_and_modules_that_a_page_names_are_there(page):
    rooms = r"(?:lynx|tests|docs|dev|recipes|benchmarks|examples|adapters)"
    named = re.findall(rf"(?<![\w/.~-]){rooms}/[\w./-]*", PAGES[page])
    modules = re.findall(r"python -m ((?:lynx|benchmarks|recipes)[\w.]*)", PAGES[page])
    paths = {name.rstrip(".") for name in named if not PLACEHOLDER.search(name)}
    missing = [name for name in sorted(paths) if not (ROOT / name).exists()]
    places = {name: ROOT.joinpath(*name.split(".")) for name in modules}
    missing += [name for name, at in places.items() if not at.with_suffix(".py").exists() and not at.is_dir()]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, "dev/LOG.md"])
def test_the_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    broken = []
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if not target.exists() or (anchor and anchor not in slugs(str(target.relative_to(ROOT)))):
            broken.append(link)
    assert not broken


def test_the_readme_is_short():
    assert len(README.split()) <= 700
    figures = README.split("## Figures")[1].split("\n## ")[0]
    rows = [line for line in figures.splitlines() if line.startswith("|")]
    assert len(rows) - 2 <= 8, "a heading, a rule and at most eight rows"
    sources = [row.split("|")[3] for row in rows[2:]]
    assert all("`" in source or "the same" in source for source in sources), "each with its command"


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
