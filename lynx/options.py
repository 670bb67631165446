"""The configuration dataclasses as command-line options: a field is one option, and is described nowhere else.

A field's annotation gives the option's type (`int`, `float`, `str`, `bool`, `Path`, `Literal`, `X | None`, `tuple[X, ...]`,
or another such dataclass, whose options get its field's name as a prefix), its default the default, and
`metadata["help"]` the help text.
"""

import argparse
import dataclasses
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def add_options(parser: argparse.ArgumentParser, cls: type) -> None:
    """One option for every field of the dataclass `cls`, in a group named after it."""
    group = parser.add_argument_group(cls.__name__)
    for path, field, hint in _leaves(cls):
        group.add_argument(_flag(path), dest=_dest(path), **_argument(field, hint))


def read_options(options: argparse.Namespace, cls: type[Config]) -> Config:
    """The dataclass that the parsed options describe; its `__post_init__` checks hold here as anywhere."""
    given = {path: value for path, _, _ in _leaves(cls) if (value := getattr(options, _dest(path))) is not None}
    return _build(cls, given)


def _build(cls: type[Config], given: dict[tuple[str, ...], Any]) -> Config:
    """`cls` with the values of `given` (path of field names -> value) and defaults elsewhere."""
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, {path[1:]: v for path, v in given.items() if path[0] == name})  # type: ignore[arg-type]
        elif (name,) in given:
            value = given[(name,)]
            values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def _leaves(cls: type, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dataclasses.Field[Any], Any]]:
    """(path of field names, field, type) of every field that is not a dataclass itself."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _leaves(hint, (*prefix, field.name))  # type: ignore[arg-type]
        else:
            yield (*prefix, field.name), field, hint


def _argument(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    """`add_argument`'s keywords. The default stays None, so that a dataclass's own default is the only one."""
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    required = default is dataclasses.MISSING
    text = str(field.metadata.get("help", "")).replace("%", "%%")
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    keywords: dict[str, Any] = {"required": required, "help": text if required else f"{text} (default: {shown})".strip()}
    hint = _without_none(hint)
    if get_origin(hint) is tuple:
        keywords["nargs"] = "*"
        hint = get_args(hint)[0]
    if hint is bool:
        return keywords | {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return keywords | {"choices": get_args(hint), "type": type(get_args(hint)[0])}
    if hint not in (int, float, str, Path):
        raise TypeError(f"{field.name}: no option can be made of the type {hint}")
    return keywords | {"type": hint, "metavar": {int: "N", float: "X", str: "TEXT", Path: "PATH"}[hint]}


def _without_none(hint: Any) -> Any:
    """`X` for `X | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        return members[0] if len(members) == 1 else hint
    return hint


def _flag(path: tuple[str, ...]) -> str:
    return "--" + "-".join(path).replace("_", "-")


def _dest(path: tuple[str, ...]) -> str:
    return "config_" + "_".join(path)
