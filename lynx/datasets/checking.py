"""Before the first step: every recording of a data set is opened once, so that what is damaged is known.

A run of hours should not end at its last clip because the head of a file was copied and not the rest. Each
sense opens its own recordings in its own way (`Modality.check`), many at once, since FFmpeg works without
Python's lock. Media in memory, and those that render on access, are not looked at.
"""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from lynx import modalities
from lynx.config import short_repr
from lynx.datasets.base import Example
from lynx.datasets.clips import leading
from lynx.datasets.jsonl import paths_of
from lynx.errors import DataError, LynxError, MediaError
from lynx.types import MediaSource

logger = logging.getLogger(__name__)

SHOWN = 10
"""Maximum recordings that a message names."""
LISTS = ("damaged.json", "skipped.json")
"""Names of the list of what is damaged: of a run that did not begin, and of one that goes on without it."""
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
    asks: bool = True,
    progress: bool = True,
) -> Sequence[Example]:
    """The examples whose recordings can be read, where no more are damaged than `tolerance` allows: none.

    senses: those of their media that will be used; None: all. folder: where the list of what is damaged goes,
    as `damaged.json`, or `skipped.json` if the rest is returned. asks: whether their questions are of use.
    Raises: DataError: too much is damaged; it says what.
    """
    if not isinstance(examples, list):  # made when they are asked for, such as the world's
        return examples
    check = find_damaged(examples, senses, progress)
    summary = summarize(examples, check)
    logger.info("%s", summary if asks else replace(summary, questions=0, elsewhere=0))
    damaged, recordings = check.damaged, check.recordings
    if folder is not None:
        for name in LISTS:  # of an earlier run
            with suppress(OSError):
                (folder / name).unlink()
    if not damaged:
        return examples
    tolerance = tolerance or Tolerance()
    count = len({each.files for each in damaged})  # one may lack several parts
    told = f"{count} of {recordings} recordings cannot be used"
    allowed = tolerance.allows(count, recordings)
    listed = "; ".join(map(str, damaged[:SHOWN]))
    listed += f"; and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
    if folder is not None:
        listed += _write_list(folder / LISTS[allowed], damaged)
    if not allowed:
        raise DataError(
            f"{told}: {listed}. Repair or remove them, or go on without them with --skip-damaged "
            f"{_suggestion(count, recordings)} (allowed now: {tolerance})"
        )
    kept = [each for place, each in enumerate(examples) if place not in check.examples]
    if not kept:
        raise DataError(f"{told}, and without them no example is left: {listed}")
    without = f"{len(examples) - len(kept)} of {len(examples)} examples are left out"
    logger.warning("%s, %s: %s", told, without, listed)
    return kept


Files = tuple[Path, ...]
"""What identifies a recording: the files and folders that it is read from."""
Uses = dict[str, tuple[str, MediaSource]]
"""What a recording is used as: senses and media, by names that differ where they do."""


