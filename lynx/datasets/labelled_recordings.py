"""Sound recordings that each have one label, as a question about what is heard.

Two layouts: a folder a class (`dog_bark/1-30226-A.ogg`, also `001 - Dog bark/...`), or ESC-50's: a table with
the columns filename, fold and category in `meta/*.csv`, beside `audio/`. A recording's *fold* is what
cross-validation holds out: the table's, or in folders the number that a file's name begins with, before "-".
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from lynx.datasets.base import Example, Turn, Wanted
from lynx.errors import DataError

AUDIO = "audio"
SPLITS = ("train", "test")
SUFFIXES = frozenset({".wav", ".ogg", ".flac", ".mp3", ".m4a", ".opus"})
QUESTION = "what sound do you hear ?"


@dataclass(frozen=True)
class Recording:
    """A sound file, the name of its class, and its fold ("" where it has none)."""

    path: Path
    label: str
    fold: str


def read_recordings(folder: Path, missing: bool = False) -> list[Recording]:
    """The recordings of a folder in either layout; missing: also those of its table that are not there.

    Raises: DataError: it has none.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give the one that holds the recordings")
    tables = sorted((folder / "meta").glob("*.csv"))
    found = _from_table(tables[0], missing) if tables else []
    for file in sorted(folder.glob("*/*")) if not tables else ():
        if file.suffix.lower() in SUFFIXES:
            number = re.match(r"(\d+)-", file.stem)
            found.append(Recording(file, label_of(file.parent.name), number[1] if number else ""))
    if not found:
        raise DataError(
            f"{folder} holds no labelled recordings: expected meta/esc50.csv (filename, fold, category) "
            "beside audio/, or a folder a class with sound files, such as dog_bark/1-30226-A.ogg"
        )
    return found


def label_of(name: str) -> str:
    """The class that a folder or a table names: "001 - Dog bark" and "dog_bark" are both "dog bark"."""
    return re.sub(r"^\d+ - ", "", name).replace("_", " ").lower()


def _from_table(table: Path, missing: bool) -> list[Recording]:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"filename", "fold", "category"} <= set(rows[0]):
        raise DataError(f"{table} is not ESC-50's table: it has no columns filename, fold and category")
    audio = table.parent.parent / "audio"
    found = [Recording(audio / row["filename"], label_of(row["category"]), row["fold"]) for row in rows]
    gone = [recording.path for recording in found if not recording.path.is_file()]
    if gone and not missing:
        raise DataError(f"{table} lists {len(gone)} recordings that are not there, such as {gone[0]}")
    return found


def groups_of(name: str, path: str | Path | None) -> list[str]:
    """The folds of the recordings in `path`."""
    return folds(read_recordings(folder_of(name, path), missing=True))


def folds(recordings: list[Recording]) -> list[str]:
    """The folds that recordings belong to, sorted."""
    return sorted({recording.fold for recording in recordings} - {""})


def open_recordings(name: str, path: str | Path | None, wanted: Wanted) -> list[Example]:
    """The recordings in `path` as examples: each is asked what sound it is, and answered with its class.

    The split "train" is all but the folds held out, "test" is those.
    Raises: DataError: the folder has no recordings, or no such folds.
    """
    folder = folder_of(name, path)
    recordings = keep_split(read_recordings(folder, wanted.missing), folder, wanted)
    if wanted.senses is not None and set(wanted.senses) != {AUDIO}:
        recordings = []  # they have sound alone
    examples = []
    for each in recordings:
        turn = Turn(QUESTION, each.label, "sound", (AUDIO,))
        examples.append(Example(each.path.relative_to(folder).as_posix(), {AUDIO: each.path}, (turn,)))
    return wanted.draw(examples)


def keep_split(recordings: list[Recording], folder: Path, wanted: Wanted) -> list[Recording]:
    """The recordings of the split that is wanted. Raises: DataError: no such split, or no such folds."""
    if wanted.split not in SPLITS:
        raise DataError(f"recordings have no split {wanted.split!r}; they have {' and '.join(SPLITS)}")
    held, there = set(wanted.held_out), folds(recordings)
    names = ", ".join(there) or "no folds"
    if unknown := sorted(held.difference(there)):
        raise DataError(f"{folder} has no {unknown[0]!r} to hold out; it has {names}")
    if wanted.split == "test" and not held:
        raise DataError(f"the test split of {folder} is what is held out; say which of {names}")
    return [recording for recording in recordings if (recording.fold in held) == (wanted.split == "test")]


def folder_of(name: str, path: str | Path | None) -> Path:
    """The folder of a source. Raises: DataError: none is given."""
    if path is None:
        raise DataError(f"the source {name!r} needs the folder that holds the recordings")
    return Path(path)
