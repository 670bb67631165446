"""Records are plain data: what a researcher reads from them, and what they never give away."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import llava_onevision, random_adapter, sound

import lynx
from lynx.evidence.attention import AttentionRows
from lynx.evidence.attribution import Attribution
from lynx.evidence.evidence import Candidate, Evidence
from lynx.evidence.record import attribution_record, evidence_record, find_attribution
from lynx.modalities.multi_view import View
from lynx.streams.encoder import pool
from lynx.types import Frames, Stream, sample_times

TIMES = [0.5, 1.5]
TOKENS = [" A", " bell", "s", " rang", ". "]


def stream(sense="video", grid=(2, 3), moments=2, labels=(), newline=True):
    """Tokens row by row, moment by moment, with a newline behind them."""
    count = grid[0] * grid[1]
    times = torch.tensor(TIMES[:moments], dtype=torch.float64).repeat_interleave(count)
    cells = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).repeat(moments, 1)
    if newline:
        times = torch.cat([times, torch.tensor([torch.nan])])
        cells = torch.cat([cells, torch.full((1, 2), -1)])
    pixels = torch.zeros(moments, 3, 8, 12, dtype=torch.uint8)
    frames = Frames(pixels, sample_times(2.0, moments), 2.0, labels)
    return Stream(sense, torch.zeros(len(times), 4), times, cells, grid, frames)


@pytest.fixture
def evidence():
    streams = {"video": stream()}
    span = torch.arange(3, 3 + 13)
    rows = AttentionRows(torch.rand(5, 40), {"video": span}, streams, torch.zeros(40, dtype=torch.bool))
    said = tuple(Candidate(text, 0.5) for text in TOKENS)
    others = ((Candidate(" The", 0.25),),) * 5
    return Evidence(TOKENS, rows, said=said, candidates=others)


def attribution(streams, values):
    totals = {"video": 6.6, "text": -1.0}
    return Attribution("attribution", "nats", {"video": values}, streams, totals, 6.6, 0.1)


def test_characters_of_tokens_and_words_are_those_of_the_answer(evidence):
    record = evidence_record(evidence, {})
    answer = record["answer"]
    assert answer == "A bells rang."
    assert "".join(answer[token["start"] : token["end"]] for token in record["tokens"]) == answer
    assert [answer[word["start"] : word["end"]] for word in record["words"]] == ["A", "bells", "rang", "."]
    assert [word["text"] for word in record["words"]] == ["A", "bells", "rang", "."]


def test_probabilities_are_those_of_the_tokens_and_their_product(evidence):
    record = evidence_record(evidence, {})
    assert record["tokens"][0]["log_probability"] == pytest.approx(math.log(0.5))
    assert record["tokens"][2]["others"] == [{"text": " The", "probability": 0.25}]
    assert [word["probability"] for word in record["words"]] == [0.5, 0.25, 0.5, 0.5]
    silent = evidence_record(replace(evidence, said=(Candidate("a", 0.0),) * 5), {})
    json.dumps(silent, allow_nan=False)


def keys_of(record):
    """Every key of a record and of what lies in it; names of senses are none."""
    if isinstance(record, list):
        return {key for each in record for key in keys_of(each)}
    if not isinstance(record, dict):
        return set()
    named = {"senses", "totals", "values"}
    inner = (each.values() if key in named else [each] for key, each in record.items())
    return {*record} | {key for parts in inner for part in parts for key in keys_of(part)}


def test_values_lie_at_their_moment_row_and_column(evidence):
    values = torch.zeros(13)
    values[6 + 3 + 2] = 1 / 3  # second moment, second row, third column
    found = attribution_record(evidence, 1, attribution(evidence.streams, values))
    assert found["values"]["video"] == [[[0.0] * 3] * 2, [[0.0] * 3, [0.0, 0.0, 0.3333333]]]
    assert found["parameters"]["steps"] == 8 and found["gained"] == 6.6
    tiny = attribution_record(evidence, None, attribution(evidence.streams, values * 1e-6))
    assert tiny["values"]["video"][1][1][2] == pytest.approx(1e-6 / 3, rel=1e-6), "seven digits, not places"


def test_senses_say_where_and_when_their_cells_are(evidence):
    record = evidence_record(evidence, {"video": "picture"})
    video = record["senses"]["video"]
    assert (video["label"], video["grid"], video["times"]) == ("picture", [2, 3], TIMES)
    assert (video["size"], video["duration"], video["pictures"]) == ([8, 12], 2.0, None)
    views = {"multi_view": stream("multi_view", labels=("left", "right"))}
    pair = replace(evidence, attention=replace(evidence.attention, streams=views))
    assert evidence_record(pair, {})["senses"]["multi_view"]["pictures"] == ["left", "right"]
    joined = {"multi_view": pool(views["multi_view"], "moments")}  # a cell is of both pictures
    both = evidence_record(replace(evidence, attention=replace(evidence.attention, streams=joined)), {})
    assert both["senses"]["multi_view"]["pictures"] is None
    assert len(both["senses"]["multi_view"]["times"]) == 1


def test_an_attribution_is_found_by_its_word_and_method(evidence):
    found = [(None, attribution(evidence.streams, torch.zeros(13)))]
    record = evidence_record(evidence, {}, [*found, (1, evidence.attribution(1, "attention"))])
    assert find_attribution(record)["text"] is None
    assert find_attribution(record, 1, "attention")["parameters"] == {"layers": "all"}
    assert find_attribution(record, 1, "attention")["text"] == "bells"
    assert find_attribution(record, 1) is None


def test_a_record_names_files_and_no_folders(evidence):
    view = View("/home/me/secret/right.mp4")
    views = {"a": "/home/me/secret/left.mp4", "b": view}
    given_as = (
        ("/home/me/secret/clip.mp4", "clip.mp4"),
        (views, "left.mp4, right.mp4"),
        (view, "right.mp4"),
        (sound(1.0), None),
    )
    for given, name in given_as:
        record = evidence_record(evidence, {}, files={"video": given})
        assert record["senses"]["video"]["file"] == name and "secret" not in json.dumps(record)


def test_a_real_answer_says_what_answered(tmp_path):
    model = lynx.load(llava_onevision(tmp_path / "checkpoint"))
    random_adapter(model, "hearing", "audio")
    chat = model.chat(hearing=sound(2.0), frames=2)
    chat.ask("what is it ?", max_new_tokens=3)
    record = evidence_record(chat.evidence, {}, [(None, chat.evidence.attribution())])
    assert record["question"] == "what is it ?" and record["backbone"]["name"] == "checkpoint"
    assert str(tmp_path) not in json.dumps(record, allow_nan=False)
    text = Path("docs/evidence.md").read_text(encoding="utf-8")
    assert not [key for key in keys_of(record) if f"`{key}`" not in text]
    (adapter,) = record["adapters"]
    assert (adapter["name"], adapter["modality"]) == ("hearing", "audio")
    assert record["senses"]["hearing"]["spectrogram"]
    values = torch.tensor(find_attribution(record)["values"]["hearing"])
    assert float(values.sum()) == pytest.approx(find_attribution(record)["totals"]["hearing"], abs=1e-4)
    other = lynx.load(tmp_path / "checkpoint")
    random_adapter(other, "first", "audio")
    random_adapter(other, "hearing", "audio")  # the second of a model has other weights
    again = other.chat(hearing=sound(2.0), frames=2)
    again.ask("what is it ?", max_new_tokens=3)
    different = evidence_record(again.evidence, {})
    assert different["adapters"][0]["revision"] != adapter["revision"]
    assert len(record["llm_loras"]) == 1 and different["llm_loras"] != record["llm_loras"]
