"""Connections of psycopg as sessions."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from tidelock.sql.dialects import POSTGRESQL
from tidelock.sql.drivers.blocking import BlockingSession
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.placeholders import Style


class PsycopgSession(BlockingSession):
    """A connection of psycopg."""

    dialect = POSTGRESQL
    style = Style.FORMAT

    def _cursor(self) -> Any:
        # Not the application's class of cursors, nor its factory of rows.
        return psycopg.Cursor(self._connection, row_factory=tuple_row)

    @property
    def in_transaction(self) -> bool:
        """As libpq knows."""
        return bool(self._connection.info.transaction_status != TransactionStatus.IDLE)

    @property
    def autocommits(self) -> bool:
        """As the application has set it."""
        return bool(self._connection.autocommit) and not self.in_transaction

    async def begin(self) -> None:
        """Begin a local transaction where each statement is committed by itself."""
        if self.autocommits:
            await self.execute("BEGIN")

    async def commit(self) -> None:
        """Commit."""
        if self._connection.autocommit:
            await self.execute("COMMIT")
        else:
            self._connection.commit()

    async def rollback(self) -> None:
        """Roll back."""
        if self._connection.autocommit:
            await self.execute("ROLLBACK")
        else:
            self._connection.rollback()


def session(connection: object) -> PsycopgSession:
    """Return the session of a connection.

    Raises:
        DatabaseUnsuitableError: it is an `AsyncConnection`.
    """
    if not isinstance(connection, psycopg.Connection):
        raise DatabaseUnsuitableError(
            f"{type(connection).__name__} of psycopg is not supported: use asyncpg where the code "
            "awaits, or psycopg's blocking Connection"
        )
    return PsycopgSession(connection)
