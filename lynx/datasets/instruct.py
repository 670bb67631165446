"""LLaVA's form of conversations, with a file that says where each row's media are.

    {"id": "a", "video": "a.mp4", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                                    {"from": "gpt", "value": "A bell."}]}

The path of the source is the mapping, YAML or JSON, beside which the paths in it begin:

    annotations: [train.json]            # arrays of rows, or JSON lines
    media: {video: "videos/{video}", audio: "sound/{video_stem}.wav"}
    senses: [audio]                      # what the answers need; left out where that is not known
    history: true                        # a turn follows those before it, whose answers are given

`{field}` is a field of the row, `{field_stem}` the same without its suffix. Without `history` later turns of
a conversation are questions of their own. A row becomes one of `lynx.datasets.jsonl`, which checks it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lynx.config import short_repr
from lynx.datasets.base import Example, Wanted
from lynx.datasets.json_lines import read_lines
from lynx.datasets.jsonl import finish, read_row
from lynx.errors import DataError

MARKS = re.compile(r"<(image|video|audio|speech)>\s*")
"""Where LLaVA's own code puts media; here the backbone decides."""
ASKS, ANSWERS = ("human", "user"), ("gpt", "assistant")
KEYS = ("annotations", "media", "senses", "type", "history")


def open_instruct(name: str, path: str | Path | None, wanted: Wanted) -> list[Example]:
    """The examples of a mapping's annotations; all of them are of every split.

    Raises: DataError: no such file, a field that a row does not have, or a row that is not of that form.
    """
    if path is None or not Path(path).is_file():
        raise DataError(f"the source {name!r} needs a path: a mapping, YAML with annotations and media")
    mapping, folder = _mapping(Path(path)), Path(path).parent
    found: list[tuple[int, Example]] = []
    notes: dict[str, int] = {}
    for file in mapping["annotations"]:
        for number, row in _rows(folder / file):
            try:
                found.append((number, read_row(folder, number, notes, _as_jsonl(row, mapping, number))))
            except DataError as error:
                raise DataError(f"{folder / file}, row {number}: {error}") from error
    return finish(Path(path), found, notes, wanted)


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not {"annotations", "media"} <= found.keys() <= set(KEYS):
        raise DataError(f"{path} holds {short_repr(found)}; expected the keys {', '.join(KEYS)}")
    files = found["annotations"]
    found["annotations"] = [files] if isinstance(files, str) else files
    if not isinstance(found["media"], dict):
        raise DataError(f"{path}: media is {short_repr(found['media'])}; expected a path for each sense")
    return found


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of an array, or of JSON lines, counted from 1."""
    if not file.is_file():
        raise DataError(f"{file} is not a file")
    with file.open("rb") as content:
        is_array = content.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if not is_array:
        for number, line in read_lines(file):
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise DataError(f"{file}, line {number} is not JSON: {error}") from error
        return
    try:
        yield from enumerate(json.loads(file.read_text(encoding="utf-8-sig")), 1)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error


def _as_jsonl(row: Any, mapping: Mapping[str, Any], number: int) -> dict[str, Any]:
    if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
        raise DataError(f'{short_repr(row)}; expected an object with "conversations": [...]')
    fields = {key: str(value) for key, value in row.items() if isinstance(value, str | int)}
    fields |= {f"{key}_stem": str(Path(value).with_suffix("")) for key, value in fields.items()}
    try:
        media = {sense: str(form).format_map(fields) for sense, form in mapping["media"].items()}
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"media needs the field {error}, the row has {', '.join(row)}") from error
    turns = [
        {"question": question, "answer": answer, "senses": mapping.get("senses") or []}
        | {key: mapping[key] for key in ("type", "history") if key in mapping}
        for question, answer in _turns(row["conversations"])
    ]
    return {"id": fields.get("id", str(number)), "media": media, "turns": turns}


def _turns(said: list[Any]) -> Iterator[tuple[str, str]]:
    """Questions and answers, of LLaVA's names of who speaks or the Hub's."""
    parts = []
    for each in said:
        if not isinstance(each, dict):
            raise DataError(f"{short_repr(each)} in conversations; expected an object")
        who, text = each.get("from", each.get("role")), each.get("value", each.get("content"))
        if who == "system":
            continue
        if who not in (*ASKS, *ANSWERS) or not isinstance(text, str):
            raise DataError(f"{short_repr(each)} in conversations; expected from human or gpt, and a value")
        parts.append((who in ASKS, MARKS.sub("", text).strip()))
    if len(parts) % 2 or any(asks == bool(i % 2) for i, (asks, _) in enumerate(parts)):
        raise DataError("conversations does not take turns, human and gpt")
    yield from ((parts[i][1], parts[i + 1][1]) for i in range(0, len(parts), 2))
