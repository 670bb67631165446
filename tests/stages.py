"""What the tests of the three stages share: a small random backbone and a few clips of noise."""

import json
from dataclasses import replace
from pathlib import Path

import checkpoints
import psutil
import torch

from lynx.config import AlignConfig, GuideConfig
from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import render_clip
from lynx.media.writer import write_video
from lynx.model import Lynx, load
from lynx.training.alignment import align
from lynx.training.guidance import Guidance, guide
from lynx.types import Frames, Stream, Waveform, sample_times

FRAMES = 2
SOUNDS = ("bell", "drum")
SENSES = {"video": "video", "audio": "audio"}


def small_model(folder: Path, seed: int = 0) -> Lynx:
    """A random LLaVA-OneVision: 4 x 4 patches, 2 x 2 tokens a frame."""
    path = folder / f"backbone{seed}"
    if not path.exists():
        checkpoints.llava_onevision(path, seed=seed, hidden=32, layers=2, side=16)
    return load(path)


def clips(n: int, senses: tuple[str, ...] = ("video", "audio"), seed: int = 0) -> list[Example]:
    """`n` clips of 2 s: noise to see, a tone of one of two pitches to hear, and questions about both."""
    generator = torch.Generator().manual_seed(seed)
    return [_clip(i, senses, generator) for i in range(n)]


def written(place: Path, n: int, question: str = "what sound ?", answer: str = "bell") -> list[str]:
    """The clips as files of a folder; returns their rows of a .jsonl, each with a question about sound."""
    rows = []
    for example in clips(n):
        name = f"{example.id}.mp4"
        write_video(place / name, example.media["video"].pixels, 2, example.media["audio"])
        turn = {"question": question, "answer": answer, "senses": ["audio"]}
        media = {"video": name, "audio": name}
        rows.append(json.dumps({"id": example.id, "media": media, "turns": [turn]}))
    return rows


def _clip(i: int, senses: tuple[str, ...], generator: torch.Generator) -> Example:
    pixels = torch.randint(0, 256, (4, 3, 20, 24), generator=generator, dtype=torch.uint8)
    pitch = (400, 3000)[i % 2] * (0.9 + 0.2 * float(torch.rand((), generator=generator)))
    samples = 0.5 * torch.sin(2 * torch.pi * pitch * torch.arange(2 * 16000) / 16000)
    video = Frames(pixels, sample_times(2.0, 4), 2.0)
    media = {"video": video, "audio": Waveform(samples, 16000), "multi_view": video}
    turns = (
        Turn("hear ?", SOUNDS[i % 2], "sound", ("audio",)),
        Turn("hear what ?", SOUNDS[i % 2], "sound", ("video", "audio")),
        Turn("see ?", "dots", "sight", ("video",)),
        Turn("see what now ?", "more dots", "sight", ("video",)),
        Turn("how deep ?", "far", "depth", ("depth",)),
        Turn("behind ?", "more dots", "back", ("multi_view",)),
    )
    return Example(f"clip{i}", {sense: media[sense] for sense in senses}, turns)


def clip_files(folder: Path, n: int) -> list[Example]:
    """`n` clips of 2 s as real files, noise to see, a tone to hear, and questions about both."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_clip_file(folder / f"{example.id}.mp4", example) for example in clips(n)]


def _clip_file(path: Path, example: Example) -> Example:
    video, sound = example.media["video"], example.media["audio"]
    assert isinstance(video, Frames) and isinstance(sound, Waveform)
    write_video(path, video.pixels, 2, sound)
    return replace(example, media={"video": path, "audio": path})


def clip_workers() -> list[int]:
    """Process ids of this process's workers that draw clips, and not of those that read meshes."""
    drawing = ["lynx.media.worker", "0", "1"]  # no limit of memory, one thread of a decoder
    return [child.pid for child in psutil.Process().children() if child.cmdline()[-3:] == drawing]


def small_guidance(model: Lynx) -> Guidance:
    """Guidance over a few clips."""
    return guide(model, clips(3, ("video",)), GuideConfig(frames=FRAMES), progress=False)


def small_adapter(model: Lynx, folder: Path, **settings: object) -> Path:
    """An adapter for audio with a vision LoRA that was aligned for a few steps; it is loaded."""
    values = {"steps": 2, "rank": 2, "alpha": 4, "batch_size": 4, "frames": FRAMES, "lr": 1e-2, **settings}
    config = AlignConfig(**values)
    align(model, "audio", clips(4, ("audio",)), small_guidance(model), config, folder, progress=False)
    return folder


def small_model_with(folder: Path) -> Lynx:
    """The small model with the adapter that lies in `folder`."""
    model = small_model(folder)
    model.load_adapter(folder / "audio")
    return model


def streams_of(model: Lynx, example: Example) -> list[Stream]:
    """The streams of a clip's video and sound."""
    clips = render_clip({sense: model.modality(sense) for sense in SENSES}, example, FRAMES)
    return [model.encode(sense, clips[sense]) for sense in SENSES]
