"""Tiny folders in the layouts of the public data sets: our own rows, or real ones that may be shared.

The clips are one second long: noise with a tone. Scans are four frames with depth and poses.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lynx.media.writer import write_video
from lynx.types import Waveform

DATA = Path(__file__).parent / "data"


def clip(path: Path) -> Path:
    """Write a clip, or a copy of the one that lies beside already."""
    first = path.parent / "first.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not first.exists():
        noise = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (16, 3, 64, 64), generator=noise, dtype=torch.uint8)
        tone = torch.sin(torch.arange(16000) * 0.1)
        write_video(first, pixels, 16, Waveform(tone, 16000))
    shutil.copy(first, path)
    return path


def scan(folder: Path) -> None:
    """Write a scene as ScanNet's reader leaves it, every tenth frame."""
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(0, 40, 10):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(
            folder / f"color/{number}.jpg"
        )
        maps = rng.integers(500, 4000, (48, 64)).astype(np.uint16)
        Image.fromarray(maps).save(folder / f"depth/{number}.png")
        np.savetxt(folder / f"pose/{number}.txt", np.eye(4))
    np.savetxt(folder / "intrinsic_depth.txt", np.diag([50.0, 50, 1, 1]))


def dump(path: Path, content: Any) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def avsd(folder: Path) -> None:
    """Three dialogs."""
    dialogs = []
    for number in range(3):
        turns = [{"question": "is he alone ?", "answer": "yes , he is ."}]
        turns.append(
            {"question": "does he speak ?", "answer": "no , he is silent ." if number else "he sings ."}
        )
        dialogs.append({"image_id": f"ZZ0{number}A", "dialog": turns, "caption": "", "summary": ""})
        clip(folder / f"Charades_vu17_test/ZZ0{number}A.mp4")
    dump(folder / "mock_test_set4DSTC10-AVSD_from_DSTC7_singref.json", {"dialogs": dialogs})
    dump(folder / "train_set4DSTC10-AVSD.json", {"dialogs": dialogs})


def avqa(folder: Path) -> None:
    """Three questions about two clips; one has an option that is null."""
    rows = []
    for number, name in enumerate(["abcdefghijk_000030", "abcdefghijk_000030", "bbcdefghijk_000000"]):
        choices = ["bell", "dog", None if number == 2 else "drum", "rain"]
        rows.append(
            {"id": number, "video_name": name, "video_id": number, "multi_choice": choices, "answer": number}
        )
        rows[-1] |= {"question_text": "What makes the sound in the video?", "question_type": "Which"}
        rows[-1] |= {"question_relation": "Sound" if number else "View"}
        clip(folder / f"videos/{name}.mp4")
    dump(folder / "val_qa.json", rows)
    dump(folder / "train_qa.json", rows)


def music_avqa(folder: Path) -> None:
    """The real rows of `tests/data`, with clips."""
    rows = json.loads((DATA / "music_avqa.json").read_text())["rows"]
    dump(folder / "data/json/avqa-test.json", rows)
    for row in rows:
        clip(folder / f"MUSIC-AVQA-videos-Real/{row['video_id']}.mp4")


def scanqa(folder: Path) -> None:
    """Three questions in two scenes."""
    rows = []
    for number, question in enumerate(
        ["Where is the lamp?", "How many chairs are there?", "What is on the bed?"]
    ):
        rows.append({"scene_id": f"scene900{number // 2}_00", "object_ids": [8], "object_names": ["lamp"]})
        rows[-1] |= {
            "question_id": f"val-scene9000-{number}",
            "question": question,
            "answers": ["2", "two chairs"],
        }
        scan(folder / f"frames_square/scene900{number // 2}_00")
    dump(folder / "ScanQA_v1.0_val.json", rows)
    dump(folder / "ScanQA_v1.0_train.json", rows)


def sqa3d(folder: Path) -> None:
    """The real rows of `tests/data`, with scans."""
    content = json.loads((DATA / "sqa3d.json").read_text())
    for key, file in (("questions", "questions"), ("annotations", "sqa_annotations")):
        dump(folder / f"balanced/v1_balanced_{file}_test_scannetv2.json", {key: content[key]})
    for row in content["questions"]:
        scan(folder / f"frames_square/{row['scene_id']}")


