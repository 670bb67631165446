import pytest
import torch

import lynx


def test_all_values_sum_to_what_the_media_add_to_the_answer():
    model = lynx.load("lynx-tiny", ["adapters/audio"])
    chat = model.chat(video="examples/bell/clip.mp4", audio="examples/bell/clip.mp4")
    assert chat.ask("What sound do you hear?") == "bell"
    found = chat.evidence.attribution("bell")
    sums = {sense: float(values.sum()) for sense, values in found.values.items()}
    assert sum(sums.values()) == pytest.approx(found.gained, rel=0.01)
    assert sums["audio"] > 10 * abs(sums["video"]) and found.gained > 2
    with chat.evidence.answered.replay() as replay, torch.no_grad():
        whole, blank = (float(replay.log_probs(each, [0])) for each in (replay.inputs, replay.blank))
    assert found.gained == pytest.approx(whole - blank, abs=1e-4)
