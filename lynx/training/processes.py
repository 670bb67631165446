"""The processes that `torchrun` or `accelerate launch` started together: what each does, what all learn.

Each runs the whole program on its share of the work, and all return the same. One that ends with an error
ends the others: their next exchange fails, and the launcher stops them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate.state import PartialState
from torch import Tensor
from torch import distributed as dist

from lynx.errors import DataError, LynxError

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others. Shares of clips to encode take unequally long, and a process that
is gone is noticed at once; torch's 10 minutes would end runs in which nothing is wrong."""
CPU = torch.device("cpu")
T = TypeVar("T")


def join(device: torch.device) -> None:
    """Meet the other processes, if a launcher started several, and take this one's device of that kind."""
    PartialState(cpu=device.type == "cpu", timeout=PATIENCE)


class Processes:
    """Those that work together. index: of this one, from 0. count: of all. device: of what they add up.

    alone: this one works for itself, however many were launched.
    """

    def __init__(self, device: torch.device = CPU, alone: bool = False) -> None:
        launched = dist.is_available() and not alone
        if launched and dist.is_torchelastic_launched() and not dist.is_initialized():
            join(device)
        several = launched and dist.is_initialized()
        self.device = device
        self.index, self.count = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)

    @property
    def main(self) -> bool:
        """Whether this one writes and prints."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every `count`-th item from the `index`-th on."""
        return list(items[self.index :: self.count])

    def wait(self) -> None:
        """Until all are here."""
        self.gather(None)

    def gather(self, mine: T) -> list[T]:
        """What every process gives, in their order."""
        if self.count == 1:
            return [mine]
        found: list[Any] = [None] * self.count
        with _noticing():
            dist.all_gather_object(found, mine)
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors of one shape, in place where it is on their kind of device."""
        if self.count == 1:
            return tensor
        total = tensor.to(self.device)
        with _noticing():
            dist.all_reduce(total)
        return total.to(tensor.device)

    def once(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, in all of them; they wait for it.

        Raises: LynxError: what it raised there.
        """
        if self.count == 1:
            return work()
        found: list[Any] = [None, None]
        if self.main:
            try:
                found[0] = work()
            except LynxError as error:
                found[1] = error
        with _noticing():
            dist.broadcast_object_list(found, 0)
        if found[1] is not None:
            raise found[1]
        result: T = found[0]
        return result


@contextmanager
def _noticing() -> Iterator[None]:
    """Inside the `with` another process that is gone is an error in one sentence."""
    try:
        yield
    except RuntimeError as error:
        told = " ".join(str(error).split())[:200]
        raise DataError(f"another process has ended, its own message says why ({told})") from error
