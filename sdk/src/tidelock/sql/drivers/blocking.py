"""What sessions of blocking drivers (PEP 249) have in common: no step of them ever waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidelock.sql.dialects import Dialect
from tidelock.sql.placeholders import Style, rendered
from tidelock.sql.session import Result


class BlockingSession:
    """A connection of PEP 249, of a driver that a subclass knows."""

    dialect: Dialect
    style: Style

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def connection(self) -> Any:
        """The driver's own connection."""
        return self._connection

    @property
    def counts_found_rows(self) -> bool:
        """As databases do, except for MySQL."""
        return True

    def _cursor(self) -> Any:
        return self._connection.cursor()

    async def execute(self, text: str, values: Sequence[Any] = ()) -> Result:
        """Execute a canonical statement."""
        cursor = self._cursor()
        try:
            wanted = rendered(text, self.style, has_values=bool(values))
            if values:
                cursor.execute(wanted, tuple(values))
            else:
                cursor.execute(wanted)
            described = cursor.description
            return Result(
                columns=tuple(column[0] for column in described) if described else (),
                rows=[tuple(row) for row in cursor.fetchall()] if described else [],
                row_count=cursor.rowcount,
                generated_key=getattr(cursor, "lastrowid", None),
            )
        finally:
            cursor.close()

    async def describe(self, text: str) -> tuple[str, ...]:
        """Return the names of the columns that a query returns."""
        return (await self.execute(text)).columns

    async def begin(self) -> None:
        """Begin a local transaction. Drivers of PEP 249 do so by themselves."""

    async def commit(self) -> None:
        """Commit."""
        self._connection.commit()

    async def rollback(self) -> None:
        """Roll back."""
        self._connection.rollback()

    async def close(self) -> None:
        """Close the connection."""
        self._connection.close()
