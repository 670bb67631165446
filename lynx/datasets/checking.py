"""Before the first step: every recording of a data set is opened once, so that what is damaged is known.

A run of hours should not end at its last clip because the head of a file was copied and not the rest. Each
sense opens its own recordings in its own way (`Modality.duration`), many at once, since FFmpeg works without
Python's lock. Media in memory, and those that render on access, are not looked at.
"""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from lynx import modalities
from lynx.config import short_repr
from lynx.datasets.base import Example
from lynx.datasets.jsonl import paths_of
from lynx.errors import DataError, LynxError
from lynx.types import MediaSource

logger = logging.getLogger(__name__)

SHOWN = 10
"""Maximum recordings that a message names."""
LOG_EVERY = 10.0
"""Seconds between two lines of the log, where there is no bar."""


@dataclass(frozen=True)
class Damage:
    """A recording that cannot be used, and the first example that has it."""

    files: tuple[str, ...]
    example: str
    problem: str

    def __str__(self) -> str:
        return f"{' and '.join(self.files)} (example {self.example}): {self.problem}"


@dataclass(frozen=True)
class Tolerance:
    """How many recordings may be left out: a number of them, or a share of all."""

    most: float = 0.0
    share: bool = False

    @classmethod
    def of(cls, text: str) -> "Tolerance":
        """From "1%", "0.01" or "8", which is a number of recordings. Raises: DataError."""
        percent = text.strip().endswith("%")
        digits = text.strip().removesuffix("%")
        try:
            number = float(digits) / (100 if percent else 1)
        except ValueError:
            number = -1.0
        share = percent or "." in digits
        if not (0 <= number <= 1 if share else number >= 0 and number.is_integer()):
            expected = "a share (1%, 0.01) or a number of recordings (8)"
            raise DataError(f"{short_repr(text)} is not {expected}")
        return cls(number, share)

    def allows(self, damaged: int, of: int) -> bool:
        """Whether so many of so many recordings may be left out."""
        return damaged <= self.most * (of if self.share else 1)

    def __str__(self) -> str:
        return f"{self.most:.3g} of them" if not self.share else f"{100 * self.most:.3g} %"


def usable(
    examples: Sequence[Example],
    senses: Sequence[str] | None = None,
    tolerance: Tolerance | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> Sequence[Example]:
    """The examples whose recordings can be read, where no more are damaged than `tolerance` allows: none.

    senses: those of their media that will be used; None: all. folder: where the list of what is damaged goes,
    as `damaged.json`, or `skipped.json` if the rest is returned.
    Raises: DataError: too much is damaged; it says what.
    """
    if not isinstance(examples, list):  # made when they are asked for, such as the world's
        return examples
    damaged, recordings = find_damaged(examples, senses, progress)
    if not damaged:
        return examples
    tolerance = tolerance or Tolerance()
    told = f"{len(damaged)} of {recordings} recordings cannot be used"
    allowed = tolerance.allows(len(damaged), recordings)
    listed = "; ".join(map(str, list(damaged.values())[:SHOWN]))
    listed += f"; and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
    if folder is not None:
        listed += _write_list(folder / ("skipped.json" if allowed else "damaged.json"), damaged)
    if not allowed:
        raise DataError(
            f"{told}: {listed}. Repair or remove them, or go on without them with --skip-damaged "
            f"{_suggestion(len(damaged), recordings)} (allowed now: {tolerance})"
        )
    kept = [each for each in examples if damaged.keys().isdisjoint(_recordings(each, senses))]
    if not kept:
        raise DataError(f"{told}, and without them no example is left: {listed}")
    without = f"{len(examples) - len(kept)} of {len(examples)} examples are left out"
    logger.warning("%s, %s: %s", told, without, listed)
    return kept


Files = tuple[Path, ...]
"""What identifies a recording: the files and folders that it is read from."""


def find_damaged(
    examples: Sequence[Example], senses: Sequence[str] | None = None, progress: bool = True
) -> tuple[dict[Files, Damage], int]:
    """What is damaged among the recordings of `senses`, in the examples' order, and how many there are."""
    first: dict[Files, str] = {}  # the first example of each recording
    used: dict[Files, dict[str, MediaSource]] = {}  # as what: a clip is often seen and heard
    for example in examples:
        for files, media in _recordings(example, senses).items():
            first.setdefault(files, example.id)
            used[files] = media | used.get(files, {})
    problems: dict[Files, str] = {}
    bar = tqdm(total=len(used), desc="check", unit="file", disable=None if progress else True)
    last = time.monotonic()
    with bar, ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        waiting = {pool.submit(_problem, files, media): files for files, media in used.items()}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                bar.update()
                if problem := future.result():
                    problems[waiting[future]] = problem
                if bar.disable and progress and time.monotonic() - last > LOG_EVERY:
                    last = time.monotonic()
                    logger.info("checked %d of %d recordings", done, len(used))
        except BaseException:  # such as an interrupt: what has not begun is not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    damaged = {
        files: Damage(tuple(map(str, files)), first[files], problems[files])
        for files in first
        if files in problems
    }
    return damaged, len(first)


def _recordings(example: Example, senses: Sequence[str] | None) -> dict[Files, dict[str, MediaSource]]:
    """The media of an example that are files, by these files."""
    found: dict[Files, dict[str, MediaSource]] = {}
    if isinstance(example.media, dict):  # another mapping renders on access
        for sense, source in example.media.items():
            if (senses is None or sense in senses) and (files := tuple(paths_of(source))):
                found.setdefault(files, {})[sense] = source
    return found


def _problem(files: Files, media: Mapping[str, MediaSource]) -> str:
    """Why a recording cannot be these senses; "" where it can. A sense that is not here checks nothing."""
    if missing := [path for path in files if not path.exists()]:
        return f"{missing[0].name} does not exist"
    for sense, source in media.items():
        try:
            if modality := modalities.find(sense):
                modality().duration(source)
        except (LynxError, OSError) as error:
            return f"as {sense}: {str(error).rstrip('.')}"
    return ""


def _suggestion(damaged: int, recordings: int) -> str:
    """A value of --skip-damaged that would let these pass."""
    percent = 100 * damaged / recordings
    return f"{max(1, -(-damaged * 100 // recordings))}%" if percent <= 5 else str(damaged)


def _write_list(path: Path, damaged: Mapping[Files, Damage]) -> str:
    """Write all that is damaged as JSON; returns the end of a sentence that says where."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        listed = [asdict(each) for each in damaged.values()]
        path.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        return f" (the list cannot be written to {path}: {error.strerror})"
    return f" (all of them: {path})"
