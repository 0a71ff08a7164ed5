"""Connections of sqlite3 as sessions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from tidelock.sql.dialects import SQLITE
from tidelock.sql.drivers.blocking import BlockingSession
from tidelock.sql.placeholders import Style
from tidelock.sql.session import Result


class SQLite3Session(BlockingSession):
    """A connection of sqlite3."""

    dialect = SQLITE
    style = Style.QMARK

    def _cursor(self) -> Any:
        cursor = self._connection.cursor(sqlite3.Cursor)
        cursor.row_factory = None
        return cursor

    async def execute(self, text: str, values: Sequence[Any] = ()) -> Result:
        """Execute a canonical statement, with texts as texts."""
        made = self._connection.text_factory
        self._connection.text_factory = str
        try:
            return await super().execute(text, values)
        finally:
            self._connection.text_factory = made

    @property
    def in_transaction(self) -> bool:
        """As SQLite knows."""
        return bool(self._connection.in_transaction)

    @property
    def autocommits(self) -> bool:
        """With isolation_level None (or autocommit, from Python 3.12) nobody begins for us."""
        by_hand = self._connection.isolation_level is None
        return (by_hand or getattr(self._connection, "autocommit", -1) is True) and (
            not self.in_transaction
        )

    async def begin(self) -> None:
        """Begin a local transaction that keeps other writers out, or make one do so.

        A transaction that only read cannot be made a writer when somebody else has written since:
        then SQLite says that it is busy.
        """
        if not self.in_transaction:
            await self.execute("BEGIN IMMEDIATE")
            return
        # Writing the number that is there: nothing else writes without changing anything.
        ((version,),) = (await self.execute("PRAGMA user_version")).rows
        await self.execute(f"PRAGMA user_version = {int(version)}")

    async def commit(self) -> None:
        """Commit."""
        if self._connection.in_transaction:
            await self.execute("COMMIT")

    async def rollback(self) -> None:
        """Roll back."""
        if self._connection.in_transaction:
            await self.execute("ROLLBACK")


def session(connection: sqlite3.Connection) -> SQLite3Session:
    """Return the session of a connection."""
    return SQLite3Session(connection)
