"""Too little memory, told apart from every other failure and said in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lynx.errors import BackboneError

SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""How torch's allocators say it where they raise a plain RuntimeError."""

TOO_MUCH = "the model ran out of memory: use fewer frames, int8 or nf4, or a smaller backbone"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def memory_errors_are_said() -> Iterator[None]:
    """Inside the `with` memory that runs out is a BackboneError that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise BackboneError(TOO_MUCH) from error
