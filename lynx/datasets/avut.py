"""AVUT, four choices that need the sound of a video (AV-Human).

    AV_Human_data.json, or AV_Human_filtered_data.json; <YouTube id>.mp4 or <id>_fullsize.mp4, in data/ or
    beside

The authors' prompt is not published: "common" is the one that independent readers of the set share.
"""

from collections.abc import Sequence
from pathlib import Path

from lynx.datasets.annotations import Row, read_rows
from lynx.datasets.base import Example, Prompt, Turn
from lynx.datasets.public import PublicDataset, by_clip, clip_file, watched
from lynx.types import MediaSource


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    rows = [(Path(row.text("video_path")).stem, _turn(row)) for row in read_rows(files[0])]

    def media(clip: str) -> dict[str, MediaSource]:
        whole = clip_file(folder, ("data", ""), clip)
        large = clip_file(folder, ("data", ""), f"{clip}_fullsize")
        return watched(large if large.is_file() and not whole.is_file() else whole)

    return by_clip(rows, media)


def _turn(row: Row) -> Turn:
    """A question; an option may be empty, and is in one row the answer."""
    keys = [f"option_{letter}" for letter in "ABCD"]
    if missing := [key for key in keys if not isinstance(row.values.get(key), str)]:
        raise row.error(missing[0], "a text")
    options = tuple(str(row.values[key]) for key in keys)
    answer, id = row.letter("answer", options), row.name("QA_id")
    return Turn(row.text("question"), answer, row.text("task_type"), options=options, id=id)


AVUT = PublicDataset(
    "avut",
    {"test": [("AV_Human_data.json",), ("AV_Human_filtered_data.json",)]},
    _read,
    {
        "common": Prompt(
            "{question}\nOptions:\n{options}\n"
            "Answer with the option's letter from the given choices directly."
        )
    },
)
