"""ESC-10 and the Free Spoken Digit Dataset, and what is asked about them in the words of `lynx-tiny`.

ESC-10 (K. J. Piczak, 2015): the ten classes out of ESC-50, or a folder a class with files named
FOLD-CLIP-TAKE. Free Spoken Digit Dataset: DIGIT_SPEAKER_TAKE, in the folder or in its `recordings/`; its
"folds" are its speakers.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lynx.datasets.base import Example, Turn, Wanted
from lynx.datasets.labelled_recordings import (
    AUDIO,
    SUFFIXES,
    Recording,
    folder_of,
    folds,
    keep_split,
    read_recordings,
)
from lynx.errors import DataError
from lynx.evaluation.metrics import NUMBERS

CLASSES = {
    "dog": "dog",
    "dog bark": "dog",
    "rooster": "rooster",
    "rain": "rain",
    "sea waves": "waves",
    "crackling fire": "fire",
    "fire crackling": "fire",
    "crying baby": "baby",
    "baby cry": "baby",
    "sneezing": "sneeze",
    "person sneeze": "sneeze",
    "clock tick": "clock",
    "helicopter": "helicopter",
    "chainsaw": "chainsaw",
}
"""The classes of ESC-10 by their names in ESC-50 and in ESC-10, and the word that answers."""
ANIMALS = ("dog", "rooster")
DIGITS = NUMBERS[:10]

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


def read_esc10(folder: Path) -> list[Recording]:
    """The recordings of ESC-10's classes, labeled with the word that answers. Raises: DataError: none."""
    found = [
        replace(recording, label=CLASSES[recording.label])
        for recording in read_recordings(folder)
        if recording.label in CLASSES
    ]
    if not found:
        raise DataError(f"{folder} holds no recordings of ESC-10's classes: {', '.join(CLASSES)}")
    return found


def read_digits(folder: Path) -> list[Recording]:
    """The recordings of the Free Spoken Digit Dataset. Raises: DataError: the folder has none."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give the one that holds the recordings")
    inner = folder / "recordings"
    found = []
    for file in sorted((inner if inner.is_dir() else folder).iterdir()):
        named = re.fullmatch(r"(\d)_(.+)_\d+", file.stem)
        if named and file.suffix in SUFFIXES:
            found.append(Recording(file, DIGITS[int(named[1])], named[2]))
    if not found:
        raise DataError(
            f"{folder} holds no spoken digits: expected files named DIGIT_SPEAKER_TAKE, such as "
            "7_jackson_0.wav, in it or in its folder recordings"
        )
    return found


def ask_sound(recording: Recording, rng: random.Random) -> tuple[Turn, ...]:
    """Which sound it is, in all phrasings, and whether it is this one, as many yes as no."""
    word, others = recording.label, sorted(set(CLASSES.values()) - {recording.label})
    turns = [(phrasing, word, "sound") for phrasing in SOUND]
    turns += [(phrasing, word, "animal") for phrasing in ANIMAL if word in ANIMALS]
    for phrasing in rng.sample(HEARD, 2):
        turns.append((phrasing.format(word), "yes", "heard"))
        turns.append((phrasing.format(rng.choice(others)), "no", "heard"))
    return tuple(Turn(*turn, senses=(AUDIO,)) for turn in turns)


def ask_digit(recording: Recording, rng: random.Random) -> tuple[Turn, ...]:
    """Questions about a spoken digit in all phrasings."""
    return tuple(Turn(phrasing, recording.label, "digit", (AUDIO,)) for phrasing in DIGIT)


@dataclass(frozen=True)
class Collection:
    """A kind of recordings: how a folder of them is read, and what is asked about one."""

    read: Callable[[Path], list[Recording]]
    ask: Callable[[Recording, random.Random], tuple[Turn, ...]]


_DIGITS = Collection(read_digits, ask_digit)
COLLECTIONS = {"esc10": Collection(read_esc10, ask_sound), "digits": _DIGITS, "voices": _DIGITS}


def folds_of(name: str, path: str | Path | None) -> list[str]:
    """The folds or speakers that a collection in `path` has."""
    return folds(COLLECTIONS[name].read(folder_of(name, path)))


def open_recordings(
    name: str, path: str | Path | None, *, held_out: Sequence[str] = (), split: str = "train", seed: int = 0
) -> list[Example]:
    """Examples of the split: "train" is all but the folds or speakers held out, "test" is those.

    Raises: DataError: the folder is not such a collection, or has no such folds.
    """
    folder = folder_of(name, path)
    wanted = Wanted(split, held_out=tuple(held_out))
    examples = []
    for recording in keep_split(COLLECTIONS[name].read(folder), folder, wanted):
        place = recording.path.relative_to(folder).as_posix()
        turns = COLLECTIONS[name].ask(recording, random.Random(f"{seed} {place}"))
        examples.append(Example(place, {AUDIO: recording.path}, turns))
    return examples
