"""Options in a file: `--config run.yaml` of the stages, and recipes of several stages for `lynx run`.

A file holds a command's options by their names; what is typed beside it counts more. Every stage writes the
options of its run into its folder in the same form.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lynx.config import short_repr
from lynx.errors import DataError, writing

FLAG = "--config"
UNSAVED = ("help", "config", "json", "verbose", "check")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises: DataError: there is none."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise DataError(f"{path}: {twice[0]!r} stands twice in it")
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds {short_repr(values)}, expected options by name, such as steps: 100")
    return {str(name): value for name, value in values.items()}


def with_config(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The words of a command line with those that its `--config` file stands for before them."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument(FLAG)
    path = first.parse_known_args(list(words))[0].config
    if path is None or FLAG not in parser.format_usage():
        return list(words)
    typed = {word.partition("=")[0] for word in words if word.startswith("--")}
    values = {name: value for name, value in read_yaml(path).items()
              if _flag(name) not in typed or name in UNSAVED}  # fmt: skip
    return [*as_words(parser, values, str(path)), *words]


def as_words(parser: argparse.ArgumentParser, values: Mapping[str, Any], source: str) -> list[str]:
    """Options by name -> the words that a person would type. source: where they are from, for errors.

    Raises: DataError: the command has no such option.
    """
    actions = {flag: action for action in parser._actions for flag in action.option_strings}
    words: list[str] = []
    for name, value in values.items():
        flag = _flag(name)
        if (action := actions.get(flag)) is None or name in UNSAVED:
            raise DataError(f"{source}: {parser.prog} has no option {name!r}")
        try:
            words += _words_of(action, flag, value)
        except DataError as error:
            raise DataError(f"{source}: {name} is {short_repr(value)}, expected {error}") from error
    return words


def _words_of(action: argparse.Action, flag: str, value: Any) -> list[str]:
    """The words of one option. Raises: DataError: what the value should be."""
    if value is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise DataError("true or false")
        if isinstance(action, argparse.BooleanOptionalAction) and not value:
            return [f"--no-{flag[2:]}"]
        return [flag] if value else []
    several = value if isinstance(value, list) else [value]
    if type(action).__name__ == "_AppendAction":
        each = [item if isinstance(item, list) else [item] for item in several]
        return [word for item in each for word in (flag, *map(_word, item))]
    if isinstance(value, list):
        if action.nargs is None:
            raise DataError("one value, and no list")
        return [flag, *map(_word, several)] if several else []
    return [flag, _word(value)]


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def as_values(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """The options of a run by name, as plain values, without those that say nothing."""
    found = {}
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if action.option_strings and action.dest not in UNSAVED and value not in (None, [], {}, False):
            found[action.dest] = _plain(value)
        elif isinstance(action, argparse.BooleanOptionalAction) and value is False:
            found[action.dest] = False
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str | dict) else str(value)


def save_values(path: Path, values: Mapping[str, Any]) -> None:
    """Write options so that `--config` takes them. Raises: DataError: the disk does not take them."""
    import yaml

    with writing(path, DataError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")
