"""What a test of a mode may not leave behind: fixtures look before the application is closed."""

from __future__ import annotations

import time
from typing import Final

from tests.databases.connections import Database
from tidelock.testing import Coordinator

WITHIN_S: Final = 20.0

GUARDS: Final = ("undo_log", "tidelock_fence")

_FAILED: Final = frozenset({"COMMIT_FAILED", "ROLLBACK_FAILED", "TIMEOUT_ROLLBACK_FAILED"})
"""A test that ends so is about it: everything is kept for the operator."""

_TABLES: Final = {
    "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
}
_PREPARED: Final = {
    "mysql": "XA RECOVER",
    "postgresql": "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()",
}


def left_in(database: Database) -> list[str]:
    """Return a line for each kind of guard row, and each prepared transaction, in a database."""
    there = {str(row[0]) for row in database.sql(_TABLES[database.dialect])}
    found = []
    for table in GUARDS:
        if table in there:
            rows = database.sql(f"SELECT * FROM {table}")
            found += [f"{len(rows)} rows of {table}"] if rows else []
    prepared = database.sql(_PREPARED[database.dialect]) if database.dialect in _PREPARED else []
    return found + [f"prepared: {row}" for row in prepared]


def assert_nothing_left(coordinator: Coordinator, database: Database) -> None:
    """Wait until transactions, row locks, waits and guards are gone, in the cluster and here.

    Raises:
        AssertionError: something is left.
    """
    if any(each.status in _FAILED for each in coordinator.transactions()):
        return
    ends_at = time.monotonic() + WITHIN_S
    while left := coordinator.leftovers() + left_in(database):
        assert time.monotonic() < ends_at, left
        time.sleep(0.02)
