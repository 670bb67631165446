"""AVSD, dialogs about videos of people at home (Charades): the next answer of a dialog.

    mock_test_set4DSTC10-AVSD_from_DSTC7_singref.json, train_set4DSTC10-AVSD.json, valid_set4DSTC10-AVSD.json
    or avsd_train.json; Charades_v1/<id>.mp4, Charades_vu17_test/<id>.mp4; references.json (optional)

An example has all turns of a dialog; the benchmark asks the last one behind the others and their answers.
`references.json` gives that turn more references: a file of the COCO form, in which image 1 is the first
dialog.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lynx.datasets.annotations import Row, read_json, read_rows
from lynx.datasets.base import Example, Turn
from lynx.datasets.public import BARE, PublicDataset, clip_file, watched
from lynx.errors import DataError

UNDISCLOSED = "__UNDISCLOSED__"
PLACES = ("Charades_v1", "Charades_vu17_test", "videos", "")
REFERENCES = "references.json"


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    examples = []
    for number, (clip, turns) in enumerate(_dialogs(files[0])):
        media = watched(clip_file(folder, PLACES, clip))
        asked = tuple(
            Turn(turn.text("question"), turn.text("answer"), id=f"{number}-{place}")
            for place, turn in enumerate(turns)
        )
        if asked[-1].answer == UNDISCLOSED:
            raise DataError(
                f"{files[0].name} does not tell the last answers ({UNDISCLOSED}): the file that does is "
                f"{AVSD.splits['test'][0][0]}"
            )
        examples.append(Example(clip, media, asked))
    if files[0].name == AVSD.splits["test"][0][0] and (more := folder / REFERENCES).is_file():
        examples = _with_references(examples, read_references(more), more)
    return examples


def _dialogs(file: Path) -> list[tuple[str, list[Row]]]:
    content = read_json(file)
    if isinstance(content, dict) and "dialogs" not in content:  # avsd_train.json: by clip
        rows = {clip: Row(each if isinstance(each, dict) else {}, clip) for clip, each in content.items()}
        return [(clip, row.rows("data")) for clip, row in rows.items()]
    return [(row.text("image_id"), row.rows("dialog")) for row in read_rows(file, "dialogs")]


def read_references(file: Path) -> dict[str, tuple[str, ...]]:
    """The captions of each image of a COCO file, by its id."""
    found: dict[str, list[str]] = {}
    for row in read_rows(file, "annotations"):
        found.setdefault(row.name("image_id"), []).append(row.text("caption"))
    return {image: tuple(captions) for image, captions in found.items()}


def _with_references(
    examples: Sequence[Example], references: dict[str, tuple[str, ...]], file: Path
) -> list[Example]:
    """The examples with the references of their last turns. Raises: DataError: a dialog has none."""
    found = []
    for number, example in enumerate(examples, 1):
        if (answers := references.get(str(number))) is None:
            raise DataError(f"{file} has no references for dialog {number} of {len(examples)}")
        *before, last = example.turns
        answers = tuple(dict.fromkeys((last.answer, *answers)))
        found.append(replace(example, turns=(*before, replace(last, answers=answers))))
    return found


AVSD = PublicDataset(
    "avsd",
    {
        "test": [("mock_test_set4DSTC10-AVSD_from_DSTC7_singref.json",)],
        "train": [("train_set4DSTC10-AVSD.json",), ("avsd_train.json",)],
        "val": [("valid_set4DSTC10-AVSD.json",)],
    },
    _read,
    {"released": BARE},
)
