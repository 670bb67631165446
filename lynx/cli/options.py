"""The configuration dataclasses as command-line options: a field is an option, and is described nowhere else.

The annotation gives the option's type (`int`, `float`, `str` or `bool`, each with or without `| None`, or a
`Literal`), the field's default the default, `metadata["help"]` the help.
"""

import argparse
import dataclasses
import types
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def add_options(parser: argparse.ArgumentParser, cls: type, title: str = "settings of the stage") -> None:
    """One option for every field of the dataclass `cls`, in a group of its own."""
    group = parser.add_argument_group(title)
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, text = hints[field.name], field.metadata["help"].replace("%", "%%")
        if field.default is not None:
            text += f" (default: {field.default})"
        kind = next((kind for kind in get_args(hint) if kind is not types.NoneType), hint)  # of X | None: X
        keywords: dict[str, Any]
        if get_origin(hint) is Literal:
            keywords = {"choices": get_args(hint)}
        elif kind is bool:
            keywords = {"action": argparse.BooleanOptionalAction}
        else:
            keywords = {"type": kind, "metavar": {int: "N", float: "X", str: "TEXT"}[kind]}
        group.add_argument("--" + field.name.replace("_", "-"), default=field.default, help=text, **keywords)


def read_options(options: argparse.Namespace, cls: type[Config]) -> Config:
    """The dataclass that the parsed options describe; its `__post_init__` checks hold here as anywhere."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(options, name) for name in names})


def add_moved_options(parser: argparse.ArgumentParser, names: Iterable[str], where: str) -> None:
    """Options that moved elsewhere: giving one is wrong usage, and the message says where it is now."""

    class Moved(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
            parser.error(f"{given[2]} is no longer an option of {parser.prog}: {where}")

    for name in names:
        parser.add_argument(name, action=Moved, nargs="*", help=argparse.SUPPRESS, default=argparse.SUPPRESS)
