"""The three databases: each has its own table, and what Tidelock keeps beside it.

`python -m examples.purchase.tables` makes them as files in the current folder.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

import tidelock
from examples.purchase.database import Database

TABLES: Final = {
    "storage": "CREATE TABLE storage_tbl (commodity_code VARCHAR(32) PRIMARY KEY,"
    " count INTEGER NOT NULL, frozen INTEGER NOT NULL DEFAULT 0)",
    "order": "CREATE TABLE order_tbl (id VARCHAR(32) PRIMARY KEY, user_id VARCHAR(32) NOT NULL,"
    " commodity_code VARCHAR(32) NOT NULL, count INTEGER NOT NULL, money INTEGER NOT NULL,"
    " status VARCHAR(16) NOT NULL)",
    "account": "CREATE TABLE account_tbl (user_id VARCHAR(32) PRIMARY KEY,"
    " money INTEGER NOT NULL, frozen INTEGER NOT NULL DEFAULT 0)",
}

ROWS: Final = {
    "storage": "INSERT INTO storage_tbl (commodity_code, count) VALUES ('chair', 50)",
    "account": "INSERT INTO account_tbl (user_id, money) VALUES ('u-1', 1000)",
}


def make(name: str, database: Database) -> None:
    """Make the tables of a service in its empty database."""
    guards = [tidelock.undo_log_ddl(database.kind), tidelock.fence_ddl(database.kind)]
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        for statement in (TABLES[name], *guards, *([ROWS[name]] if name in ROWS else [])):
            cursor.execute(statement)
        connection.commit()


if __name__ == "__main__":
    for service in TABLES:
        make(service, Database(f"sqlite:///db_{service}.db"))
