"""A process that runs command lines of `lynx`, one after the other, under its own environment.

huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported, so whoever talks to another
Hub than the tests' own process is another process; one for many commands, since torch takes seconds.
Reads lines of JSON {"words": [...], "token": str | null}, answers {"code", "out", "err"}.
"""

import contextlib
import io
import json
import os
import sys
import traceback

import torch

from lynx.cli import main


def run(words: list[str]) -> dict[str, object]:
    """Exit code and output of one command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
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
