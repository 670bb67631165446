"""The answers of a run on disk: `predictions.jsonl`, one a line, beside `run.json`, which says of what run.

A killed run is gone on with where its settings are the same; what had failed is tried again. Scores are made
from the file alone. Of several processes each answers its share: the first writes that file, the others write
`predictions-1.jsonl`, ..., until all are put together; a run may go on with another number of them.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lynx.config import short_repr
from lynx.datasets.annotations import Row, json_lines, read_json
from lynx.errors import DataError, writing
from lynx.evaluation.scorers import Answered
from lynx.training.processes import Processes

PARTS = "predictions-*.jsonl"
PREDICTIONS, RUN, SCORES = "predictions.jsonl", "run.json", "scores.json"
OFFICIAL = "official.json"


@dataclass(frozen=True)
class Prediction:
    """An answered question, under one condition, with what was shown and asked."""

    answered: Answered
    prompt: str
    condition: str = ""
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  # senses that the clip turned out not to have

    @property
    def key(self) -> tuple[str, str]:
        """What it is found by: the question and the condition."""
        return self.answered.id, self.condition

    def saying(self, text: str) -> "Prediction":
        """It, with what the model said."""
        return replace(self, answered=replace(self.answered, prediction=text))

    def failing(self, error: str) -> "Prediction":
        """It, with why nothing was said."""
        return replace(self, answered=replace(self.answered, error=error))

    @property
    def line(self) -> str:
        """A line of the file."""
        own = {name: value for name, value in asdict(self).items() if name != "answered"}
        values = asdict(self.answered) | own | {"groups": dict(self.answered.groups)}
        return json.dumps(values) + "\n"

    @classmethod
    def of(cls, row: Row) -> "Prediction":
        """From a line of the file. Raises: DataError: a field is missing or of another kind."""
        values = row.values
        for key in ("prediction", "clip", "prompt", "condition", "type", "metric", "error"):
            if not isinstance(values.get(key), str):
                raise row.error(key, "a text")
        groups = values.get("groups")
        if not isinstance(groups, dict):
            raise row.error("groups", "an object")
        options = tuple(row.texts("options")) if values.get("options") else ()
        answered = Answered(
            row.name("id"),
            values["prediction"],
            row.texts("answers"),
            options,
            values["type"],
            tuple((str(name), str(value)) for name, value in groups.items()),
            values["metric"],
            values["error"],
            values["clip"],
            str(values.get("tuned_on", "")),
        )
        lists = (tuple(map(str, values.get(key, ()))) for key in ("notes", "left_out"))
        return cls(answered, values["prompt"], values["condition"], *lists)


def read_predictions(file: Path) -> list[Prediction]:
    """The predictions of a file. Raises: DataError: it cannot be read, or has two of one question."""
    if not file.is_file():
        raise DataError(f"there is no file {file}; give the {PREDICTIONS} of a run")
    found = [Prediction.of(row) for row in json_lines(file)]
    if not found:
        raise DataError(f"{file} holds no predictions")
    keys: set[tuple[str, str]] = set()
    for each in found:
        if each.key in keys:
            raise DataError(f"{file} has two predictions of question {each.answered.id!r}")
        keys.add(each.key)
    return found


def refuse_fewer(predictions: Sequence[Prediction], run: Path) -> None:
    """Raise DataError where a run, described in a file, has more rows than there are predictions.

    Where there is no such file the predictions are taken as all.
    """
    if not run.is_file():
        return
    expected = read_json(run).get("rows", 0)
    if len(predictions) < expected:
        raise DataError(
            f"there are {len(predictions)} predictions of {expected}, and every row counts: go on with the "
            "run (--resume), then score it"
        )


class PredictionFile:
    """The predictions of a run, written as they come.

    folder: None keeps them in memory alone. settings: what the answers depend on. processes: those that
    answer together; each adds its share, and all know all after `exchange`.
    Raises: DataError: the folder holds those of another run, or of this one and `resume` is not asked for.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: Mapping[str, Any],
        resume: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.folder, self.processes = folder, processes or Processes()
        self.done: dict[tuple[str, str], Prediction] = {}
        self._added: list[Prediction] = []
        if folder is not None:
            place = self.processes.index
            self._file = folder / (PARTS.replace("*", str(place)) if place else PREDICTIONS)
            self.done = self.processes.once(lambda: self._begin(folder, settings, resume))

    @staticmethod
    def _begin(
        folder: Path, settings: Mapping[str, Any], resume: bool
    ) -> dict[tuple[str, str], Prediction]:
        """Make the folder ready; returns the predictions that it has, however many processes made them."""
        with writing(folder, DataError):
            folder.mkdir(parents=True, exist_ok=True)
        file, given = folder / PREDICTIONS, json.loads(json.dumps(settings))
        parts = sorted(folder.glob(PARTS))
        if there := [each for each in (file, *parts) if each.exists()]:
            if not resume:
                raise DataError(f"{there[0]} exists: go on with --resume, or give another --out")
            run = read_json(folder / RUN)
            if other := [key for key in given if not isinstance(run, dict) or run.get(key) != given[key]]:
                was = run.get(other[0]) if isinstance(run, dict) else None
                now = short_repr(given[other[0]])
                raise DataError(
                    f"{folder} holds a run with {other[0]} {short_repr(was)}, not {now}: give another --out"
                )
            for each in there:
                _cut_torn_line(each)
            before = [row for each in there if each.stat().st_size for row in read_predictions(each)]
            done = {each.key: each for each in before if not each.answered.error}
            _write(file, "".join(each.line for each in done.values()))
            _remove(parts)
            return done
        _write(folder / RUN, json.dumps(given, indent=1) + "\n")
        return {}

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Keep predictions, on disk at once."""
        new = list(predictions)
        self.done |= {each.key: each for each in new}
        self._added += new
        if self.folder is not None:
            with writing(self._file, DataError), self._file.open("a", encoding="utf-8") as lines:
                lines.writelines(each.line for each in new)

    def exchange(self) -> None:
        """Tell the other processes what was added here, and learn what was there."""
        for added in self.processes.gather(self._added):
            self.done |= {each.key: each for each in added}
        self._added = []

    def finish(
        self, keys: Sequence[tuple[str, str]], scores: Mapping[str, Any], official: Any = None
    ) -> None:
        """Put the predictions in the order of their questions, and the scores beside them.

        official: what the authors' own scorer reads; None where there is no such file.
        """
        if (folder := self.folder) is None:
            return

        def write() -> None:
            _write(folder / PREDICTIONS, "".join(self.done[key].line for key in keys))
            _write(folder / SCORES, json.dumps(scores, indent=1) + "\n")
            if official is not None:
                _write(folder / OFFICIAL, json.dumps(official, indent=1) + "\n")
            _remove(folder.glob(PARTS))

        self.processes.once(write)


def _cut_torn_line(file: Path) -> None:
    """Remove the last line where a killed run has not written all of it."""
    content = file.read_bytes()
    if content and not content.endswith(b"\n"):
        with writing(file, DataError):
            os.truncate(file, content.rfind(b"\n") + 1)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        with writing(file, DataError):
            file.unlink()


def _write(file: Path, text: str) -> None:
    """Write a file aside, then move it into place."""
    half = file.with_name(f".{file.name}.half")
    with writing(file, DataError):
        try:
            half.write_text(text, encoding="utf-8")
            os.replace(half, file)
        finally:
            with suppress(OSError):
                half.unlink()
