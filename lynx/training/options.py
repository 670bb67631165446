"""Options of a run beside those of its stage: what is held out of the data, and what is kept of the run.

They stand apart from the stages' configurations since torch is not needed to read them, and since most do not
affect what is trained.
"""

from dataclasses import dataclass
from typing import Literal

from lynx.config import Config, option
from lynx.errors import DataError

Tracker = Literal["none", "tensorboard", "wandb", "trackio", "comet_ml"]
NO_TRACKER = "none"


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


@dataclass(frozen=True)
class Watch(Config):
    """Stages 2 and 3: what is kept of a run, and where it is shown. None of it affects what is trained."""

    keep: int = option(0, "checkpoints that are kept, the newest ones, also when the run has ended")
    log_with: Tracker = option(NO_TRACKER, "tracker that gets the log too; its package has to be installed")
