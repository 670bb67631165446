"""The import rules of the house: which package is used where, and which way modules may look."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for path in (ROOT / "lynx").rglob("*.py"))
OPTIONAL = (
    "gradio",
    "spaces",
    "moviepy",
    "imageio_ffmpeg",
    "trimesh",
    "embreex",
    "bitsandbytes",
    "scipy",
    "psutil",
)

# A package that is not listed may be used anywhere. A path ends with / where it means a folder.
CONFINED = {
    "gradio": ("lynx/ui/",),
    "spaces": ("lynx/ui/",),
    "av": ("lynx/media.py",),
    "moviepy": ("lynx/mp4.py",),
    "trimesh": ("lynx/media3d.py",),
    "embreex": ("lynx/media3d.py",),
    "transformers": (
        "lynx/backbones/",
        "lynx/attention.py",
        "lynx/model.py",  # generation, with its cache and its streamer
        "lynx/chat.py",
        "lynx/streaming.py",
        "lynx/world/",
    ),
    "huggingface_hub": ("lynx/hub.py",),
    "PIL": (
        "lynx/render.py",
        "lynx/depthmaps.py",
        "lynx/lettering.py",
        "lynx/screen.py",
        "lynx/interface/chart.py",
        "lynx/ui/",
        "lynx/world/",
    ),
}

# Layers: a module imports from its own layer and from those after it, never from one before it.
LAYERS = (
    ("lynx/ui/", "lynx/cli.py", "lynx/commands/", "lynx/environment.py", "lynx/__main__.py"),
    (
        "lynx/chat.py",
        "lynx/render.py",
        "lynx/lettering.py",
        "lynx/screen.py",
        "lynx/film.py",
        "lynx/evidence.py",
        "lynx/tuning.py",
        "lynx/sharing.py",
        "lynx/importing.py",
        "lynx/interface/",
        "lynx/trainer.py",
    ),
    ("lynx/model.py",),
    ("lynx/adapters.py", "lynx/card.py", "lynx/backbones/", "lynx/modalities/", "lynx/attention.py"),
    ("lynx/depthmaps.py",),
    (
        "lynx/media.py",
        "lynx/mp4.py",
        "lynx/media3d.py",
        "lynx/hub.py",
        "lynx/config.py",
        "lynx/errors.py",
        "lynx/jsonfile.py",
        "lynx/memo.py",
        "lynx/options.py",
    ),
)
BACK = {("lynx/model.py", "lynx.chat")}  # `model.chat(...)` opens a session, for convenience


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """Full names of what a module imports, in functions as well; not what only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test) and at_run_time
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
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)


def layer(path: str) -> int | None:
    return next((i for i, places in enumerate(LAYERS) if within(path, places)), None)


def file_of(module: str) -> str | None:
    """`lynx/a.py` or `lynx/a/` of a module's name; None where the name is no module."""
    path = module.replace(".", "/")
    if (ROOT / f"{path}.py").is_file():
        return f"{path}.py"
    return f"{path}/" if (ROOT / path / "__init__.py").is_file() else None


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_package_is_used_in_its_place_only(path):
    used = {name.split(".")[0] for name in imports(path)}
    wrong = [name for name, places in CONFINED.items() if name in used and not within(relative(path), places)]
    assert not wrong, f"{relative(path)} imports {wrong}: allowed in {[CONFINED[name] for name in wrong]}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_one_way(path):
    own = layer(relative(path))
    if own is None:
        return  # outside the layers: the world, data, metrics
    for name in imports(path):
        module = ".".join(name.split(".")[:2])
        other = file_of(module) if name.startswith("lynx.") else None
        target = layer(other) if other and (relative(path), module) not in BACK else None
        assert target is None or target >= own, f"{relative(path)} looks back at {name}"


def test_the_library_never_imports_its_app_or_its_command_line():
    edge = {"lynx.ui", "lynx.cli", "lynx.commands"}
    for path in MODULES:
        if layer(relative(path)) != 0:
            back = edge & {".".join(name.split(".")[:2]) for name in imports(path)}
            assert not back, f"{relative(path)} imports {back}"


def test_print_and_the_environment_stay_at_the_edge():
    for path in MODULES:
        names = {
            ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.expr)
        }
        if relative(path) != "lynx/cli.py":
            assert "print" not in names, f"{relative(path)} prints; log instead"
            assert not names & {"os.environ", "os.getenv"}, f"{relative(path)} reads the environment"


def test_files_are_short():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not {path: n for path, n in lengths.items() if n >= 400}


def test_every_module_imports_without_the_optional_packages():
    script = [sys.executable, str(ROOT / "tests" / "import_all.py"), *OPTIONAL]
    result = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "imported" in result.stdout
