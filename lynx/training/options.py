"""Options of a run beside those of its stage: what is held out of the data, and what is kept of the run.

They stand apart from the stages' configurations since torch is not needed to read them, and since most do not
affect what is trained.
"""

from dataclasses import dataclass

from lynx.config import Config, option
from lynx.errors import DataError


@dataclass(frozen=True)
class Validation(Config):
    """Stage 3: loss and accuracy on held-out clips while it trains, and what follows from them."""

    val_share: float = option(0.0, "share of the recordings that is held out of training", high=0.9)
    val_every: int = option(100, "steps between two measurements on the held-out clips", low=1)
    keep_best: bool = option(
        False, "keep the weights of the measurement with the least loss, and not the last ones"
    )
    patience: int = option(0, "measurements in a row without a lower loss after which it ends; 0: never")

    def check(self, held_out: bool) -> None:
        """held_out: whether any clips are. Raises: DataError: an option that would do nothing."""
        idle = [name for name, on in (("keep_best", self.keep_best), ("patience", self.patience)) if on]
        if idle and not held_out:
            raise DataError(
                f"{' and '.join(idle)}: no clips are held out; give --val-data NAME PATH or --val-share 0.1"
            )
