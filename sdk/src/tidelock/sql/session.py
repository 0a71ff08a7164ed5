"""One connection to a database, whichever driver it comes from.

Statements for a session are *canonical*: each place for a value is `MARK`, a character that no SQL
text can contain, so nothing in them needs to be escaped::

    found = await session.execute(f"SELECT v FROM t WHERE id = {MARK}", (7,))

A session neither begins nor ends transactions by itself beyond what its driver does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from tidelock.sql.dialects import Dialect
from tidelock.sql.placeholders import MARK, Style

__all__ = ["MARK", "Result", "Session", "release", "rollback_to", "savepoint"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a statement came to."""

    columns: tuple[str, ...] = ()
    """Names of what `rows` consist of; none when the statement returns no rows."""
    rows: list[tuple[Any, ...]] = []
    row_count: int = -1
    """Rows that were changed, found or returned. -1: the driver does not tell."""
    generated_key: int | None = None
    """The first key that the database made for inserted rows (MySQL), or the last (SQLite)."""


class Session(Protocol):
    """Does statements on one raw connection. Blocking drivers never wait in it."""

    @property
    def dialect(self) -> Dialect:
        """The language of its database."""
        ...

    @property
    def connection(self) -> Any:
        """The driver's own connection."""
        ...

    @property
    def style(self) -> Style:
        """How its driver writes placeholders."""
        ...

    @property
    def autocommits(self) -> bool:
        """The next statement that changes something would be committed by itself."""
        ...

    @property
    def in_transaction(self) -> bool:
        """A local transaction is under way."""
        ...

    @property
    def counts_found_rows(self) -> bool:
        """`row_count` of an UPDATE includes rows that had the new values before."""
        ...

    async def execute(self, text: str, values: Sequence[Any] = ()) -> Result:
        """Execute a canonical statement.

        Rows have the driver's plain types, whatever the application set for its own cursors.

        Raises: what the driver raises.
        """
        ...

    async def describe(self, text: str) -> tuple[str, ...]:
        """Return the names of the columns that a query without values returns."""
        ...

    async def begin(self) -> None:
        """Begin a local transaction with the next statement, unless one is under way.

        On SQLite it keeps other writers out from now on, also one that is under way.
        """
        ...

    async def commit(self) -> None:
        """Commit the local transaction."""
        ...

    async def rollback(self) -> None:
        """Roll the local transaction back."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


async def savepoint(session: Session, name: str) -> None:
    """Set a savepoint."""
    await session.execute(f"SAVEPOINT {session.dialect.quote(name)}")


async def rollback_to(session: Session, name: str) -> None:
    """Go back to a savepoint, which stays."""
    await session.execute(f"ROLLBACK TO SAVEPOINT {session.dialect.quote(name)}")


async def release(session: Session, name: str) -> None:
    """Forget a savepoint."""
    await session.execute(f"RELEASE SAVEPOINT {session.dialect.quote(name)}")
