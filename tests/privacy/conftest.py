"""What tests of noise share."""

import itertools

import pytest

from kumiai.privacy.keystream import Keystream


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each run of an audit draw the same noise: its bounds miss now and then by chance."""
    keys = itertools.count()
    monkeypatch.setattr(Keystream, "fresh", lambda: Keystream(next(keys).to_bytes(32, "big")))
