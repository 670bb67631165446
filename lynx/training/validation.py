"""What held-out clips say of a run, every few steps: which weights to keep, and when to end.

All of it follows from the rows of the run's log, so a run that goes on decides as an uninterrupted one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lynx.training.options import Validation
from lynx.training.processes import Processes

PREFIX = "val_"
"""Before the names of what is measured, in the log."""
LOSS = PREFIX + "loss"
MEASURED = ("loss", "accuracy", "replay_accuracy")

Measure = Callable[[tuple[int, int]], Tensor]
"""(i, k) -> (3, 2) float64: of every k-th part from the i-th on, the sum and the number of MEASURED."""
Row = Mapping[str, float]


class HeldOut:
    """The held-out clips of a run. of: JSON values that identify them."""

    def __init__(self, measure: Measure, config: Validation, of: Mapping[str, Any]) -> None:
        self.measure, self.config = measure, config
        self.identity = {**of, "val_every": config.val_every, "keep_best": config.keep_best,
                         "patience": config.patience}  # fmt: skip

    def due(self, step: int, steps: int) -> bool:
        """Whether it is measured after step 0..steps-1; after the last one it always is."""
        return (step + 1) % self.config.val_every == 0 or step + 1 == steps

    def row(self, processes: Processes) -> dict[str, float]:
        """Loss and accuracies now, named as in the log; the same in all processes, which share the work."""
        sums = processes.sum(self.measure((processes.index, processes.count)))  # (3, 2)
        pairs = zip(MEASURED, sums.tolist(), strict=True)
        return {PREFIX + name: total / count for name, (total, count) in pairs if count}

    def best(self, rows: Sequence[Row]) -> int | None:
        """The place of the row with the least loss, of equal ones the first; None where none is measured."""
        places = [place for place, row in enumerate(rows) if LOSS in row]
        return min(places, key=lambda place: rows[place][LOSS], default=None)

    def exhausted(self, rows: Sequence[Row]) -> bool:
        """Whether the loss has not fallen for `patience` measurements."""
        best = self.best(rows)
        since = sum(LOSS in row for row in rows[best + 1 :]) if best is not None else 0
        return 0 < self.config.patience <= since

    def report(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What was measured of the weights that the run ends with, and after how many steps."""
        last = max((place for place, row in enumerate(rows) if LOSS in row), default=None)
        place = self.best(rows) if self.config.keep_best else last
        if place is None:
            return {}
        found = {name.removeprefix(PREFIX): x for name, x in rows[place].items() if name.startswith(PREFIX)}
        return {"step": place + 1, **found, **self.config.to_dict()}
