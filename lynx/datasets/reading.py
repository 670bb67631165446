"""Clips that are read and drawn by worker processes, ahead of their use.

A reader is told what is to be drawn in the order of its use, draws a number of clips ahead, and gives each
when it is its turn: what a step sees depends neither on which worker drew it nor on when. Drawing is
deterministic; whatever is random in a step is drawn by the process that trains.

Unusual here: these are not the workers of torch's DataLoader. A forked one inherits the locks of FFmpeg's and
torch's threads, a spawned one imports the user's `__main__` again, and both pass tensors through /dev/shm, of
which a container has 64 MB. `lynx.media.worker` starts a plain process, whose errors are the library's.
"""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

import torch

from lynx.datasets.base import Example
from lynx.datasets.clips import render_clip
from lynx.errors import DataError
from lynx.media.worker import NotSent, Workers
from lynx.modalities import Modality
from lynx.types import DepthClip, FileSource, Frames, Recording, Waveform

logger = logging.getLogger(__name__)

MOST = 4
"""Workers at most, where the user does not say how many."""
FEWEST = 64
"""Clips to draw, at least, for which workers are started, which takes about 3 s."""
LONGEST = 3600.0
"""Seconds after which a worker that draws a clip is taken to hang."""


class Drawing(NamedTuple):
    """What is to be drawn of a clip: the arguments of `render_clip`."""

    senses: Mapping[str, Modality]
    example: Example
    frames: int
    only: tuple[str, ...] | None = None

    @property
    def about(self) -> str:
        """The example and its files, for error messages."""
        media = self.example.media.values() if isinstance(self.example.media, dict) else ()
        files = (Recording.of(source).path.name for source in media if isinstance(source, FileSource))
        named = ", ".join(map(repr, dict.fromkeys(files)))
        return f"example {self.example.id!r}" + (f" ({named})" if named else "")


class ClipReader:
    """Draws clips in so many worker processes, which are started when the first is drawn; 0: in this one."""

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers
        self._processes = Workers(workers, threads=1)
        # each waits for one of the processes
        self._threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="clip reader")
        self._here = Lock()  # what no worker can draw is drawn one at a time
        self._told = False

    def __enter__(self) -> "ClipReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are drawing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._processes.close()
        self._threads.shutdown()

    def read(self, drawings: Iterable[Drawing], ahead: int) -> Iterator[dict[str, Frames]]:
        """The senses of each clip, in this order; while one is used, `ahead` more are drawn.

        Raises: DataError, MediaError: as `render_clip`, when it is the turn of that clip.
        """
        if not self.workers:
            yield from (render_clip(*drawing) for drawing in drawings)
            return
        waiting: deque[Future[dict[str, Frames]]] = deque()
        try:
            for drawing in drawings:
                waiting.append(self._threads.submit(self._draw, drawing))
                if len(waiting) > max(ahead, self.workers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _draw(self, drawing: Drawing) -> dict[str, Frames]:
        # without its questions, which may be long
        alone = drawing._replace(example=replace(drawing.example, turns=()))
        try:
            return self._processes.call(render_clip, tuple(alone), drawing.about, LONGEST)
        except NotSent as error:
            with self._here:
                if not self._told:
                    logger.warning("no worker can draw %s, this process does: %s", drawing.about, error)
                self._told = True
                return render_clip(*drawing)


@contextmanager
def clip_reader(
    workers: int | None, examples: Sequence[Example], drawings: int, device: torch.device, processes: int = 1
) -> Iterator[ClipReader]:
    """A reader of that many of these examples' clips, for one of so many processes; its workers end with it.

    workers: how many; None: as many as there are cores left over, MOST at most, and none where the media are
    in memory or few. device: that of the model, which on the CPU takes a core for each of torch's threads.
    Raises: DataError: a negative number.
    """
    if workers is not None and workers < 0:
        raise DataError(f"workers is {workers}; it must be at least 0")
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        taken = torch.get_num_threads() if device.type == "cpu" else 1
        workers = max(0, min(MOST, cores // processes - taken))
        if drawings < FEWEST or _in_memory(examples[0]):
            workers = 0
    with ClipReader(workers) as reader:
        if workers:
            logger.info("clips are read and drawn by %d worker processes", workers)
        yield reader


def _in_memory(example: Example) -> bool:
    """Whether the media are there already; those of a lazy mapping are drawn when they are asked for."""
    media = example.media
    there = Frames | Waveform | DepthClip
    return isinstance(media, dict) and any(isinstance(source, there) for source in media.values())
