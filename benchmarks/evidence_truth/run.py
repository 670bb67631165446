"""Runs tasks, in this process or in several, and keeps a line of JSON for each answer.

A file is a task; a run that was stopped goes on behind its last whole line.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.evidence_truth.maps import COSTLY, all_maps
from benchmarks.evidence_truth.measures import curves, mass, needed_nats, on_cells, pointing
from benchmarks.evidence_truth.questions import Case, Task, ask_task, load
from benchmarks.evidence_truth.sanity import agreement, follow
from lynx.evidence.methods import ATTENTION, ATTRIBUTION
from lynx.model import Lynx
from lynx.types import VIDEO
from lynx.world.places import Places
from lynx.world.scene.scene import Item

CURVES = (ATTRIBUTION, ATTENTION, "gradient_x_attention", "hiding")
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured. costly, curves, checks: of how many answers of each type these are measured."""

    methods: tuple[str, ...]
    costly: int
    curves: int
    checks: int


def run_all(work: Sequence[Task], plan: Plan, folder: Path, workers: int) -> dict[Task, list[Row]]:
    """The rows of all tasks, with a bar on stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(task.count for task in work)
    order = sorted(work, key=lambda task: -task.count)
    with tqdm(total=total, unit="answer", smoothing=0) as bar:
        if workers == 1:
            for task in order:
                bar.set_description(task.name)
                for _ in _each(task, plan, folder):
                    _show(bar, work, folder)
        else:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                _watch(pool, order, plan, folder, bar)
        _show(bar, work, folder)
    return {task: read_rows(folder / f"{task.name}.jsonl") for task in work}


def _watch(pool: Executor, work: Sequence[Task], plan: Plan, folder: Path, bar: "tqdm[Any]") -> None:
    running: set[Future[None]] = {pool.submit(run_task, task, plan, folder) for task in work}
    while running:
        done, running = wait(running, timeout=2)
        for each in done:
            each.result()
        _show(bar, work, folder)


def _show(bar: "tqdm[Any]", work: Sequence[Task], folder: Path) -> None:
    bar.n = sum(sum(row["right"] for row in read_rows(folder / f"{task.name}.jsonl")) for task in work)
    bar.refresh()


def run_task(task: Task, plan: Plan, folder: Path) -> None:
    """Measure a task to its end."""
    for _ in _each(task, plan, folder):
        pass


def _each(task: Task, plan: Plan, folder: Path) -> Iterator[Row]:
    path = folder / f"{task.name}.jsonl"
    rows = read_rows(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))  # without a line that was cut off
    right = sum(row["right"] for row in rows)
    if right >= task.count:
        return
    model = load()
    for case in ask_task(model, task, rows):
        row = measure(model, case, plan, right)
        right += case.right
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        yield row


def read_rows(path: Path) -> list[Row]:
    """All whole lines of a task's file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def measure(model: Lynx, case: Case, plan: Plan, number: int) -> Row:
    """The row of an answer; number: how many right ones of its type came before."""
    row: Row = {
        "index": case.index, "question": case.asked.turn.question, "expected": case.asked.turn.answer,
        "answer": case.answer, "right": case.right,
    }
    if not case.right:
        return row
    evidence, truth, start = case.evidence, case.truth, time.process_time()
    methods = [name for name in plan.methods if number < plan.costly or name not in COSTLY]
    maps = all_maps(evidence, methods, truth)
    row["chance"] = {sense: float(mask.mean()) for sense, mask in truth.items()}
    row["maps"] = {name: _scores(case, values, truth) for name, values in maps.items()}
    if loose := _loose_truths(case):
        shown = {name: maps[name] for name in (ATTENTION, ATTRIBUTION) if name in maps}
        row["loose"] = {
            how: {"chance": {sense: float(mask.mean()) for sense, mask in other.items()},
                  "maps": {name: _scores(case, values, other) for name, values in shown.items()}}
            for how, other in loose.items()
        }
    if ATTRIBUTION in maps:
        found = evidence.attribution(None, ATTRIBUTION)
        row |= {"totals": dict(found.totals), "gained": found.gained, "missed": found.missed}
        row["needed"] = needed_nats(found.totals, case.needed)
        if number < plan.checks:
            row["agreement"] = agreement(model, evidence, list(truth))
            row["followed"] = follow(model, case)
    if number < plan.curves and evidence.answered is not None:
        with evidence.answered.replay() as replay:
            steps = list(evidence.steps)
            row["curves"] = {name: curves(replay, steps, maps[name]) for name in CURVES if name in maps}
    row["seconds"] = round(time.process_time() - start, 3)
    return row


def _scores(case: Case, maps: dict[str, torch.Tensor], truth: Places) -> dict[str, list[float]]:
    """By sense: pointing and mass."""
    found = {}
    for sense, mask in truth.items():
        cells = on_cells(maps[sense], case.evidence.streams[sense])
        found[sense] = [pointing(cells, mask), round(mass(cells, mask), 5)]
    return found


def _loose_truths(case: Case) -> dict[str, Places]:
    """What else may be called true where the truth is a part of the time: the shape at other moments."""
    clip, item = case.clip, case.asked.slots.get("item")
    if "high_fps" in case.truth:
        return {how: {"high_fps": clip.flashes(how)} for how in ("moment", "always")}
    if VIDEO in case.truth and isinstance(item, Item) and case.asked.turn.type in (
        "where", "where_at_sound", "sound_while_side", "sound_at_side",
    ):
        shown = clip.shapes(VIDEO, lambda other: other is item)
        return {"always": case.truth | {VIDEO: shown}}
    return {}
