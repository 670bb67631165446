"""Tokens that a sense was trained on, and how far from them the tokens of another clip lie.

A clip unlike all training is not refused by a model: it names what it knows. So beside a sense's weights lie
some directions of the tokens it was trained on. After Sun et al., Out-of-Distribution Detection with Deep
Nearest Neighbors (arXiv 2204.06507): directions alone count, and the distance to the nearest one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lynx.types import Stream

COUNT = 512
"""Directions that are kept."""
CLIPS = 256
"""Clips that are enough to take them from: half of them give the directions, the others the limit."""
WITHIN, MARGIN = 0.99, 1.2
"""The limit is MARGIN times the distance within which this share of the clips in training lies."""
FAMILIAR_FILE = "familiar_tokens.safetensors"
DIRECTIONS, LIMIT = "directions", "limit"  # its tensors: (K, D) and (1,)


@dataclass(frozen=True)
class FamiliarTokens:
    """Directions (K, D) of length 1 of tokens in training, and how far from them nearly all such clips lie.

    limit: a cosine distance, 0 (the same direction) to 2 (the opposite one).
    """

    directions: Tensor
    limit: float

    def distance(self, stream: Stream) -> float:
        """Cosine distance of a clip's tokens to the nearest direction, in the mean over the tokens."""
        tokens = _directions(stream)  # (n, D)
        near = tokens @ self.directions.to(tokens).T  # (n, K)
        return 1 - float(near.amax(dim=1).mean())

    def save(self, path: Path) -> None:
        """Write them as safetensors; the directions at half precision."""
        tensors = {DIRECTIONS: self.directions.half().cpu(), LIMIT: torch.tensor([self.limit])}
        save_file(tensors, path, metadata={"format": "pt"})

    @classmethod
    def load(cls, path: Path) -> "FamiliarTokens":
        """Read what `save` wrote. Raises: SafetensorError, OSError, KeyError, ValueError: it did not."""
        tensors = load_file(path)
        directions, limit = tensors[DIRECTIONS].float(), tensors[LIMIT]
        if directions.dim() != 2 or not len(directions) or limit.shape != (1,):
            raise ValueError(f"directions {tuple(directions.shape)}, limit {tuple(limit.shape)}")
        return cls(directions, float(limit))


def familiar_tokens(
    clips: Sequence[Stream], others: Sequence[Stream], seed: int = 0, count: int = COUNT
) -> FamiliarTokens:
    """What is kept of a sense's streams in training.

    clips: directions are drawn from all of their tokens. others: clips of the same kind, and not of the same
    recordings; how far nearly all of them lie makes the limit. Neither may be empty.
    """
    tokens = torch.cat([_directions(clip).cpu() for clip in clips])
    drawn = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[:count]
    found = FamiliarTokens(tokens[drawn].half().float(), 0.0)  # as they will be read
    distances = torch.tensor([found.distance(other) for other in others])
    return FamiliarTokens(found.directions, MARGIN * float(distances.quantile(WITHIN)))


def _directions(stream: Stream) -> Tensor:
    """Directions (n, D) of the tokens that show something: a newline is the same in every clip."""
    shown = stream.tokens[~stream.times.isnan().to(stream.tokens.device)]
    return F.normalize(shown.float(), dim=-1)
