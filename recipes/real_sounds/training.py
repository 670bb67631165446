"""Stage 3 as `adapters/sounds` was trained: a few hundred recordings, not to be learned by heart.

A recording never looks the same twice: noise is added to its tokens, and they are mixed with another's. The
learning rate stays large to the end, and the moving average of the weights is kept, which averages these
large steps out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lynx.config import Sampling, TuneConfig
from lynx.datasets.base import Example
from lynx.errors import DataError
from lynx.model import Lynx
from lynx.training.packing import Packed
from lynx.training.questions import needs_new_sense
from lynx.training.trainer import Trainer, warmup_cosine
from lynx.training.tuning import tune
from lynx.training.tuning_loss import TuningLoss, answer_loss
from lynx.types import Stream
from recipes.real_sounds.mixup import WeightedClip, mixed


@dataclass(frozen=True)
class Regularization:
    """What keeps the language model from learning few recordings by heart.

    noise: on the modality's tokens, as a share of their size (after NEFTune).
    mixup: tokens of two clips that can be asked the same are mixed in shares from Beta(mixup, mixup), and so
    are the weights of their answers; 0 mixes none. It wants large batches, and one question a clip.
    final_lr: share of the peak learning rate that the cosine falls to.
    average: decay of a moving average of the weights, at step k at most (1 + k) / (10 + k), kept in place of
    the last ones; 0 keeps the last.
    """

    noise: float = 0.0
    mixup: float = 0.0
    final_lr: float = 0.0
    average: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = float("inf") if name in ("noise", "mixup") else 1
            if not 0 <= value <= most:
                raise DataError(f"{name} is {value!r}; it must be between 0 and {most:g}")


class RegularizedLoss(TuningLoss):
    """The loss of stage 3 with mixup and with noise on the tokens."""

    def __init__(self, *given: Any, regularization: Regularization) -> None:
        super().__init__(*given)
        self.regularization = regularization

    def __call__(self, indices: list[int]) -> dict[str, Tensor]:
        """As in `TuningLoss`, and the share of mixed clips. A right answer counts by its weight."""
        packed, new, weights, share = self.pack(indices)
        weights = weights.to(self.model.backbone.device)
        mixing = bool(self.regularization.mixup)
        loss, right = answer_loss(self.model.backbone, packed, weights if mixing else None)  # (), (Q,)
        parts = {"loss": loss} | ({"mixed": torch.tensor(share)} if mixing else {})
        for name, kind in (("accuracy", new), ("replay_accuracy", ~new)):
            if kind.any():
                parts[name] = (weights * right)[kind].sum() / weights[kind].sum()
        return parts

    def pack(self, indices: Sequence[int]) -> tuple[Packed, Tensor, Tensor, float]:
        """What a step shows and asks, packed; of its questions (Q,) whether each needs a new sense, and its
        weight; and the share of the clips that are mixed with another."""
        streams, turns, conversation = self.choose(indices)
        clips = [WeightedClip(s, t, [1.0] * len(t)) for s, t in zip(streams, turns, strict=True)]
        share = 0.0
        if self.regularization.mixup and not conversation:  # there a first answer is seen before the second
            known = [self.clips[index].turns for index in indices]
            clips, share = mixed(clips, known, self.regularization.mixup)
        media = [[self.noisy(stream) for stream in clip.streams] for clip in clips]
        return (
            self.packer.pack(media, [clip.turns for clip in clips], conversation),
            torch.tensor([needs_new_sense(turn, self.modalities) for clip in clips for turn in clip.turns]),
            torch.tensor([weight for clip in clips for weight in clip.weights]),
            share,
        )

    def noisy(self, stream: Stream) -> Stream:
        """A stream of a new sense with noise: on every token `noise` times its length in norm.

        After NEFTune (arXiv 2310.05914), whose noise is uniform and as large on every token.
        """
        if stream.sense not in self.modalities or not self.regularization.noise:
            return stream
        size = stream.tokens.square().mean(dim=-1, keepdim=True).sqrt()  # (N, 1)
        noise = self.regularization.noise * size * torch.randn_like(stream.tokens)  # (N, D)
        return replace(stream, tokens=stream.tokens + noise)


class AveragingTrainer(Trainer):
    """The training loop with a learning rate that need not fall to 0, and a moving average of the weights.

    torch's `AveragedModel` begins with a copy of the first step's weights; here the average begins with those
    before it and forgets them soon, and it goes into the checkpoint beside the weights.
    """

    def __init__(
        self, *given: Any, regularization: Regularization, of: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        super().__init__(*given, of={**(of or {}), **asdict(regularization)}, **more)
        self.regularization = regularization
        average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.averages = average if regularization.average else {}

    def learning_rate(self, step: int) -> float:
        """Falls to `final_lr` of its peak."""
        floor = self.regularization.final_lr
        return warmup_cosine(step, self.steps, self.config.lr, self.config.warmup, floor)

    def step(self, step: int) -> dict[str, Any]:
        """A step, and its weights' share in the average."""
        row = super().step(step)
        decay = min(self.regularization.average, (1 + step) / (10 + step))
        for name, average in self.averages.items():
            average.lerp_(self.weights[name].detach(), 1 - decay)
        return row

    def run(self) -> dict[str, Any]:
        """Train, and put the average in the place of the last weights; the report says with what."""
        report = super().run()
        for name, average in self.averages.items():
            self.weights[name].data.copy_(average)
        return report | {"regularization": asdict(self.regularization)}

    def state(self) -> dict[str, Tensor]:
        """The average too."""
        return super().state() | {f"average/{name}": average for name, average in self.averages.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The average too."""
        super().load_state(tensors)
        for name, average in self.averages.items():
            average.copy_(tensors[f"average/{name}"])


def tune_regularized(
    model: Lynx,
    modality: str | Sequence[str],
    examples: Sequence[Example],
    config: TuneConfig,
    out_dir: str | Path,
    regularization: Regularization,
    *,
    sampling: Sampling | None = None,
    cache_dir: str | Path | None = None,
    loss: type[RegularizedLoss] = RegularizedLoss,
    progress: bool = True,
) -> dict[str, Any]:
    """`tune` with this regularization. loss: what a step asks. Raises: DataError: mixup could mix nothing."""
    sampling = sampling or Sampling()
    if regularization.mixup and (config.batch_size == 1 or sampling.conversation == 1):
        raise DataError(
            f"mixup is {regularization.mixup}, but with batch_size {config.batch_size} and conversation "
            f"{sampling.conversation} no clip could be mixed: give a larger batch, fewer conversations"
        )
    return tune(
        model,
        modality,
        examples,
        config,
        out_dir,
        sampling=sampling,
        cache_dir=cache_dir,
        loss=partial(loss, regularization=regularization),
        trainer=partial(AveragingTrainer, regularization=regularization),
        progress=progress,
    )
