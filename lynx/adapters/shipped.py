"""Adapters on this machine: folders, and by their names those that come with lynx."""

import os
from pathlib import Path

from lynx.errors import AdapterError

CONFIG = "lynx_config.json"
"""The file that makes a folder an adapter."""
_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "assets" / "adapters"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "adapters"
"""Where they lie: in an installed package, else in the checkout."""


def adapters_in(folder: Path) -> tuple[str, ...]:
    """The names of the adapters that lie in a folder; none where there is no such folder."""
    return tuple(sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}")))


def shipped(name: str) -> Path | None:
    """The folder of the adapter of that name that comes with lynx; None where there is none."""
    return FOLDER / name if name in adapters_in(FOLDER) else None


def local_adapter(source: str | Path) -> Path | None:
    """The folder that a source names, or the adapter of that name that comes with lynx; None for a Hub id.

    Raises: AdapterError: what can only be a mistyped folder or name: the Hub is not asked for it.
    """
    path, named = Path(source), shipped(str(source))
    if os.path.isdir(path) and not (named and not os.path.lexists(path / CONFIG)):
        return path
    if named:
        return named
    beside = adapters_in(path.parent) if path.parent.parts else ()
    if beside and not os.path.lexists(path):
        raise AdapterError(f"there is no folder {str(source)!r}: {path.parent}/ has {', '.join(beside)}")
    if len(path.parts) == 1 and "@" not in str(source):
        known = ", ".join(adapters_in(FOLDER)) or "none"
        raise AdapterError(
            f"no adapter at {str(source)!r}: expected a folder with {CONFIG}, a Hub id (owner/name), or the "
            f"name of one that comes with lynx: {known}"
        )
    return None
