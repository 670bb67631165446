"""Train `lynx-tiny` from nothing: `python -m lynx.world.train --out runs/lynx-tiny`.

Three phases. *Vision*: the tower on single frames with a label for every patch (the stand-in for SigLIP's
pre-training). *Text*: the language model on scenes told in words. Both run side by side. *Joint*: both on videos, all
questions of a clip behind one prefix, on two processes. Killed and started again it goes on from its last checkpoint;
what a step sees follows from its number alone.
"""

import argparse
import json
import logging
import math
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlavaOnevisionForConditionalGeneration

from lynx.data import Turn
from lynx.world.backbone import FRAMES, IMAGE_SIZE, PATCH_SIZE, build_backbone, save_backbone
from lynx.world.dense import DenseHeads, accuracy, dense_targets
from lynx.world.packing import IGNORE, Packed, Packer
from lynx.world.picture import draw_frames
from lynx.world.questions import ask
from lynx.world.scene import DURATION, FPS, Scene, draw_scene
from lynx.world.text import SENSES, guess, tell

logger = logging.getLogger(__name__)
GRID = IMAGE_SIZE // PATCH_SIZE
DRAWN = 128
"""Frames are drawn at this size and made small as the backbone's preprocessing does."""
SCENES = {"vision": 0, "text": 1, "joint": 2}
"""The seed of each phase's scenes, within the training split."""


@dataclass(frozen=True)
class TrainConfig:
    """What a training run is made of. Steps are optimiser steps; batches are per process."""

    seed: int = field(default=0, metadata={"help": "seed of the initial weights"})
    vision_steps: int = field(default=500, metadata={"help": "steps of 96 frames for the tower"})
    text_steps: int = field(default=500, metadata={"help": "steps of 24 told scenes for the language model"})
    joint_steps: int = field(default=1900, metadata={"help": "steps of 2 x 16 clips for both"})
    lr: float = field(default=2e-3, metadata={"help": "peak learning rate of vision and text"})
    joint_lr: float = field(default=1.5e-3, metadata={"help": "peak learning rate of the joint phase"})
    tower_lr: float = field(default=0.3, metadata={"help": "the tower's share of the joint learning rate"})
    frozen: float = field(default=0.12, metadata={"help": "part of the joint phase with a frozen tower"})
    processes: int = field(default=2, metadata={"help": "processes of the joint phase, one thread each"})


class Muons:
    """Muon for matrices inside layers, AdamW for everything else, with one schedule for both."""

    def __init__(
        self, groups: list[tuple[list[tuple[str, nn.Parameter]], float]], lr: float, steps: int
    ) -> None:
        matrices, others = [], []
        for parameters, scale in groups:
            inner = [p for n, p in parameters if p.ndim == 2 and "embed" not in n and "shared" not in n]
            outer = [p for n, p in parameters if not any(p is q for q in inner)]
            matrices.append({"params": inner, "lr": lr * scale, "peak": lr * scale})
            others.append({"params": outer, "lr": lr * scale, "peak": lr * scale})
        self.steps = steps
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98)),
        ]

    def step(self, step: int) -> None:
        """Update with the rate of this step: a short warm-up, a plateau, a linear fall over the last 40 %."""
        rate = min(1.0, (step + 1) / 30, max(0.0, (self.steps - step) / (0.4 * self.steps)))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict]:
        """State of both optimisers."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load(self, states: list[dict]) -> None:
        """Restore what `state` gave."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


