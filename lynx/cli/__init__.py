"""The command `lynx`: one file a group of commands, each command a function.

A function's docstring is its command's help and its result is a dict. A new command is a function in one of
these files, or in a new file that `main` imports.
"""

import sys

from lynx.errors import LynxError

try:
    from lynx.cli.main import main
except LynxError as error:  # an environment variable of `lynx.config.Limits` that is no number
    sys.exit(f"lynx: {error}")

__all__ = ["main"]
