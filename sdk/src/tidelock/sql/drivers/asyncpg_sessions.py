"""Connections of asyncpg as sessions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from tidelock.sql.dialects import POSTGRESQL
from tidelock.sql.placeholders import Style, rendered
from tidelock.sql.session import Result

_RETURNS: Final = re.compile(
    r"\s*(SELECT|WITH|VALUES|SHOW)\b|.*\bRETURNING\b", re.IGNORECASE | re.DOTALL
)


class AsyncpgSession:
    """A connection of asyncpg."""

    dialect = POSTGRESQL
    style = Style.NUMERIC_DOLLAR
    counts_found_rows = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def connection(self) -> Any:
        """The driver's own connection."""
        return self._connection

    @property
    def in_transaction(self) -> bool:
        """As the server said with its last answer."""
        return bool(self._connection.is_in_transaction())

    @property
    def autocommits(self) -> bool:
        """Everything is, outside of a block that somebody began."""
        return not self.in_transaction

    async def execute(self, text: str, values: Sequence[Any] = ()) -> Result:
        """Execute a canonical statement."""
        wanted = rendered(text, self.style, has_values=bool(values))
        if _RETURNS.match(text):
            records = await self._connection.fetch(wanted, *values)
            return Result(
                columns=tuple(records[0].keys()) if records else (),
                rows=[tuple(record) for record in records],
                row_count=len(records),
            )
        status: str = await self._connection.execute(wanted, *values)
        return Result(row_count=count_of(status))

    async def describe(self, text: str) -> tuple[str, ...]:
        """Return the names of the columns that a query returns."""
        prepared = await self._connection.prepare(text)
        return tuple(attribute.name for attribute in prepared.get_attributes())

    async def begin(self) -> None:
        """Begin a local transaction unless one is under way."""
        if not self.in_transaction:
            await self._connection.execute("BEGIN")

    async def commit(self) -> None:
        """Commit."""
        await self._connection.execute("COMMIT")

    async def rollback(self) -> None:
        """Roll back."""
        await self._connection.execute("ROLLBACK")

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


def count_of(status: str) -> int:
    """Return the number of rows in what is said of a statement: `UPDATE 3`, `INSERT 0 2`."""
    last = status.rpartition(" ")[2]
    return int(last) if last.isdecimal() else -1


def session(connection: asyncpg.Connection[Any]) -> AsyncpgSession:
    """Return the session of a connection."""
    return AsyncpgSession(connection)
