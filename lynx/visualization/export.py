"""An answer's evidence as files: JSON, CSV and a figure. `docs/evidence.md` describes their content."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lynx.errors import LynxError, writing
from lynx.evidence.evidence import Evidence, Word
from lynx.evidence.methods import ATTRIBUTION
from lynx.evidence.record import Record, evidence_record
from lynx.types import Frames
from lynx.visualization.figure import evidence_figure

COLUMNS = (
    "word", "method", "unit", "sense", "second", "row", "column", "value", "word_index", "picture"
)  # fmt: skip
"""Of the CSV. New ones join at the end."""
SUFFIXES = (".json", ".csv", ".png")


def write_evidence(
    evidence: Evidence, target: str | Path, labels: Mapping[str, str] | None = None,
    words: Sequence[Word] | None = None, methods: Sequence[str] = (ATTRIBUTION,), *,
    question: str | None = None, part: tuple[float, float] | None = None,
    files: Mapping[str, Any] | None = None, name: str = "evidence",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write what an answer rests on, computing what is not known yet; returns the files.

    target: a file that ends in .json, .csv or .png, or a folder, which gets all three as `name`.
    labels: the senses' names for people. words: by index or letters, None for the whole answer; by default
    the whole answer and, where it has several, each of its words. question, part, files: `evidence_record`.
    progress: called with how much is computed, and of how much.
    Raises: LynxError: no such word or method, a file that cannot be written. Then all files are as before.
    """
    check_target(target)
    record = explain_words(
        evidence, labels, words, methods, question=question, part=part, files=files, progress=progress
    )
    frames = {sense: stream.frames for sense, stream in evidence.streams.items()}
    return write_record(record, target, frames, name=name)


def explain_words(
    evidence: Evidence, labels: Mapping[str, str] | None = None, words: Sequence[Word] | None = None,
    methods: Sequence[str] = (ATTRIBUTION,), *, progress: Callable[[int, int], None] | None = None,
    **about: Any,
) -> Record:
    """The record of an answer with these words explained by these methods; see `write_evidence`."""
    if words is None:
        count = len(evidence.words)
        words = [None, *range(count)] if count > 1 else [0] if count else [None]
    wanted = [(_index(evidence, word), method) for method in methods for word in words]
    found, tell = [], progress or (lambda done, total: None)
    for number, (word, method) in enumerate(wanted):

        def within(done: int, total: int, before: int = number) -> None:
            tell(before * total + done, len(wanted) * total)

        found.append((word, evidence.attribution(word, method, within)))
        within(1, 1)
    return evidence_record(evidence, labels or default_labels(evidence), found, **about)


def default_labels(evidence: Evidence) -> dict[str, str]:
    """The senses' names for people, where the model that answered is known."""
    answered = evidence.answered
    if answered is None:
        return {}
    return {sense: answered.model.modality(sense).label for sense in evidence.streams}


def write_record(
    record: Record, target: str | Path, frames: Mapping[str, Frames] | None = None,
    words: Sequence[int | None] | None = None, method: str | None = None, name: str = "evidence",
) -> list[Path]:
    """Write a record as files: see `write_evidence`. frames: by sense, for the figure.

    words, method: of the figure, by default all that the record has; the other files hold the whole record.
    Raises: LynxError: a file that cannot be written. Then all files are as before.
    """
    path = check_target(target)
    single = path.suffix.lower() in SUFFIXES and not path.is_dir()
    paths = [path] if single else [path / (name + suffix) for suffix in SUFFIXES]
    with writing(path, LynxError):
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".half-", dir=paths[0].parent) as folder:
            halves = [Path(folder, each.name) for each in paths]
            for half in halves:
                kind = half.suffix.lower()
                if kind == ".png":
                    evidence_figure(record, frames or {}, words, method).save(half, optimize=True)
                else:
                    text = record_json(record) if kind == ".json" else record_csv(record)
                    half.write_text(text, encoding="utf-8", newline="")
            for half, each in zip(halves, paths, strict=True):
                half.replace(each)
    return paths


def check_target(target: str | Path) -> Path:
    """Where evidence is written, before anything is computed. Raises: LynxError: neither file nor folder."""
    path = Path(target)
    if path.suffix.lower() not in SUFFIXES and path.is_file():
        raise LynxError(f"{path} is a file: give a folder, or a name that ends in .json, .csv or .png")
    return path


def record_json(record: Record) -> str:
    """The record as JSON, with a line end."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def record_csv(record: Record) -> str:
    """Every value of a record as a row of COLUMNS: one for each token of a sense."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_rows(record))
    return file.getvalue()


def _rows(record: Record) -> Iterable[tuple[Any, ...]]:
    for found in record["attributions"]:
        word, index = found["text"] or "", "" if found["word"] is None else found["word"]
        for sense, moments in found["values"].items():
            about = record["senses"][sense]
            kinds = about["pictures"] or [""] * len(moments)
            for second, kind, cells in zip(about["times"], kinds, moments, strict=True):
                for row, values in enumerate(cells):
                    for column, value in enumerate(values):
                        place = (second, row, column, value, index, kind)
                        yield word, found["method"], found["unit"], sense, *place


def _index(evidence: Evidence, word: Word) -> int | None:
    """A word's index; None for the whole answer. Raises: LynxError: no such word."""
    if word is None:
        return None
    _, tokens = evidence.find_word(word)
    return next(i for i, (_, indices) in enumerate(evidence.words) if tuple(indices) == tokens)
