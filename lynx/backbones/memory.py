"""Free memory, and running out of it: recognized, retried with more room, explained to the user.

Gradient checkpointing, which takes less memory for more time, is switched on here.
"""

import ctypes
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lynx import compat
from lynx.backbones.base import Backbone
from lynx.config import Checkpointing
from lynx.errors import BackboneError, DataError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ALLOCATOR_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""Parts of the messages of torch's allocators where they raise a plain RuntimeError."""

ADVICE = "the model ran out of memory: use fewer frames, int8 or nf4, or a smaller backbone"
"""Message of the BackboneError for running out of memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in ALLOCATOR_MESSAGES)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Inside the `with`, memory that runs out raises a BackboneError that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise BackboneError(ADVICE) from error


def retry_with_more_room(
    call: Callable[[], Result], make_room: Sequence[Callable[[], bool]], advice: str = ADVICE
) -> Result:
    """Return `call()`; when memory runs out, the next of `make_room` frees some and `call` is repeated.

    make_room: tried in this order, each once; one that had nothing to free returns False and is passed over.
    Raises: BackboneError with this advice when memory runs out and nothing is left to free.
    """
    ways = iter(make_room)
    while True:
        try:
            return call()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("memory ran out: %s", str(error))  # a log that kept the error would keep tensors
        # Outside of the `except`: the error's traceback, and with it the tensors of the failed call, is gone.
        if not any(free() for free in ways):
            raise BackboneError(advice)


@contextmanager
def checkpointed(model: nn.Module, mode: Checkpointing) -> Iterator[None]:
    """Gradient checkpointing of a transformers model inside the `with`, non-reentrant or not at all.

    Raises: DataError: the model has been set to reentrant checkpointing, whose gradients would be wrong.
    """
    if compat.reentrant_checkpointing(model):
        raise DataError(
            "the model uses reentrant gradient checkpointing, which gives silently wrong gradients here: "
            "call activation_checkpointing_disable() on it, and set checkpointing to 'non-reentrant'"
        )
    if mode == "off":
        yield
        return
    with compat.checkpointed_layers(model, partial(checkpoint, use_reentrant=False)):
        yield


def gradient_bytes(backbone: Backbone, tokens: int, checkpointing: Checkpointing = "off") -> int:
    """About the peak of what one pass of the LLM over a prompt keeps for gradients of its inputs.

    Frozen linears keep nothing: the inputs of norms and of products, queries, keys and values are kept.
    """
    config: Any = backbone.model.config.get_text_config()
    text, size = backbone.text_sizes(config), backbone.dtype.itemsize
    heads = (config.num_attention_heads + text.kv_heads) * text.head_dim
    floats = 3 * text.inner + 2 * text.hidden + 2 * heads
    norms = 2 * 4 * text.hidden if size < 4 else 0  # which compute in float32
    layer = int(1.25 * (floats * size + norms))  # a quarter for what is alive only for a moment
    if checkpointing == "off":
        return tokens * layer * text.layers
    return tokens * (layer + text.hidden * size * text.layers)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights, shared ones once."""
    return sum(weight.nbytes for weight in model.parameters())


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a device has left now, of the machine's memory at most what its container allows.

    None for a device that does not tell.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by this process
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    available, container = int(psutil.virtual_memory().available), container_bytes_left()
    return available if container is None else min(available, container)


def used_bytes() -> int:
    """Bytes in use now: of the GPU where there is one, else this process's resident ones, what has been read
    of the weights' mapped files included.
    """
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(psutil.Process().memory_info().rss)


@contextmanager
def peak_bytes() -> Iterator[list[int]]:
    """The most `used_bytes` while what is inside runs: a list of one, which is right once that has ended."""
    seen, ended = [used_bytes()], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            seen[0] = max(seen[0], used_bytes())

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        if torch.cuda.is_available():  # which counts itself, without gaps
            torch.cuda.synchronize()
            seen[0] = torch.cuda.max_memory_allocated()


def container_bytes_left(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the memory limit of the container (cgroup v2) leaves; None where there is no limit.

    psutil sees the whole machine, so the limit is read here. Page cache that is not in active use counts as
    free, since the kernel takes it back before it refuses an allocation.
    """
    limit, used = root / "memory.max", root / "memory.current"
    if not limit.is_file() or not used.is_file() or (most := limit.read_text().strip()) == "max":
        return None
    stat = root / "memory.stat"
    cache = re.search(r"^inactive_file (\d+)$", stat.read_text(), re.M) if stat.is_file() else None
    return max(0, int(most) - int(used.read_text()) + (int(cache[1]) if cache else 0))


def share_memory_between_threads() -> bool:
    """Let glibc's threads share two pools of memory; returns whether that C library is here.

    Of its usual eight a core each keeps what an answer has once taken.
    """
    with suppress(OSError, AttributeError, TypeError):
        return bool(ctypes.CDLL(None).mallopt(-8, 2))  # M_ARENA_MAX
    return False
