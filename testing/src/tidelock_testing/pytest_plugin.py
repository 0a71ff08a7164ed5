"""Fixtures of pytest.

It is loaded whenever pytest starts, so it imports nothing until a test asks for something.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tidelock.application import Application
    from tidelock.testing import Coordinator


@pytest.fixture
def tidelock_coordinator() -> Iterator[Coordinator]:
    """A coordinator of the test's own, in this process. See `tidelock.testing.Coordinator`."""
    from tidelock.testing import Coordinator  # noqa: PLC0415 - only for who asks

    with Coordinator() as coordinator:
        yield coordinator


@pytest.fixture
def tidelock_application(tidelock_coordinator: Coordinator) -> Iterator[Application]:
    """An application of `tidelock_coordinator`, configured as the default during the test."""
    from tidelock.application import configured_during  # noqa: PLC0415 - only for who asks

    with tidelock_coordinator.application() as application, configured_during(application):
        yield application
