"""What the readers of public data sets share: their files and prompts, and examples from rows.

A data set is one file with a `PublicDataset`: where its annotations lie, a function that reads them, and its
prompts. `read` gives bare questions, with options the answer's letter; a prompt makes of them what is asked,
in training as in evaluation.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from lynx.datasets.base import LETTERS, Example, Prompt, Turn, Wanted
from lynx.datasets.jsonl import paths_of
from lynx.errors import DataError
from lynx.types import VIDEO, MediaSource, Moments, Recording

logger = logging.getLogger(__name__)

Files = tuple[str, ...]
"""Names of files that are read together."""
SUFFIXES = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
IN_A_CLIP = (VIDEO, "audio", "high_fps")
"""Senses that a clip's own file is read as."""
SCAN_RATE = 30.0
"""Pictures a second that the numbers of ScanNet's frames count."""


BARE = Prompt()
"""The question alone."""


@dataclass(frozen=True)
class PublicDataset:
    """A data set in its authors' layout."""

    name: str
    splits: Mapping[str, Sequence[Files]]  # of each split the alternatives, the best first
    read: Callable[[Path, Sequence[Path]], list[Example]]  # from the folder and the files of one alternative
    prompts: Mapping[str, Prompt]  # by name, the default first
    evaluated: str = "test"
    """The split that is the benchmark."""

    @cached_property
    def default(self) -> str:
        """The name of the prompt that is used where none is named."""
        return next(iter(self.prompts))

    def prompt(self, name: str | None = None) -> Prompt:
        """A prompt by name. Raises: DataError: there is none of that name."""
        if (found := self.prompts.get(name or self.default)) is None:
            raise DataError(f"{self.name} has no prompt {name!r}; it has {', '.join(self.prompts)}")
        return found

    def files(self, folder: Path, split: str) -> list[Path]:
        """The annotation files of a split in a folder, or one or two folders below.

        Raises: DataError: there is no such split, or not all files of any alternative.
        """
        if split not in self.splits:
            raise DataError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; give the one that holds {self.name}")
        for names in self.splits[split]:
            found = [_find(folder, name) for name in names]
            if all(found):
                return [file for file in found if file]
        best = self.splits[split][0]
        named = [" and ".join(names[:2]) + " ..." * (len(names) > 2) for names in self.splits[split]]
        sets = ", or ".join(named)
        lacks = [name for name in best if not _find(folder, name)]
        also = f" (there is no {', no '.join(lacks)})" if len(best) > 1 and len(lacks) < len(best) else ""
        raise DataError(f"{folder} holds no {split} annotations of {self.name}; expected {sets}{also}")

    def examples(self, folder: Path, split: str, prompt: str | None = None) -> list[Example]:
        """All examples of a split, their questions as a prompt asks them."""
        style = self.prompt(prompt)
        return [
            replace(each, turns=tuple(map(style.ask, each.turns)))
            for each in self.read(folder, self.files(folder, split))
        ]

    def open(self, name: str, path: str | Path | None, wanted: Wanted) -> list[Example]:
        """The data set as a source of examples, with its default prompt; see `lynx.datasets.sources`."""
        if path is None:
            raise DataError(f"the source {name!r} needs the folder that holds {self.name}")
        everything = self.examples(Path(path), wanted.split)
        found = [_answerable(each) for each in everything]
        if lost := sum(len(a.turns) - len(b.turns) for a, b in zip(everything, found, strict=True)):
            logger.warning("%s: %d questions are left out: their answers are no options", name, lost)
        if wanted.senses is not None:
            chosen = wanted.senses
            found = [each for each in found if set(chosen) <= set(each.media)]
            found = [replace(each, media={sense: each.media[sense] for sense in chosen}) for each in found]
        if not wanted.missing and (missing := missing_files(found)):
            more = f"; {len(missing) - 1} more are missing" if len(missing) > 1 else ""
            raise DataError(f"{missing[0]} does not exist, which {self.name} lists{more}")
        return wanted.draw([each for each in found if each.turns])


def _answerable(example: Example) -> Example:
    """The example without questions whose answer is not one of their options."""
    kept = tuple(
        turn
        for turn in example.turns
        if not turn.options or turn.answer in (*LETTERS[: len(turn.options)], *turn.options)
    )
    return replace(example, turns=kept)


def missing_files(examples: Iterable[Example]) -> list[Path]:
    """The files and folders of media that are not there, each once."""
    paths = (path for each in examples for source in each.media.values() for path in paths_of(source))
    return [path for path in dict.fromkeys(paths) if not os.path.exists(path)]


def _find(folder: Path, name: str) -> Path | None:
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        if found := sorted(folder.glob(pattern)):
            return found[0]
    return None


def clip_file(folder: Path, places: Sequence[str], stem: str) -> Path:
    """The file of a clip: the first of these folders that has one of that name, with any ending of a video.

    Where none has, the name that it should have; whoever opens it says that it is missing.
    """
    candidates = [folder / place / (stem + suffix) for place in places for suffix in SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])


def watched(clip: MediaSource) -> dict[str, MediaSource]:
    """A clip's own file as every sense that it can be read as."""
    return dict.fromkeys(IN_A_CLIP, clip)


def scan(folder: Path, scene: str) -> dict[str, MediaSource]:
    """A scene of ScanNet as video and depth: a folder with color/, depth/, pose/."""
    places = [folder / place / scene for place in ("frames_square", "scans", "")]
    recording = Recording(next((path for path in places if path.is_dir()), places[0]), fps=SCAN_RATE)
    return {VIDEO: recording, "depth": recording}


def by_clip(
    rows: Iterable[tuple[str, Turn]],
    media: Callable[[str], Mapping[str, MediaSource]],
    moments: Mapping[str, Moments] | None = None,
) -> list[Example]:
    """An example for each clip, in the order of their first rows: its media are asked for once.

    rows: the clip's name and a question. moments: of clips of which a part is looked at.
    """
    turns: dict[str, list[Turn]] = {}
    for clip, turn in rows:
        turns.setdefault(clip, []).append(turn)
    parts = moments or {}
    return [
        Example(clip, media(clip), tuple(mine), moments=parts.get(clip, Moments()))
        for clip, mine in turns.items()
    ]
