"""What is read at most: one table, set by environment variables, said in refusals, shown in the docs."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from lynx.config import LIMITS, Limits, amount, limits_table
from lynx.errors import DataError

FIELDS = [field.name for field in dataclasses.fields(Limits)]


def lynx_env(**variables):
    command = [sys.executable, "-m", "lynx", "env", "--json"]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_page_on_hosting_has_the_table_of_all_limits(root):
    page = (root / "docs" / "hosting.md").read_text(encoding="utf-8")
    assert limits_table() in page, "write what lynx.config.limits_table() gives into docs/hosting.md"
    assert all(Limits.variable(name) in limits_table() for name in FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_each_limit_is_set_by_the_variable_of_its_name(name):
    changed = Limits.of({f"LYNX_{name.upper()}": "17"})
    assert getattr(changed, name) == 17
    assert dataclasses.replace(changed, **{name: getattr(Limits(), name)}) == Limits()
    assert f"(LYNX_{name.upper()})" in changed.say(name)


def test_bytes_may_end_in_powers_of_1024():
    assert Limits.of({"LYNX_MAX_SHELF_BYTES": "4G"}).max_shelf_bytes == 4 * 2**30
    assert Limits.of({"LYNX_MAX_SHELF_BYTES": " 5_000k "}).max_shelf_bytes == 5000 * 1024


@pytest.mark.parametrize("text", ["", "abc", "-1", "0", "1.5", "nan", "inf", "1e3", "9" * 40, "4 GB", "٣"])
def test_a_value_that_is_no_limit_is_refused_by_the_name_of_its_variable(text):
    with pytest.raises(DataError, match="LYNX_MAX_FACES .* expected a whole number of faces"):
        Limits.of({"LYNX_MAX_FACES": text})


def test_the_command_line_takes_them_and_says_a_wrong_one_in_one_line():
    shown = json.loads(lynx_env(LYNX_MAX_SECONDS="600").stdout)["limits"]
    assert shown["LYNX_MAX_SECONDS"] == 600 and shown["LYNX_MAX_FACES"] == LIMITS.max_faces
    failed = lynx_env(LYNX_MAX_SECONDS="long")
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("lynx: LYNX_MAX_SECONDS is 'long'")


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (2**31, "bytes", "2 GB"),
        (1500, "bytes", "1.465 kB"),
        (7200, "seconds", "2 h"),
        (600, "seconds", "600 s"),
        (4_000_000, "faces", "4,000,000 faces"),
    ],
)
def test_amounts_are_said_as_people_read_them(value, unit, said):
    assert amount(value, unit) == said
