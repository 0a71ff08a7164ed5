"""Fixtures of simulations."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logs_speak_again() -> Iterator[None]:
    """Simulated clusters are silenced, for the whole process: nobody after them shall be."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)
