"""Train `lynx-tiny` from nothing: `lynx world train --out runs/lynx-tiny`.

Three phases. *Vision*: the tower on single frames with a label for every patch (the stand-in for SigLIP's
pre-training). *Text*: the language model on scenes told in words. Both run side by side. *Joint*: both on
videos, all questions of a clip behind one prefix, on two processes. A killed run goes on from its last
checkpoint when it is started again.
"""

import json
import socket
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from lynx.backbones.familiarity import CLIPS, FAMILIAR_FILE, FamiliarTokens, familiar_tokens
from lynx.backbones.llava_onevision import LlavaOnevision
from lynx.datasets.sources import open_data
from lynx.errors import DataError
from lynx.model import Lynx, load
from lynx.training.packing import Packer
from lynx.training.tuning_loss import answer_loss
from lynx.types import VIDEO, Stream, sample_times
from lynx.world.pretraining.batches import joint_batch, text_batch, vision_batch
from lynx.world.pretraining.dense import DenseHeads, accuracy
from lynx.world.pretraining.loop import MuonAdamW, Phase
from lynx.world.pretraining.model import FRAMES, WIDTH, build_backbone, save_backbone, trainable_backbone
from lynx.world.scene.scene import DURATION


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. Steps are optimizer steps; batches are per process."""

    seed: int = field(default=0, metadata={"help": "seed of the initial weights"})
    vision_steps: int = field(default=800, metadata={"help": "steps of 96 frames for the tower"})
    text_steps: int = field(default=500, metadata={"help": "steps of 24 told scenes for the language model"})
    joint_steps: int = field(default=2600, metadata={"help": "steps of both on `clips` clips a process"})
    clips: int = field(default=16, metadata={"help": "clips in a process's batch of the joint phase"})
    lr: float = field(default=2e-3, metadata={"help": "peak learning rate of vision and text"})
    joint_lr: float = field(default=1.5e-3, metadata={"help": "peak learning rate of the joint phase"})
    tower_lr: float = field(default=0.3, metadata={"help": "the tower's share of the joint learning rate"})
    frozen: float = field(default=0.12, metadata={"help": "part of the joint phase with a frozen tower"})
    processes: int = field(default=2, metadata={"help": "processes of the joint phase, one thread each"})


def train(config: TrainConfig, folder: Path) -> Path:
    """Run the phases that are not finished yet; returns the checkpoint folder `folder/lynx-tiny`.

    Raises: DataError when a phase stopped early, or the folder holds a run with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    if path.exists():  # the number of joint steps may change from one start to the next, nothing else
        before = json.loads(path.read_text()) | {"joint_steps": config.joint_steps}
        if before != asdict(config):
            raise DataError(
                f"{folder} holds a run with other settings ({path.name}): give the same, or another --out"
            )
    path.write_text(json.dumps(asdict(config), indent=2) + "\n")
    context = mp.get_context("spawn")
    workers = [context.Process(target=phase, args=(config, folder)) for phase in (train_vision, train_text)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise DataError(
            f"a phase in {folder} stopped early: give the command again to go on from its checkpoint"
        )
    with socket.create_server(("127.0.0.1", 0)) as probe:  # a free port, where the processes can meet
        port = int(probe.getsockname()[1])
    mp.spawn(train_joint, (config, folder, port), nprocs=config.processes)
    return export(config, folder)


def train_vision(config: TrainConfig, folder: Path) -> None:
    """Teach the tower what and where things are."""
    torch.set_num_threads(1)
    backbone = trainable_backbone(config.seed)
    heads = DenseHeads(WIDTH)
    modules = nn.ModuleDict({"tower": backbone.model.model.vision_tower, "heads": heads})
    optimizer = MuonAdamW([(list(modules.named_parameters()), 1.0)], config.lr, config.vision_steps)
    phase = Phase("vision", folder, modules, optimizer)
    for step in phase.steps():
        batch = vision_batch(backbone, step)
        features = patch_features(backbone, batch.pixels)
        loss = heads(features, batch.classes, batch.places)
        loss.backward()
        optimizer.step(step)
        phase.log(step, loss=loss, accuracy=accuracy(heads, features, batch.classes))


def train_text(config: TrainConfig, folder: Path) -> None:
    """Teach the language model the world's words and what follows from facts."""
    torch.set_num_threads(1)
    backbone = trainable_backbone(config.seed)
    packer = Packer(backbone)
    language = nn.ModuleDict({"language": backbone.model.get_decoder()})
    optimizer = MuonAdamW([(list(language.named_parameters()), 1.0)], config.lr, config.text_steps)
    phase = Phase("text", folder, language, optimizer)
    for step in phase.steps():
        loss, _ = answer_loss(backbone, text_batch(packer, step))
        loss.backward()
        optimizer.step(step)
        phase.log(step, loss=loss)


def train_joint(rank: int, config: TrainConfig, folder: Path, port: int) -> None:
    """Teach both to answer questions about videos; one of `config.processes` equal processes."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=config.processes)
    backbone, heads = trainable_backbone(config.seed), DenseHeads(WIDTH)
    modules = nn.ModuleDict({"model": backbone.model, "heads": heads})
    tower = {n: p for n, p in modules.named_parameters() if "vision_tower" in n or n.startswith("heads")}
    others = [(n, p) for n, p in modules.named_parameters() if n not in tower]
    vision, text = (torch.load(folder / f"{n}.pt", weights_only=True)["model"] for n in ("vision", "text"))
    model: Any = backbone.model.model
    parts = {"tower.": model.vision_tower, "heads.": heads, "language.": model.language_model}
    for prefix, part in parts.items():
        found = {n.removeprefix(prefix): w for n, w in (vision | text).items() if n.startswith(prefix)}
        part.load_state_dict(found)
    groups = [(list(tower.items()), config.tower_lr), (others, 1.0)]
    optimizer = MuonAdamW(groups, config.joint_lr, config.joint_steps)
    phase = Phase("joint", folder, modules, optimizer, quiet=rank > 0)
    packer = Packer(backbone)
    for step in phase.steps():
        # The tower has learned to see already: until the LLM can read it, gradients would only disturb it.
        frozen = step < config.frozen * config.joint_steps
        for parameter in tower.values():
            parameter.requires_grad_(not frozen)
        frames, turns = joint_batch(backbone, step, rank, config.processes, config.clips)
        with torch.set_grad_enabled(not frozen):
            features = patch_features(backbone, frames.pixels)
        clips = video_streams(backbone, features, len(turns))
        packed = packer.pack([[clip] for clip in clips], turns, conversation=step % 4 == 3)
        losses = {"answers": answer_loss(backbone, packed)[0]}
        if not frozen:
            losses["dense"] = 0.5 * heads(features, frames.classes, frames.places)
        if step % 5 == 4:
            told = text_batch(packer, config.text_steps + step, config.clips // 2, rank + 1)
            losses["text"] = 0.5 * answer_loss(backbone, told)[0]
        sum(losses.values(), torch.zeros(())).backward()
        _average_gradients(modules, config.processes)
        optimizer.step(step)
        phase.log(step, **losses)
    dist.barrier()
    dist.destroy_process_group()


def patch_features(backbone: LlavaOnevision, pixels: Tensor) -> Tensor:
    """Patch features as the projector gets them, before the last norm: (T, 3, H, W) -> (T, N, D)."""
    tower: Any = backbone.model.model.vision_tower
    features: Tensor = tower(pixels, output_hidden_states=True).hidden_states[-1]
    return features


def video_streams(backbone: LlavaOnevision, features: Tensor, clips: int) -> list[Stream]:
    """Patch features (clips * FRAMES, N, D) -> the video stream of each clip, as `encode` makes it.

    One pass over all clips is faster than clip by clip, and the dense heads read the same features.
    """
    model: Any = backbone.model.model
    pooled = model.apply_pooling(model.multi_modal_projector(features))  # (clips * FRAMES, n, D)
    tokens = pooled.unflatten(0, (clips, FRAMES)).flatten(1, 2)  # (clips, FRAMES * n, D)
    tokens = torch.cat([tokens, model.image_newline[None, None].expand(clips, 1, -1)], 1)
    layout = backbone.layout(FRAMES)
    times = layout.seconds(sample_times(DURATION, FRAMES))
    rest = times, layout.cell, layout.grid, None
    return [Stream(VIDEO, clip, *rest, duration=DURATION) for clip in tokens]


def _average_gradients(modules: nn.Module, processes: int) -> None:
    """Mean over the processes, then scaled down to a norm of 1; one message, not one a parameter."""
    gradients = [p.grad for p in modules.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes
    flat *= torch.clamp(1.0 / (flat.norm() + 1e-6), max=1.0)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def export(config: TrainConfig, folder: Path) -> Path:
    """Write the checkpoint folder from the joint phase's last checkpoint, with its origin."""
    model, tokenizer = build_backbone(config.seed)
    state = torch.load(folder / "joint.pt", weights_only=True)
    weights = {n.removeprefix("model."): w for n, w in state["model"].items() if n.startswith("model.")}
    model.load_state_dict(weights)
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in asdict(config).items())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    origin = {"command": f"lynx world train {options}", "commit": commit.strip(), "joint_step": state["step"]}
    save_backbone(model, tokenizer, folder / "lynx-tiny", origin)
    known_pictures(load(folder / "lynx-tiny")).save(folder / "lynx-tiny" / FAMILIAR_FILE)
    return folder / "lynx-tiny"


def known_pictures(model: Lynx, seed: int = 0) -> FamiliarTokens:
    """What the clips of the miniature world look like to a backbone that was trained on them."""
    clips = open_data("world", seed=seed, n=CLIPS, senses=(VIDEO,))
    times = sample_times(DURATION, FRAMES)
    streams = [model.stream(VIDEO, clip.media[VIDEO], times) for clip in clips]
    half = len(streams) // 2
    return familiar_tokens(streams[:half], streams[half:], seed)
