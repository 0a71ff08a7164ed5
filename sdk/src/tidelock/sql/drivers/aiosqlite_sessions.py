"""Connections of aiosqlite as sessions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import aiosqlite

from tidelock.driving import drive
from tidelock.sql.dialects import SQLITE
from tidelock.sql.drivers.sqlite3_sessions import SQLite3Session
from tidelock.sql.placeholders import Style
from tidelock.sql.session import Result


class AiosqliteSession:
    """A connection of aiosqlite: what is done with sqlite3, in the connection's own thread."""

    dialect = SQLITE
    style = Style.QMARK
    counts_found_rows = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._inner = SQLite3Session(connection._conn)

    @property
    def connection(self) -> Any:
        """The driver's own connection."""
        return self._connection

    @property
    def in_transaction(self) -> bool:
        """As SQLite knows."""
        return bool(self._connection.in_transaction)

    @property
    def autocommits(self) -> bool:
        """With isolation_level None nobody begins for us."""
        return self._connection.isolation_level is None and not self.in_transaction

    async def execute(self, text: str, values: Sequence[Any] = ()) -> Result:
        """Execute a canonical statement."""

        def execute() -> Result:
            return drive(self._inner.execute(text, values))

        found: Result = await self._connection._execute(execute)
        return found

    async def describe(self, text: str) -> tuple[str, ...]:
        """Return the names of the columns that a query returns."""
        return (await self.execute(text)).columns

    async def begin(self) -> None:
        """Begin a local transaction that keeps other writers out, or make one do so."""
        await self._connection._execute(lambda: drive(self._inner.begin()))

    async def commit(self) -> None:
        """Commit."""
        await self._connection._execute(lambda: drive(self._inner.commit()))

    async def rollback(self) -> None:
        """Roll back."""
        await self._connection._execute(lambda: drive(self._inner.rollback()))

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


def connected(connection: aiosqlite.Connection) -> sqlite3.Connection:
    """Return the connection of sqlite3 within."""
    return connection._conn


def session(connection: aiosqlite.Connection) -> AiosqliteSession:
    """Return the session of a connection that is open."""
    return AiosqliteSession(connection)
