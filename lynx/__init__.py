"""lynx gives an existing Video LLM new senses."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx.errors import AdapterError, BackboneError, DataError, LynxError, MediaError

if TYPE_CHECKING:
    from lynx.modalities.inspection import Inspection
    from lynx.model import Lynx
    from lynx.session import Session
    from lynx.types import FileSource, Recording

__version__ = "0.1.0"

__all__ = ["Lynx", "Recording", "Session", "inspect", "load"]
__all__ += ["AdapterError", "BackboneError", "DataError", "LynxError", "MediaError", "__version__"]

LAZY = {"Lynx": "lynx.model", "Recording": "lynx.types", "Session": "lynx.session"}


def __getattr__(name: str) -> Any:
    """The classes, imported when they are asked for: torch takes seconds."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'lynx' has no attribute {name!r}")


def load(
    source: str | Path = "lynx-tiny",
    adapters: Sequence[str | Path] = (),
    precision: str = "auto",
    device: str = "auto",
) -> "Lynx":
    """Load a backbone and its adapters: the start of everything.

    source: "lynx-tiny" (embedded), a catalog name, a folder, or a Hub id.
    adapters: folders, Hub ids, or names of those that come with lynx, such as "audio".
    precision: auto | fp32 | bf16 | int8 | nf4. device: auto | cpu | cuda.
    Raises: BackboneError, AdapterError.
    """
    from lynx import model  # torch is imported here, not with the package

    return model.load(source, adapters, precision, device)


def inspect(
    path: "FileSource", frames: int = 8, start: float | None = None, end: float | None = None
) -> "Inspection":
    """What a chat would see and hear of a recording, without a model: `lynx inspect` in Python.

    frames: moments, spread over the recording or over its part from `start` to `end` seconds.
    Raises: MediaError: it is no recording, or has no such part.
    """
    from lynx.modalities import inspection

    return inspection.inspect(path, frames, start, end)