@dataclass(frozen=True)
class Check:
    """What is damaged, in the examples' order, the places of the examples that have it, and of how many.

    seconds: of all recordings that could be opened, each once. lasts: those of an example, by its place.
    """

    damaged: list[Damage]
    examples: set[int]
    recordings: int
    seconds: float = 0.0
    lasts: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What a data set holds, in numbers. `str()` of it is a line for the log.

    hours: of all recordings that can be opened, each once. types, senses: how many questions have a type, and
    need these senses ("" where they do not say). media: how many examples have each. elsewhere: how many
    questions need a sense that their example does not have.
    """

    examples: int
    recordings: int
    hours: float
    questions: int
    types: dict[str, int]
    senses: dict[str, int]
    media: dict[str, int]
    elsewhere: int
    damaged: tuple[str, ...]

    def __str__(self) -> str:
        media = ", ".join(f"{count} with {sense}" for sense, count in self.media.items())
        text = f"{self.examples} examples ({media}), {self.hours:.2f} h"
        text += f", {self.questions} questions" * bool(self.questions)
        if self.elsewhere:
            text += f", {self.elsewhere} of them about a sense that their example does not have"
        return text


def summarize(examples: Sequence[Example], check: Check) -> Summary:
    """Count what is in examples that have been looked at."""
    turns = [(turn, example) for example in examples for turn in example.turns]
    media = Counter(sense for example in examples for sense in example.media)
    return Summary(
        examples=len(examples),
        recordings=check.recordings,
        hours=check.seconds / 3600,
        questions=len(turns),
        types=dict(Counter(turn.type for turn, _ in turns).most_common()),
        senses=dict(Counter(" ".join(turn.senses) for turn, _ in turns).most_common()),
        media=dict(media.most_common()),
        elsewhere=sum(not set(turn.senses) <= set(example.media) for turn, example in turns),
        damaged=tuple(map(str, check.damaged)),
    )


def find_damaged(
    examples: Sequence[Example], senses: Sequence[str] | None = None, progress: bool = True
) -> Check:
    """What is damaged among the recordings of `senses`, or ends before the part that an example is about."""
    used: dict[Files, Uses] = {}  # a clip is often seen and heard, or heard on several tracks
    for example in examples:
        for files, uses in _recordings(example, senses).items():
            used.setdefault(files, {}).update(uses)
    problems: dict[str, str] = {}
    durations: dict[str, float] = {}
    bar = tqdm(total=len(used), desc="check", unit="file", disable=None if progress else True)
    last = time.monotonic()
    with bar, ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        waiting = [pool.submit(_check, files, uses, problems, durations) for files, uses in used.items()]
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                bar.update()
                future.result()
                if bar.disable and progress and time.monotonic() - last > LOG_EVERY:
                    last = time.monotonic()
                    logger.info("checked %d of %d recordings", done, len(used))
        except BaseException:  # such as an interrupt: what has not begun is not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    damaged: dict[tuple[Files, str], Damage] = {}
    places: set[int] = set()
    lasts: dict[int, float] = {}
    for place, example in enumerate(examples):
        if leader := _length_of(example, senses, durations):
            lasts[place] = leader.seconds
        for files, problem in _problems_of(example, senses, problems, leader).items():
            damaged.setdefault((files, problem), Damage(tuple(map(str, files)), example.id, problem))
            places.add(place)
    lengths = (max((durations.get(use, 0.0) for use in uses), default=0.0) for uses in used.values())
    return Check(list(damaged.values()), places, len(used), sum(lengths), lasts)


def _recordings(example: Example, senses: Sequence[str] | None) -> dict[Files, Uses]:
    """The media of an example that are files, by these files."""
    found: dict[Files, Uses] = {}
    if isinstance(example.media, dict):  # another mapping renders on access
        for sense, source in example.media.items():
            if (senses is None or sense in senses) and (files := tuple(paths_of(source))):
                found.setdefault(files, {})[f"{sense} {source!r}"] = sense, source
    return found


def _check(files: Files, uses: Uses, problems: dict[str, str], durations: dict[str, float]) -> None:
    """Note how long a recording lasts, or what is wrong with it; a sense that is not here checks nothing."""
    if missing := [path for path in files if not os.path.exists(path)]:
        problems |= dict.fromkeys(uses, f"{missing[0].name} does not exist")
        return
    for use, (sense, source) in uses.items():
        try:
            if modality := modalities.find(sense):
                durations[use] = modality().check(source)
        except (LynxError, OSError) as error:
            problems[use] = f"as {sense}: {str(error).rstrip('.')}"


def _problems_of(
    example: Example, senses: Sequence[str] | None, problems: dict[str, str], leader: "_Length | None"
) -> dict[Files, str]:
    """Which recordings of an example cannot be used, or end before the part that it is about, and why."""
    found: dict[Files, str] = {}
    for files, uses in _recordings(example, senses).items():
        for use in uses:
            if use in problems:
                found.setdefault(files, problems[use])
    if leader is not None and not found:
        try:
            example.moments.part(leader.seconds)
        except MediaError as error:
            found[leader.files] = str(error)
    return found


class _Length(NamedTuple):
    """How long an example's clip is, and the files that say so."""

    seconds: float
    files: Files


def _length_of(
    example: Example, senses: Sequence[str] | None, durations: dict[str, float]
) -> _Length | None:
    """How long an example's clip is, as far as its recordings could be opened."""
    found: dict[str, _Length] = {}
    for files, uses in _recordings(example, senses).items():
        for use, (sense, _) in uses.items():
            if use in durations:
                found[sense] = _Length(durations[use], files)
    return found[leading({sense: each.seconds for sense, each in found.items()})] if found else None


def _suggestion(damaged: int, recordings: int) -> str:
    """A value of --skip-damaged that would let these pass."""
    percent = 100 * damaged / recordings
    return f"{max(1, -(-damaged * 100 // recordings))}%" if percent <= 5 else str(damaged)


def _write_list(path: Path, damaged: Sequence[Damage]) -> str:
    """Write all that is damaged as JSON; returns the end of a sentence that says where."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        listed = [asdict(each) for each in damaged]
        path.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        return f" (the list cannot be written to {path}: {error.strerror})"
    return f" (all of them: {path})"
