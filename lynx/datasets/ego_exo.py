"""Ego-Exo4D, how good the person is who wears the first camera: one of four levels.

annotations/proficiency_demonstrator_train.json, ..._val.json (the benchmark); takes/<take>/
frame_aligned_videos/*.mp4, or the smaller ones in downscaled/448/ there
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lynx.datasets.annotations import Row, read_rows
from lynx.datasets.base import Example, Prompt, Turn
from lynx.datasets.public import PublicDataset
from lynx.types import VIDEO, MediaSource

LEVELS = ("Novice", "Early Expert", "Intermediate Expert", "Late Expert")
EGO, SMALL = "ego", "downscaled/448"


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    examples = []
    for number, row in enumerate(read_rows(files[0], "annotations")):
        level = row.values.get("proficiency_score")
        if level not in LEVELS:
            raise row.error("proficiency_score", f"one of {', '.join(LEVELS)}")
        scenario = row.optional("scenario_name")
        turn = Turn("", str(level), scenario, options=LEVELS, id=str(number))
        take = row.text("take_uid")
        examples.append(Example(f"{take} {number}", _media(folder, row), (turn,)))
    return examples


def _media(folder: Path, row: Row) -> dict[str, MediaSource]:
    """The worn camera as video, with its sound; the others by their names as further views."""
    paths = row.values.get("video_paths")
    if not isinstance(paths, dict) or not isinstance(paths.get(EGO), str):
        raise row.error("video_paths", 'an object with "ego" and other cameras')
    cameras: Mapping[str, Path] = {
        name: _smaller(folder / path) for name, path in paths.items() if isinstance(path, str) and path
    }
    ego = cameras[EGO]
    media: dict[str, MediaSource] = {VIDEO: ego, "audio": ego, "high_fps": ego}
    if others := {name: path for name, path in cameras.items() if name != EGO}:
        media["multi_view"] = others
    return media


def _smaller(path: Path) -> Path:
    """The file as listed, or the smaller one where that is not there."""
    small = path.parent / SMALL / path.name
    return small if small.is_file() and not path.is_file() else path


EGO_EXO = PublicDataset(
    "ego-exo",
    {
        "val": [("proficiency_demonstrator_val.json",)],
        "train": [("proficiency_demonstrator_train.json",)],
    },
    _read,
    {
        "released": Prompt(
            "In this video, a human is performing an activity. Your goal is to evaluate the human's skill "
            "level based on their technique, consistency, and overall execution of the activity. You will "
            "classify the performance into one of the following levels: 1. Novice: Beginner-level "
            "performance with noticeable gaps in basic skills, understanding, or execution. 2. Early Expert: "
            "Competent performance showing solid foundational skills, but with room for refinement. 3. "
            "Intermediate Expert: Advanced performance demonstrating strong technical abilities and "
            "strategic understanding, but not yet at mastery. 4. Late Expert: Near-masterful or masterful "
            "performance, showcasing exceptional skill, precision, and expertise. Example Output: Early "
            "Expert"
        )
    },
    "val",
)
