"""The command: makes seeds, mutates them, has a child process read them, and reports what became of them.

File number i of a seed is the same in every run, so that an interrupted run goes on where it stopped
(`--resume`), and a failure is made again by its number (`--only`).
"""

import argparse
import json
import random
import selectors
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import MAKERS, ROOT, make_seeds

HANG = 10.0
"""Seconds after which a file counts as a hang."""
READER = "tests.fuzz.reading"
"""The module that reads, in a process of its own."""
SAVE_EVERY = 25
ADAPTER_FILES = (
    *("lynx_config.json", "lynx_config.json", "README.md"),
    *("vision/adapter_config.json", "llm/adapter_config.json", "vision/adapter_model.safetensors"),
)
COUNTED = {"answered": "answered", "refused": "refused"}
COUNTED |= {"error": "errors", "hang": "hangs", "crash": "crashes"}


@dataclass
class Report:
    """Counts so far, and the failures with the names of the files that show them."""

    seed: int
    kinds: list[str]
    next: int = 0
    answered: int = 0
    refused: int = 0
    errors: int = 0
    hangs: int = 0
    crashes: int = 0
    contained: int = 0  # of the refused: those that ended a worker
    peak_mb: float = 0.0  # above the start
    peak_of: str = ""
    slowest_s: float = 0.0
    slowest_of: str = ""
    seconds: float = 0.0
    seeds_read: int = 0
    seeds_unread: list[str] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def for_people(self) -> dict[str, Any]:
        """The report, with failures of one kind counted once."""
        said = ("kind", "outcome", "where", "message")
        alike = Counter(tuple(failure.get(key, "")[:100] for key in said) for failure in self.failures)
        shown = [dict(zip(said, key, strict=True)) | {"times": n} for key, n in alike.most_common()]
        for row in shown:
            row["file"] = next(f["file"] for f in self.failures if f["message"][:100] == row["message"])
        return asdict(self) | {"failures": shown}


class Reader:
    """The child process that reads, started anew after a crash or a hang."""

    def __init__(self, module: str = READER, hang: float = HANG) -> None:
        self.module, self.hang = module, hang
        self.process: subprocess.Popen[str] | None = None
        self.base = 0  # bytes before the first file

    def read(self, path: Path, kind: str) -> dict[str, Any]:
        """What became of a file."""
        if self.process is None:
            command = [sys.executable, "-m", self.module]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
            started = self._answer(300.0)
            if "start" not in started:
                raise SystemExit(f"the reader does not start: {started}")
            self.base = started["start"]
        assert self.process.stdin is not None
        print(json.dumps({"path": str(path), "kind": kind}), file=self.process.stdin, flush=True)
        return self._answer(self.hang)

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = selector.select(seconds)
        if ready and (line := self.process.stdout.readline()):
            return json.loads(line)
        if ready:
            self.process.wait()
        code = self.process.returncode
        self.end()
        if ready:
            return {"outcome": "crash", "message": f"ended with {code}", "seconds": 0.0, "peak": 0}
        return {"outcome": "hang", "message": f"over {seconds:g} s", "seconds": seconds, "peak": 0}

    def end(self) -> None:
        """Stop the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


class Fuzz:
    """A run: the valid files of each kind, and file number i made of them."""

    def __init__(self, out: Path, seed: int, kinds: list[str]) -> None:
        self.out, self.seed, self.kinds = out, seed, kinds
        self.seeds = make_seeds(out / "seeds", kinds)

    def make(self, number: int) -> tuple[Path, str, str]:
        """File `number`: its path, its kind, and the name that a failure of it is kept by."""
        rng = random.Random(f"{self.seed}:{number}")
        kind = self.kinds[number % len(self.kinds)]
        source = rng.choice(self.seeds[kind])
        work = self.out / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source.parent, work)
        path = work / source.name
        inner = Path(rng.choice(ADAPTER_FILES)) if kind == "adapter" else Path()
        others = [(other / inner).read_bytes() for other in self.seeds[kind]]
        target = path / inner
        target.write_bytes(mutate(target.read_bytes(), others, rng))
        return path, kind, f"{self.seed}-{number:06d}.{kind}"

    def keep(self, path: Path, name: str) -> None:
        """Copy a file, or an adapter's folder, to failures/."""
        place = self.out / "failures" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, place)


def run(
    out: Path,
    n: int,
    seed: int,
    kinds: list[str],
    *,
    resume: bool = False,
    bar: bool = True,
    by: str = READER,
) -> Report:
    """Read `n` mutated files and every seed; the state lies in `out`, and with `resume` the run goes on."""
    state = out / "state.json"
    report = Report(seed, kinds)
    if resume and state.is_file():
        report = Report(**json.loads(state.read_text()))
        if (report.seed, report.kinds) != (seed, kinds):
            raise SystemExit(f"{state} is of --seed {report.seed} --kinds {','.join(report.kinds)}")
    out.mkdir(parents=True, exist_ok=True)
    fuzz, reader = Fuzz(out, seed, kinds), Reader(by)
    started = time.monotonic() - report.seconds
    try:
        if not report.next:
            for kind, paths in fuzz.seeds.items():
                for path in paths:
                    found = reader.read(path, kind)
                    report.seeds_read += found["outcome"] == "answered"
                    if found["outcome"] != "answered":
                        said = f"{found['outcome']}: {found['message']}"
                        report.seeds_unread.append(f"{path.parent.name}: {said}")
        for number in tqdm(range(report.next, n), initial=report.next, total=n, disable=not bar, unit="file"):
            path, kind, name = fuzz.make(number)
            _count(report, fuzz, name, kind, path, reader.read(path, kind), reader.base)
            report.next, report.seconds = number + 1, time.monotonic() - started
            if (number + 1) % SAVE_EVERY == 0 or number + 1 == n:
                partial = state.with_suffix(".part")
                partial.write_text(json.dumps(asdict(report)))
                partial.replace(state)
    finally:
        reader.end()
    return report


def _count(
    report: Report, fuzz: Fuzz, name: str, kind: str, path: Path, found: dict[str, Any], base: int
) -> None:
    counter = COUNTED[found["outcome"]]
    setattr(report, counter, getattr(report, counter) + 1)
    if found.get("contained"):
        report.contained += 1
        fuzz.keep(path, name)
    if (above := (found["peak"] - base) / 2**20) > report.peak_mb:
        report.peak_mb, report.peak_of = round(above, 1), name
        if above > 500:
            fuzz.keep(path, name)
    if found["seconds"] > report.slowest_s:
        report.slowest_s, report.slowest_of = round(found["seconds"], 2), name
        if found["seconds"] > HANG / 2:
            fuzz.keep(path, name)
    if found["outcome"] in ("error", "hang", "crash"):
        fuzz.keep(path, name)
        kept = {key: found[key] for key in ("outcome", "message", "where") if key in found}
        report.failures.append(kept | {"kind": kind, "file": name})


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--n", type=int, default=3000, help="mutated files (default: 3000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(MAKERS), help=f"of {','.join(MAKERS)} (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="where seeds, state and failures are kept")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--only", type=int, help="make and read the file of this number alone")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - set(MAKERS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(MAKERS)}")
    if options.only is not None:
        path, kind, name = Fuzz(options.out, options.seed, kinds).make(options.only)
        reader = Reader()
        print(json.dumps({"file": name, "path": str(path)} | reader.read(path, kind), indent=2))
        reader.end()
        return
    bar = sys.stderr.isatty()
    report = run(options.out, options.n, options.seed, kinds, resume=options.resume, bar=bar)
    print(json.dumps(report.for_people(), indent=2))


if __name__ == "__main__":
    main()
