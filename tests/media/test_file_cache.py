"""What is remembered of a file is forgotten when the file changes."""

import os
from pathlib import Path

import pytest

from lynx.media.file_cache import cached_by_file
from lynx.types import Recording


def test_a_file_is_looked_at_once_until_it_changes(tmp_path: Path) -> None:
    seen: list[str] = []

    @cached_by_file
    def first_line(recording: Recording) -> str:
        """The first line."""
        seen.append(recording.path.name)
        return recording.path.read_text().splitlines()[0]

    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    other.write_text("b")
    assert [first_line(one), first_line(str(one)), first_line(other)] == ["a", "a", "b"]
    assert seen == ["one", "other"] and first_line.__doc__ == "The first line."
    one.write_text("longer")
    assert first_line(one) == "longer"
    before = one.stat()
    one.write_text("LONGER")
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # clocks of file systems are coarse
    assert first_line(one) == "LONGER"
    (tmp_path / "new").write_text("LONGER")
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    (tmp_path / "new").replace(one)  # another file in the same place
    assert first_line(one) == "LONGER" and seen == ["one", "other", "one", "one", "one"]


def test_what_fails_is_tried_again(tmp_path: Path) -> None:
    calls = 0

    @cached_by_file
    def fails(recording: Recording) -> None:
        nonlocal calls
        calls += 1
        raise ValueError(str(recording.path))

    (tmp_path / "there").write_text("x")
    for name in ("there", "there", "not there"):
        with pytest.raises(ValueError, match=name):
            fails(tmp_path / name)
    assert calls == 3
