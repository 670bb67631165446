"""The training loop on next to nothing: a linear fit, with dropout, with held-out points."""

import json
from pathlib import Path

import torch
from torch import nn

from lynx.config import TrainConfig
from lynx.training.options import Validation
from lynx.training.trainer import Trainer
from lynx.training.validation import HeldOut

CONFIG = TrainConfig(lr=0.05, steps=7, batch_size=2, save_every=2, seed=3)
POINTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Fit:
    """A linear fit with dropout, which may stop like a killed process does: without a word."""

    def __init__(self, stop_at: int | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.weights = {
            "x.lora_A.weight": nn.Parameter(torch.randn(3, 4, generator=generator)),
            "x.lora_B.weight": nn.Parameter(torch.zeros(2, 3)),
        }
        self.stop_at, self.calls, self.seen = stop_at, 0, []

    def loss(self, indices):
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.seen.append(indices)
        a, b = list(self.weights.values())[:2]
        noisy = nn.functional.dropout(POINTS[indices], 0.3)
        return {"loss": (noisy @ a.T @ b.T - 1).square().mean(), "spread": noisy.std()}

    def trainer(self, folder: Path, config: TrainConfig = CONFIG, **more) -> Trainer:
        return Trainer(self.weights, len(POINTS), self.loss, config, folder, progress=False, **more)


class Judged(Fit):
    """A fit that is measured on points of its own; `losses` in place of them: what to say, in turn."""

    def __init__(self, stop_at=None, losses=None, **settings):
        super().__init__(stop_at)
        self.settings, self.losses, self.measured = settings, losses, []

    def measure(self, share):
        a, b = list(self.weights.values())[:2]
        part = POINTS[share[0] :: share[1]]
        with torch.no_grad():
            error = float((part @ a.T @ b.T - 1).square().mean())
        if self.losses:
            error = self.losses[len(self.measured)]
        self.measured.append([weight.detach().clone() for weight in self.weights.values()])
        return torch.tensor([[error * len(part), len(part)], [3, 4], [0, 0]], dtype=torch.float64)

    def trainer(self, folder, config=CONFIG):
        held_out = HeldOut(self.measure, Validation(**self.settings), {"held_out": "points"})
        return super().trainer(folder, config, held_out=held_out)


def rows(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
