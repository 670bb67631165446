"""The app under many visitors: whether answers stay right, what they wait for, and what memory they take.

    python -m benchmarks.hosting [--questions 1000] [--visitors 12] [--asked 60]

A server of its own process, and visitors that call it as the page does (`benchmarks.visitor`).

start: seconds until a page is ready, and to its first answer. sessions: `questions` over 8 conversations at
once, each with other adapters; wrong: an answer that differs from the one to the same question when nobody
else was there; lost: no answer; memory: of the server in MB, after the first and the last tenth of them.
visitors: so many at once, each of whom asks, computes what the answer rests on, and makes a film; told_none:
how many did not get all of it. beside: the 95th percentile of an answer's seconds, `asked` times, alone, and
while one visitor makes films without a pause and another uploads a zip of 200 depth maps every five seconds;
ratio: of the two.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks import ROOT, report
from benchmarks.visitor import Visitor

SETUPS = (
    (), ("audio",), ("depth",), ("audio", "depth"), ("high_fps",), ("multi_view",), ("sounds",),
    ("audio", "depth", "high_fps", "multi_view"),
)  # fmt: skip
"""Adapters of each conversation."""
QUESTIONS = (
    "How many shapes are there?",
    "What sound do you hear?",
    "What color is the nearest object?",
    "Which shape moves?",
    "What is hidden?",
)
"""Of a conversation, which then is cleared."""
MAPS, SIDE, PAUSE = 200, 240, 5.0
"""Depth maps in a zip, the pixels of their sides, and the seconds until the next zip is uploaded."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--visitors", type=int, default=12)
    parser.add_argument("--asked", type=int, default=60)
    parts = ("start", "sessions", "visitors", "beside")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="of these (default: all)")
    options = parser.parse_args()
    with served() as (url, memory, ready):
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "start": lambda: first_answer(url, ready),
            "sessions": lambda: many_sessions(url, options.questions, memory),
            "visitors": lambda: many_visitors(url, options.visitors),
            "beside": lambda: beside_others(url, options.asked),
        }
        figures = {name: measure() for name, measure in measures.items() if name in options.parts}
    report("hosting", **figures)


@contextmanager
def served() -> Iterator[tuple[str, Callable[[], float], float]]:
    """A server: its address, a function that gives its memory in MB, and the seconds it took to answer."""
    port = 7871
    command = [sys.executable, "-m", "lynx", "app", "--port", str(port)]
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        server = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=told, env=os.environ)
        try:
            url = f"http://127.0.0.1:{port}"
            visitor = _arrive(url, server)
            ready = time.perf_counter() - begin
            visitor.close()
            yield url, lambda: psutil.Process(server.pid).memory_info().rss / 2**20, ready
        finally:
            server.terminate()
            server.wait(60)


def _arrive(url: str, server: subprocess.Popen[bytes]) -> Visitor:
    import httpx

    while True:
        try:
            return Visitor(url)
        except httpx.TransportError:
            if server.poll() is not None:
                sys.exit("the app ended before it answered: is its port taken?")
            time.sleep(0.05)


def first_answer(url: str, ready: float) -> dict[str, float]:
    """The first visitor's seconds: until the page was ready, and to an answer about the first example."""
    visitor = Visitor(url)
    choose(visitor, 0)
    begin = time.perf_counter()
    ask(visitor, QUESTIONS[0])
    return {"ready_s": round(ready, 2), "first_answer_s": round(time.perf_counter() - begin, 2)}


def choose(visitor: Visitor, example: int) -> None:
    """Choose an example, as a click does."""
    visitor.fire("examples", "choose", {"index": example})


def ask(visitor: Visitor, question: str) -> str | None:
    """The answer as the page shows it; None where there is none."""
    before = len(visitor["chat"] or ())
    visitor.set("question", question)
    visitor.fire("question", "submit")
    said = visitor["chat"] or ()
    if len(said) != before + 2:
        return None
    (content, *_) = said[-1]["content"]
    found = re.match(r"<p>(.*?)</p>", content["text"] if isinstance(content, dict) else content)
    return found[1] if found else None


def conversation(visitor: Visitor) -> list[str | None]:
    """The answers to QUESTIONS, one after another; then it is cleared."""
    answers = [ask(visitor, question) for question in QUESTIONS]
    visitor.fire("clear", "click")
    return answers


