"""Connections of every driver to empty databases, as tests want them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiosqlite
import asyncmy
import asyncpg
import psycopg
import pymysql
import pytest
from psycopg_pool import ConnectionPool

from tests.databases.servers import Server
from tidelock.sql.drivers import session_of
from tidelock.sql.session import Session

BLOCKING: Final = ("pymysql", "psycopg", "sqlite3")
AWAITING: Final = ("asyncmy", "asyncpg", "aiosqlite")
DRIVERS: Final = (*BLOCKING, *AWAITING)

DIALECT_OF: Final = {
    "pymysql": "mysql",
    "asyncmy": "mysql",
    "psycopg": "postgresql",
    "asyncpg": "postgresql",
    "sqlite3": "sqlite",
    "aiosqlite": "sqlite",
}


class Database:
    """An empty database, and how each driver reaches it."""

    def __init__(self, dialect: str, server: Server | None, name: str) -> None:
        self.dialect = dialect
        self.server = server
        self.name = name
        """Of a file its path."""

    def connect(self, **options: Any) -> Any:
        """Return a connection of the blocking driver."""
        match self.dialect:
            case "mysql":
                return pymysql.connect(**self.where(), **options)
            case "postgresql":
                return psycopg.connect(**self.where(), **options)
            case _:
                return sqlite3.connect(self.name, **options)

    def where(self) -> dict[str, Any]:
        """Return what the drivers of the dialect are told."""
        assert self.server is not None
        return self.server.where(self.name)

    async def open(self, driver: str, **options: Any) -> Any:
        """Return a connection of a driver, blocking or not."""
        where = {} if self.server is None else self.where()
        match driver:
            case "asyncmy":
                return await asyncmy.connect(**where, **options)
            case "asyncpg":
                where["database"] = where.pop("dbname")
                return await asyncpg.connect(**where, **options)
            case "aiosqlite":
                return await aiosqlite.connect(self.name, **options)
            case _:
                return self.connect(**options)

    @asynccontextmanager
    async def session(self, driver: str, **options: Any) -> AsyncIterator[Session]:
        """Yield a session of a new connection, closed at the end."""
        session = session_of(await self.open(driver, **options))
        try:
            yield session
        finally:
            await session.close()

    @asynccontextmanager
    async def pool(self, driver: str) -> AsyncIterator[Any]:
        """Yield a pool of one connection, of asyncpg, asyncmy or psycopg."""
        where = self.where()
        match driver:
            case "asyncpg":
                where["database"] = where.pop("dbname")
                async with asyncpg.create_pool(**where, min_size=1, max_size=1) as awaited:
                    yield awaited
            case "asyncmy":
                async with asyncmy.create_pool(**where, minsize=1, maxsize=1) as awaited:
                    yield awaited
            case _:
                with ConnectionPool(kwargs=where, min_size=1, max_size=1) as pool:
                    yield pool

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Execute statements, each committed by itself; return the rows of the last."""
        if self.server is not None:
            return self.server.sql(*statements, database=self.name)
        connection = sqlite3.connect(self.name, isolation_level=None)
        try:
            rows: list[tuple[Any, ...]] = []
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            return rows
        finally:
            connection.close()


def database_of(
    dialect: str, request: pytest.FixtureRequest, folder: Path, stack: ExitStack
) -> Database:
    """Make an empty database of a dialect, whose server is started when it is not yet."""
    if dialect == "sqlite":
        return Database("sqlite", None, str(folder / "test.db"))
    server: Server = request.getfixturevalue({"mysql": "mariadb"}.get(dialect, dialect))
    made: AbstractContextManager[str] = server.database()
    return Database(dialect, server, stack.enter_context(made))
