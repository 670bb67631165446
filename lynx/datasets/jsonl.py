"""Examples from JSON lines: one object a line, paths relative to the file's folder.

    {"id": "a", "media": {"video": "a.mp4", "audio": "a.mp4"},
     "turns": [{"question": "what do you hear ?", "answer": "a bell", "type": "sound", "senses": ["audio"]}]}

A turn may have `answers`, all that are right; `options`, of which the answer is one (its text or letter):
the question ends with them, and is answered by a letter; and `metric`, one of METRICS, for evaluation. With
`history` it follows a conversation whose answers are given, in training and in evaluation: a list of
questions with answers, or true, which stands for the turns before it.

null is the same as leaving a key out. A row may have `start` and `end`, the seconds that are looked
at, and `frames`, or `fps` and `max_frames`: how many moments of them. In place of a path a medium may be an
object with what belongs to the recording, `{"path": "a.mkv", "track": 2}` (RECORDING has all keys), and
several views are a list of them or an object of them by name.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lynx import modalities
from lynx.config import short_repr
from lynx.datasets.base import LETTERS, METRICS, Example, Prompt, Turn, Wanted
from lynx.datasets.json_lines import LINES, no_json, read_lines
from lynx.errors import DataError, LynxError, MediaError
from lynx.media.side_files import parse_unit, parse_up
from lynx.modalities.multi_view import View
from lynx.types import FileSource, MediaSource, Moments, Recording

logger = logging.getLogger(__name__)

MEDIA = 'an object with "media": {"video": "clip.mp4", ...}'
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
def open_jsonl(name: str, path: str | Path | None, wanted: Wanted) -> list[Example]:
    """The examples of a .jsonl file, or of the file in a folder that is named after the split.

    Raises: DataError: no such file, or a line that is not an example, with its number; a medium is missing.
    """
    if path is None:
        raise DataError(
            f"the source {name!r} needs a path: a .jsonl file, or a folder that holds {wanted.split}.jsonl"
        )
    inside = f"{wanted.split}.jsonl"
    file = Path(path) / inside if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(f"{file} is not a file; expected a .jsonl file, or a folder that holds {inside}")
    notes: dict[str, int] = {}  # of each note the first line that it is about
    return finish(file, _read_rows(file, notes), notes, wanted)


def finish(
    file: Path, found: list[tuple[int, Example]], notes: dict[str, int], wanted: Wanted
) -> list[Example]:
    """Of all examples of a file, with the numbers of their lines, those that are wanted.

    notes: what was left out goes to the log. Raises: DataError: there is none, or a medium is missing.
    """
    for note, number in notes.items():
        logger.warning("%s, line %d: %s", file, number, note)
    if not found:
        raise DataError(f"{file} holds no examples; expected one object a line")
    _note_same_ids(file, found)
    if wanted.senses is not None:
        kept = [(n, each) for n, each in found if set(wanted.senses) <= set(each.media)]
        found = [(n, replace(each, media={s: each.media[s] for s in wanted.senses})) for n, each in kept]
    if not wanted.missing:
        _refuse_missing(file, found)
    return wanted.draw([example for _, example in found])


def read_row(folder: Path, number: int, notes: dict[str, int], content: Any) -> Example:
    """An object as an example. folder: where its paths begin. Raises: DataError: what is wrong with it."""
    return _Row(folder, number, notes).read(content)


def _read_rows(file: Path, notes: dict[str, int]) -> list[tuple[int, Example]]:
    """The examples of a file with the numbers of their lines."""
    found: list[tuple[int, Example]] = []
    for number, line in read_lines(file):
        where = f"{file}, line {number}"
        try:
            found.append((number, read_row(file.parent, number, notes, _parse(line))))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        except RecursionError as error:
            raise DataError(f"{where} is nested too deeply") from error
        except json.JSONDecodeError as error:
            raise DataError(f"{where} {no_json(line, error)}") from error
        except ValueError as error:  # an integer of thousands of digits
            raise DataError(f"{where} is not JSON: {error}") from error
    return found


def _note_same_ids(file: Path, examples: list[tuple[int, Example]]) -> None:
    """Say which ids stand for several lines: messages name an example by its id."""
    first: dict[str, int] = {}
    same = [(n, e.id) for n, e in examples if first.setdefault(e.id, n) != n]
    if same:
        number, id = same[0]
        more = f"; {len(same) - 1} more lines have the id of another" if len(same) > 1 else ""
        logger.warning(
            "%s, line %d: the id %s is that of line %d, too%s", file, number, short_repr(id), first[id], more
        )


def _refuse_missing(file: Path, examples: list[tuple[int, Example]]) -> None:
    missing = [
        (number, path)
        for number, example in examples
        for source in example.media.values()
        for path in paths_of(source)
        if not os.path.exists(path)  # False, too, for a name that no file can have
    ]
    if missing:
        (number, path), rest = missing[0], len(missing) - 1
        more = f"; {rest} more are missing" if rest else ""
        raise DataError(
            f"{file}, line {number}: {path} does not exist; paths are relative to {file.parent}{more}"
        )


def paths_of(source: MediaSource | View) -> list[Path]:
    """The files and folders that a medium is read from; none where it is in memory."""
    if isinstance(source, View):
        return paths_of(source.clip)
    if isinstance(source, FileSource):
        return [Recording.of(source).path]
    return [p for clip in source.values() for p in paths_of(clip)] if isinstance(source, Mapping) else []


def _wrong(value: Any, expected: str) -> DataError:
    return DataError(f"{short_repr(value)}; expected {expected}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _wrong(value, "a text without halves of UTF-16 pairs")
    return value


def _words(value: Any) -> str:
    if not _text(value).strip():
        raise _wrong(value, "a text that is not blank")
    return str(value)


def _file_name(value: Any) -> str:
    if not _text(value) or "\0" in value:
        raise _wrong(value, "the path of a file or folder")
    if URL.match(value):
        raise _wrong(value, "the path of a file or folder here: download it first")
    return str(value)


def _number(least: float = -math.inf, expected: str = "a number of seconds") -> Callable[[Any], float]:
    def check(value: Any) -> float:
        # `type`, since True is an int too
        if type(value) not in (int, float) or not -1e15 < value < 1e15 or value < least:
            raise _wrong(value, expected)
        return float(value)

    return check


def _positive(expected: str) -> Callable[[Any], float]:
    return _number(1e-12, expected)


def _integer(least: int, expected: str) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value < 2**31:
            raise _wrong(value, expected)
        return value

    return check


def _of_depth(read: Callable[[Any, str], Any]) -> Callable[[Any], Any]:
    """What `read` takes on the command line and in depth.json, too."""

    def check(value: Any) -> Any:
        try:
            return read(value, "")
        except MediaError as error:
            raise DataError(str(error).removeprefix(" is ").rstrip(".")) from error

    return check


def _name(value: Any) -> str:
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value:
        raise _wrong(value, "a text or a whole number")
    return _text(value)


def _names(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise _wrong(value, 'a list of senses, such as ["audio"]')
    return [_text(each) for each in value]


def _several(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise _wrong(value, "a list of texts")
    return tuple(map(_words, value))


def _metric(value: Any) -> str:
    if value not in METRICS:
        raise _wrong(value, f"one of {', '.join(METRICS)}")
    return str(value)


def _history(value: Any) -> bool | list[Any]:
    if not isinstance(value, bool | list):
        raise _wrong(value, 'true, for the turns before it, or a list of {"question": ..., "answer": ...}')
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(value, 'a list of {"question": ..., "answer": ...}')
    return value


def _media(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(value, 'an object such as {"video": "clip.mp4"}')
    return value


Table = Mapping[str, Callable[[Any], Any]]
"""The keys of an object, and the check of each one's value."""
ROW: Table = {
    "id": _name, "media": _media, "turns": _list,
    "start": _number(0, "seconds from 0 on"), "end": _positive("seconds above 0"),
    "frames": _integer(1, "a number of moments"), "max_frames": _integer(1, "a number of moments"),
    "fps": _positive("moments a second"),
}  # fmt: skip
MOMENTS = ("start", "end", "frames", "max_frames", "fps")
"""The keys of a row that say which moments are looked at."""
TURN: Table = {
    "question": _words, "answer": _words, "type": _text, "senses": _names, "answers": _several,
    "options": _several, "metric": _metric, "history": _history,
}  # fmt: skip
SAID: Table = {"question": _words, "answer": _words}
"""The keys of a turn of a conversation that is given."""
RECORDING: Table = {
    "path": _file_name, "track": _integer(0, "the number of a stream, as `lynx inspect` lists them"),
    "unit": _of_depth(parse_unit), "up": _of_depth(parse_up), "fps": _positive("frames a second"),
    "offset": _number(),
}  # fmt: skip


