"""Real recordings with one label each, read as their authors lay them out.

ESC-10 (K. J. Piczak, 2015): `audio/` and `meta/esc50.csv` of ESC-50, of which its ten classes are taken, or
a folder a class with files named FOLD-CLIP-TAKE. Free Spoken Digit Dataset: DIGIT_SPEAKER_TAKE, in the folder
or in its `recordings/`. A recording's *group* is its fold or its speaker: what cross-validation holds out.
"""

import csv
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lynx.datasets.base import Example, Turn, Wanted
from lynx.errors import DataError

AUDIO = "audio"
SPLITS = ("train", "test")
SUFFIXES = frozenset({".wav", ".ogg", ".flac", ".mp3", ".m4a", ".opus"})

CLASSES = {
    "dog": "dog",
    "dog_bark": "dog",
    "rooster": "rooster",
    "rain": "rain",
    "sea_waves": "waves",
    "crackling_fire": "fire",
    "fire_crackling": "fire",
    "crying_baby": "baby",
    "baby_cry": "baby",
    "sneezing": "sneeze",
    "person_sneeze": "sneeze",
    "clock_tick": "clock",
    "helicopter": "helicopter",
    "chainsaw": "chainsaw",
}
"""The classes of ESC-10 by their names in ESC-50 and in ESC-10, and the word that answers."""
ANIMALS = ("dog", "rooster")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

SOUND = (
    "what sound do you hear ?",
    "what do you hear ?",
    "which sound do you hear ?",
    "what sound is it ?",
    "what can you hear ?",
    "what is the sound ?",
    "what makes the sound ?",
    "what is it ?",
)
ANIMAL = ("which animal do you hear ?", "which animal is it ?", "what animal is it ?")
HEARD = ("do you hear the {} ?", "can you hear the {} ?", "is it the sound of the {} ?", "is it the {} ?")
DIGIT = (
    "what number do you hear ?",
    "which number do you hear ?",
    "what number is spoken ?",
    "which digit do you hear ?",
    "what digit is spoken ?",
    "what does the voice say ?",
    "which number does the voice say ?",
    "which number is it ?",
)


@dataclass(frozen=True)
class Recording:
    """A sound file, the word that says what it is, and its group."""

    path: Path
    word: str
    group: str


def read_esc10(folder: Path) -> list[Recording]:
    """The recordings of ESC-10's classes in either layout. Raises DataError: the folder has neither."""
    table = folder / "meta" / "esc50.csv"
    found = _from_table(table) if table.is_file() else _from_folders(folder)
    if not found:
        raise DataError(
            f"{folder} holds no recordings of ESC-10: expected meta/esc50.csv beside audio/, or a folder a "
            "class with files named FOLD-CLIP-TAKE, such as dog_bark/1-30226-A.ogg"
        )
    return found


def _from_table(table: Path) -> list[Recording]:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"filename", "fold", "category"} <= set(rows[0]):
        raise DataError(f"{table} is not ESC-50's table: it has no columns filename, fold and category")
    audio = table.parent.parent / "audio"
    found = [
        Recording(audio / row["filename"], CLASSES[row["category"]], row["fold"])
        for row in rows
        if row["category"] in CLASSES
    ]
    missing = [recording.path for recording in found if not recording.path.is_file()]
    if missing:
        raise DataError(f"{table} lists {len(missing)} recordings that are not there, such as {missing[0]}")
    return found


def _from_folders(folder: Path) -> list[Recording]:
    """From folders named as in ESC-50 or ESC-10, where "001 - Dog bark" is dog_bark."""
    found = []
    for each in _inside(folder):
        name = re.sub(r"^\d+ - ", "", each.name).lower().replace(" ", "_")
        for file in _inside(each) if name in CLASSES and each.is_dir() else []:
            named = re.fullmatch(r"(\d+)-\d+-[A-Z](-\d+)?", file.stem)
            if named and file.suffix in SUFFIXES:
                found.append(Recording(file, CLASSES[name], named[1]))
    return found


