"""Trackers of experiments, as accelerate knows them: every row of the log goes to one as well."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from lynx.errors import DataError
from lynx.training.options import NO_TRACKER

PROJECT = "lynx"
"""The project under which a tracker lists the runs."""
PACKAGES = {"comet_ml": "comet-ml"}
"""What is installed for a tracker, where that is not its name."""


def require_tracker(name: str) -> None:
    """Raises: DataError that says what to install, where a tracker's package is missing."""
    if name != NO_TRACKER and name not in map(str, get_available_trackers()):
        package = PACKAGES.get(name, name)
        raise DataError(f"log_with is {name!r}, and its package is not installed: pip install {package}")


class Tracked:
    """A run in the tracker that the accelerator was made with; without one nothing happens.

    settings: of the run; the tracker gets those that are a number or a text.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, settings: Mapping[str, Any]) -> None:
        self.accelerator = accelerator
        self.on = bool(accelerator.log_with)
        if self.on:
            plain = {key: value for key, value in settings.items() if isinstance(value, int | float | str)}
            accelerator.init_trackers(PROJECT, config={**plain, "folder": str(folder)})

    def log(self, row: Mapping[str, float]) -> None:
        """A row of the log, under its step counted from 1."""
        if self.on:
            values = {name: value for name, value in row.items() if name != "step"}
            self.accelerator.log(values, step=int(row["step"]) + 1)

    def finish(self) -> None:
        """The run has ended. Not `end_training`, which would end the group of processes as well."""
        for tracker in self.accelerator.trackers if self.on else ():
            tracker.finish()
