"""A shop in a process of its own, which may be killed on the way.

`python -m tests.sdk.tcc_child URL DRIVER DATABASE-AS-JSON WHAT`, which is `commit`, `rollback`,
`commit-and-clean`, or `serve`: answer for what others left behind, until the input ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import tidelock
from tests.databases.connections import Database
from tests.sdk.tcc_stock import Stock
from tidelock.application import Application
from tidelock.driving import drive


class Reached(Database):
    """A database that another process has made."""

    def __init__(self, dialect: str, name: str, where: dict[str, Any]) -> None:
        super().__init__(dialect, None, name)
        self._where = where

    def where(self) -> dict[str, Any]:
        return self._where


def main(url: str, driver: str, database: str, what: str) -> None:
    told = json.loads(database)
    with Application([url], application_id="shop", timeout_ms=30_000) as application:
        reached = Reached(told["dialect"], told["name"], told["where"])
        stock = Stock(reached, driver, application, makes=False)
        if what == "serve":
            drive(application.session_id(application.blocking, timeout_ms=30_000))
            print("serving", flush=True)
            sys.stdin.read()
            return
        with tidelock.transaction(application=application, end_wait_ms=20_000) as transaction:
            stock.take_now(3)
            if what == "rollback":
                transaction.set_rollback_only()
        if what == "commit-and-clean":
            sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
