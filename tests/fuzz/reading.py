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
UPLOADED = ("png", "tif", "exr", "pfm", "pgm", "zip", "npy", "npz")
UPLOADED += ("ply", "obj", "glb", "gltf", "stl", "off", "pcd")
CONTAINED = ("crashed the reader", "LYNX_MAX_READING_SECONDS", "LYNX_MAX_WORKER_BYTES")
"""Words of refusals of a file that ended the process of its reader."""


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
    """Bytes that this process and its workers hold, and the most that each held since the last call."""
    task = f"/proc/self/task/{os.getpid()}/children"
    held = most = 0
    for process in ("self", *Path(task).read_text(encoding="ascii").split()):
        try:
            lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
            Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")
        except OSError:  # a worker that ended
            continue
        rows = [line.split() for line in lines if line.startswith(("VmRSS:", "VmHWM:"))]
        found = {name: int(value) * 1024 for name, value, _ in rows}
        held, most = held + found.get("VmRSS:", 0), most + found.get("VmHWM:", 0)
    return held, most


def outcome(path: Path, kind: str) -> dict[str, Any]:
    """What became of a file: answered, refused or another error, seconds, and bytes at its peak."""
    start = time.perf_counter()
    memory()
    result: dict[str, Any] = {"outcome": "answered"}
    try:
        read(path, kind)
    except LynxError as error:
        said = str(error)
        result = {"outcome": "refused", "message": said, "contained": any(word in said for word in CONTAINED)}
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
