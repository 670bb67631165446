"""lmms-eval finds lynx by its entry point, and runs the task of the recipe with it: where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module

import pytest

needs_lmms_eval = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: recipes/lmms_eval/environment.sh makes an environment with it",
)


def declared(root):
    """What the package declares for lmms-eval: its name, and the function that describes it."""
    (entry,) = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"][
        "lmms_eval.models"
    ].items()
    module, name = entry[1].split(":")
    return entry[0], getattr(import_module(module), name)


def test_the_classes_are_there_without_lmms_eval(root):
    name, manifest = declared(root)
    plugin = import_module("lynx.lmms.plugin")
    assert name == "lynx" and callable(manifest)
    assert plugin.LynxSimple.is_simple and not plugin.LynxChat.is_simple


@needs_lmms_eval
def test_lmms_eval_accepts_the_classes_that_are_declared(root):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(declared(root)[1]())
    plugin = import_module("lynx.lmms.plugin")
    assert registry.get_model_class("lynx") is plugin.LynxChat
    assert registry.get_model_class("lynx", force_simple=True) is plugin.LynxSimple


@needs_lmms_eval
@pytest.mark.parametrize(("senses", "more"), [("video+audio", []), ("audio", ["--force_simple"])])
def test_lmms_eval_runs_the_task_of_two_rows(root, tmp_path, senses, more):
    command = [sys.executable, "-m", "lmms_eval", "--model", "lynx", "--tasks", "lynx_two_rows"]
    command += ["--model_args", f"adapter=audio,senses={senses}", "--include_path", "recipes/lmms_eval"]
    command += ["--batch_size", "2", "--output_path", str(tmp_path), *more]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    results = list(tmp_path.rglob("*_results.json"))
    assert len(results) == 1, run.stderr[-2000:]  # it exits with 0 after an error, too
    assert json.loads(results[0].read_text())["results"]["lynx_two_rows"]["accuracy,none"] == 1
