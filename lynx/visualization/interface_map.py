"""The data of a map of the token interface: groups of tokens, their figures, and points on two axes.

Measured by `lynx.evaluation.interface`, drawn by `interface_chart`.
"""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

REFERENCE, VOCABULARY = "reference", "vocabulary"
"""The groups that are no sense of the clip: tokens of ordinary videos, and the embeddings of words."""


@dataclass(frozen=True)
class Figures:
    """Numbers of one group of tokens. None where there is nothing to compare with.

    norm: mean length. to_*: mean pairwise cosine distance (0 same direction, 1 at right angles) to the
    reference, the vocabulary and the clip's own video; to_itself: among the group's own pairs.
    gap: `to_reference` minus the mean `to_itself` of both; about 0 for two samples of the same tokens.
    statistics: L_stat of stage 2 to the reference, or to a guidance.
    """

    tokens: int
    norm: float
    to_reference: float | None
    to_vocabulary: float
    to_video: float | None
    to_itself: float
    gap: float | None
    statistics: float | None


@dataclass(frozen=True)
class Group:
    """Tokens of one kind. sense: a sense, REFERENCE or VOCABULARY; points: (m, 2) of a sample of them."""

    sense: str
    label: str
    aligned: bool
    points: Tensor
    figures: Figures


@dataclass(frozen=True)
class InterfaceMap:
    """All groups; what the reference is; `explained`: how much of the sample's variance each axis shows."""

    groups: tuple[Group, ...]
    reference: str | None
    explained: tuple[float, float]

    def table(self) -> list[dict[str, Any]]:
        """One row a group, plain data: its label and its `Figures`."""
        return [{"group": group.label, **asdict(group.figures)} for group in self.groups]
