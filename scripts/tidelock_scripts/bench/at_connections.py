"""Connections of six drivers, used alike: what a statement costs is measured through each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol

import aiosqlite
import asyncmy
import asyncpg
import psycopg
import pymysql

import tidelock
from scripts.tidelock_scripts.database_servers import mariadb_server, postgresql_server
from tidelock.sql.dialects import DialectName

Where = Mapping[str, Any]
"""What the blocking driver of a database is told."""


class Line(Protocol):
    """One connection in local transactions, bare or with AT."""

    async def begin(self) -> None:
        """Begin one, where that is a step of its own."""

    async def run(self, text: str, values: Sequence[Any]) -> None:
        """Execute a statement, and fetch what it returns."""

    async def commit(self) -> None:
        """Commit."""

    async def close(self) -> None:
        """Close the connection."""


class BlockingLine:
    """A driver of PEP 249. No step of it waits, so awaiting it costs nothing."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def begin(self) -> None:
        pass

    async def run(self, text: str, values: Sequence[Any]) -> None:
        cursor = self._connection.cursor()
        cursor.execute(text, values)
        if cursor.description:
            cursor.fetchall()
        cursor.close()

    async def commit(self) -> None:
        self._connection.commit()

    async def close(self) -> None:
        self._connection.close()


class AwaitingLine:
    """asyncmy and aiosqlite."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def begin(self) -> None:
        pass

    async def run(self, text: str, values: Sequence[Any]) -> None:
        async with self._connection.cursor() as cursor:
            await cursor.execute(text, values)
            if cursor.description:
                await cursor.fetchall()

    async def commit(self) -> None:
        await self._connection.commit()

    async def close(self) -> None:
        closing = self._connection.close()
        if closing is not None:
            await closing


class AsyncpgLine:
    """asyncpg."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._transaction: Any = None

    async def begin(self) -> None:
        self._transaction = self._connection.transaction()
        await self._transaction.start()

    async def run(self, text: str, values: Sequence[Any]) -> None:
        await self._connection.fetch(text, *values)

    async def commit(self) -> None:
        await self._transaction.commit()

    async def close(self) -> None:
        await self._connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """How one driver is used."""

    name: str
    dialect: DialectName
    connect: Callable[[Where], Any]
    """Return a connection; what an awaiting driver returns is awaited."""
    line: Callable[[Any], Line]
    marks: Sequence[str]
    """Its placeholders, the first ones."""
    awaits: bool

    async def open(self, where: Where, source: tidelock.AtDataSource | None) -> Line:
        """Return a line, with AT when a source is given."""
        if source is not None:
            return self.line(await source.aconnect() if self.awaits else source.connect())
        connection = self.connect(where)
        return self.line(await connection if self.awaits else connection)


def _sqlite(where: Where) -> Any:
    import sqlite3  # noqa: PLC0415

    return sqlite3.connect(where["path"], timeout=30)


_FORMAT: Final = ("%s",) * 3
_QUESTION: Final = ("?",) * 3

DRIVERS: Final = (
    Driver(
        name="sqlite3", dialect="sqlite", connect=_sqlite, line=BlockingLine, marks=_QUESTION,
        awaits=False,
    ),
    Driver(
        name="aiosqlite", dialect="sqlite",
        connect=lambda where: aiosqlite.connect(where["path"], timeout=30),
        line=AwaitingLine, marks=_QUESTION, awaits=True,
    ),
    Driver(
        name="PyMySQL", dialect="mysql", connect=lambda where: pymysql.connect(**where),
        line=BlockingLine, marks=_FORMAT, awaits=False,
    ),
    Driver(
        name="asyncmy", dialect="mysql", connect=lambda where: asyncmy.connect(**where),
        line=AwaitingLine, marks=_FORMAT, awaits=True,
    ),
    Driver(
        name="psycopg", dialect="postgresql", connect=lambda where: psycopg.connect(**where),
        line=BlockingLine, marks=_FORMAT, awaits=False,
    ),
    Driver(
        name="asyncpg", dialect="postgresql",
        connect=lambda where: asyncpg.connect(
            **{"database" if name == "dbname" else name: value for name, value in where.items()}
        ),
        line=AsyncpgLine, marks=("$1", "$2", "$3"), awaits=True,
    ),
)  # fmt: skip


@contextmanager
def databases() -> Iterator[dict[DialectName, Where]]:
    """Start the servers, and give an empty database of each dialect.

    Raises: ServerError
    """
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        mariadb = stack.enter_context(mariadb_server())
        postgresql = stack.enter_context(postgresql_server())
        yield {
            "sqlite": {"path": str(Path(folder) / "bench.db")},
            "mysql": mariadb.where(stack.enter_context(mariadb.database())),
            "postgresql": postgresql.where(stack.enter_context(postgresql.database())),
        }
