"""AVQA, four choices about what is heard and seen in a clip of VGGSound.

train_qa.json, val_qa.json (the test set); <youtube id>_<start, 6 digits>.mp4, in videos/ or beside;
avqa_from_vid_to_video_name.json (optional), which names the files otherwise
"""

from collections.abc import Sequence
from pathlib import Path

from lynx.datasets.annotations import Row, read_json, read_rows
from lynx.datasets.base import LETTERS, Example, Prompt, Turn
from lynx.datasets.public import PublicDataset, by_clip, clip_file, watched
from lynx.errors import DataError
from lynx.types import MediaSource

NAMES = "avqa_from_vid_to_video_name.json"


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    names = read_json(folder / NAMES) if (folder / NAMES).is_file() else {}
    if not isinstance(names, dict):
        raise DataError(f"{folder / NAMES} holds no object: expected file names by the names of clips")
    rows = ((row.text("video_name"), _turn(row)) for row in read_rows(files[0]))

    def media(clip: str) -> dict[str, MediaSource]:
        return watched(clip_file(folder, ("videos", ""), str(names.get(clip, clip)).removesuffix(".mp4")))

    return by_clip(rows, media)


def _turn(row: Row) -> Turn:
    choices, answer = row.values.get("multi_choice"), row.values.get("answer")
    if not isinstance(choices, list) or not choices:
        raise row.error("multi_choice", "a list of options")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise row.error("answer", f"a number from 0 to {len(choices) - 1}")
    options = tuple("null" if each is None else str(each) for each in choices)
    relation = ("relation", row.optional("question_relation"))
    return Turn(
        row.text("question_text"),
        LETTERS[answer],
        row.optional("question_type"),
        options=options,
        id=row.name("id"),
        groups=(relation,),
    )


AVQA = PublicDataset(
    "avqa",
    {"val": [("val_qa.json",)], "train": [("train_qa.json",)]},
    _read,
    {
        "released": Prompt(
            "Select the best answer to the following multiple-choice question based on the video and the "
            "subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n{question}\n"
            "{options}\nAnswer with the option's letter from the given choices directly.",
            "{letter}.{text}",
        )
    },
    "val",
)
