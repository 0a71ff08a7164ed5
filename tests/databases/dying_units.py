"""A process with units of LCN or TXC that dies where it is told to.

Arguments: the coordinator's URL, the mode, what to do, the dialect, and the database as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pymysql

import tidelock

TIMEOUT_MS = 20_000

Source = tidelock.LcnDataSource | tidelock.TxcDataSource


def connecting(dialect: str, where: dict[str, Any]) -> Callable[[], Any]:
    match dialect:
        case "mysql":
            return lambda: pymysql.connect(**where)
        case "postgresql":
            return lambda: psycopg.connect(**where)
        case _:
            return lambda: sqlite3.connect(where["name"], check_same_thread=False)


def source_of(mode: str, connect: Callable[[], Any], application: tidelock.Application) -> Source:
    if mode == "LCN":
        return tidelock.LcnDataSource(connect, application=application)
    return tidelock.TxcDataSource(connect, application=application)


def take(source: Source, key: int = 1) -> None:
    with source.connection() as connection:
        connection.cursor().execute(f"UPDATE stock SET n = n - 1 WHERE id = {key}")


def go_back(source: Source) -> None:
    """Change a row, and let go of it again."""
    with source.connection() as connection:
        cursor = connection.cursor()
        cursor.execute("SAVEPOINT here")
        cursor.execute("UPDATE stock SET n = 0 WHERE id = 2")
        cursor.execute("ROLLBACK TO SAVEPOINT here")
        cursor.execute("UPDATE stock SET n = n - 1 WHERE id = 1")


def sell(
    mode: str,
    source: Source,
    what: str,
    *,
    timeout_ms: int = TIMEOUT_MS,
    application: tidelock.Application | None = None,
    begun: Callable[[str], None] = lambda _: None,
) -> None:
    """Sell in a group of units: `commit`, `roll back`, `fail a unit` or `go back`.

    `begun` is called with the xid.
    """
    kind = tidelock.lcn_transaction if mode == "LCN" else tidelock.txc_transaction
    decorate = kind if application is None else kind(application=application)

    @decorate
    def sell_one() -> None:
        take(source)

    @decorate
    def fail() -> None:
        take(source, 2)
        raise LookupError

    with tidelock.transaction(timeout_ms=timeout_ms, application=application) as transaction:
        assert transaction.xid is not None
        begun(transaction.xid)
        sell_one()
        match what:
            case "fail a unit":
                with contextlib.suppress(LookupError):
                    fail()
            case "go back":
                go_back(source)
            case "roll back":
                transaction.set_rollback_only()


def main() -> None:
    url, mode, what, dialect, where = sys.argv[1:]
    application = tidelock.Application([url], application_id="shop", host="h1", discover=False)
    tidelock.configure(application)
    source = source_of(mode, connecting(dialect, json.loads(where)), application)
    sell(mode, source, what)
    application.close()


if __name__ == "__main__":
    main()
