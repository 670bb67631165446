"""Readers that may crash, hang or take all memory run in worker processes: parsers of meshes, rare codecs.

    call(load, path, about="'room.ply'")

runs `load(path)` in a worker and gives what it returns, or raises what it raises. A native crash, a call that
takes too long and one that needs too much memory end the worker alone: the caller gets a MediaError, and the
next call a new worker. It is a guard against crashes, no sandbox.

Unusual here: a worker is a plain subprocess, not one of `multiprocessing`, whose spawn imports the user's
`__main__` again. Messages are pickles of protocol 5 over its pipes, with arrays and tensors beside them.
Workers are started by the first call (about 2 s), stay warm, and end with the process that started them.

`Workers` are others of the same kind: those that read and draw clips ahead of training.
"""

import atexit
import importlib
import io
import logging
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Any, NoReturn, TypeVar

import numpy as np
import torch

from lynx.config import LIMITS, amount
from lynx.errors import MediaError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

T = TypeVar("T")

COUNT = struct.Struct("<Q")
STARTING = 120.0
"""Maximum seconds until a new worker is ready, on a machine that is busy."""
PIPE_BYTES = 2**20
"""Of the pipes to and from a worker: fewer switches between the two processes."""
GRACE = 5
"""Seconds after which a call that takes too long ends by itself, where its parent is gone."""
MESHES_ARE_READ_BY = ("trimesh", "trimesh.ray.ray_pyembree")
"""Imported by a worker before its memory is limited, where they are installed."""
decoder_threads = 0
"""Threads of a decoder of FFmpeg in this process; 0: as many as there are cores."""
BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that say how many threads numpy's library of linear algebra has."""


class NotSent(pickle.PicklingError):
    """A function or its arguments cannot be pickled, or not be found in a worker."""


def call(function: Callable[..., T], *args: Any, about: str, seconds: float | None = None) -> T:
    """`function(*args)` in a worker; function and arguments can be pickled, the function by its name.

    about: the file, as a message names it. seconds: the most it may take, LIMITS.max_reading_seconds if None.
    Raises what the function raises; MediaError where it crashes, or takes too much time or memory.
    """
    if not separate():
        return function(*args)
    return _pool.call(function, args, about, seconds or LIMITS.max_reading_seconds)


def separate() -> bool:
    """Whether a call runs in another process: not in a worker itself, nor where there can be none."""
    return _worker is None and LIMITS.max_workers > 0 and _pool.possible


class Workers:
    """Processes that answer calls, at most `most` at a time, each started when it is needed. Thread-safe.

    max_bytes: of the memory that one may take beside its libraries; 0: no limit. threads: of FFmpeg and of
    numpy in each, 0: as many as there are cores; torch has one.
    """

    def __init__(self, most: int, max_bytes: int = 0, threads: int = 0) -> None:
        self.most, self.max_bytes, self.threads = most, max_bytes, threads
        self.possible = resource is not None
        self.forget()

    def forget(self) -> None:
        """Have no workers; in a fork, which shares the pipes of its parent's."""
        self._free = threading.BoundedSemaphore(max(1, self.most))
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False

    def call(self, function: Callable[..., T], args: tuple[Any, ...], about: str, seconds: float) -> T:
        """As the module's `call`. Raises: NotSent: these cannot be pickled, or not be found there."""
        if not self.possible:
            return function(*args)
        with self._free:
            with self._lock:  # the last used one, which may still hold this file
                worker = self._idle.pop() if self._idle else None
            if worker is None or not worker.alive:
                try:
                    worker = _Connection(self.max_bytes, self.threads)
                except OSError as error:
                    logger.warning("no worker can be started (%s): files are read in this process", error)
                    self.possible = False
                    return function(*args)
            with self._lock:
                self._busy.add(worker)
                if self._closed:  # while it was started
                    worker.process.kill()
            try:
                return worker.call(function, args, about, seconds)
            finally:
                with self._lock:
                    self._busy.remove(worker)
                    if self._closed:
                        worker.end()
                    elif worker.alive:
                        self._idle.append(worker)

    def close(self) -> None:
        """End all workers. A call that is waited for in another thread ends with a MediaError there."""
        with self._lock:
            self._closed = True
            for worker in self._idle:
                worker.end()
            self._idle.clear()
            for worker in self._busy:
                worker.process.kill()  # whose pipes are closed by the thread that reads them