def video_mme(folder: Path) -> None:
    """Three questions about two videos."""
    videos = []
    for number, name in enumerate(["abcdefghijk", "bbcdefghijk"]):
        questions = []
        for place in range(2 - number):
            questions.append({"question_id": f"90{number}-{place}", "task_type": "Counting Problem"})
            questions[-1] |= {"question": "How many boats are there?", "answer": "B"}
            questions[-1] |= {"options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."]}
        videos.append(
            {"video_id": f"90{number}", "duration": ["short", "long"][number], "domain": "Knowledge"}
        )
        videos[-1] |= {"sub_category": "Geography", "url": f"https://www.youtube.com/watch?v={name}"}
        videos[-1] |= {"questions": questions}
        clip(folder / f"data/{name}.mp4")
    dump(folder / "video_mme.json", videos)


def mvbench(folder: Path) -> None:
    """One question a task; two have a part of a clip, one is about a folder of pictures."""
    from lynx.datasets.mvbench import TASKS

    for name, task in TASKS.items():
        row: dict[str, Any] = {"video": "a1.mp4", "question": "What did the person do first?"}
        row |= {"candidates": ["Sat down", "Stood up", "Left"], "answer": "Left"}
        place = folder / "video" / task.folders[0]
        if task.pictures:
            row |= {"video": "show_1", "start": 0.5, "end": 4.0}
            (place / "show_1").mkdir(parents=True)
            for number in range(1, 13):
                Image.new("RGB", (64, 48), (20 * number, 0, 0)).save(place / f"show_1/{number:05d}.jpg")
        else:
            clip(place / "a1.mp4")
        if name in ("action_sequence", "action_localization"):
            row |= {"start": 0.25, "end": 0.75}
        dump(folder / f"json/{name}.json", [row])


def mlvu(folder: Path) -> None:
    """A question a task; one of 2_needle has an answer that is no candidate."""
    from lynx.datasets.mlvu import TASKS

    for name in TASKS:
        row = {"video": "x_1.mp4", "duration": 300.0, "question": "What color is the van?", "answer": "Blue"}
        row |= {"candidates": ["Red", "Blue", "Green", "White"], "question_type": name[2:]}
        rows = [row, row | {"answer": "Purple"}] if name == "2_needle" else [row]
        dump(folder / f"json/{name}.json", rows)
        clip(folder / f"video/{name}/x_1.mp4")


def ego_exo(folder: Path) -> None:
    """Three takes, each with two other cameras; one in the smaller files."""
    rows = []
    for number, level in enumerate(["Late Expert", "Novice", "Late Expert"]):
        place = f"takes/t{number}/frame_aligned_videos"
        paths = {name: f"{place}/{name}.mp4" for name in ("ego", "exo1", "exo2")}
        rows.append({"take_uid": f"0-{number}", "scenario_name": "Basketball", "task_name": "Layup"})
        rows[-1] |= {"video_paths": paths, "proficiency_score": level}
        for name in paths:
            clip(folder / place / ("downscaled/448" if number == 2 else "") / f"{name}.mp4")
    dump(folder / "annotations/proficiency_demonstrator_val.json", {"annotations": rows})
    dump(folder / "annotations/proficiency_demonstrator_train.json", rows)


def avut(folder: Path) -> None:
    """Three questions; an option is empty, a file has the longer name."""
    rows = []
    for number, name in enumerate(["abcdefghijk", "bbcdefghijk", "cbcdefghijk"]):
        rows.append(
            {"QA_id": number, "video_id": number, "task_type": "Audio Content Counting", "answer": "B"}
        )
        rows[-1] |= {"question": "How often does the bell ring?", "video_path": f"data/{name}.mp4"}
        rows[-1] |= {"option_A": "once", "option_B": "twice", "option_C": "three times", "option_D": ""}
        clip(folder / (f"{name}_fullsize.mp4" if number == 2 else f"{name}.mp4"))
    dump(folder / "AV_Human_data.json", rows)


WRITERS = {
    "avsd": avsd, "avqa": avqa, "music-avqa": music_avqa, "scanqa": scanqa, "sqa3d": sqa3d,
    "video-mme": video_mme, "mvbench": mvbench, "mlvu": mlvu, "ego-exo": ego_exo, "avut": avut,
}  # fmt: skip