class Run:
    """One phase: its steps with a bar and a log, its checkpoint, and where it left off."""

    def __init__(
        self, name: str, folder: Path, modules: nn.Module, optimizer: Muons, quiet: bool = False
    ) -> None:
        self.name, self.folder, self.modules, self.optimizer, self.quiet = (
            name,
            folder,
            modules,
            optimizer,
            quiet,
        )
        self.path = folder / f"{name}.pt"
        self.start = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            modules.load_state_dict(state["model"])
            optimizer.load(state["optimizers"])
            self.start = state["step"]

    def steps(self, every: int = 100) -> Iterator[int]:
        """The numbers of the steps still to do; a checkpoint every so many and at the end."""
        total = self.optimizer.steps
        for step in tqdm(range(self.start, total), self.name, total, initial=self.start, disable=self.quiet):
            yield step
            if not self.quiet and ((step + 1) % every == 0 or step + 1 == total):
                self.save(step + 1)

    def save(self, step: int) -> None:
        """Write the checkpoint; a kill in the middle leaves the old one."""
        half = self.path.with_suffix(".half")
        state = {"model": self.modules.state_dict(), "optimizers": self.optimizer.state(), "step": step}
        torch.save(state, half)
        os.replace(half, self.path)

    def log(self, **values: float) -> None:
        """Add a line to the phase's log."""
        if not self.quiet:
            with (self.folder / f"{self.name}.jsonl").open("a") as file:
                file.write(json.dumps({"time": round(time.time(), 1)} | values) + "\n")


def pixels_of(frames: np.ndarray) -> Tensor:
    """The backbone's preprocessing of drawn frames `(T, H, W, 3)` uint8: `(T, 3, 64, 64)` in -1..1."""
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    small = F.interpolate(
        tensor, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False, antialias=True
    )
    return (small.float() - 127.5) / 127.5


def frame_numbers() -> np.ndarray:
    """Numbers of the frames displayed at the middles of `FRAMES` equal parts of a clip."""
    times = (np.arange(FRAMES) + 0.5) * DURATION / FRAMES
    return np.floor(times * FPS + 1e-6).astype(int)