def many_sessions(url: str, questions: int, memory: Callable[[], float]) -> dict[str, Any]:
    """Answers of conversations with different adapters at once, beside those when each was alone."""
    visitors = [Visitor(url) for _ in SETUPS]
    expected = []
    for number, (visitor, setup) in enumerate(zip(visitors, SETUPS, strict=True)):
        folder = Path(visitor["adapters"][0]).parent
        visitor.set("adapters", [str(folder / name) for name in setup])
        visitor.fire("load", "click")
        choose(visitor, number % 5)
        expected.append(conversation(visitor))
    rounds = max(1, questions // (len(SETUPS) * len(QUESTIONS)))
    kept: list[float] = []
    wrong = lost = 0
    begin = time.perf_counter()
    with ThreadPoolExecutor(len(visitors)) as pool:
        for _ in range(rounds):
            for answers, known in zip(pool.map(conversation, visitors), expected, strict=True):
                lost += answers.count(None)
                wrong += sum(a != b for a, b in zip(answers, known, strict=True) if a is not None)
            kept.append(memory())
    tenth = max(1, rounds // 10)
    first, last = kept[tenth - 1], kept[-1]
    return {
        "questions": rounds * len(SETUPS) * len(QUESTIONS), "setups": len(SETUPS),
        "wrong": wrong, "lost": lost, "told": [each for visitor in visitors for each in visitor.errors][:3],
        "memory_first_tenth_mb": round(first), "memory_last_tenth_mb": round(last),
        "memory_ratio": round(last / first, 4), "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip


def explained(url: str, example: int) -> str:
    """A visitor asks, lets evidence be computed and a film be made: what is missing of it, "" for nothing."""
    visitor = Visitor(url)
    choose(visitor, example)
    if ask(visitor, QUESTIONS[0]) is None:
        return f"no answer: {visitor['notice']} {visitor.errors}"
    visitor.fire("evidence-view", "compute", {"word": 0, "method": "attribution"})
    if '"attributions":[]' in str(visitor["evidence-view"]) or not visitor["evidence-view"]:
        return f"no evidence: {visitor['no-evidence']}"
    visitor.fire("make-film", "click")
    return "" if visitor["film"] else f"no film: {visitor['film-notes']}"


def many_visitors(url: str, count: int) -> dict[str, Any]:
    """How many of so many visitors at once are told that there is no answer."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        missing = [each for each in pool.map(lambda i: explained(url, i % 5), range(count)) if each]
    seconds = round(time.perf_counter() - begin, 1)
    return {"count": count, "told_none": len(missing), "told": missing[:3], "seconds": seconds}


def beside_others(url: str, asked: int) -> dict[str, float]:
    """How long answers take alone, and beside films and zips."""
    visitor, filming, uploading = (Visitor(url) for _ in range(3))
    for each in (visitor, filming):
        choose(each, 0)
        ask(each, QUESTIONS[0])
    alone = answer_seconds(visitor, asked)
    done = threading.Event()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        zipped = zip_of_maps(Path(folder))

        def film() -> None:
            filming.fire("make-film", "click")

        def unpack() -> None:
            uploading.set("depth", [uploading.upload(zipped)])
            uploading.fire("depth", "upload")
            done.wait(PAUSE)

        work = [pool.submit(_until, done, each) for each in (film, unpack)]
        time.sleep(1)
        busy = answer_seconds(visitor, asked)
        done.set()
        films, zips = (each.result() for each in work)
    p95 = [quantiles(times, n=20)[-1] for times in (alone, busy)]
    return {
        "alone_p95_s": round(p95[0], 3), "busy_p95_s": round(p95[1], 3), "ratio": round(p95[1] / p95[0], 3),
        "films": films, "zips": zips,
    }  # fmt: skip


def _until(done: threading.Event, work: Callable[[], None]) -> int:
    count = 0
    while not done.is_set():
        work()
        count += 1
    return count


def answer_seconds(visitor: Visitor, count: int) -> Sequence[float]:
    """Seconds of each of so many answers, each the first of its conversation."""
    found = []
    for number in range(count):
        visitor.fire("clear", "click")
        begin = time.perf_counter()
        ask(visitor, QUESTIONS[number % len(QUESTIONS)])
        found.append(time.perf_counter() - begin)
    return found


def zip_of_maps(folder: Path) -> Path:
    """A zip of depth maps that hardly compress."""
    path, rng = folder / "maps.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as zipped:
        for number in range(MAPS):
            file = folder / f"{number}.png"
            Image.fromarray(rng.integers(500, 5000, (SIDE, SIDE), dtype=np.uint16)).save(file)
            zipped.write(file, file.name)
    return path


if __name__ == "__main__":
    main()
