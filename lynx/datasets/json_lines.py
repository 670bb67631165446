"""The lines of a file of JSON lines, and what is wrong with one that is none."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from lynx.config import LIMITS
from lynx.errors import DataError

LINES = "JSON lines: one object a line, without brackets or commas around them"
OTHER_ENCODINGS = {  # the longer marks first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
PACKED = {
    b"\x1f\x8b": "gzip", b"PK\3\4": "zip", b"BZh": "bzip2", b"\xfd7zX": "xz", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip
"""First bytes of compressed files."""


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not blank. Only a newline ends one: U+2028 is part of a text."""
    with file.open("rb") as content:
        start = content.read(4)
        for mark, encoding in OTHER_ENCODINGS.items():
            if start.startswith(mark):
                raise DataError(f"{file} is {encoding}, not UTF-8 text: save it as UTF-8")
        for mark, kind in PACKED.items():
            if start.startswith(mark):
                raise DataError(f"{file} is compressed ({kind}): unpack it first")
        content.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
        for number, line in enumerate(iter(lambda: content.readline(LIMITS.max_line_bytes + 1), b""), 1):
            where = f"{file}, line {number}"
            if len(line) > LIMITS.max_line_bytes:
                most = LIMITS.say("max_line_bytes")
                raise DataError(f"{where} is longer than {most}: expected one object a line")
            if b"\0" in line:
                raise DataError(f"{where} holds a NUL byte: it is damaged, or UTF-16 without a mark")
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise DataError(f"{where} is not UTF-8 text (byte {error.start} of the line)") from error
            if text.strip():
                yield number, text


def no_json(line: str, error: json.JSONDecodeError) -> str:
    """What is wrong with a line that is not JSON, as the end of a sentence."""
    text = line.strip()
    if text.startswith("["):
        return f"begins an array; expected {LINES}"
    if text.startswith("{") and error.pos >= len(text):
        return "ends inside an object; expected all of an object in one line"
    return f"is not JSON: {error.msg} (column {error.colno}); expected {LINES}"