def vision_batch(step: int, frames: int = 96) -> tuple[Tensor, Tensor, Tensor]:
    """Single frames with dense labels: pixels `(T, 3, 64, 64)`, classes, places."""
    pixels, classes, places = [], [], []
    for index in range(frames // 2):
        scene = draw_scene("train", SCENES["vision"], step * frames + index)
        numbers = np.random.default_rng([step, index]).integers(0, int(DURATION * FPS), 2)
        pixels.append(pixels_of(draw_frames(scene, numbers, DRAWN)))
        one, other = dense_targets(scene, numbers, GRID)
        classes.append(torch.from_numpy(one))
        places.append(torch.from_numpy(other))
    return torch.cat(pixels), torch.cat(classes), torch.cat(places)


def train_vision(config: TrainConfig, folder: Path) -> None:
    """Teach the tower what and where things are."""
    model, _ = build_backbone(config.seed)
    tower = model.model.vision_tower
    heads = DenseHeads(tower.config.hidden_size)
    modules = nn.ModuleDict({"tower": tower, "heads": heads})
    run = Run(
        "vision",
        folder,
        modules,
        Muons([(list(modules.named_parameters()), 1.0)], config.lr, config.vision_steps),
    )
    for step in run.steps():
        pixels, classes, places = vision_batch(step)
        features = _features(model, pixels)
        loss = heads(features, classes, places)
        loss.backward()
        run.optimizer.step(step)
        if step % 20 == 0:
            run.log(step=step, loss=loss.item(), accuracy=accuracy(heads, features, classes))


def _features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Patch features as the projector gets them, before the last norm: `(T, N, D)`."""
    output = model.model.vision_tower(pixels, output_hidden_states=True)
    return output.hidden_states[-1]


def answer_loss(
    model: LlavaOnevisionForConditionalGeneration, batch: Packed, videos: Tensor | None
) -> Tensor:
    """Mean cross-entropy of the answers' tokens; `videos` (B, n, D) stand at the video placeholders."""
    embeds = model.get_input_embeddings()(batch.ids)
    if videos is not None:
        places = (batch.ids == model.config.video_token_id)[..., None]
        embeds = embeds.masked_scatter(places, videos)
    output = model.model.language_model(
        inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    )
    asked = batch.labels != IGNORE
    return F.cross_entropy(model.lm_head(output.last_hidden_state[asked]), batch.labels[asked])


def text_batch(step: int, packer: Packer, scenes: int = 24, rank: int = 0) -> Packed:
    """Told scenes with questions; every fourth batch as conversations."""
    prefixes, turns = [], []
    for index in range(scenes):
        rng = np.random.default_rng([step, index, rank])
        text, asked = tell(draw_scene("train", SCENES["text"], (step * 8 + rank) * scenes + index), rng)
        prefixes.append(
            packer.tokens("<|im_start|>user") + packer.tokenizer(text, add_special_tokens=False).input_ids
        )
        turns.append(_choose(asked, rng, 10))
    return packer.pack(prefixes, turns, conversation=step % 4 == 3)


def _choose(turns: list[Turn], rng: np.random.Generator, count: int) -> list[Turn]:
    return [turns[i] for i in rng.permutation(len(turns))[:count]]


def train_text(config: TrainConfig, folder: Path) -> None:
    """Teach the language model the world's words and what follows from facts."""
    model, tokenizer = build_backbone(config.seed)
    packer = Packer(tokenizer)
    language = nn.ModuleDict({"language": model.model.language_model})
    groups = [(list(language.named_parameters()), 1.0)]
    run = Run("text", folder, language, Muons(groups, config.lr, config.text_steps))
    for step in run.steps():
        loss = answer_loss(model, text_batch(step, packer), None)
        loss.backward()
        run.optimizer.step(step)
        if step % 20 == 0:
            run.log(step=step, loss=loss.item())


def joint_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Questions about the video, and one or two about senses that it does not show, answered at random."""
    seen = _choose(ask(scene, rng, ("video",), per_type=2), rng, 10)
    blind = [turn for turn in ask(scene, rng, ("video", *SENSES)) if turn.senses != ("video",)]
    return _choose(seen + [guess(turn, rng) for turn in _choose(blind, rng, 2)], rng, 12)


def joint_batch(step: int, rank: int, config: TrainConfig, packer: Packer, clips: int = 16) -> tuple:
    """Clips with questions: pixels `(B, T, 3, 64, 64)`, the packed questions, dense targets."""
    numbers = frame_numbers()
    pixels, turns, classes, places = [], [], [], []
    for index in range(clips):
        scene = draw_scene("train", SCENES["joint"], (step * config.processes + rank) * clips + index)
        rng = np.random.default_rng([step, rank, index])
        pixels.append(pixels_of(draw_frames(scene, numbers, DRAWN)))
        one, other = dense_targets(scene, numbers, GRID)
        classes.append(torch.from_numpy(one))
        places.append(torch.from_numpy(other))
        turns.append(joint_turns(scene, rng))
    tokens = FRAMES * math.ceil(GRID / 2) ** 2 + 1
    prefix = packer.tokens("<|im_start|>user") + packer.tokens("<video>") * tokens
    batch = packer.pack([prefix] * clips, turns, conversation=step % 4 == 3)
    return torch.stack(pixels), batch, torch.cat(classes), torch.cat(places)


def train_joint(rank: int, config: TrainConfig, folder: Path, port: int) -> None:
    """Teach both to answer questions about videos."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=config.processes)
    model, tokenizer = build_backbone(config.seed)
    heads = DenseHeads(model.config.vision_config.hidden_size)
    modules = nn.ModuleDict({"model": model, "heads": heads})
    tower = [(n, p) for n, p in modules.named_parameters() if "vision_tower" in n or n.startswith("heads")]
    others = [(n, p) for n, p in modules.named_parameters() if not any(p is q for _, q in tower)]
    optimizer = Muons([(tower, config.tower_lr), (others, 1.0)], config.joint_lr, config.joint_steps)
    _load_phases(modules, folder)
    run = Run("joint", folder, modules, optimizer, quiet=rank > 0)
    packer = Packer(tokenizer)
    for step in run.steps():
        frozen = step < config.frozen * config.joint_steps
        for _, parameter in tower:
            parameter.requires_grad_(not frozen)
        losses = _joint_losses(modules, joint_batch(step, rank, config, packer), frozen)
        if step % 5 == 4:
            losses["text"] = 0.5 * answer_loss(
                model, text_batch(config.text_steps + step, packer, 8, rank + 1), None
            )
        sum(losses.values(), torch.zeros(())).backward()
        _average_gradients(modules, config.processes)
        optimizer.step(step)
        if step % 20 == 0:
            run.log(step=step, **{name: loss.item() for name, loss in losses.items()})
    dist.barrier()
    dist.destroy_process_group()


def _joint_losses(modules: nn.ModuleDict, batch: tuple, frozen: bool) -> dict[str, Tensor]:
    model, heads = modules["model"], modules["heads"]
    pixels, packed, classes, places = batch
    with torch.set_grad_enabled(not frozen):
        features = _features(model, pixels.flatten(0, 1))
    projected = model.model.multi_modal_projector(features)
    pooled = model.model.apply_pooling(projected)
    clips = pixels.shape[0]
    newline = model.model.image_newline[None, None].expand(clips, 1, -1)
    videos = torch.cat([pooled.reshape(clips, -1, pooled.shape[-1]), newline], 1)
    losses = {"answers": answer_loss(model, packed, videos)}
    if not frozen:
        losses["dense"] = 0.3 * heads(features, classes, places)
    return losses


def _load_phases(modules: nn.ModuleDict, folder: Path) -> None:
    vision = torch.load(folder / "vision.pt", weights_only=True)["model"]
    text = torch.load(folder / "text.pt", weights_only=True)["model"]
    parts = {
        "tower.": modules["model"].model.vision_tower,
        "heads.": modules["heads"],
        "language.": modules["model"].model.language_model,
    }
    for prefix, part in parts.items():
        found = {
            name.removeprefix(prefix): value
            for name, value in (vision | text).items()
            if name.startswith(prefix)
        }
        part.load_state_dict(found)


def _average_gradients(modules: nn.Module, processes: int) -> None:
    gradients = [p.grad for p in modules.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes
    norm = flat.norm()
    flat *= torch.clamp(1.0 / (norm + 1e-6), max=1.0)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def _alone(train: str, config: TrainConfig, folder: Path) -> None:
    torch.set_num_threads(1)
    {"vision": train_vision, "text": train_text}[train](config, folder)


def train(config: TrainConfig, folder: Path, port: int = 29531) -> Path:
    """Run the phases that are not finished yet; returns the checkpoint folder `folder/lynx-tiny`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    context = mp.get_context("spawn")
    workers = [context.Process(target=_alone, args=(name, config, folder)) for name in ("vision", "text")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a phase stopped; start again to go on from its checkpoint")
    mp.spawn(train_joint, (config, folder, port), nprocs=config.processes)
    return export(config, folder)


def export(config: TrainConfig, folder: Path) -> Path:
    """Write the checkpoint folder from the joint phase's last checkpoint, with its origin."""
    model, tokenizer = build_backbone(config.seed)
    state = torch.load(folder / "joint.pt", weights_only=True)
    weights = {n.removeprefix("model."): w for n, w in state["model"].items() if n.startswith("model.")}
    model.load_state_dict(weights)
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in asdict(config).items())
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    provenance = {
        "command": f"python -m lynx.world.train --out runs/lynx-tiny {options}",
        "commit": commit,
        "joint_step": state["step"],
    }
    save_backbone(model, tokenizer, folder / "lynx-tiny", provenance)
    return folder / "lynx-tiny"


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/lynx-tiny"))
    parser.add_argument(
        "--export-only", action="store_true", help="write the folder from the last checkpoint"
    )
    for name, spec in TrainConfig.__dataclass_fields__.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(spec.default), default=spec.default, help=spec.metadata["help"])
    options = vars(parser.parse_args())
    folder, only = options.pop("out"), options.pop("export_only")
    config = TrainConfig(**options)
    path = export(config, folder) if only else train(config, folder)
    logger.info("wrote %s", path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
