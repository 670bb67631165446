"""A phase of lynx-tiny's training: an optimizer for matrices and one for the rest, steps that can resume.

Why this is not `lynx.training.trainer.Trainer`: that one trains the LoRAs of a frozen model, counts which of
them got a gradient, and shuffles a data set. Here every weight is trained, by two optimizers, parts are
unfrozen on the way, and a step's data is drawn from its number, without a shuffle.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

LOG_EVERY = 20
"""Steps between two lines of a phase's log."""


class MuonAdamW:
    """Muon for matrices inside layers, AdamW for everything else, with one schedule for both.

    groups: named parameters, and the share of the learning rate that they get.
    """

    def __init__(
        self, groups: list[tuple[list[tuple[str, nn.Parameter]], float]], lr: float, steps: int
    ) -> None:
        self.steps = steps
        matrices, others = [], []
        for parameters, scale in groups:
            inner = {n: p for n, p in parameters if p.ndim == 2 and "embed" not in n and "shared" not in n}
            outer = [p for n, p in parameters if n not in inner]
            rate = {"lr": lr * scale, "peak": lr * scale}
            matrices.append({"params": list(inner.values()), **rate})
            others.append({"params": outer, **rate})
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


class Phase:
    """The steps of one phase with a bar, a log and a checkpoint from which it resumes."""

    def __init__(
        self, name: str, folder: Path, modules: nn.Module, optimizer: MuonAdamW, quiet: bool = False
    ) -> None:
        self.name, self.modules, self.optimizer, self.quiet = name, modules, optimizer, quiet
        self.checkpoint, self.log_file = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self.start = 0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            modules.load_state_dict(state["model"])
            for each, kept in zip(optimizer.optimizers, state["optimizers"], strict=True):
                each.load_state_dict(kept)
            self.start = state["step"]

    def steps(self, every: int = 100) -> Iterator[int]:
        """The numbers of the remaining steps; writes checkpoints on the way and at the end.

        Raises: SystemExit in a worker whose command was killed: another may already go on from there.
        """
        total, command = self.optimizer.steps, multiprocessing.parent_process()
        for step in tqdm(range(self.start, total), self.name, total, initial=self.start, disable=self.quiet):
            if command and not command.is_alive():
                raise SystemExit(1)
            yield step
            if not self.quiet and ((step + 1) % every == 0 or step + 1 == total):
                # Written aside, so that a kill in the middle leaves the old checkpoint.
                half = self.checkpoint.with_suffix(".half")
                optimizers = [each.state_dict() for each in self.optimizer.optimizers]
                state = {"model": self.modules.state_dict(), "optimizers": optimizers, "step": step + 1}
                torch.save(state, half)
                os.replace(half, self.checkpoint)

    def log(self, step: int, **values: Tensor | float) -> None:
        """Add a line to the phase's log, now and then."""
        if not self.quiet and step % LOG_EVERY == 0:
            line = {"time": round(time.time(), 1), "step": step}
            line |= {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}
            with self.log_file.open("a") as file:
                file.write(json.dumps(line) + "\n")
