"""What people see of a run: a bar or lines in words, a row a step in a file, and its curve."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lynx.adapters.format import CURVE
from lynx.errors import DataError, LynxError, writing
from lynx.training.trackers import Tracked
from lynx.visualization.curve import draw_curve

logger = logging.getLogger(__name__)

LOG = "log.jsonl"
LOG_EVERY, MEASURED = 20, 10
"""Steps between two lines in words, and those after which it is said how long the run will take."""
SHORTEST, REDRAWN = 10, 60
"""Steps of a run that has a curve, at least, and seconds between two drawings of it while it runs."""


class RunLog:
    """The rows of a run of `steps` steps that goes on after `start` of them, whose rows are read.

    writes: whether this is the process that does. progress: whether it is said how far it is. tracked: gets
    every row, too.
    """

    def __init__(
        self, folder: Path, start: int, steps: int, tracked: Tracked, *, writes: bool, progress: bool
    ) -> None:
        self.folder, self.start, self.steps, self.writes = folder, start, steps, writes
        self.path = folder / LOG
        lines = self.path.read_text(encoding="utf-8").splitlines() if start and self.path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines[:start]]
        silent = None if progress and writes else True
        self.bar = tqdm(range(start, steps), folder.name, initial=start, total=steps, disable=silent)
        self.tracked = tracked
        self._in_words = progress and writes and self.bar.disable
        self._drawable = writes
        self._begin = self._drawn = time.perf_counter()
        self._file: Any = None

    @contextmanager
    def open(self) -> Iterator["RunLog"]:
        """Inside the `with` rows are added."""
        if self.writes:  # what an interrupted run wrote after its checkpoint is cut off
            with writing(self.path, DataError):
                partial = self.path.with_suffix(".part")
                partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
                partial.replace(self.path)
        try:
            with self.path.open("a", encoding="utf-8") as self._file:
                yield self
        finally:
            self.bar.close()
            self.tracked.finish()

    def add(self, row: dict[str, Any]) -> None:
        """A step's row, with the seconds since the run began or went on."""
        row["seconds"] = round(time.perf_counter() - self._begin, 3)
        self.rows.append(row)
        self.bar.set_postfix(loss=f"{row['loss']:.4f}")
        if self._in_words:
            self._tell(row)
        if self.writes:
            with writing(self.path, DataError):
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
        self.tracked.log(row)
        if time.perf_counter() - self._drawn > REDRAWN:
            self._drawn = time.perf_counter()
            self.draw()

    def _tell(self, row: Mapping[str, float]) -> None:
        """Log a step, where there is no terminal for a bar."""
        step = int(row["step"]) + 1
        done, to_do = step - self.start, self.steps - step
        left = timedelta(seconds=round(row["seconds"] / done * to_do))
        if done == MEASURED and to_do:
            logger.info("%d steps took %.1f s: the other %d take about %s", done, row["seconds"], to_do, left)
        if step % LOG_EVERY == 0 or not to_do:
            logger.info("step %d of %d: loss %.4f, about %s left", step, self.steps, row["loss"], left)
        if "val_loss" in row:
            logger.info("step %d of %d: held-out loss %.4f", step, self.steps, row["val_loss"])

    def draw(self, best: int | None = None) -> None:
        """Write the curve of the run so far, where it can be drawn. best: row whose weights were kept."""
        if not self._drawable or len(self.rows) < SHORTEST:
            return
        path = self.folder / CURVE
        try:
            title = f"{self.folder.name}: {len(self.rows):,} of {self.steps:,} steps"
            picture = draw_curve(self.rows, title, best)
        except LynxError as error:  # without matplotlib
            self._drawable = False
            logger.info("no %s: %s", CURVE, error)
            return
        with writing(path, DataError):
            picture.save(partial := path.with_suffix(".part"), "png", optimize=True)
            partial.replace(path)
