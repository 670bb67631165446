"""What the tests of evidence share."""

from collections.abc import Callable
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import clip, random_adapter, sound

import lynx
from lynx.types import Frames, Stream


@pytest.fixture
def stream() -> Callable[..., Stream]:
    """A function that makes a stream of a grid of tokens a frame, which ends in a newline."""

    def make(sense: str, frames: int, rows: int, cols: int, seconds: float) -> Stream:
        n = frames * rows * cols
        times = torch.arange(frames).double() * seconds
        clip = Frames(torch.zeros(frames, 3, 4, 4, dtype=torch.uint8), times, frames * seconds)
        tokens = torch.zeros(n + 1, 8)
        at = torch.cat([times.repeat_interleave(rows * cols), torch.tensor([torch.nan])])
        return Stream(sense, tokens, at, torch.zeros(n + 1, 2, dtype=torch.long), (rows, cols), clip)

    return make


@pytest.fixture(params=sorted(checkpoints.FAMILIES))
def talk(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    """A conversation in each family, with sound."""
    model = lynx.load(checkpoints.FAMILIES[request.param](tmp_path))
    random_adapter(model, "audio")
    return model.chat(video=clip(), audio=sound(), frames=4)
