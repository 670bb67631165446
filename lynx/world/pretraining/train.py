"""Train `lynx-tiny` from nothing: `lynx world train --out runs/lynx-tiny`.

Three phases. *Vision*: the tower on single frames with a label for every patch (the stand-in for SigLIP's
pre-training). *Text*: the language model on scenes told in words. Both run side by side. *Joint*: both on
videos, all questions of a clip behind one prefix, on two processes. Killed and started again it goes on from
its last checkpoint.
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
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration

from lynx.errors import DataError
from lynx.world.pretraining.batches import joint_batch, text_batch, vision_batch
from lynx.world.pretraining.dense import DenseHeads, accuracy
from lynx.world.pretraining.loop import Muons, Run
from lynx.world.pretraining.model import WIDTH, build_backbone, save_backbone
from lynx.world.pretraining.packing import IGNORE, Packed, Packer


@dataclass(frozen=True)
class TrainConfig:
    """What a training run is made of. Steps are optimiser steps; batches are per process."""

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

    Raises: DataError when a phase stopped early, or the folder holds a run with other settings than its
    steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_same_run(config, folder)
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
    mp.spawn(train_joint, (config, folder, _free_port()), nprocs=config.processes)
    return export(config, folder)


def _free_port() -> int:
    """A port on which the processes of the joint phase can meet, on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_same_run(config: TrainConfig, folder: Path) -> None:
    """The number of joint steps may change from one start to the next, nothing else."""
    path = folder / "config.json"
    if path.exists():
        before = json.loads(path.read_text()) | {"joint_steps": config.joint_steps}
        if before != asdict(config):
            raise DataError(
                f"{folder} holds a run with other settings ({path.name}): give the same, or another --out"
            )
    path.write_text(json.dumps(asdict(config), indent=2) + "\n")


def train_vision(config: TrainConfig, folder: Path) -> None:
    """Teach the tower what and where things are."""
    torch.set_num_threads(1)
    model, _ = build_backbone(config.seed)
    tower = model.model.vision_tower
    heads = DenseHeads(WIDTH)
    modules = nn.ModuleDict({"tower": tower, "heads": heads})
    optimizer = Muons([(list(modules.named_parameters()), 1.0)], config.lr, config.vision_steps)
    run = Run("vision", folder, modules, optimizer)
    for step in run.steps():
        pixels, classes, places = vision_batch(step)
        features = patch_features(model, pixels)
        loss = heads(features, classes, places)
        loss.backward()
        optimizer.step(step)
        run.log(step, loss=loss, accuracy=accuracy(heads, features, classes))


def train_text(config: TrainConfig, folder: Path) -> None:
    """Teach the language model the world's words and what follows from facts."""
    torch.set_num_threads(1)
    model, tokenizer = build_backbone(config.seed)
    packer = Packer(tokenizer)
    language = nn.ModuleDict({"language": model.model.language_model})
    optimizer = Muons([(list(language.named_parameters()), 1.0)], config.lr, config.text_steps)
    run = Run("text", folder, language, optimizer)
    for step in run.steps():
        loss = answer_loss(model, text_batch(step, packer), None)
        loss.backward()
        optimizer.step(step)
        run.log(step, loss=loss)


def train_joint(rank: int, config: TrainConfig, folder: Path, port: int) -> None:
    """Teach both to answer questions about videos; one of `config.processes` equal processes."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=config.processes)
    model, tokenizer = build_backbone(config.seed)
    heads = DenseHeads(WIDTH)
    modules = nn.ModuleDict({"model": model, "heads": heads})
    tower = {n: p for n, p in modules.named_parameters() if "vision_tower" in n or n.startswith("heads")}
    others = [(n, p) for n, p in modules.named_parameters() if n not in tower]
    groups = [(list(tower.items()), config.tower_lr), (others, 1.0)]
    _load_phases(modules, folder)
    optimizer = Muons(groups, config.joint_lr, config.joint_steps)
    run = Run("joint", folder, modules, optimizer, quiet=rank > 0)
    packer = Packer(tokenizer)
    for step in run.steps():
        frozen = step < config.frozen * config.joint_steps
        for parameter in tower.values():
            parameter.requires_grad_(not frozen)
        losses = _joint_losses(
            modules, joint_batch(step, rank, config.processes, packer, config.clips), frozen
        )
        if step % 5 == 4:
            told = text_batch(config.text_steps + step, packer, config.clips // 2, rank + 1)
            losses["text"] = 0.5 * answer_loss(model, told, None)
        sum(losses.values(), torch.zeros(())).backward()
        _average_gradients(modules, config.processes)
        optimizer.step(step)
        run.log(step, **losses)
    dist.barrier()
    dist.destroy_process_group()


def patch_features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Patch features as the projector gets them, before the last norm: `(T, N, D)`."""
    features: Tensor = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    return features


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


def _joint_losses(
    modules: nn.ModuleDict, batch: tuple[Tensor, Packed, Tensor, Tensor], frozen: bool
) -> dict[str, Tensor]:
    model: Any = modules["model"]
    pixels, packed, classes, places = batch
    with torch.set_grad_enabled(not frozen):
        features = patch_features(model, pixels.flatten(0, 1))
    pooled = model.model.apply_pooling(model.model.multi_modal_projector(features))
    clips = pixels.shape[0]
    newline = model.model.image_newline[None, None].expand(clips, 1, -1)
    videos = torch.cat([pooled.reshape(clips, -1, pooled.shape[-1]), newline], 1)
    losses = {"answers": answer_loss(model, packed, videos)}
    if not frozen:
        losses["dense"] = 0.5 * modules["heads"](features, classes, places)
    return losses


def _load_phases(modules: nn.ModuleDict, folder: Path) -> None:
    vision, text = (torch.load(folder / f"{n}.pt", weights_only=True)["model"] for n in ("vision", "text"))
    model: Any = modules["model"]
    parts = {
        "tower.": model.model.vision_tower,
        "heads.": modules["heads"],
        "language.": model.model.language_model,
    }
    for prefix, part in parts.items():
        found = {n.removeprefix(prefix): w for n, w in (vision | text).items() if n.startswith(prefix)}
        part.load_state_dict(found)


def _average_gradients(modules: nn.Module, processes: int) -> None:
    """Mean over the processes, then scaled down to a norm of 1."""
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
    provenance: dict[str, object] = {
        "command": f"lynx world train {options}",
        "commit": commit.strip(),
        "joint_step": state["step"],
    }
    save_backbone(model, tokenizer, folder / "lynx-tiny", provenance)
    return folder / "lynx-tiny"
