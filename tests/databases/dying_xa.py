"""A process that buys something by XA, from MariaDB and PostgreSQL, and dies where it is told to.

Arguments: the coordinator's URL, what to do, and the two databases as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import psycopg
import pymysql

import tidelock
from tidelock.xa import XaSource

CHANGE = "UPDATE stock SET n = n - 1"
TIMEOUT_MS = 20_000


def take(source: XaSource) -> Any:
    with source.connection() as connection:
        with connection.cursor() as cursor:
            cursor.execute(CHANGE)
        return connection


def purchase(first: XaSource, second: XaSource, *, fails: bool) -> None:
    with tidelock.transaction(timeout_ms=TIMEOUT_MS):
        take(first)
        connection = take(second)
        if fails:
            connection.rollback()


def too_late(app: tidelock.Application, source: XaSource) -> None:
    """Prepare what was rolled back meanwhile."""
    begun = app.client.run(lambda client: client.transactions.begin())
    with tidelock.bound(begun.xid), source.connection() as connection:
        with connection.cursor() as cursor:
            cursor.execute(CHANGE)
        app.client.run(lambda client: client.transactions.rollback(begun.xid, wait_ms=0))


def main() -> None:
    url, what, mysql, postgresql = sys.argv[1:]
    app = tidelock.Application([url], application_id="shop", host="h1", discover=False)
    tidelock.configure(app)
    first = XaSource(lambda: pymysql.connect(**json.loads(mysql)))
    second = XaSource(lambda: psycopg.connect(**json.loads(postgresql)))
    first.attach()
    second.attach()
    match what:
        case "commit":
            purchase(first, second, fails=False)
        case "roll back":
            purchase(first, second, fails=True)
        case "too late":
            too_late(app, second)
        case "settle":
            second.reconcile()
    app.close()


if __name__ == "__main__":
    main()
