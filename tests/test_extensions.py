"""A package that brings senses, families and benchmarks: really installed in a folder, and used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import checkpoints
import layouts
import pytest
from checkpoints import clip, random_adapter

import lynx
from lynx.adapters.saving import save_adapter
from lynx.media.writer import write_video

ROOT = Path(__file__).parents[1]
THERMAL = '''
from dataclasses import dataclass

from lynx.modalities.video import Video


@dataclass(frozen=True)
class ThermalRendering:
    max_side: int = 320


class Thermal(Video):
    name = "thermal"
    label = "warmth"
    takes = "view"
    color = (1, 2, 3)
    Rendering = ThermalRendering
'''
FAMILY = '''
from lynx.backbones.llava_onevision import LlavaOnevision


class Next(LlavaOnevision):
    family = "next"


class Nameless(LlavaOnevision):
    pass
'''
EXAM = '''

from lynx.evaluation.benchmarks import Benchmark

EXAM = Benchmark("exam", "lynx.datasets.avut:AVUT", "lynx.evaluation.scorers:choices")
'''
ENTRY_POINTS = {
    "lynx.modalities": {
        "thermal": "lynx_thermal:Thermal",
        "audio": "lynx_thermal:Thermal",
        "missing": "lynx_thermal:Missing",
        "broken": "lynx_broken:Anything",
        "number": "lynx_thermal:dataclass",
        "other": "lynx_thermal:Thermal",
    },
    "lynx.backbones": {"next": "lynx_family:Next", "nameless": "lynx_family:Nameless"},
    "lynx.benchmarks": {"exam": "lynx_family:EXAM", "broken": "lynx_broken:EXAM"},
}
LEFT_OUT = {
    "audio": "built-in",
    "missing": "AttributeError",
    "broken": "ZeroDivisionError",
    "number": "expected a subclass of Modality",
    "other": "its name is 'thermal', expected 'other'",
    "nameless": "its family is 'llava_onevision', expected 'nameless'",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which pip has put such a package, as it would into an environment."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "lynx_thermal.py").write_text(THERMAL)
    (source / "lynx_family.py").write_text(FAMILY + EXAM)
    (source / "lynx_broken.py").write_text("1 / 0\n")
    groups = "".join(
        f'[project.entry-points."{group}"]\n' + "".join(f'{name} = "{entries[name]}"\n' for name in entries)
        for group, entries in ENTRY_POINTS.items()
    )
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "lynx-thermal"\nversion = "0.3"\n'
        '[tool.setuptools]\npy-modules = ["lynx_thermal", "lynx_family", "lynx_broken"]\n' + groups
    )
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, timeout=120)
    return target


def run(installed, *words):
    """What `python ...` prints where the package is installed."""
    path = os.pathsep.join([str(installed), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    options = {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, *words], env=environment, cwd=ROOT, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done


def test_lynx_env_lists_what_is_added_and_what_is_left_out_and_why(installed):
    done = run(installed, "-m", "lynx", "env", "--json")
    listed = json.loads(done.stdout)["extensions"]
    assert {group: {row["name"] for row in rows} for group, rows in listed.items()} == {
        group: set(names) for group, names in ENTRY_POINTS.items()
    }
    for row in [row for rows in listed.values() for row in rows]:
        assert (row["package"], row["version"]) == ("lynx-thermal", "0.3")
        reason = LEFT_OUT.get(row["name"])
        assert row["left_out"] is None if reason is None else reason in row["left_out"], row
    assert "lynx_broken:Anything" in done.stderr and "ZeroDivisionError" in done.stderr
    text = run(installed, "-m", "lynx", "env").stdout
    assert "name: thermal, package: lynx-thermal, version: 0.3, path: lynx_thermal:Thermal\n" in text


def test_an_added_sense_is_chatted_with_and_drawn(installed, tmp_path):
    model = lynx.load("lynx-tiny")
    random_adapter(model, "thermal", "video")
    folder = save_adapter(model, "thermal", tmp_path / "thermal")
    config = json.loads((folder / "lynx_config.json").read_text())
    config |= {"modality": "thermal", "rendering": {"max_side": 64}}
    (folder / "lynx_config.json").write_text(json.dumps(config))
    write_video(tmp_path / "clip.mp4", clip(8, 96, 128).pixels, 4)
    media = ["--video", str(tmp_path / "clip.mp4"), "--thermal", str(tmp_path / "clip.mp4")]
    asked = ["--adapter", str(folder), *media, "--ask", "what is it ?", "--json"]
    told = json.loads(run(installed, "-m", "lynx", "chat", *asked).stdout)
    assert "thermal" in json.dumps(told)
    code = (
        "from lynx.modalities import color_of, extensions, get\n"
        "from lynx.types import sample_times\n"
        "assert get('audio').name == 'audio' and not extensions._loaded  # nothing was imported for it\n"
        f"frames = get('thermal')().render({str(tmp_path / 'clip.mp4')!r}, sample_times(2.0, 1))\n"
        "print(tuple(frames.pixels.shape), color_of('thermal'))\n"
    )
    assert run(installed, "-c", code).stdout == "(1, 3, 96, 128) (1, 2, 3)\n"


def test_added_families_and_benchmarks_are_found_and_what_is_left_out_is_named_in_the_error(
    installed, tmp_path
):
    folder = checkpoints.llava_onevision(tmp_path / "checkpoint")
    (tmp_path / "config.json").write_text('{"model_type": "nameless"}')
    code = (
        "from lynx.backbones import load_backbone\n"
        "from lynx.backbones.loading import get_family\n"
        "from lynx.evaluation.benchmarks import get\n"
        "from lynx.errors import LynxError\n"
        f"print(get_family('next').__module__, get('exam').name, load_backbone({str(folder)!r}).family)\n"
        f"for call, name in ((get, 'broken'), (get, 'nothing'), (load_backbone, {str(tmp_path)!r})):\n"
        "    try:\n"
        "        call(name)\n"
        "    except LynxError as error:\n"
        "        print(error)\n"
    )
    found, broken, nothing, refused = run(installed, "-c", code).stdout.splitlines()
    assert found == "lynx_family exam llava_onevision"
    assert "lynx-thermal 0.3" in broken and "ZeroDivisionError" in broken
    assert nothing.startswith("There is no benchmark 'nothing'; known are: avqa,") and "exam, mlvu" in nothing
    layouts.avut(tmp_path / "exam")
    words = ["eval", "exam", "--data", str(tmp_path / "exam"), "--check", "--json"]
    assert json.loads(run(installed, "-m", "lynx", *words).stdout)["questions"] == 3
    assert ", next." in refused and "lynx-thermal 0.3" in refused and "'nameless'" in refused
