"""Connections of asyncmy as sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from asyncmy.connection import Connection
from asyncmy.cursors import Cursor

from tidelock.sql.dialects import MYSQL
from tidelock.sql.placeholders import Style, rendered
from tidelock.sql.session import Result

_FOUND_ROWS: Final = 1 << 1


class AsyncmySession:
    """A connection of asyncmy."""

    dialect = MYSQL
    style = Style.FORMAT

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def connection(self) -> Any:
        """The driver's own connection."""
        return self._connection

    @property
    def in_transaction(self) -> bool:
        """As the server said with its last answer."""
        return bool(self._connection.get_transaction_status())

    @property
    def autocommits(self) -> bool:
        """As the server said with its last answer."""
        return bool(self._connection.get_autocommit()) and not self.in_transaction

    @property
    def counts_found_rows(self) -> bool:
        """As it was agreed when the connection was made."""
        return bool(self._connection._client_flag & _FOUND_ROWS)

    async def execute(self, text: str, values: Sequence[Any] = ()) -> Result:
        """Execute a canonical statement."""
        cursor = self._connection.cursor(Cursor)
        try:
            wanted = rendered(text, self.style, has_values=bool(values))
            await cursor.execute(wanted, tuple(values) if values else None)
            described = cursor.description
            return Result(
                columns=tuple(column[0] for column in described) if described else (),
                rows=list(await cursor.fetchall()) if described else [],
                row_count=cursor.rowcount,
                generated_key=cursor.lastrowid,
            )
        finally:
            await cursor.close()

    async def describe(self, text: str) -> tuple[str, ...]:
        """Return the names of the columns that a query returns."""
        return (await self.execute(text)).columns

    async def begin(self) -> None:
        """Begin a local transaction."""
        await self._connection.begin()

    async def commit(self) -> None:
        """Commit."""
        await self._connection.commit()

    async def rollback(self) -> None:
        """Roll back."""
        await self._connection.rollback()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.ensure_closed()


def session(connection: Connection) -> AsyncmySession:
    """Return the session of a connection."""
    return AsyncmySession(connection)
