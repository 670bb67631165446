"""Files of an answer's evidence, the figure's pixels, and heat that speaks for and against."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import clip, llava_onevision
from PIL import Image

import lynx
from lynx.errors import LynxError
from lynx.evidence.attention import AttentionRows
from lynx.evidence.attribution import Attribution
from lynx.evidence.evidence import Evidence
from lynx.evidence.record import evidence_record
from lynx.types import Frames, Stream, sample_times
from lynx.visualization.bars import draw_bars
from lynx.visualization.drawing import CURVE_HEIGHT, Curve, Lane, TimeAxis, color, draw_curves, split_lanes
from lynx.visualization.explained import curves_of, gained_sentence, lanes_of, said_sentence
from lynx.visualization.export import COLUMNS, explain_words, record_csv, write_evidence, write_record
from lynx.visualization.figure import PAPER, evidence_figure
from lynx.visualization.heat import evidence_picture
from lynx.visualization.timeline import GUTTER, timeline

GRID, MOMENTS = (4, 4), 4


def stream(sense):
    count = GRID[0] * GRID[1]
    times = sample_times(4.0, MOMENTS)
    cells = torch.cartesian_prod(torch.arange(GRID[0]), torch.arange(GRID[1])).repeat(MOMENTS, 1)
    frames = Frames(torch.full((MOMENTS, 3, 64, 64), 90, dtype=torch.uint8), times, 4.0)
    return Stream(sense, torch.zeros(MOMENTS * count, 4), times.repeat_interleave(count), cells, GRID, frames)


@pytest.fixture
def evidence():
    streams = {"video": stream("video"), "audio": stream("audio")}
    spans = {"video": torch.arange(1, 65), "audio": torch.arange(65, 129)}
    rows = AttentionRows(torch.rand(2, 140), spans, streams, torch.zeros(140, dtype=torch.bool))
    return Evidence(["two", " bells"], rows)


@pytest.fixture
def record(evidence):
    """Of "bells": one cell of the video for it, one against; the sound a quarter as strong."""
    values = {sense: torch.zeros(MOMENTS, *GRID) for sense in ("video", "audio")}
    values["video"][1, 0, 3], values["video"][2, 3, 0], values["audio"][1, 1, 1] = 4.0, -2.0, 1.0
    flat = {sense: each.flatten() for sense, each in values.items()}
    totals = {"video": 2.0, "audio": 1.0, "text": -1.5}
    found = Attribution("attribution", "nats", flat, evidence.streams, totals, 3.0, 0.25)
    labels = {"video": "picture", "audio": "sound"}
    return evidence_record(evidence, labels, [(1, found)], question="how many ?")


@pytest.fixture
def frames(evidence):
    return {sense: each.frames for sense, each in evidence.streams.items()}


def test_the_csv_has_a_row_for_every_token_of_a_sense(record):
    rows = list(csv.DictReader(io.StringIO(record_csv(record))))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 2 * MOMENTS * 16
    (most,) = [row for row in rows if float(row["value"]) == 4.0]
    expected = {"word": "bells", "word_index": "1", "method": "attribution", "unit": "nats", "sense": "video"}
    assert {key: most[key] for key in expected} == expected
    assert (most["second"], most["row"], most["column"]) == ("1.5", "0", "3")
    assert sum(float(row["value"]) for row in rows) == pytest.approx(3.0)


def test_a_folder_gets_three_files_and_a_name_one(record, frames, tmp_path):
    three = write_record(record, tmp_path / "new" / "folder", frames, name="1-evidence")
    assert [path.name for path in three] == ["1-evidence.json", "1-evidence.csv", "1-evidence.png"]
    assert json.loads(three[0].read_text()) == record
    assert Image.open(three[2]).size[0] == 1800
    assert sorted(path.name for path in three[0].parent.iterdir()) == sorted(path.name for path in three)
    assert write_record(record, tmp_path / "x.CSV") == [tmp_path / "x.CSV"]
    assert (tmp_path / "x.CSV").read_text() == three[1].read_text()


def test_what_fails_half_way_leaves_all_files_as_they_were(record, frames, tmp_path, monkeypatch):
    paths = write_record(record, tmp_path, frames)
    before = {path: path.read_bytes() for path in paths}

    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(LynxError, match=r"No space left on device.*is there room"):
        write_record(record | {"answer": "another"}, tmp_path, frames)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_is_no_folder(record, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(LynxError, match=r"is a file: give a folder, or a name that ends in \.json"):
        write_record(record, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"


def test_every_word_is_explained_and_the_answer_first(evidence, tmp_path):
    told = []
    (path,) = write_evidence(
        evidence, tmp_path / "all.json", methods=["attention"], progress=lambda *each: told.append(each)
    )
    found = json.loads(path.read_text())["attributions"]
    assert [(each["word"], each["text"]) for each in found] == [(None, None), (0, "two"), (1, "bells")]
    assert told == [(1, 3), (2, 3), (3, 3)]
    (path,) = write_evidence(evidence, tmp_path / "one.json", words=["BELLS"], methods=["attention"])
    assert [each["word"] for each in json.loads(path.read_text())["attributions"]] == [1]
    with pytest.raises(LynxError, match="; it has two, bells"):
        write_evidence(evidence, tmp_path / "none.json", words=["sirens"], methods=["attention"])
    assert not (tmp_path / "none.json").exists()


def test_the_progress_moves_within_a_word(tmp_path):
    model = lynx.load(llava_onevision(tmp_path))
    chat, told = model.chat(video=clip(), frames=2), []
    chat.ask("what is it ?", max_new_tokens=6)
    count = len(explain_words(chat.evidence, progress=lambda *each: told.append(each))["attributions"])
    parts = [done / total for done, total in told]
    assert parts == sorted(parts) and parts[-1] == 1 and len({*parts}) > 2 * count


def test_the_figure_is_light_and_shows_heat_and_bars(record, frames):
    sheet = np.asarray(evidence_figure(record, frames)).astype(int)
    assert (np.abs(sheet - np.array(PAPER)).max(-1) < 3).mean() > 0.4
    warm = (sheet[..., 0] > sheet[..., 2] + 90) & (sheet[..., 0] > 200)
    cool = (sheet[..., 2] > sheet[..., 0] + 90) & (sheet[..., 2] > 150)
    assert warm.sum() > 500 and cool.sum() > 300
    for sense in ("video", "audio", "text"):
        assert (np.abs(sheet - np.array(color(sense))).max(-1) < 6).sum() > 1000, sense


def test_a_long_answer_ends_with_what_is_left_out(record, frames):
    many = record | {"attributions": record["attributions"] * 60}
    assert evidence_figure(many, frames, width=600).height < 9000


def test_evidence_has_one_scale_for_all_senses(record, frames):
    found = record["attributions"][0]
    video, audio = split_lanes(lanes_of(record, found, frames))
    assert float(video.maps.max()) == 1.0 and float(video.maps.min()) == -0.5
    assert float(audio.maps.max()) == pytest.approx(0.25) and audio.fill and not video.fill
    assert lanes_of(record, found, frames, threshold=0.6)[0].threshold == 0.6


def test_attention_keeps_a_scale_a_sense(evidence, frames):
    record = evidence_record(evidence, {}, [(None, evidence.attribution(None, "attention"))])
    lanes = lanes_of(record, record["attributions"][0], frames)
    assert not any(lane.signed or lane.threshold for lane in lanes)
    assert all(float(lane.maps.max()) >= 1 for lane in split_lanes(lanes))


def test_heat_peaks_on_its_cell_and_weak_evidence_is_not_drawn():
    values = torch.zeros(GRID)
    values[0, 3], values[3, 0], values[2, 2] = 1.0, -0.8, 0.15
    drawn = np.asarray(evidence_picture(values, (160, 160), 0.2)).astype(int)
    alpha = drawn[..., 3]
    assert alpha[20, 140] > 200 and drawn[20, 140, 0] > drawn[20, 140, 2]
    assert alpha[140, 20] > 120 and drawn[140, 20, 2] > drawn[140, 20, 0]
    assert not alpha[55:115, 55:115].any(), "neither the weak cell nor the swing of the interpolation"
    for row, column in ((0, 3), (3, 0)):  # what is seen lies on the cell and little beyond
        there = alpha[row * 40 : row * 40 + 40, column * 40 : column * 40 + 40] > 0
        assert there.mean() > 0.7
    assert (alpha > 0).sum() < 2 * 1.8 * 40 * 40
    assert np.asarray(evidence_picture(values, (160, 160), 0.1))[100, 100, 3] > 0


def test_heat_of_a_spectrogram_goes_on_into_the_next_picture():
    maps = torch.zeros(2, 4, 4)
    maps[0, :, 3] = maps[1, :, 0] = 1.0
    frames = Frames(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), sample_times(2.0, 2), 2.0)
    lane = Lane("audio", "sound", frames, maps, True, signed=True, threshold=0.2)
    sheet = np.asarray(timeline([lane], width=GUTTER + 400).convert("RGB")).astype(int)
    seam = sheet[40, GUTTER + 150 : GUTTER + 250].sum(-1)
    assert seam.min() > 200 and np.abs(np.diff(seam)).max() < 60


def test_a_curve_goes_under_zero_where_a_sense_speaks_against():
    times = sample_times(8.0, 8)
    values = torch.tensor([0.0, 0, 2, 0, 0, -1, 0, 0])
    sheet = np.asarray(draw_curves([Curve("audio", times, values)], TimeAxis(0.0, 100.0), 800)).astype(int)
    ink = (np.abs(sheet[..., :3] - np.array(color("audio"))).max(-1) < 20) & (sheet[..., 3] > 200)
    rows = [np.flatnonzero(ink[:, column]).mean() for column in (50, 250, 550)]
    assert rows[1] < rows[0] < rows[2] < CURVE_HEIGHT
    assert rows[0] - rows[1] == pytest.approx(2 * (rows[2] - rows[0]), rel=0.1)


def test_bars_go_right_for_and_left_against():
    totals = {"video": 3.0, "audio": -1.5, "text": 0.0}
    sheet = np.asarray(draw_bars(totals, {}, "nats", width=900)).astype(int)
    spans = {}
    for sense in ("video", "audio"):
        there = (np.abs(sheet[..., :3] - np.array(color(sense))).max(-1) < 3) & (sheet[..., 3] > 250)
        spans[sense] = np.flatnonzero(there.sum(0) > 15)
    assert spans["audio"].max() <= spans["video"].min() + 3
    assert len(spans["video"]) == pytest.approx(2 * len(spans["audio"]), rel=0.05)
    assert draw_bars({}, {}, "nats").height == 0


@pytest.mark.parametrize(
    "gained, told",
    [(2.302585, "10 times more likely"), (-0.7, "2.0 times less likely"), (20.0, "over a million times more"),
     (0.01, "as likely as with nothing"), (10.5, "36,000 times more likely")],
)  # fmt: skip
def test_nats_are_told_as_a_factor(gained, told):
    assert told in gained_sentence({"text": "bell", "gained": gained, "missed": 0.0})
    assert gained_sentence({"text": "bell", "gained": None, "missed": None}) is None


def test_what_is_estimated_is_told(record):
    assert "0.2 of them placed by estimate" in gained_sentence(record["attributions"][0])
    assert said_sentence(record, record["attributions"][0]) is None
    record["words"][1]["probability"] = 0.97
    others = {" horns": 0.02, " a": 0.001}
    record["tokens"][1]["others"] = [{"text": text, "probability": part} for text, part in others.items()]
    told = said_sentence(record, record["attributions"][0])
    assert told == "It was said with a probability of 97 %; next came 'horns' 2 %."


def test_curves_of_a_record_are_sums_over_cells(record):
    video, audio = curves_of(record, record["attributions"][0])
    assert video.values.tolist() == [0, 4, -2, 0] and audio.values.tolist() == [0, 1, 0, 0]
    assert video.times.tolist() == [0.5, 1.5, 2.5, 3.5]


def test_the_schema_in_the_documentation_names_every_key(record):
    text = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()

    def keys(value):
        if isinstance(value, dict):
            for key, each in value.items():
                if key not in ("video", "audio", "text"):
                    yield key
                yield from keys(each)
        elif isinstance(value, list):
            for each in value:
                yield from keys(each)

    missing = [key for key in dict.fromkeys((*keys(record), *COLUMNS)) if f"`{key}`" not in text]
    assert not missing, missing
