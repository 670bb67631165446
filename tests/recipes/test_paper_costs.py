"""Hours and disk of the paper's runs, on paper: against numbers computed by hand."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import flops, paper_costs
from benchmarks.paper_costs import DATA, DRAWN, UTILISED, as_table, memory_table, summary
from lynx.backbones import skeleton

PAPER = sorted((Path(__file__).parents[2] / "recipes" / "paper").glob("*.yaml"))
AVSD = next(path for path in PAPER if path.stem == "avsd-0.5b")


def test_the_operations_of_llava_onevision_are_those_counted_by_hand():
    backbone = skeleton("llava-onevision-0.5b")
    frame = flops.encoder(backbone)
    layer = 4 * 1152 * 1152 + 2 * 1152 * 4304
    weights = 26 * layer + 3 * 14 * 14 * 1152 + 1152 * 896 + 896 * 896
    assert frame.linear == 2 * 729 * weights
    assert frame.attention == 26 * 4 * 729**2 * 1152
    assert frame.lora == pytest.approx(2 * 729 * 33.493e6, rel=1e-4)
    clip = flops.llm(backbone, 1000, 10)
    layer = 2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864
    assert clip.linear == 2 * 1000 * 24 * layer + 2 * 10 * 896 * 152_000
    assert clip.attention == 24 * 4 * 1000**2 * 896
    assert clip.step() == 2 * clip.linear + 3 * clip.attention + 3 * clip.lora
    assert clip.step(recomputed=True) == clip.step() + clip.forward


def test_the_hours_and_the_disk_of_a_recipe_are_those_computed_by_hand():
    found = summary(AVSD)
    assert found["streams_gb"] == pytest.approx(7659 * 2 * (32 * 196 + 1) * 896 * 2 / 1e9)
    seen = 6.9327e11 * 16 * 7659  # operations of stage 1
    assert found["petaflops"]["guide"] == pytest.approx(seen / 1e15, rel=1e-3)
    stages = paper_costs.stages_of(AVSD)
    assert stages["guide"].hours(1, 0.5) == pytest.approx(seen / 494.5e12 / 3600, rel=1e-3)
    tuned = stages["tune"]
    assert tuned.clips_a_step == 12
    assert tuned.hours(64, 0.5) == tuned.hours(12, 0.5) == tuned.hours(1, 0.5) / 12
    assert stages["align"].clips_a_step == 6, "96 pseudo-frames, 16 a clip"
    read = DRAWN["30 s"]
    assert stages["encode"].cpu_seconds == pytest.approx(7659 * (read.video + read.sense))


def test_every_recipe_of_the_paper_has_its_line():
    rows = json.loads(json.dumps([summary(path) for path in PAPER]))
    lines = as_table(rows).splitlines()
    assert len(lines) == 2 + len(PAPER) == 16
    for row in rows:
        one, eight, many = (row["hours"][gpus] for gpus in ("1", "8", "64"))
        assert 0 < many[0] < eight[0] < one[0] < one[1] < one[0] * UTILISED[0] / UTILISED[1] * 1.01
        assert math.isfinite(row["cpu_hours"]) and row["cores_a_gpu"] > 0
    hours = {row["recipe"]: row["hours"]["1"][0] for row in rows}
    assert all(hours[f"{name}-7b"] > hours[f"{name}-0.5b"] for name in DATA)


def test_the_table_of_memory_has_what_is_divided_and_what_is_whole():
    lines = [line.split(" | ") for line in memory_table().splitlines()[2:]]
    sizes = {(cells[0].strip("| "), cells[1], cells[2]): float(cells[7]) for cells in lines}
    assert sizes["llava-onevision-72b", "bf16", "8"] < 80 < sizes["llava-onevision-72b", "bf16", "1"]
