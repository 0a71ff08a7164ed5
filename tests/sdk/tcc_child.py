"""A shop in a process of its own, which may be killed on the way.

`python -m tests.sdk.tcc_child URL DRIVER DATABASE-AS-JSON WHAT`, which is `commit`, `rollback`,
`fail`, `commit-and-clean`, `too-late`, or `serve`: answer for what others left behind, until the
input ends.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import tidelock
from tests.sdk.shops import Reached, overtaken
from tests.sdk.tcc_stock import Stock
from tidelock.application import Application
from tidelock.driving import drive


def main(url: str, driver: str, database: str, what: str) -> None:
    with Application([url], application_id="shop", timeout_ms=30_000) as application:
        stock = Stock(Reached(database), driver, application, makes=False)
        if what == "serve":
            drive(application.session_id(application.blocking, timeout_ms=30_000))
            print("serving", flush=True)
            sys.stdin.read()
            return
        with (
            overtaken(application, stock.database) if what == "too-late" else nullcontext(),
            tidelock.transaction(application=application, end_wait_ms=20_000) as transaction,
        ):
            if what == "fail":
                stock.before = _fail
            stock.take_now(3)
            if what == "rollback":
                transaction.set_rollback_only()
        if what == "commit-and-clean":
            sys.stdin.read()


def _fail(what: str) -> None:
    raise RuntimeError(what)


if __name__ == "__main__":
    main(*sys.argv[1:])
