"""Writes scenes as real files: a clip with sound, depth in ScanNet form, the second view, and questions.

clip.mp4               H.264 and AAC, 24 frames a second
second_view.mp4        what the camera on the other side sees
depth/0000.png ...     uint16 millimeters, 0 = nothing measured; named after the frame of the clip
pose/0000.txt ...      4 x 4 camera to world, meters
times.txt              when each map was measured, seconds
intrinsic_depth.txt    4 x 4, pixels
qa.json                a caption; questions, answers, their types, the senses they need; the scene's key
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lynx.media.writer import write_stream
from lynx.types import Waveform
from lynx.world.dataset import QUESTIONS, RENDERER, RENDERERS, check_key
from lynx.world.questions.asking import ask
from lynx.world.scene.animation import draw_clip
from lynx.world.scene.scene import DURATION, FPS, Scene, draw_scene, scene_rng
from lynx.world.scene.sound import SAMPLE_RATE, render_sound
from lynx.world.scene.views import draw_depth, draw_second_clip, intrinsics

CLIP = "clip.mp4"
DEPTH_RATE = 4
"""Depth maps a second."""


def render(
    seed: int, out_dir: str | Path, split: str = "test", index: int = 0, size: int = 480, per_type: int = 1
) -> Path:
    """Write all files of a scene, `size` pixels wide, `per_type` questions of each type; returns `out_dir`.

    Raises: DataError for an unknown split or seed; MediaError if `size` is odd.
    """
    check_key(split, seed)
    scene, folder = draw_scene(split, seed, index), Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(scene, folder / CLIP, size)
    for extra in EXTRA_FILES.values():
        extra.write(scene, folder / extra.name, size)
    turns = ask(scene, scene_rng(scene.key, QUESTIONS), per_type=per_type)
    media = {s: (EXTRA_FILES[s].name or s) if s in EXTRA_FILES else CLIP for s in RENDERERS}
    description = {
        "seed": seed, "split": split, "index": index, "caption": caption(scene), "duration": DURATION,
        "media": media, "depth_rate": DEPTH_RATE, "questions": [asdict(turn) for turn in turns],
    }
    (folder / "qa.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def caption(scene: Scene) -> str:
    """What a viewer should listen for: "hear it: a hum, then a drum"."""
    heard = ", then ".join(f"a {burst[0].kind}" for burst in scene.bursts)
    return f"hear it: {heard}" if heard else "hear it: silence"


def write_clip(scene: Scene, path: Path, size: int) -> None:
    """Write what the first camera sees and hears."""
    sound = Waveform(torch.from_numpy(render_sound(scene)), SAMPLE_RATE)
    write_stream(path, draw_clip(scene, size), (size, size), FPS, sound)


def write_second_view(scene: Scene, path: Path, size: int) -> None:
    """Write what the second camera sees."""
    write_stream(path, draw_second_clip(scene, size), (size, size), FPS)


def write_depth(scene: Scene, folder: Path, size: int) -> None:
    """Write what the depth camera measures, in ScanNet form."""
    numbers = np.arange(0, round(DURATION * FPS), FPS // DEPTH_RATE)
    for name in ("depth", "pose"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, meters in zip(numbers, draw_depth(scene, numbers, size), strict=True):
        Image.fromarray(np.rint(meters * 1000).astype(np.uint16)).save(folder / "depth" / f"{number:04d}.png")
        np.savetxt(folder / "pose" / f"{number:04d}.txt", np.eye(4), fmt="%.6f")
    np.savetxt(folder / "intrinsic_depth.txt", intrinsics(size), fmt="%.6f")
    np.savetxt(folder / "times.txt", numbers / FPS, fmt="%.6f")


@dataclass(frozen=True)
class ExtraFile:
    """A file or folder beside the clip that a sense is read from."""

    suffix: str  # how its name ends beside a clip that `stream_clips` keeps
    name: str  # in a folder of `render`; "" fills the folder itself
    write: Callable[[Scene, Path, int], None]  # takes the scene, the path and the size in pixels


EXTRA_FILES = {
    "depth": ExtraFile(".depth", "", write_depth),
    "multi_view": ExtraFile(".second_view.mp4", "second_view.mp4", write_second_view),
}
"""By sense; the other senses are read from the clip."""


def sense_path(clip: Path, sense: str) -> Path:
    """The file or folder that a sense reads of a clip that `stream_clips` keeps: maybe the clip itself."""
    return clip.with_name(clip.stem + EXTRA_FILES[sense].suffix) if sense in EXTRA_FILES else clip


def stream_clips(
    split: str, seed: int, indices: Iterable[int], out_dir: str | Path, size: int = 320, processes: int = 2,
    senses: Collection[str] = (),
) -> Iterator[tuple[int, Path]]:
    """Write the clips of these indices, with sound and what `senses` need; yields each when it is complete.

    They come in ascending order; existing files are kept. See `sense_path`.
    """
    check_key(split, seed)
    folder = Path(out_dir, f"world{RENDERER}-{size}", f"{split}-{seed}")
    paths = {index: folder / f"{index:06d}.mp4" for index in sorted(set(indices))}
    extra = tuple(sense for sense in senses if sense in EXTRA_FILES)
    parts = {i: [path, *(sense_path(path, sense) for sense in extra)] for i, path in paths.items()}
    missing = [index for index, files in parts.items() if not all(file.exists() for file in files)]
    if not missing:
        yield from paths.items()
        return
    folder.mkdir(parents=True, exist_ok=True)
    write = partial(_write_one, split, seed, size, extra)
    pool = ProcessPoolExecutor(min(processes, len(missing)), get_context("spawn"), _prepare)
    try:
        written = pool.map(write, missing, [paths[index] for index in missing])  # in this order
        for index, path in paths.items():
            if index in missing:
                next(written)
            yield index, path
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    """One thread and low priority: drawing ahead yields to answering."""
    torch.set_num_threads(1)
    os.nice(10)


def _write_one(split: str, seed: int, size: int, senses: Collection[str], index: int, path: Path) -> None:
    """Write a clip's missing files aside and move them into place: a file under its name is complete."""
    scene = draw_scene(split, seed, index)
    writers = {path: write_clip} | {sense_path(path, sense): EXTRA_FILES[sense].write for sense in senses}
    for place, write in writers.items():
        if not place.exists():
            half = place.with_name(f"half-{os.getpid()}-{place.name}")
            write(scene, half, size)
            os.replace(half, place)


def default_cache() -> Path:
    """Default folder of evaluation clips: in the user's cache."""
    return Path.home() / ".cache" / "lynx" / "world"
