"""What every test shares: one torch thread, no network, and Chromium for the tests marked `browser`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Read once, at import: a test that reaches for the Hub fails at once, and no progress bars are drawn.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

ROOT = Path(__file__).parent.parent
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # the workers of `make test` share the cores


@pytest.fixture(scope="module", autouse=True)
def _gpu_hidden(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hide the GPU from every module not marked `gpu`: their tests compare with tensors on the CPU."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("gpu") is None:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")  # and from what they start
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; where there is none the test is skipped, and fails under CI=true."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found:
        return found
    reason = "no Chromium here: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A running Chromium, with a microphone and a camera that need nobody's leave."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", *(f"--use-fake-{what}-for-media-stream" for what in ("ui", "device"))],
        )
        yield running
        running.close()


# What tests of conversations share; a module that needs others has fixtures of its own by these names.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small LLaVA-OneVision checkpoint."""
    import checkpoints

    return checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def model(folder: Path) -> Any:
    """It, with a random adapter for sound."""
    from checkpoints import random_adapter

    import lynx

    model = lynx.load(folder)
    random_adapter(model, "audio")
    return model


@pytest.fixture
def chat(model: Any) -> Any:
    """A conversation about six moments of a clip with sound."""
    from checkpoints import clip, sound

    return model.chat(video=clip(), audio=sound(), frames=6)

