"""What a database was told by one connection, as the database itself has noted it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.databases.connections import Database

_LINE = re.compile(r"^.* UTC \[(\d+)\] (?:LOG:  (?:statement|execute [^:]+): (.*)|\w+:.*)$")


@contextmanager
def statements_of(database: Database, connection: Any) -> Iterator[list[str]]:
    """Yield a list that has all that a driver's connection says in the block, after it.

    Of PostgreSQL only connections that were made after `log_statements`.
    """
    found: list[str] = []
    match database.dialect:
        case "mysql":
            yield from _of_mysql(database, connection, found)
        case "postgresql":
            yield from _of_postgresql(database, connection, found)
        case _:
            plain: sqlite3.Connection = getattr(connection, "_conn", connection)
            plain.set_trace_callback(found.append)
            try:
                yield found
            finally:
                plain.set_trace_callback(None)


def log_statements(database: Database) -> None:
    """Have the server note what connections to this database say that are made from now on."""
    if database.dialect == "postgresql":
        database.sql(f"ALTER DATABASE {database.name} SET log_statement = 'all'")


def _of_mysql(database: Database, connection: Any, found: list[str]) -> Iterator[list[str]]:
    number = connection.thread_id()
    database.sql("SET GLOBAL log_output = 'TABLE'", "SET GLOBAL general_log = 1")
    try:
        yield found
    finally:
        database.sql("SET GLOBAL general_log = 0")
        rows = database.sql(
            "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log "
            f"WHERE thread_id = {number} AND command_type = 'Query' ORDER BY event_time"
        )
        found += [text for (text,) in rows]
        database.sql("TRUNCATE mysql.general_log")


def _of_postgresql(database: Database, connection: Any, found: list[str]) -> Iterator[list[str]]:
    assert database.server is not None
    log = database.server.folder / "log"
    info = getattr(connection, "info", None)
    number = connection.get_server_pid() if info is None else info.backend_pid
    begins_at = log.stat().st_size
    yield found
    with log.open(errors="replace") as lines:
        lines.seek(begins_at)
        is_ours = False
        for line in lines:
            said = _LINE.match(line)
            if said is not None:
                is_ours = int(said[1]) == number and said[2] is not None
                if is_ours:
                    found.append(said[2])
            elif is_ours:
                # A statement of several lines.
                found[-1] += f" {line.strip()}"
