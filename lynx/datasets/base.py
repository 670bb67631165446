"""Examples to train and measure on: media with questions, from files or from the miniature world.

A source is one function and one line in `SOURCES`. A line of the JSONL form, paths relative to its folder:

    {"id": "a", "media": {"video": "a.mp4", "audio": "a.mp4"},
     "turns": [{"question": "what do you hear ?", "answer": "a bell", "type": "sound", "senses": ["audio"]}]}
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from lynx.errors import DataError

if TYPE_CHECKING:
    from lynx.types import DepthClip, Frames, Waveform

Source = Union[str, Path, "Frames", "Waveform", "DepthClip", Mapping[str, Any]]


@dataclass(frozen=True)
class Turn:
    """A question with its answer; `senses` are those that an answer needs, () = not known."""

    question: str
    answer: str
    type: str = ""
    senses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """One clip: a medium for each sense, and the questions about it.

    `media` may render on access. `key` names the content of the media where the source vouches for it, so
    that encoded streams are found again without rendering; where it is "" the bytes are hashed.
    """

    id: str
    media: Mapping[str, Source]
    turns: tuple[Turn, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class Wanted:
    """Which of a source's examples: see `open_data`."""

    split: str
    seed: int
    n: int | None
    senses: tuple[str, ...] | None
    focus: tuple[str, ...]
    types: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()


def open_data(
    name: str,
    path: str | Path | None = None,
    *,
    split: str = "train",
    seed: int = 0,
    n: int | None = None,
    senses: Sequence[str] | None = None,
    focus: Sequence[str] = (),
    types: Sequence[str] = (),
    held_out: Sequence[str] = (),
) -> Sequence[Example]:
    """The examples of the source `name` ("jsonl", "esc10" and "digits" with a path, "world" without).

    At most `n`, drawn by `seed`. With `senses` only examples that have all of them, and no other media:
    `senses=("audio",)` is unpaired audio. With `focus` only those with a question of one of these types.
    With `types` no questions of other types.
    held_out: folds of "esc10" or speakers of "digits": the split "train" is all others, "test" is these.

    Raises:
        DataError: unknown source, unreadable file, no such fold or speaker, or nothing left.
    """
    if name not in SOURCES:
        raise DataError(f"there is no data source {name!r}; known are {', '.join(sorted(SOURCES))}")
    if held_out and name not in GROUPED:
        raise DataError(f"{name!r} has no folds or speakers to hold out; {' and '.join(GROUPED)} have")
    chosen = tuple(senses) if senses is not None else None
    examples = SOURCES[name](
        path, Wanted(split, seed, n, chosen, tuple(focus), tuple(types), tuple(held_out))
    )
    if not len(examples):
        wanted = f" with {' and '.join(senses)}" if senses else ""
        raise DataError(f"the source {name!r} has no {split} examples{wanted}; check the path and the senses")
    return examples


def groups_of(name: str, path: str | Path | None) -> list[str]:
    """The folds or speakers of a source that can be held out; a source that knows no such groups has none."""
    if name not in GROUPED:
        return []
    from lynx.datasets import labelled_recordings as recordings

    return recordings.groups_of(name, path)


def _open_world(path: str | Path | None, wanted: Wanted) -> Sequence[Example]:
    from lynx.world.dataset import WorldDataset

    if path is not None:
        raise DataError(f"the world is drawn, not read: it takes no path (given: {path})")
    more: dict[str, Any] = {"senses": wanted.senses} if wanted.senses is not None else {}
    n, types = wanted.n if wanted.n is not None else 1000, wanted.types or None
    return WorldDataset(wanted.split, wanted.seed, n, types=types, per_type=3, focus=wanted.focus, **more)


def _open_jsonl(path: str | Path | None, wanted: Wanted) -> Sequence[Example]:
    if path is None:
        raise DataError(
            f"the source 'jsonl' needs a path: a .jsonl file, or a folder that holds {wanted.split}.jsonl"
        )
    name = f"{wanted.split}.jsonl"
    file = Path(path) / name if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(f"{file} is not a file; expected a .jsonl file, or a folder that holds {name}")
    examples = [_parse_line(file, i, line) for i, line in enumerate(_lines(file), 1) if line.strip()]
    if wanted.senses is not None:
        examples = [
            replace(example, media={sense: example.media[sense] for sense in wanted.senses})
            for example in examples
            if set(wanted.senses) <= set(example.media)
        ]
    return _draw(examples, wanted)


def _draw(examples: list[Example], wanted: Wanted) -> list[Example]:
    """Those in focus, and of them as many as are wanted, with the questions of the types that are wanted."""
    if wanted.focus:
        examples = [each for each in examples if any(turn.type in wanted.focus for turn in each.turns)]
    if wanted.n is not None and wanted.n < len(examples):
        examples = random.Random(wanted.seed).sample(examples, wanted.n)
    if wanted.types:
        asked = [tuple(turn for turn in each.turns if turn.type in wanted.types) for each in examples]
        examples = [replace(each, turns=turns) for each, turns in zip(examples, asked, strict=True) if turns]
    return examples


def _open_recordings(name: str, path: str | Path | None, wanted: Wanted) -> Sequence[Example]:
    from lynx.datasets.labelled_recordings import open_recordings

    return _draw(open_recordings(name, path, wanted), wanted)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}); expected JSON lines") from error


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
    turns = tuple(_parse_turn(where, turn) for turn in row.get("turns", ()))
    return Example(id=str(row.get("id", number)), media=media, turns=turns)


def _parse_turn(where: str, turn: Any) -> Turn:
    if not isinstance(turn, dict) or not {"question", "answer"} <= set(turn):
        raise DataError(f'{where}: a turn needs "question" and "answer", this one is {turn!r}')
    senses = tuple(turn.get("senses", ()))
    return Turn(str(turn["question"]), str(turn["answer"]), str(turn.get("type", "")), senses)


GROUPED = ("esc10", "digits")
"""The sources whose examples belong to folds or to speakers, which can be held out."""
SOURCES: dict[str, Callable[[str | Path | None, Wanted], Sequence[Example]]] = {
    "jsonl": _open_jsonl,
    "world": _open_world,
    **{name: partial(_open_recordings, name) for name in GROUPED},
}
