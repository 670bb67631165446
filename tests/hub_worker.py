"""A process that runs command lines of `lynx`, one after the other, under its own environment.

huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported, so whoever talks to another
Hub than the tests' own process is another process; one for many commands, since torch takes seconds.
Reads lines of JSON {"words": [...], "token": str | null}, answers {"code", "out", "err"}. Beside the commands
of `lynx` there are "load", a backbone, and "app", what a page asks about one.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable

import torch

from lynx.adapters.saving import describe_backbone
from lynx.backbones import load_backbone
from lynx.cli.main import main
from lynx.errors import LynxError
from lynx.ui.engine import Engine
from lynx.ui.types import Setup


def load(source: str, precision: str = "auto") -> int:
    """Print what an adapter remembers of a backbone, and in what its LLM is held."""
    try:
        backbone = load_backbone(source, precision)
    except LynxError as error:
        print(f"lynx: {error}", file=sys.stderr)
        return 1
    held = type(backbone.text_attention_modules()[0].q_proj).__name__
    print(json.dumps(describe_backbone(backbone) | {"held": held}))
    return 0


def app(backbone: str, *adapters: str) -> int:
    """Print what the engine answers about a backbone and adapters for it, or its error as a sentence."""
    engine, setup = Engine(), Setup(backbone)

    def told(call: Callable[[], object]) -> object:
        try:
            return call()
        except LynxError as error:
            return f"error: {error}"

    calls = {
        "forecast": lambda: engine.models.forecast(setup),
        "offers": lambda: [vars(option) for option in engine.models.options(backbone, adapters)],
        "senses": lambda: [sense.name for sense in engine.models.senses(Setup(backbone, adapters=adapters))],
        "loaded": lambda: engine.models.forecast(setup),
    }
    print(json.dumps({name: told(call) for name, call in calls.items()}))
    return 0


def run(words: list[str]) -> dict[str, object]:
    """Exit code and output of one command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            more = {"load": load, "app": app}.get(words[0])
            code = more(*words[1:]) if more else main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception:  # a bug: the test shall see it, and the next one shall not suffer
            code = -1
            traceback.print_exc()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    answers = sys.stdout
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        if asked["token"]:
            os.environ["HF_TOKEN"] = asked["token"]
        print(json.dumps(run(asked["words"])), file=answers, flush=True)
