"""Hiding parts of senses: which parts there are, and what hiding them does to an answer."""

import pytest
import torch

from lynx.evidence import hiding
from lynx.evidence.hiding import divide, hide_each

QUESTION = "what is it ?"


def test_with_few_tokens_each_is_hidden_alone_and_each_sense_as_a_whole(chat):
    chat.ask(QUESTION, max_new_tokens=4)
    evidence = chat.evidence
    found, tokens = evidence.attribution(0, "hiding"), [evidence.steps[i] for i in evidence.find_word(0)[1]]
    with evidence.answered.replay() as replay, torch.no_grad():
        span, newline = replay.spans["audio"], evidence.streams["audio"].times.isnan()

        def score(hidden):
            inputs = replay.inputs.clone()
            inputs[0, hidden] = replay.blank[0, hidden]
            return float(replay.log_probs(inputs, tokens))

        real = score([])
        for place in (0, 17, 95):
            assert found.values["audio"][place] == pytest.approx(real - score(span[place]), abs=1e-5)
        whole = score(span[~newline])
        both = score(torch.cat([span[:-1] for span in replay.spans.values()]))
        hide = hide_each(replay, tokens)
    assert found.totals["audio"] == pytest.approx(real - whole, abs=1e-5)
    assert found.gained == pytest.approx(real - both, abs=1e-5)
    assert (hide.real, hide.blank) == pytest.approx((real, both), abs=1e-5)
    assert found.totals["text"] == evidence.attribution(0).totals["text"]
    assert evidence.hidden(0, "audio") == pytest.approx(real - whole, abs=1e-5)
    assert evidence.hidden(0, "audio", (0.0, 1.0)) != evidence.hidden(0, "audio") != 0


def test_a_larger_part_is_hidden_together_and_shares_its_drop(chat):
    chat.ask(QUESTION, max_new_tokens=4)
    evidence = chat.evidence
    with evidence.answered.replay() as replay:
        found = hide_each(replay, [evidence.steps[i] for i in evidence.find_word(0)[1]], passes=100)
    parts = divide(evidence.streams, 100)
    assert [len(mine) for mine in parts.values()] == [48, 48]  # of two moments each
    values, heat = found.values["audio"], evidence.streams["audio"].cells
    for part in parts["audio"]:
        assert len(part) == 2 and len(values[part].unique()) == 1 and len(heat[part].unique(dim=0)) == 1
    later = (evidence.streams["audio"].times > 1.1) & (evidence.streams["audio"].times < 2.5)
    corner = later & (heat == torch.tensor([3, 0])).all(dim=1)
    hidden = evidence.hidden(0, "audio", (1.1, 2.5), (0.0, 0.75, 0.25, 1.0))
    assert corner.sum() == 2 and float(values[corner].sum()) == pytest.approx(hidden, abs=1e-5) and hidden


def test_of_a_long_prompt_fewer_parts_are_hidden(chat, monkeypatch):
    chat.ask(QUESTION, max_new_tokens=4)
    told = []
    monkeypatch.setattr(hiding, "WORK", 100)
    chat.evidence.attribution(0, "hiding", lambda done, of: told.append(of))
    assert told[-1] == 2 + 2 + 2 * 2 * 16, "of three moments each"


def test_hiding_tells_how_far_it_is(chat):
    chat.ask(QUESTION, max_new_tokens=4)
    told = []
    chat.evidence.attribution(0, "hiding", lambda done, of: told.append((done, of)))
    assert len(told) > 3 and told == sorted(told) and {of for _, of in told} == {2 * 6 * 16 + 2 + 2}
    assert told[-1] == (196, 196)


@pytest.mark.parametrize(
    ("moments", "grid", "most", "parts"),
    [
        (4, (4, 4), 256, 64),
        (16, (14, 14), 256, 16 * 16),  # blocks of 4 x 4 cells
        (32, (14, 14), 256, 16 * 16),  # of two moments
        (16, (14, 14), 3136, 3136),
        (100, (27, 27), 20, 16),
        (100, (2, 3), 256, 34 * 6),  # of three moments
        (7, (1, 1), 3, 3),
        (16, (14, 14), 1, 1),
    ],
)
def test_parts_are_as_small_as_the_number_of_passes_allows(stream, moments, grid, most, parts):
    one = stream("video", moments, *grid, 0.5)
    found = divide({"video": one}, most)["video"]
    assert len(found) <= most
    together = torch.cat(found).sort().values
    assert together.tolist() == list(range(len(one.times) - 1)), "each token once, and no newline"
    assert len(found) == parts


def test_senses_share_the_number_of_passes(stream):
    streams = {"video": stream("video", 16, 14, 14, 0.5), "audio": stream("audio", 8, 1, 1, 0.5)}
    found = divide(streams, 256)
    assert sum(map(len, found.values())) <= 256 and len(found["audio"]) < 8 < len(found["video"])
    assert divide({}, 256) == {}
