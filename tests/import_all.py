"""Imports every module of the installed `lynx` but the app's: `python tests/import_all.py [NAME ...]`.

A script of its own, so that it also runs where pytest is not installed. Names given as arguments are made
unimportable first, as if they were not installed.
"""

import importlib
import pkgutil
import sys


def main() -> None:
    """Import all modules outside `lynx.ui`; the first failure ends the script with its traceback."""
    for name in sys.argv[1:]:
        sys.modules[name] = None  # type: ignore[assignment]  # import then raises ModuleNotFoundError
    import lynx

    heavy = {"torch", "transformers", "numpy"} & set(sys.modules)
    if heavy:
        raise SystemExit(f"`import lynx` imported {sorted(heavy)}")
    names = [m.name for m in pkgutil.walk_packages(lynx.__path__, "lynx.", onerror=_fail)]
    names = [name for name in names if not name.startswith("lynx.ui") and not name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)
    print(f"imported {len(names)} modules from {lynx.__path__[0]}")


def _fail(name: str) -> None:
    if not name.startswith("lynx.ui"):
        raise ImportError(f"cannot import the package {name}")


if __name__ == "__main__":
    main()
