"""JSON that somebody else wrote: read within limits, so that no content of a file can stop the reader."""

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

from lynx.errors import AdapterError

MAX_BYTES = 1_000_000  # descriptions of adapters have a few thousand
MAX_DEPTH = 32  # lists and objects inside one another
MAX_NAME = 200  # characters
MAX_INTEGER = 2**63  # beyond it, arithmetic with floats and tensors overflows

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no terminal and no page can show: control characters and halves of UTF-16 pairs."""


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds: finite numbers, printable names, at most MAX_DEPTH levels.

    Raises: AdapterError: missing, not a plain file, too large, not JSON, or beyond those limits.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            raise AdapterError(f"{path} is not a plain file: expected JSON")
        if status.st_size > MAX_BYTES:
            raise AdapterError(f"{path} has {status.st_size:,} bytes: at most {MAX_BYTES:,} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            f"{path.parent} has no {path.name}: it is not an adapter, or incomplete"
        ) from error
    except RecursionError as error:
        raise AdapterError(f"{path} is nested deeper than {MAX_DEPTH} levels") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path} holds a {type(content).__name__}, expected an object")
    _check(content, path)
    return content


def brief(value: object) -> str:
    """A value as an error shows it: its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _check(content: dict[str, Any], path: Path) -> None:
    """Raises: AdapterError for what JSON allows and nothing that reads an adapter can use."""
    left: list[tuple[str, Any, int]] = [("", content, 1)]  # a stack, since recursion has its own limit
    while left:
        place, value, depth = left.pop()
        if depth > MAX_DEPTH:
            raise AdapterError(f"{path} is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            for name, inner in value.items():
                if not name.isprintable() or len(name) > MAX_NAME:
                    raise AdapterError(
                        f"{path} has the name {brief(name)}: expected up to {MAX_NAME} printable characters"
                    )
                left.append((f"{place}.{name}" if place else name, inner, depth + 1))
        elif isinstance(value, list):
            left += [(place, inner, depth + 1) for inner in value]
        elif isinstance(value, str) and _CONTROL.search(value):
            raise AdapterError(f"{path}: {place} is {brief(value)}, which has control characters")
        elif isinstance(value, float) and not math.isfinite(value):
            raise AdapterError(f"{path}: {place} is {value}, expected a finite number")
        elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
            raise AdapterError(f"{path}: {place} is {brief(value)}, expected a number below 2^63")
