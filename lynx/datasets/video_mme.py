"""Video-MME, four choices about videos of a minute to an hour.

test-00000-of-00001.parquet (needs pyarrow) or video_mme.json, a list of the table's rows, or of videos
with their "questions" as in the official results; data/<YouTube id>.mp4
"""

import re
from collections.abc import Sequence
from pathlib import Path

from lynx.datasets.annotations import Row, read_rows, rows_of
from lynx.datasets.base import Example, Prompt, Turn
from lynx.datasets.public import PublicDataset, by_clip, clip_file, watched
from lynx.errors import DataError

GROUPS = ("duration", "domain", "sub_category")
_FIRST = (
    "Select the best answer to the following multiple-choice question based on the video{}. Respond with "
    "only the letter (A, B, C, or D) of the correct option.\n{{question}}\n{{options}}"
)


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    rows = _table(files[0]) if files[0].suffix == ".parquet" else read_rows(files[0])
    turns = []
    for row in rows:
        questions = row.rows("questions") if "questions" in row.values else [row]
        turns += [(_clip(row), _turn(each, row)) for each in questions]
    return by_clip(turns, lambda clip: watched(clip_file(folder, ("data", "videos", ""), clip)))


def _table(file: Path) -> list[Row]:
    try:
        from pyarrow.parquet import read_table
    except ModuleNotFoundError as error:
        raise DataError(f"{file.name} needs pyarrow: pip install 'lynx[benchmarks]'") from error
    return rows_of(read_table(file).to_pylist(), file.name)


def _clip(row: Row) -> str:
    """The YouTube id, which the official results have in the address alone."""
    if row.values.get("videoID"):
        return row.text("videoID")
    found = re.search(r"(?:v=|youtu\.be/)([\w-]{11})", row.text("url"))
    if found is None:
        raise row.error("url", "the address of a video on YouTube")
    return found[1]


def _turn(row: Row, video: Row) -> Turn:
    """A question, whose options have lost their "A. "."""
    options = tuple(re.sub(r"^[A-Z][.)]\s*", "", option) for option in row.texts("options"))
    groups = tuple((name, video.text(name)) for name in GROUPS)
    answer = row.letter("answer", options)
    return Turn(
        row.text("question"), answer, row.text("task_type"), options=options, id=row.name("question_id"),
        groups=groups,
    )  # fmt: skip


VIDEO_MME = PublicDataset(
    "video-mme",
    {"test": [("video_mme.json",), ("test-00000-of-00001.parquet",)]},
    _read,
    {
        "official": Prompt(_FIRST.format("") + "\nThe best answer is:"),
        "lmms": Prompt(
            _FIRST.format(" and the subtitles")
            + "\n\nAnswer with the option's letter from the given choices directly."
        ),
    },
)
