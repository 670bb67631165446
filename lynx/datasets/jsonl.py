"""Examples from JSON lines: one object a line, paths relative to the file's folder.

    {"id": "a", "media": {"video": "a.mp4", "audio": "a.mp4"},
     "turns": [{"question": "what do you hear ?", "answer": "a bell", "type": "sound", "senses": ["audio"]}]}
"""

import json
from dataclasses import replace
from pathlib import Path

from lynx.datasets.base import Example, Turn, Wanted
from lynx.errors import DataError


def open_jsonl(name: str, path: str | Path | None, wanted: Wanted) -> list[Example]:
    """The examples of a .jsonl file, or of the file in a folder that is named after the split.

    Raises: DataError: no such file, or a line that is not an example, with its number.
    """
    if path is None:
        raise DataError(
            f"the source {name!r} needs a path: a .jsonl file, or a folder that holds {wanted.split}.jsonl"
        )
    inside = f"{wanted.split}.jsonl"
    file = Path(path) / inside if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(f"{file} is not a file; expected a .jsonl file, or a folder that holds {inside}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}); expected JSON lines") from error
    examples = [_parse_line(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if wanted.senses is not None:
        examples = [each for each in examples if set(wanted.senses) <= set(each.media)]
        examples = [replace(each, media={s: each.media[s] for s in wanted.senses}) for each in examples]
    return wanted.draw(examples)


def _parse_line(file: Path, number: int, line: str) -> Example:
    where = f"{file}, line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict) or not isinstance(row.get("media"), dict) or not row["media"]:
        raise DataError(f'{where}: expected an object with "media": {{"video": "clip.mp4", ...}}')
    media = {sense: file.parent / name for sense, name in row["media"].items()}
    missing = [str(medium) for medium in media.values() if not medium.exists()]
    if missing:
        raise DataError(f"{where}: {', '.join(missing)} does not exist; paths are relative to {file.parent}")
    turns = []
    for turn in row.get("turns", ()):
        if not isinstance(turn, dict) or not {"question", "answer"} <= set(turn):
            raise DataError(f'{where}: a turn needs "question" and "answer", this one is {turn!r}')
        said, kind = (str(turn["question"]), str(turn["answer"])), str(turn.get("type", ""))
        turns.append(Turn(*said, kind, tuple(turn.get("senses", ()))))
    return Example(id=str(row.get("id", number)), media=media, turns=tuple(turns))
