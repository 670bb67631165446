"""MUSIC-AVQA, questions about musical performances, heard and seen; 42 answers.

avqa-train.json, avqa-val.json, avqa-test.json, in the folder, data/json/, or data/json_update/ (without
duplicates; read where the others are not there); MUSIC-AVQA-videos-Real/<id>.mp4, and of ids that do not
begin with a digit MUCIS-AVQA-videos-Synthetic/<id>.mp4 (so spelt), or all in one folder
"""

import json
from collections.abc import Sequence
from pathlib import Path

from lynx.datasets.annotations import Row, read_rows
from lynx.datasets.base import Example, Turn
from lynx.datasets.public import BARE, PublicDataset, by_clip, clip_file, watched
from lynx.types import VIDEO, MediaSource

ANSWERS = (
    "yes", "no", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "more than ten", "indoor", "outdoor", "left", "right", "middle", "simultaneously", "accordion",
    "acoustic_guitar", "bagpipe", "banjo", "bassoon", "cello", "clarinet", "congas", "drum", "electric_bass",
    "erhu", "flute", "guzheng", "piano", "pipa", "saxophone", "suona", "trumpet", "tuba", "ukulele", "violin",
    "xylophone",
)  # fmt: skip
"""The closed set of answers."""
PLACEHOLDERS = ("<Object>", "<LR>", "<FL>", "<TH>", "<LRer>", "<LL>", "<BA>")
SENSES = {"Audio": ("audio",), "Visual": (VIDEO,), "Audio-Visual": (VIDEO, "audio")}
REAL, SYNTHETIC = "MUSIC-AVQA-videos-Real", "MUCIS-AVQA-videos-Synthetic"


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    rows = [(row.text("video_id"), _turn(row, number)) for number, row in enumerate(read_rows(files[0]))]

    def media(clip: str) -> dict[str, MediaSource]:
        own = REAL if clip[0].isdigit() else SYNTHETIC
        return watched(clip_file(folder, (own, REAL, SYNTHETIC, "videos", ""), clip))

    return by_clip(rows, media)


def _turn(row: Row, number: int) -> Turn:
    """A question, filled in; its id is its row's number, since `question_id` repeats."""
    sense, kind = _list(row, "type", 2)
    if sense not in SENSES:
        raise row.error("type", f"one of {', '.join(SENSES)} and a kind")
    return Turn(
        fill(row),
        row.text("anser"),
        f"{sense} {kind}",
        SENSES[sense],
        options=ANSWERS,
        id=str(number),
        groups=(("sense", sense),),
    )


def fill(row: Row) -> str:
    """The question of a row, its placeholders replaced in order."""
    values = _list(row, "templ_values")
    words = row.text("question_content").split(" ")
    for place, word in enumerate(words):
        for placeholder in PLACEHOLDERS:
            if placeholder in word:
                if not values:
                    raise row.error("templ_values", f"a value for {placeholder}")
                word = word.replace(placeholder, values.pop(0), 1)  # noqa: PLW2901
        words[place] = word
    if values:
        raise row.error("templ_values", "as many values as the question has places for")
    return " ".join(words)


def _list(row: Row, key: str, length: int | None = None) -> list[str]:
    """A list of texts that is written as a text."""
    try:
        found = json.loads(row.text(key))
    except ValueError:
        found = None
    right = isinstance(found, list) and all(isinstance(each, str) for each in found)
    if not right or (length is not None and len(found) != length):
        raise row.error(key, 'a list as a text, such as "[\\"Audio\\", \\"Counting\\"]"')
    return list(found)


MUSIC_AVQA = PublicDataset(
    "music-avqa",
    {split: [(f"avqa-{split}.json",)] for split in ("test", "val", "train")},
    _read,
    {"released": BARE},
)
