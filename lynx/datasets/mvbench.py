"""MVBench, two to five choices about short clips, in twenty tasks of 200 questions.

json/<task>.json; video/<folder>/<name>, see TASKS. Where a row has a start and an end, that part of the
clip is looked at, unless the folder of clips that are cut already is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lynx.datasets.annotations import Row, letter_of, read_rows
from lynx.datasets.base import Example, Prompt, Turn
from lynx.datasets.public import PublicDataset, by_clip, watched
from lynx.types import VIDEO, MediaSource, Moments, Recording

FRAME_RATE = 3.0
"""Pictures a second in the folders of pictures."""


@dataclass(frozen=True)
class Task:
    """Where the clips of a task lie.

    folders: below video/, alternatives. cut: one of clips that are cut already. pictures: whether a clip is a
    folder of pictures.
    """

    folders: tuple[str, ...]
    cut: str = ""
    pictures: bool = False


STAR = Task(("star/Charades_v1_480",), "star/Charades_segment")
CLEVRER, PERCEPTION = Task(("clevrer/video_validation",)), Task(("perception/videos",))
TASKS = {
    "action_sequence": STAR,
    "action_prediction": STAR,
    "action_antonym": Task(("ssv2_video", "ssv2_video_mp4")),
    "fine_grained_action": Task(("Moments_in_Time_Raw/videos",)),
    "unexpected_action": Task(("FunQA_test/test",)),
    "object_existence": CLEVRER,
    "object_interaction": STAR,
    "object_shuffle": PERCEPTION,
    "moving_direction": CLEVRER,
    "action_localization": Task(("sta/sta_video",), "sta/sta_video_segment"),
    "scene_transition": Task(("scene_qa/video",)),
    "action_count": PERCEPTION,
    "moving_count": CLEVRER,
    "moving_attribute": CLEVRER,
    "state_change": PERCEPTION,
    "fine_grained_pose": Task(("nturgbd", "nturgbd_convert")),
    "character_order": PERCEPTION,
    "egocentric_navigation": Task(("vlnqa",)),
    "episodic_reasoning": Task(("tvqa/frames_fps3_hq",), "tvqa/video_fps3_hq_segment", pictures=True),
    "counterfactual_inference": CLEVRER,
}


def _read(folder: Path, files: Sequence[Path]) -> list[Example]:
    rows: list[tuple[str, Turn]] = []
    clips: dict[str, tuple[str, str]] = {}  # task and name by the name of the part
    parts: dict[str, Moments] = {}
    for file in files:
        cut = _is_cut(folder, TASKS[file.stem])
        for number, row in enumerate(read_rows(file)):
            name = row.text("video")
            clip = f"{file.stem}/{name}"
            if "start" in row.values and "end" in row.values and not cut:
                start, end = _seconds(row, "start"), _seconds(row, "end")
                if end <= start:
                    raise row.error("end", f"seconds after the start, {start:g}")
                clip += f" {start:g}-{end:g}"
                parts[clip] = Moments(start=start, end=end)
            clips[clip] = file.stem, name
            rows.append((clip, _turn(row, file.stem, number)))
    return by_clip(rows, lambda clip: _media(folder, *clips[clip]), parts)


def _is_cut(folder: Path, task: Task) -> bool:
    return bool(task.cut) and (folder / "video" / task.cut).is_dir()


def _seconds(row: Row, key: str) -> float:
    value = row.values[key]
    if type(value) not in (int, float) or not 0 <= value < 1e6:
        raise row.error(key, "seconds from 0 on")
    return float(value)


def _turn(row: Row, task: str, number: int) -> Turn:
    options = row.texts("candidates")
    letter = letter_of(row.text("answer"), options)
    return Turn(row.text("question"), letter, task, options=options, id=f"{task}-{number}")


def _media(folder: Path, task: str, name: str) -> dict[str, MediaSource]:
    """The clip's file, by its own ending or as .mp4; of pictures their folder."""
    where, cut = TASKS[task], _is_cut(folder, TASKS[task])
    folders = [folder / "video" / each for each in ((where.cut,) if cut else where.folders)]
    if where.pictures and not cut:
        return dict.fromkeys((VIDEO, "high_fps"), Recording(folders[0] / name, fps=FRAME_RATE))
    named = [place / name for place in folders]
    paths = [*named, *(path.with_suffix(".mp4") for path in named)]
    clip = next((path for path in paths if path.exists()), paths[0])
    if task == "episodic_reasoning" and not clip.suffix:
        clip = clip.with_suffix(".mp4")
    return watched(clip)


MVBENCH = PublicDataset(
    "mvbench",
    {"test": [tuple(f"{task}.json" for task in TASKS)]},
    _read,
    {
        "lmms": Prompt(
            "Question:{question}\nOption:\n{options}\nOnly give the best option.\n", "({letter}) {text}"
        ),
        "official": Prompt(
            "Question: {question}\nOptions:\n{options}\nOnly give the best option.\nBest option:(",
            "({letter}) {text}",
            "Carefully watch the video and pay attention to the cause and sequence of events, the detail and "
            "movement of objects, and the action and pose of persons. Based on your observations, select the "
            "best option that accurately addresses the question.\n",
        ),
    },
)
