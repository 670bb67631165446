"""The command `lynx`: one file a group of commands, each command a function.

A function's docstring is its command's help and its result is a dict. A new command is a function in one of
these files, or in a new file that `main` imports.
"""

from lynx.cli.main import main

__all__ = ["main"]
