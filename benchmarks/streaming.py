"""What stage 3 without a cache costs: reading and drawing, a step, memory.

    python -m benchmarks.streaming [--clips 2000] [--rounds 3] [--workers 1] [--threads 1]

Reading: clips a second that 0, 1 and 2 worker processes read and draw, video and sound, while nothing else
is done; their start is not counted. Step: seconds of a training step whose clips `--workers` draw ahead,
beside those of encoding and of the LLM's step of the same batches, drawn beforehand, in turn. Memory: of this
process and its workers together (PSS: what they share counts once) while it trains on `--clips` clips.

The clips are scenes of the miniature world in H.264 and AAC, FILES of them under `--clips` names. The
backbone has lynx-tiny's architecture and random weights. Seconds are of the wall, since the work is in
several processes: it wants a quiet machine with `--threads` + `--workers` cores, where a step takes longer
than its workers need for its clips (`reading_s` below `step_s`). About 5 minutes.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil
import torch

from benchmarks import CACHE, report, seconds
from lynx.datasets.base import Example
from lynx.datasets.reading import ClipReader, Drawing

FILES, SIDE = 16, 320
"""Different clips, and pixels on their sides."""
FRAMES, BATCH, QUESTIONS = 8, 4, 4
"""Frames of a clip, clips of a step, questions of a clip."""
BLOCK, SKIPPED = 10, 2
"""Steps that are timed in a row, and those before them, whose clips were drawn while nothing was done."""
READ = 256
"""Clips that are read in a round, at most: several seconds, of which the wait for the last one is little."""
WINDOW = 100
"""Clips over which memory is averaged: behind the first so many, and the last ones."""
SENSES = ("video", "audio")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=2000, help="that are trained on in all")
    parser.add_argument("--rounds", type=int, default=3, help="of reading, and of steps")
    parser.add_argument("--workers", type=int, default=1, help="of the training")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        examples = clips(folder, options.clips)
        speeds = reading(examples, options.rounds)
        training = Training(folder, examples)
        with ClipReader(options.workers) as training.cache.reader, training.on():
            steps = training.compare(options.rounds)
            memory = training.watch(max(options.clips // BATCH, training.done + 4 * WINDOW // BATCH))
    drawn = BATCH / speeds["clips_a_second_1"] / max(1, options.workers)
    figures = {"reading": speeds, "step": {**steps, "reading_s": round(drawn, 4)}, "memory": memory}
    report("streaming", **vars(options), cores=psutil.cpu_count(), **figures)


def clips(folder: Path, count: int) -> list[Example]:
    """So many clips under names of their own; their files are kept for next time."""
    from lynx.world.dataset import SceneMedia, WorldDataset
    from lynx.world.files import write_clip

    (CACHE / "streaming").mkdir(parents=True, exist_ok=True)
    files = [CACHE / "streaming" / f"{number}-{SIDE}.mp4" for number in range(FILES)]
    scenes = list(WorldDataset("train", 0, FILES, SENSES))
    for file, scene in zip(files, scenes, strict=True):
        if not file.exists():
            assert isinstance(scene.media, SceneMedia)
            write_clip(scene.media.scene, file, SIDE)
    found = []
    for number in range(count):
        path = folder / f"{number}.mp4"
        path.symlink_to(files[number % FILES])
        media = dict.fromkeys(SENSES, path)
        found.append(replace(scenes[number % FILES], id=path.name, key=path.name, media=media))
    return found


def reading(examples: Sequence[Example], rounds: int) -> dict[str, Any]:
    """Clips a second of 0, 1 and 2 workers, in turn."""
    from lynx.modalities import get

    senses = {sense: get(sense)() for sense in SENSES}
    drawings = [Drawing(senses, example, FRAMES) for example in examples[:READ]]
    speeds: dict[int, list[float]] = {0: [], 1: [], 2: []}
    readers = {count: ClipReader(count) for count in speeds}

    def draw(reader: ClipReader) -> None:
        for _ in reader.read(drawings, BATCH):
            pass

    for reader in readers.values():  # which starts the workers
        draw(reader)
    for _ in range(rounds):
        for count, reader in readers.items():
            begin = time.perf_counter()
            draw(reader)
            speeds[count].append(len(drawings) / (time.perf_counter() - begin))
    for reader in readers.values():
        reader.close()
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    return {
        **{f"clips_a_second_{count}": round(median(each), 2) for count, each in speeds.items()},
        "ratio_2_to_1": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


class Training:
    """A run of stage 3 without kept streams, step by step; `done` of them so far."""

    def __init__(self, folder: Path, examples: Sequence[Example]) -> None:
        import lynx
        from lynx.adapters.format import Adapter
        from lynx.config import Sampling, TuneConfig
        from lynx.modalities import get
        from lynx.training.questions import training_clip
        from lynx.training.stream_cache import StreamCache
        from lynx.training.trainer import Trainer
        from lynx.training.tuning_loss import TuningLoss
        from lynx.world.pretraining.model import build_backbone, save_backbone

        save_backbone(*build_backbone(0), folder / "backbone", {})
        self.model = lynx.load(folder / "backbone")
        self.model.add_adapter(Adapter("audio", "audio", get("audio")().to_dict()))
        config = TuneConfig(batch_size=BATCH, steps=10**6, save_every=0, resume=False)
        self.model.add_lora("audio", "vision", config.lora)
        self.lora = self.model.add_lora("audio", "llm", config.lora)
        found = {each.key: training_clip(each, ["audio"], each.key) for each in examples}
        clips = [clip for clip in found.values() if clip]
        senses = {sense: sense for sense in SENSES}
        self.cache = StreamCache(folder / "streams", self.model, senses, FRAMES, "off")
        self.cache.prepare(examples, list(found), progress=False)
        self.loss = TuningLoss(self.model, ["audio"], clips, self.cache, Sampling(questions=QUESTIONS))
        weights = self.model.lora.tensors(self.lora)
        self.trainer = Trainer(weights, len(clips), self.loss, config, folder / "run", progress=False)
        self.spare = torch.optim.AdamW([torch.zeros_like(each) for each in weights.values()], fused=True)
        self.done = 0

    def on(self) -> Any:
        """Inside the `with` its LoRA is trained."""
        return self.model.lora.active([self.lora], [self.lora])

    def step(self) -> None:
        """The next step, as `lynx tune` does it."""
        if not self.done:
            self.loss.expect(self.trainer.passes(), BATCH)
        self.trainer.step(self.done)
        self.done += 1

    def compare(self, rounds: int) -> dict[str, Any]:
        """Steps beside their parts."""
        self.apart(0, 1), self.step()
        blocks = []
        for _ in range(rounds):
            parts = self.apart(self.done + SKIPPED, BLOCK)
            for _ in range(SKIPPED):
                self.step()
            blocks.append((sum(seconds(self.step) for _ in range(BLOCK)), *parts))
        ratios = [whole / (encoding + answering) for whole, encoding, answering in blocks]
        whole, encoding, answering = (median(times) / BLOCK for times in zip(*blocks, strict=True))
        return {
            "step_s": round(whole, 4), "encoding_s": round(encoding, 4), "llm_step_s": round(answering, 4),
            "ratio": round(median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios],
        }  # fmt: skip

    def apart(self, first: int, steps: int) -> tuple[float, float]:
        """Seconds of encoding, and of the LLM's part, of so many steps, whose clips have been drawn."""
        encoding = answering = 0.0
        for seed, indices in islice(self.trainer.passes(first), steps):
            torch.manual_seed(seed)
            drawn = self.loss.draw(indices)
            pictures = list(self.cache.reader.read(self.cache._missing(drawn.shown), BATCH))
            frames = {sense: [each[sense] for each in pictures if sense in each] for sense in SENSES}
            begin = time.perf_counter()
            encoded = {sense: iter(self.model.encode_clips(sense, frames[sense])) for sense in SENSES}
            between = time.perf_counter()
            streams = [[next(encoded[sense]) for sense in senses] for _, senses in drawn.shown]
            self.answer(streams, drawn.turns, drawn.conversation)
            answering += time.perf_counter() - between
            encoding += between - begin
        return encoding, answering

    def answer(self, *batch: Any) -> None:
        """A step of the LLM alone: forward, backward and optimizer, which moves other weights."""
        from lynx.training.tuning_loss import answer_loss

        weights = list(self.trainer.weights.values())
        for weight in weights:
            weight.grad = None
        answer_loss(self.model.backbone, self.loss.packer.pack(*batch))[0].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for moved, weight in zip(self.spare.param_groups[0]["params"], weights, strict=True):
            moved.grad = weight.grad
        self.spare.step()

    def watch(self, steps: int) -> dict[str, float]:
        """Memory from here to that step."""
        sizes = []
        while self.done < steps:
            self.step()
            if self.done > WINDOW // BATCH:
                sizes.append(resident())
        count = WINDOW // BATCH
        first, last = mean(sizes[:count]), mean(sizes[-count:])
        return {
            "clips": self.done * BATCH, "first_mb": round(first / 1e6, 1), "last_mb": round(last / 1e6, 1),
            "ratio": round(last / first, 3), "peak_mb": round(max(sizes) / 1e6, 1),
        }  # fmt: skip


def resident() -> int:
    """Bytes of this process and all below it; pages that they share count once."""
    me = psutil.Process()
    return sum(process.memory_full_info().pss for process in (me, *me.children(recursive=True)))


if __name__ == "__main__":
    main()
