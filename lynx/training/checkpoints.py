"""Checkpoints of a run: safetensors with metadata. The newest has one name, older ones are named by step.

A folder has one run at a time: a second one would mix its log with the first one's.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lynx.errors import DataError, writing
from lynx.training.processes import Processes

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
OLDER = "checkpoint-*.safetensors"
LOCK = ".lock"
"""The file that a run holds while it writes to its folder; of one that is killed the system lets go."""


@contextmanager
def one_run(folder: Path, processes: Processes) -> Iterator[None]:
    """Inside the `with` these processes alone write to the folder. Raises: DataError: another run does."""
    lock = FileLock(folder / LOCK)

    def take() -> None:
        with writing(folder, DataError):
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise DataError(
                    f"another run is writing to {folder}: wait until it has ended, or give another --out"
                ) from error
            except NotImplementedError:  # of a disk that has no locks
                logger.warning("%s cannot be locked: start no second run there meanwhile", folder)

    processes.once(take)
    try:
        yield
    finally:
        lock.release()


class Checkpoints:
    """Those in a folder; of `keep` of them the older ones stay beside the newest, also when the run ends."""

    def __init__(self, folder: Path, keep: int = 0) -> None:
        self.folder, self.keep = folder, keep
        self._step = 0  # of the newest one

    @property
    def newest(self) -> Path:
        """The file from which a killed run goes on; where somebody deleted it, the one before it."""
        path = self.folder / CHECKPOINT
        older = self._older()
        return older[-1] if older and not path.exists() else path

    def _older(self) -> list[Path]:
        return sorted(self.folder.glob(OLDER))

    def save(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any], step: int) -> None:
        """Write the checkpoint after so many steps; a process that is killed leaves this one or the last.

        about: JSON values.
        """
        path, partial = self.folder / CHECKPOINT, self.folder / "checkpoint.part"
        with writing(path, DataError, (SafetensorError,)):
            metadata = {name: json.dumps(value, sort_keys=True) for name, value in about.items()}
            stored = {name: tensor.cpu() for name, tensor in tensors.items()}
            save_file(stored, partial, {**metadata, "step": str(step)})
            if self.keep > 1 and path.exists():
                path.replace(self.folder / OLDER.replace("*", f"{self._step:07}"))
            partial.replace(path)
            older = self._older()
            for old in older[: len(older) - max(0, self.keep - 1)]:
                old.unlink()
        self._step = step

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of the newest one, and what was said about it, with its "step".

        Raises: DataError: it is damaged.
        """
        path = self.newest
        try:
            with safe_open(path, "pt") as file:
                about = {name: json.loads(value) for name, value in file.metadata().items()}
                self._step = int(about["step"])
                return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            before = f"delete it to go on from {self._older()[-1].name}, or " if self._older() else ""
            raise DataError(f"{path} is damaged ({error}): {before}start anew with --no-resume") from error

    def clear(self) -> None:
        """Delete all of them."""
        for path in (self.folder / CHECKPOINT, *self._older()):
            path.unlink(missing_ok=True)
