"""The one family of errors a user of `lynx` meets. Each message names what was given, what was expected,
what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LynxError(Exception):
    """Base of every error that is the user's business; the UI and the CLI turn it into one sentence."""


class MediaError(LynxError):
    """A file, track or recording cannot be used as the sense it was given for."""


class AdapterError(LynxError):
    """An adapter does not fit the backbone, is incomplete, or is not in the format of `lynx_config.json`."""


class BackboneError(LynxError):
    """A backbone is unknown, unreadable, or cannot run here as asked."""


class DataError(LynxError):
    """A data set, a configuration or a checkpoint is not what it should be."""


@contextmanager
def writing(path: Path, kind: type[LynxError], also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Inside the `with`, what a full or read-only disk raises becomes one sentence about the path.

    kind: of the error. also: further errors of libraries that write there.
    """
    errors: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except errors as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise kind(f"cannot write {path} ({reason}): is there room, and may it be written?") from error