class _Connection:
    """One worker, as its parent has it. Raises OSError if there can be none, MediaError if it is slow."""

    def __init__(self, max_bytes: int, threads: int) -> None:
        self.max_bytes = max_bytes
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        known = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        known |= {"CUDA_VISIBLE_DEVICES": "", "MALLOC_ARENA_MAX": "2"}  # one a thread is 64 MB each
        known |= dict.fromkeys(BLAS, str(threads)) if threads else {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lynx.media.worker", str(max_bytes), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | known,
            start_new_session=True,  # Ctrl-C is the parent's
            pipesize=PIPE_BYTES,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout
        try:
            kind, said = self._receive(time.monotonic() + STARTING)
        except EOFError as error:
            self.end()
            raise OSError(f"it ended with {self.process.returncode} at its start") from error
        except TimeoutError as error:
            self.end()
            raise MediaError("The reader of such files did not start in time: try again.") from error
        assert kind == "ready", said

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def call(self, function: Callable[..., T], args: tuple[Any, ...], about: str, seconds: float) -> T:
        level = logging.getLogger("lynx").getEffectiveLevel()
        try:
            message = _pickled((function, args, seconds, level))
        except (pickle.PicklingError, AttributeError, TypeError) as problem:
            raise NotSent(f"{type(problem).__name__}: {problem}") from problem
        try:
            _send(self._to, message)
            kind, result = self._receive(time.monotonic() + seconds)
        except TimeoutError:
            self.end()
            raise MediaError(_too_slow(about, seconds)) from None
        except (EOFError, BrokenPipeError):
            self.end()
            raise MediaError(self._ended(about, seconds)) from None
        except BaseException:  # Ctrl-C: an answer that nobody waits for would be taken for the next one
            self.end()
            raise
        if kind == "returned":
            return result
        if kind == "not found":
            raise NotSent(result)
        error, told = result
        if kind == "memory":
            self.end()  # what it took may not come back
            limit = f"{amount(self.max_bytes, 'bytes')} ({LIMITS.variable('max_worker_bytes')})"
            most = limit if self.max_bytes else "there is"
            raise MediaError(f"{about} needs more memory than {most}: {_LESS}.") from _InWorker(told)
        raise error from _InWorker(told)

    def _ended(self, about: str, seconds: float) -> str:
        code = self.process.returncode
        if code == -signal.SIGALRM:
            return _too_slow(about, seconds)
        if code == -signal.SIGKILL:
            return f"{about} cannot be read: its reader was killed, as it is where memory runs out: {_LESS}."
        name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return f"{about} cannot be read: reading it crashed the reader ({name}): export it anew."

    def end(self) -> None:
        """Stop the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        for pipe in (self._to, self._from):
            try:
                pipe.close()
            except OSError:  # what was not sent yet
                pass

    def _receive(self, deadline: float) -> tuple[str, Any]:
        """The next message but log lines, which go to this process's log. Raises EOFError, TimeoutError."""
        while True:
            kind, value = _value(_parts(lambda size: _read_until(self._from, size, deadline)))
            if kind != "log":
                return kind, value
            record = logging.makeLogRecord(value)
            logging.getLogger(record.name).handle(record)


_LESS = "make it smaller, or cut it"


def _too_slow(about: str, seconds: float) -> str:
    usual = seconds == LIMITS.max_reading_seconds
    variable = f" ({LIMITS.variable('max_reading_seconds')})" if usual else ""
    return f"{about} cannot be read: it took more than {seconds:g} s{variable}: {_LESS}."


class _InWorker(Exception):
    """The traceback of an error in a worker, shown above the caller's own."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


# --- messages ------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    """Tensors as arrays, whose bytes lie beside the pickle."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor and value.device.type == "cpu" and value.dtype != torch.bfloat16:
            return torch.from_numpy, (value.detach().contiguous().numpy(),)
        if type(value) is np.ndarray and not value.flags.c_contiguous:  # else it is copied into the pickle
            return _same, (np.ascontiguousarray(value),)
        return NotImplemented


def _same(value: Any) -> Any:
    return value


def _pickled(value: Any) -> list[Any]:
    """The parts of a message: their number, their sizes, the pickle, the buffers."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [file.getbuffer(), *(buffer.raw() for buffer in buffers)]
    return [b"".join(map(COUNT.pack, [len(parts), *(part.nbytes for part in parts)])), *parts]


def _send(pipe: IO[bytes], message: list[Any]) -> None:
    for part in message:
        pipe.write(part)
    pipe.flush()


def _parts(read: Callable[[int], bytearray]) -> list[bytearray]:
    """The pickle and the buffers of the next message."""
    (count,) = COUNT.unpack(read(COUNT.size))
    sizes = [COUNT.unpack(read(COUNT.size))[0] for _ in range(count)]
    return [read(size) for size in sizes]


def _value(parts: list[bytearray]) -> Any:
    """What a message holds; its arrays can be written to."""
    content, *buffers = parts
    return pickle.loads(content, buffers=buffers)


def _read_until(pipe: IO[bytes], size: int, deadline: float) -> bytearray:
    """`size` bytes of an unbuffered descriptor. Raises EOFError at its end, TimeoutError at the deadline."""
    data = bytearray(size)
    left = memoryview(data)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while left:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            if not (count := os.readv(pipe.fileno(), [left])):
                raise EOFError
            left = left[count:]
    return data


# --- in the worker -------------------------------------------------------------------------------


class _Worker:
    """This process as a worker: reads calls from its standard input until that ends, one after another."""

    def __init__(self) -> None:
        # what prints, prints to the error stream; what reads, reads nothing
        self._from, self._to = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        self._lock = threading.Lock()  # log lines of other threads
        logging.getLogger("lynx").addHandler(_ToParent(self))

    def send(self, kind: str, value: Any) -> None:
        message = _pickled((kind, value))
        with self._lock:
            _send(self._to, message)

    def serve(self, max_bytes: int) -> NoReturn:
        _prepare(max_bytes)
        self.send("ready", None)
        while True:
            try:
                content = _parts(self._read)
            except EOFError:
                os._exit(0)  # the parent is gone, and nobody waits for what other threads do
            self._answer(content)

    def _read(self, size: int) -> bytearray:
        data = self._from.read(size)
        if len(data) < size:
            raise EOFError
        return bytearray(data)

    def _answer(self, content: list[bytearray]) -> None:
        try:
            function, args, seconds, level = _value(content)
        except Exception as error:  # of a class that is nowhere but in the parent
            self.send("not found", f"{type(error).__name__}: {error}")
            return
        try:
            logging.getLogger("lynx").setLevel(level)
            signal.alarm(int(seconds) + GRACE)
            result = function(*args)
            signal.alarm(0)
            self.send("returned", result)
        except Exception as error:  # whatever it is, it is the caller's
            signal.alarm(0)
            told = traceback.format_exc()
            if _of_memory(error):
                self.send("memory", (None, told))
                return
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # an error of a library that cannot be pickled
                error = MediaError(f"{type(error).__name__}: {error}")
            self.send("raised", (error, told))


class _ToParent(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, worker: _Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        known = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
        self._worker.send("log", known | {"msg": record.getMessage(), "created": record.created})


def _of_memory(error: BaseException | None) -> bool:
    """Whether memory was missing: an error's cause may say so where its own message does not."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _prepare(max_bytes: int) -> None:
    """Import what reads files, then limit this process's addresses to what it has and what it may take."""
    meshes = MESHES_ARE_READ_BY if max_bytes else ()
    for name in ("lynx.media.audio", "lynx.media.depth", "lynx.media.video", *meshes):
        try:
            importlib.import_module(name)
        except ImportError:  # the reader says what is missing
            pass
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not max_bytes:
        return
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux: addresses in use are unknown, and libraries alone may have many
        return
    limit = used + max_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def serve(max_bytes: int, threads: int) -> NoReturn:
    """Be a worker until the parent is gone; the values are those of `Workers`."""
    global _worker, decoder_threads  # noqa: PLW0603  what this process is
    _worker, decoder_threads = _Worker(), threads
    _worker.serve(max_bytes)


_worker: _Worker | None = None
_pool = Workers(LIMITS.max_workers, LIMITS.max_worker_bytes)
atexit.register(_pool.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)

if __name__ == "__main__":
    # its classes have to be those of `lynx.media.worker`, not of `__main__`
    importlib.import_module("lynx.media.worker").serve(*map(int, sys.argv[1:]))
