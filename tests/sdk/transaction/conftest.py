"""Fixtures of tests of blocks that are global transactions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tidelock.testing import Coordinator
from tidelock.transaction import scope
from tidelock.transaction.context import current


@pytest.fixture
def coordinator(tidelock_coordinator: Coordinator) -> Coordinator:
    return tidelock_coordinator


@pytest.fixture(autouse=True)
def nothing_stays_bound() -> Iterator[None]:
    yield
    assert current() is None


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ends be tried for no longer than a test can wait."""
    monkeypatch.setattr(scope, "_LEAST_MS", 300)
