"""What the tests of workers run there: functions that crash, hang, allocate, or answer."""

import ctypes
import logging
import os
import time
from pathlib import Path

import numpy as np

from lynx.errors import MediaError
from lynx.modalities.audio import Audio
from lynx.types import DepthClip

calls = 0


class CrashingSound(Audio):
    """A sense whose drawing crashes the process where a file named "crash" stands beside the recording."""

    def render(self, source, times):
        if (Path(source).parent / "crash").exists():
            crash()
        return super().render(source, times)


class SlowSound(Audio):
    """A sense that takes half a minute to draw, and says who draws it."""

    def render(self, source, times):
        (Path(source).parent / f"{os.getpid()}.pid").touch()
        time.sleep(30)
        return super().render(source, times)


def crash():
    ctypes.string_at(0)  # reads address 0


def abort():
    os.abort()


def leave():
    os._exit(7)


def sleep(seconds):
    time.sleep(seconds)


def spin_without_python(seconds):
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # holds the interpreter's lock


def allocate(gigabytes):
    return np.ones(int(gigabytes * 2**30), np.uint8)[:3].copy()


def swallow(gigabytes):
    """What a reader does: an error of memory becomes one of a damaged file."""
    try:
        return allocate(gigabytes)
    except MemoryError as error:
        raise MediaError("'a.ply' is damaged") from error


def refuse(text):
    try:
        raise ValueError("the cause")
    except ValueError as error:
        raise MediaError(text) from error


def fail():
    raise ZeroDivisionError("no files")


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)


def fail_oddly():
    raise Unpicklable("first", lambda: 0)


def pid(*_):
    return os.getpid()


def count():
    global calls  # noqa: PLW0603
    calls += 1
    return calls


def speak(text):
    print("printed:", text)
    logging.getLogger("lynx.media.mesh").warning("%s is %s", text, "logged")
    logging.getLogger("lynx.media.mesh").debug("not asked for")
    return text


def echo(value):
    return value


def cores():
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE)[0]


def make_clip(path: Path, size: int) -> DepthClip:
    """Maps that hold the process and how often a clip was made in it."""
    value = float(count())

    def measure(indices):
        return np.stack([np.full((size, size), value + 100 * index, np.float32) for index in indices])

    return DepthClip(5, measure, poses=np.zeros((5, 4, 4)), notes=(path.read_text(),), background=True)
