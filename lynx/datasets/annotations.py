"""Annotations in JSON, each field checked: an error names the file, the row and what was expected there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lynx.config import short_repr
from lynx.datasets.base import LETTERS
from lynx.errors import DataError


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises: DataError: it cannot be read, or is not JSON."""
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise DataError(f"{file} is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error


@dataclass(frozen=True)
class Row:
    """An object of an annotation file, and where it stands: what its errors begin with."""

    values: Mapping[str, Any]
    where: str

    def error(self, key: str, expected: str) -> DataError:
        """What is wrong with a field."""
        found = short_repr(self.values[key]) if key in self.values else "missing"
        return DataError(f'{self.where}: "{key}" is {found}; expected {expected}')

    def text(self, key: str) -> str:
        """A text that is not blank."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "a text")
        return value

    def name(self, key: str) -> str:
        """A text, or a whole number as one."""
        value = self.values.get(key)
        return str(value) if type(value) is int else self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of one text or more."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            raise self.error(key, "a list of texts")
        return tuple(value)

    def optional(self, key: str) -> str:
        """A text, "" where there is none."""
        return self.text(key) if self.values.get(key) not in (None, "") else ""

    def letter(self, key: str, options: Sequence[str]) -> str:
        """The letter of one of the options."""
        value = self.values.get(key)
        if not isinstance(value, str) or len(value) != 1 or value not in LETTERS[: len(options)]:
            raise self.error(key, f"a letter from A to {LETTERS[len(options) - 1]}")
        return value

    def rows(self, key: str) -> list["Row"]:
        """A list of objects."""
        return rows_of(self.values.get(key), f"{self.where}, {key}")


def rows_of(content: Any, where: str) -> list[Row]:
    """The objects of a list. Raises: DataError: it is no list, is empty, or holds something else."""
    if not isinstance(content, list) or not content:
        raise DataError(f"{where} holds {short_repr(content)}; expected a list of objects")
    found = []
    for number, values in enumerate(content):
        if not isinstance(values, dict):
            raise DataError(f"{where}, row {number}: {short_repr(values)}; expected an object")
        found.append(Row(values, f"{where}, row {number}"))
    return found


def read_rows(file: Path, key: str = "") -> list[Row]:
    """The rows of a JSON file: a list, or an object that has it as `key`."""
    content = read_json(file)
    return rows_of(content.get(key) if key and isinstance(content, dict) else content, file.name)


def letter_of(answer: str, options: Sequence[str]) -> str:
    """The letter of the option that has this text; the text itself where none has."""
    return LETTERS[options.index(answer)] if answer in options else answer


def json_lines(file: Path) -> Iterator[Row]:
    """The objects of a file with one a line. Raises: DataError, naming the line."""
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if line.strip():
            where = f"{file}, line {number}"
            try:
                values = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where} is not JSON: {error}") from error
            if not isinstance(values, dict):
                raise DataError(f"{where}: {short_repr(values)}; expected an object")
            yield Row(values, where)
