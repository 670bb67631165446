"""Mutated files of every kind are read or refused, in bounds; and the fuzzer notices what is not."""

import random
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from tests.fuzz.__main__ import Fuzz, Reader, run
from tests.fuzz.mutations import MUTATIONS, mutate
from tests.fuzz.reading import outcome
from tests.fuzz.seeds import MAKERS


def test_mutated_files_of_every_kind_are_read_or_refused(tmp_path):
    report = run(tmp_path, 200, 2026, list(MAKERS), bar=False)
    assert report.seeds_unread == [] and report.seeds_read == sum(len(MAKERS[kind]) for kind in MAKERS)
    assert report.failures == [], "python -m tests.fuzz --seed 2026 makes these files"
    assert report.answered + report.refused == 200 and min(report.answered, report.refused) > 40
    assert report.peak_mb < 1500


def test_a_run_goes_on_where_it_stopped(tmp_path):
    options = {"kinds": ["wav", "npy", "obj"], "bar": False, "by": "tests.fuzz.careless"}
    first = asdict(run(tmp_path, 25, 3, **options))
    state = (tmp_path / "state.json").read_text()
    (tmp_path / "state.json").write_text(state.replace('"refused": 0', '"refused": 7'))
    both = asdict(run(tmp_path, 60, 3, resume=True, **options))
    assert first["answered"] == 25 and both["answered"] == both["next"] == 60 and both["refused"] == 7
    assert both["seeds_read"] == first["seeds_read"] == sum(len(MAKERS[kind]) for kind in options["kinds"])
    with pytest.raises(SystemExit, match="--seed 3"):
        run(tmp_path, 60, 4, resume=True, **options)


def test_a_file_is_made_again_by_its_number(tmp_path):
    contents = []
    for folder in ("a", "b"):
        fuzz = Fuzz(tmp_path / folder, 5, ["ply", "png"])
        contents.append([fuzz.make(number)[0].read_bytes() for number in range(20)])
    assert contents[0] == contents[1] and len(set(contents[0])) == 20


@pytest.mark.parametrize("change", dict.fromkeys(MUTATIONS))
def test_every_mutation_changes_files_of_text_and_of_bytes(change):
    rng = random.Random(0)
    for data in (b"v 1 2 3\nv 4 5 6\n" * 20, bytes(range(256)) * 4, b"x"):
        made = {change(data, [data[::-1]], rng) for _ in range(50)}
        assert len(made) > (10 if len(data) > 1 else 0)
        assert all(isinstance(mutate(data, [data], rng), bytes) for _ in range(50))


def test_crashes_hangs_and_other_errors_are_noticed_and_the_next_file_is_read(tmp_path):
    reader = Reader("tests.fuzz.careless", hang=1.0)
    found = [reader.read(Path(name), "wav")["outcome"] for name in ("a", "crash", "b", "hang", "c")]
    reader.end()
    assert found == ["answered", "crash", "answered", "hang", "answered"]
    other = outcome(tmp_path, "no such kind")  # a folder, which no reader of files takes
    assert other["outcome"] == "refused" and str(tmp_path) in other["message"]
    other = outcome(None, "adapter")
    assert other["outcome"] == "error" and other["message"].startswith("AttributeError")
    assert "format.py" in other["where"]