def read_digits(folder: Path) -> list[Recording]:
    """The recordings of the Free Spoken Digit Dataset. Raises DataError: the folder has none."""
    inner = folder / "recordings"
    found = []
    for file in _inside(inner if inner.is_dir() else folder):
        named = re.fullmatch(r"(\d)_(.+)_\d+", file.stem)
        if named and file.suffix in SUFFIXES:
            found.append(Recording(file, DIGITS[int(named[1])], named[2]))
    if not found:
        raise DataError(
            f"{folder} holds no spoken digits: expected files named DIGIT_SPEAKER_TAKE, such as "
            "7_jackson_0.wav, in it or in its folder recordings"
        )
    return found


def _inside(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give the one that holds the recordings")
    return sorted(folder.iterdir())


def ask_sound(recording: Recording, rng: random.Random) -> tuple[Turn, ...]:
    """What the sound is, in all phrasings, and whether it is what it is or another, as often."""
    word, others = recording.word, sorted(set(CLASSES.values()) - {recording.word})
    turns = [(phrasing, word, "sound") for phrasing in SOUND]
    turns += [(phrasing, word, "animal") for phrasing in ANIMAL if word in ANIMALS]
    for phrasing in rng.sample(HEARD, 2):
        turns.append((phrasing.format(word), "yes", "heard"))
        turns.append((phrasing.format(rng.choice(others)), "no", "heard"))
    return tuple(Turn(*turn, senses=(AUDIO,)) for turn in turns)


def ask_digit(recording: Recording, rng: random.Random) -> tuple[Turn, ...]:
    """Questions about a spoken digit in all phrasings."""
    return tuple(Turn(phrasing, recording.word, "digit", (AUDIO,)) for phrasing in DIGIT)


@dataclass(frozen=True)
class Collection:
    """A kind of recordings: how a folder of them is read, and what is asked about one."""

    read: Callable[[Path], list[Recording]]
    ask: Callable[[Recording, random.Random], tuple[Turn, ...]]


COLLECTIONS = {"esc10": Collection(read_esc10, ask_sound), "digits": Collection(read_digits, ask_digit)}


def groups_of(name: str, path: str | Path | None) -> list[str]:
    """The folds or speakers that a collection in `path` has."""
    return sorted({recording.group for recording in COLLECTIONS[name].read(_folder(name, path))})


def open_recordings(name: str, path: str | Path | None, wanted: Wanted) -> list[Example]:
    """Examples of the split: "train" is all but the groups held out, "test" is those.

    Raises: DataError: the folder is not such a collection, or has no such groups.
    """
    if wanted.split not in SPLITS:
        raise DataError(f"recordings have no split {wanted.split!r}; they have {' and '.join(SPLITS)}")
    folder = _folder(name, path)
    recordings, held = COLLECTIONS[name].read(folder), set(wanted.held_out)
    there = sorted({recording.group for recording in recordings})
    if unknown := sorted(held.difference(there)):
        raise DataError(f"{folder} has no {unknown[0]!r} to hold out; it has {', '.join(there)}")
    if wanted.split == "test" and not held:
        raise DataError(f"the test split of {name!r} is what is held out; say which of {', '.join(there)}")
    kept = [each for each in recordings if (each.group in held) == (wanted.split == "test")]
    if wanted.senses is not None and set(wanted.senses) != {AUDIO}:
        kept = []  # they are heard, and that is all
    return wanted.draw([_example(name, folder, recording, wanted.seed) for recording in kept])


def _folder(name: str, path: str | Path | None) -> Path:
    if path is None:
        raise DataError(f"the source {name!r} needs the folder that holds the recordings")
    return Path(path)


def _example(name: str, folder: Path, recording: Recording, seed: int) -> Example:
    place = recording.path.relative_to(folder).as_posix()
    turns = COLLECTIONS[name].ask(recording, random.Random(f"{seed} {place}"))
    return Example(id=place, media={AUDIO: recording.path}, turns=turns)
