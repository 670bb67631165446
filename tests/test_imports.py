"""The rules that neither ruff nor import-linter checks: who may use which package, and how long files are.

Which way rooms import each other is import-linter's business: see `[tool.importlinter]` in pyproject.toml.
"""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "lynx").rglob("*.py"))
OPTIONAL = (
    "gradio",
    "spaces",
    "moviepy",
    "imageio_ffmpeg",
    "trimesh",
    "embreex",
    "bitsandbytes",
    "scipy",
    "matplotlib",
    "lmms_eval",
)

# A package that is not listed may be used anywhere. A path ends with / where it means a folder.
CONFINED = {
    "gradio": ("lynx/ui/", "lynx/compat.py"),
    "spaces": ("lynx/ui/", "lynx/compat.py"),
    "av": ("lynx/media/",),
    "moviepy": ("lynx/compat.py",),
    "matplotlib": ("lynx/visualization/interface_chart.py", "lynx/visualization/curve.py"),
    "trimesh": ("lynx/media/mesh.py",),
    "embreex": ("lynx/media/mesh.py",),
    "peft": ("lynx/adapters/lora.py", "lynx/compat.py"),
    "transformers": (
        "lynx/backbones/",
        "lynx/modalities/audio.py",  # its mel filters, imported when sound is drawn
        "lynx/session.py",
        "lynx/compat.py",
        "lynx/world/",
    ),
    "huggingface_hub": ("lynx/hub.py",),
    "lmms_eval": ("lynx/lmms/",),
    "PIL": ("lynx/media/", "lynx/visualization/", "lynx/ui/", "lynx/world/"),
}
TOP_LEVEL = 9
"""Most modules at the top of `lynx/`."""
LONGEST, MEDIAN = 450, 160
"""Lines of a file."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports at run time, in functions as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for child in block.body
        for node in ast.walk(child)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: imports are written in full"
            yield str(node.module)


def within(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_package_is_used_in_its_place_only(path):
    used = {name.split(".")[0] for name in imports(path)}
    wrong = [name for name, places in CONFINED.items() if name in used and not within(relative(path), places)]
    assert not wrong, f"{relative(path)} imports {wrong}: allowed in {[CONFINED[name] for name in wrong]}"


def test_every_place_of_a_package_is_there():
    places = {place for places in CONFINED.values() for place in places}
    assert not [place for place in places if not (ROOT / place).exists()]


ENVIRONMENT = {"lynx/compat.py", "lynx/config.py", "lynx/media/worker.py"}
"""What reads it besides the commands: what tells Gradio where to
keep files, the limits that a server's owner sets, and what starts processes."""


def test_print_and_the_environment_stay_at_the_edge():
    for path in MODULES:
        names = {
            ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.expr)
        }
        if not relative(path).startswith("lynx/cli/"):
            assert "print" not in names, f"{relative(path)} prints; log instead"
        if not relative(path).startswith("lynx/cli/") and relative(path) not in ENVIRONMENT:
            assert not names & {"os.environ", "os.getenv"}, f"{relative(path)} reads the environment"


def test_few_modules_stand_at_the_top():
    top = sorted(path.name for path in (ROOT / "lynx").glob("*.py"))
    assert len(top) <= TOP_LEVEL, top


def test_files_are_short():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not {path: n for path, n in lengths.items() if n > LONGEST}
    assert statistics.median(lengths.values()) <= MEDIAN


def test_every_module_imports_without_the_optional_packages():
    script = [sys.executable, str(ROOT / "tests" / "import_all.py"), *OPTIONAL]
    result = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "imported" in result.stdout
