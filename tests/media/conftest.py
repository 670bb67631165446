"""Fixtures of several tests of media."""

import pytest

from lynx.media import worker


@pytest.fixture
def calls(monkeypatch):
    """Names of the files that workers are called about."""
    seen, real = [], worker._pool.call

    def counted(function, args, about, seconds):
        seen.append(about)
        return real(function, args, about, seconds)

    monkeypatch.setattr(worker._pool, "call", counted)
    return seen
