"""What the tests of stage 3 share: a small model with an adapter that has been aligned."""

import pytest
import stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone, and an adapter for it that has been aligned."""
    folder = tmp_path_factory.mktemp("stages")
    stages.small_adapter(stages.small_model(folder), folder / "audio")
    return folder


@pytest.fixture
def model(folder):
    """A model of its own for every test, with the aligned adapter."""
    model = stages.small_model(folder)
    model.load_adapter(folder / "audio")
    return model
