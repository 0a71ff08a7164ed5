"""Fixtures of tests of AT."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases.connections import Database
from tests.databases.nothing_left import assert_nothing_left
from tests.sdk.at_sources import Shop
from tidelock.application import Application
from tidelock.testing import Coordinator

TABLE = "CREATE TABLE t (id INT PRIMARY KEY, v INT, name VARCHAR(40))"
ROWS = "INSERT INTO t VALUES (1, 10, 'one'), (2, 20, 'two'), (3, 30, 'three')"


@pytest.fixture
def application(tidelock_coordinator: Coordinator) -> Iterator[Application]:
    with tidelock_coordinator.application() as application:
        yield application


@pytest.fixture
def bare_shop(
    database: Database, application: Application, tidelock_coordinator: Coordinator
) -> Iterator[Shop]:
    """A database with nothing but `undo_log`."""
    shop = Shop(database, application, coordinator=tidelock_coordinator)
    yield shop
    assert_nothing_left(tidelock_coordinator, database)
    shop.source.close()


@pytest.fixture
def shop(bare_shop: Shop) -> Shop:
    """A database with three rows in `t`."""
    bare_shop.database.sql(TABLE, ROWS)
    return bare_shop
