"""The database of one service, and what takes part in global transactions with it.

A service of your own has one kind of database, one driver and mostly one mode, so of all this it
needs `connect` and one line of `__init__`.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import tidelock
from tidelock.xa import XaSource

Kind = Literal["sqlite", "mysql", "postgresql"]


class Database:
    """`sqlite:///path`, `mysql://user:password@host:port/name` or `postgresql://…`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.kind = _kind(url)
        self.at = tidelock.AtDataSource(self.connect)
        self.tcc = tidelock.TccDataSource(self.connect)
        self.saga = tidelock.SagaDataSource(self.connect)
        self.xa = XaSource(self.connect)

    def connect(self) -> Any:
        """Return a new connection of the driver."""
        where = urlsplit(self.url)
        name = where.path.removeprefix("/")
        if self.kind == "sqlite":
            return sqlite3.connect(name, timeout=10)
        if self.kind == "postgresql":
            import psycopg  # noqa: PLC0415 (only who uses it has it)

            return psycopg.connect(self.url)
        import pymysql  # noqa: PLC0415

        return pymysql.connect(
            host=where.hostname or "127.0.0.1",
            port=where.port or 3306,
            user=unquote(where.username or "root"),
            password=unquote(where.password or ""),
            database=name,
        )

    def execute(self, connection: Any, statement: str, **values: object) -> Any:
        """Execute a statement whose values are written `:name`; return the cursor.

        The drivers write places of values in two ways. With one of them, this is the cursor's own.
        """
        if self.kind != "sqlite":
            statement = re.sub(r":(\w+)", r"%(\1)s", statement)
        cursor = connection.cursor()
        cursor.execute(statement, values)
        return cursor

    def attach(self) -> None:
        """Answer for branches of this database from now on, also those of an earlier process."""
        self.at.connect().close()
        if self.kind != "sqlite":
            self.xa.attach()
            self.xa.reconcile()


def _kind(url: str) -> Kind:
    match urlsplit(url).scheme:
        case "sqlite" | "mysql" | "postgresql" as kind:
            return kind
        case other:
            raise ValueError(f"{other!r} is no kind of database: sqlite, mysql or postgresql")
