"""The process that reads: one path a line on its input, what became of it as a JSON line on its output.

A file is read as a chat reads it, with no model: probed, its moments shown and heard, its depth measured and
drawn, an upload put together, an adapter inspected, a data set listed.
"""

import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from lynx import modalities
from lynx.adapters.format import inspect_adapter
from lynx.datasets.base import Wanted
from lynx.datasets.jsonl import open_jsonl
from lynx.errors import LynxError
from lynx.media.container import probe
from lynx.types import sample_times
from lynx.ui.uploads import Uploads

MOMENTS = 4
MAX_BYTES = 6 * 2**30  # of addresses above the start: a file that needs more ends here, not on the machine
UPLOADED = ("png", "zip", "npy", "npz", "ply", "obj", "glb", "gltf", "stl", "off")


def read(path: Path, kind: str) -> None:
    """Read a file of that kind. Raises what the readers raise."""
    if kind == "adapter":
        inspect_adapter(path)
    elif kind == "jsonl":
        open_jsonl("fuzz", path, Wanted())
    elif kind in UPLOADED:
        uploads = Uploads()  # its folder goes with it
        found = uploads.depth([str(path)])
        assert found is not None
        depth = modalities.get("depth")()
        depth.render(Path(found), sample_times(depth.duration(Path(found)), MOMENTS))
    else:
        info = probe(path)
        times = sample_times(info.duration, MOMENTS)
        if info.video is not None:
            modalities.get("video")().render(path, times)
        if info.audio:
            modalities.get("audio")().render(path, times)


def memory() -> tuple[int, int]:
    """Bytes this process holds, and the most it held since the last call."""
    found = {}
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(("VmRSS", "VmHWM")):
                name, value, _ = line.split()
                found[name] = int(value) * 1024
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return found["VmRSS:"], found["VmHWM:"]


def outcome(path: Path, kind: str) -> dict[str, Any]:
    """What became of a file: answered, refused or another error, seconds, and bytes at its peak."""
    start = time.perf_counter()
    memory()
    result: dict[str, Any] = {"outcome": "answered"}
    try:
        read(path, kind)
    except LynxError as error:
        result = {"outcome": "refused", "message": str(error)}
    except Exception as error:  # what this command is there to find
        place = traceback.extract_tb(error.__traceback__)
        inside = [line for line in place if f"{os.sep}lynx{os.sep}" in line.filename] or list(place)
        where = f"{Path(inside[-1].filename).name}:{inside[-1].lineno} {inside[-1].name}"
        last = traceback.format_exception_only(error)[-1].strip()
        result = {"outcome": "error", "message": last[:300], "where": where}
    return result | {"seconds": time.perf_counter() - start, "peak": memory()[1]}


def main() -> None:
    """Read the files that are named on standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what readers print
    warnings.simplefilter("ignore")
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps({"start": memory()[0]}), file=answers)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(outcome(Path(job["path"]), job["kind"])), file=answers)


if __name__ == "__main__":
    main()
