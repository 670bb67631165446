"""The commands of `lynx`: a function each, whose docstring is its help and whose result is a dict.

A new command is a function in one of these files, or in a new file that is imported here.
"""

from lynx.commands import adapters, chat, machine, models, recordings, stages, world
from lynx.commands.registry import COMMANDS, Command, Options, Result

__all__ = [
    "COMMANDS",
    "Command",
    "Options",
    "Result",
    "adapters",
    "chat",
    "machine",
    "models",
    "recordings",
    "stages",
    "world",
]
