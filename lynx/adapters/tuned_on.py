"""Which recordings an adapter was tuned on: what was selected on a set is not measured on it.

They are kept beside the weights as numbers of 64 bits, digests of the files' bytes (`lynx.streams.key`), so
that an evaluation knows them again under any name, and says so. Nothing of a recording can be read from them.
"""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

TUNED_ON_FILE = "tuned_on.safetensors"
TRAINED, HELD_OUT = "trained", "held_out"
"""The file's tensors (n,) int64, and what a recording was for an adapter; the other ones are NEW."""
NEW = "new"


@dataclass(frozen=True)
class TunedOn:
    """Digests of the recordings whose answers were learned, and of those held out to measure while tuning."""

    trained: frozenset[int] = frozenset()
    held_out: frozenset[int] = frozenset()

    def __or__(self, other: "TunedOn") -> "TunedOn":
        return TunedOn(self.trained | other.trained, self.held_out | other.held_out)

    def role(self, recordings: Set[int]) -> str:
        """What a clip of these recordings was: TRAINED if any of them was, else HELD_OUT, or NEW."""
        if not self.trained.isdisjoint(recordings):
            return TRAINED
        return NEW if self.held_out.isdisjoint(recordings) else HELD_OUT

    def save(self, path: Path) -> None:
        """Write them as safetensors, in order, so that equal ones are equal files."""
        parts = {TRAINED: self.trained, HELD_OUT: self.held_out}
        tensors = {name: torch.tensor(sorted(part), dtype=torch.int64) for name, part in parts.items()}
        save_file(tensors, path, metadata={"format": "pt"})