def _nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelt one is close to."""
    return next(iter(get_close_matches(word.lower(), list(known), 1, 0.7)), None)


def _parse(line: str) -> Any:
    """A line as JSON. Raises: ValueError, RecursionError; DataError: a key twice, or a number JSON lacks."""
    return json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the key {short_repr(twice)} stands twice in an object")
    return found


def _no_constant(name: str) -> Any:
    raise DataError(f"{name} is no number of JSON; leave the key out, or give null")


CHOICE = Prompt("{question}\n{options}\nAnswer with the option's letter from the given choices directly.")
"""How a question with options is asked."""


def _choice(turn: Turn, place: str) -> Turn:
    """A question with its options behind it, and the letter of the one that is the answer."""
    if turn.answers or turn.metric not in ("", "options"):
        raise DataError(f"{place} has options: one of them is its answer, and no other metric applies")
    if len(turn.options) > len(LETTERS) or len(set(turn.options)) < len(turn.options):
        raise DataError(f"{place} has options that are the same, or more than {len(LETTERS)}")
    letters = LETTERS[: len(turn.options)]
    if turn.answer not in (*turn.options, *letters):
        raise DataError(f'"answer" of {place} is {short_repr(turn.answer)}; expected one of its options')
    letter = letters[turn.options.index(turn.answer)] if turn.answer in turn.options else turn.answer
    return CHOICE.ask(replace(turn, answer=letter))


class _Row:
    """Reads one line. notes: gathers what is left out, of all lines."""

    def __init__(self, folder: Path, number: int, notes: dict[str, int]) -> None:
        self.folder, self.number, self.notes = folder, number, notes

    def read(self, content: Any) -> Example:
        """The example of a line. Raises: DataError: what is wrong, and where in the line."""
        if isinstance(content, list):
            raise DataError(f"an array; expected {LINES}")
        row = self._checked(content, ROW, "", MEDIA)
        media = {
            sense: self._medium(self._sense(sense, (), "media"), value)
            for sense, value in row.get("media", {}).items()
            if value is not None
        }
        if not media:
            raise DataError(f"there is no medium; expected {MEDIA}")
        turns: list[Turn] = []
        for i, turn in enumerate(row.get("turns", ())):
            turns.append(self._turn(turn, f"turns[{i}]", media, turns))
        for lost in {sense for turn in turns for sense in turn.senses} - media.keys():
            note = f"a question needs {lost}, which the row has no medium for: training leaves it out"
            self.notes.setdefault(note, self.number)
        try:
            moments = Moments(**{key: row[key] for key in MOMENTS if key in row})
        except LynxError as error:
            raise DataError(str(error)) from error
        return Example(row.get("id", str(self.number)), media, tuple(turns), moments=moments)

    def _checked(self, found: Any, table: Table, place: str, needed: str) -> dict[str, Any]:
        """The values of an object that are there, each checked; unknown keys are near misses or noted."""
        if not isinstance(found, dict):
            raise DataError(f"{place + ' is ' if place else ''}{short_repr(found)}; expected {needed}")
        values = {}
        for key, value in found.items():
            said = f"{place}.{key}" if place else key
            if key not in table:
                near = _nearest(key, table)
                if near is not None and near not in found:
                    raise DataError(f"unknown key {short_repr(said)}; did you mean {near!r}?")
                if table is ROW and key in ("question", "answer"):
                    raise DataError(f'"{key}" belongs in "turns": [{{"question": ..., "answer": ...}}]')
                if table is not ROW and key in ("start", "end"):
                    raise DataError(f'"{said}": the part of a clip stands beside "media", for all its senses')
                if table is not ROW and table is not TURN:  # what belongs to a recording changes what is seen
                    raise DataError(f"unknown key {short_repr(said)}; known are {', '.join(sorted(table))}")
                self.notes.setdefault(f"the key {short_repr(said)} is not read", self.number)
            elif value is not None:
                try:
                    values[key] = table[key](value)
                except DataError as error:
                    raise DataError(f'"{said}" is {error}') from error
        return values

    def _turn(self, turn: Any, place: str, media: Mapping[str, Any], earlier: Sequence[Turn]) -> Turn:
        needed = 'a turn needs "question" and "answer"'
        values = self._checked(turn, TURN, place, f"an object: {needed}")
        if "answers" in values:
            values.setdefault("answer", values["answers"][0])
        if missing := [key for key in ("question", "answer") if key not in values]:
            raise DataError(f'{needed}, {place} has no text as "{missing[0]}": {short_repr(turn)}')
        senses = [self._sense(sense, media, f"{place}.senses") for sense in values.get("senses", ())]
        history = values.pop("history", False)
        asked = Turn(**{**values, "senses": tuple(senses)})
        if history:
            asked = asked.following(earlier if history is True else self._said(history, f"{place}.history"))
        if asked.answers and asked.answer not in asked.answers:
            given = short_repr(asked.answer)
            raise DataError(f'"answer" of {place} is {given}, which is none of its answers')
        if asked.metric == "options" and not asked.options:
            raise DataError(f'"metric" of {place} is options, and it has none')
        return _choice(asked, place) if asked.options else asked

    def _said(self, history: list[Any], place: str) -> list[Turn]:
        """The turns of a conversation that is given."""
        needed, turns = 'an object: a turn needs "question" and "answer"', []
        for i, said in enumerate(history):
            values = self._checked(said, SAID, f"{place}[{i}]", needed)
            if len(values) < len(SAID):
                raise DataError(f"{place}[{i}] is {short_repr(said)}; expected {needed}")
            turns.append(Turn(**values))
        return turns

    def _sense(self, sense: str, media: Mapping[str, Any] | tuple[()], place: str) -> str:
        """The name of a sense: of the row's media, of a modality, or one that only an adapter may have."""
        _text(sense)
        if sense in media or modalities.find(sense) is not None:
            return sense
        known = modalities.extensions.all()
        labels = {modality.label.lower(): name for name, modality in known.items()}
        if near := labels.get(sense.lower()) or _nearest(sense, (*known, *media)):
            raise DataError(
                f"unknown sense {short_repr(sense)} in {place}; did you mean {near!r}? Known are "
                f"{', '.join(known)}"
            )
        note = f"no sense of lynx is called {short_repr(sense)} (in {place}); known are {', '.join(known)}"
        self.notes.setdefault(note, self.number)
        return sense

    def _medium(self, sense: str, value: Any) -> MediaSource:
        """A path, a recording, or of a sense that takes several clips those by name."""
        place = f"media.{sense}"
        modality = modalities.find(sense)
        several = modality is not None and modality.takes == "view"
        if isinstance(value, str) or (isinstance(value, dict) and "path" in value):
            clip, offset = self._clip(value, place, several)
            if offset:
                return {clip.path.stem: View(clip, offset)}
            return clip.path if clip == Recording(clip.path) else clip
        if isinstance(value, list | dict) and several and value:
            named = [(None, each) for each in value] if isinstance(value, list) else value.items()
            views: dict[str, View] = {}
            for i, (name, each) in enumerate(named):
                if each is None and name is not None:
                    continue
                inside = f"{place}[{i if name is None else short_repr(name)}]"
                clip, offset = self._clip(each, inside, several)
                stem = clip.path.stem if name is None else name
                views[stem if stem not in views else f"{stem} {i + 1}"] = View(clip, offset)
            if views:
                return views
        expected = 'a path, or {"path": "clip.mkv", "track": 2}'
        expected += ", or a list or an object of several" if several else "; multi_view alone takes several"
        raise DataError(f"{place} is {short_repr(value)}; expected {expected}")

    def _clip(self, value: Any, place: str, several: bool) -> tuple[Recording, float]:
        """A clip, and the second at which it begins."""
        if isinstance(value, str):
            value = {"path": value}
        table = RECORDING if several else {key: RECORDING[key] for key in RECORDING.keys() - {"offset"}}
        values = self._checked(value, table, place, 'a path, or {"path": ...}')
        if "path" not in values:
            raise DataError(f'{place} has no "path": {short_repr(value)}')
        offset, path = values.pop("offset", 0.0), self.folder / values.pop("path")
        return replace(Recording.of(path), **values) if values else Recording(path), offset
