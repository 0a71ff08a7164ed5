"""A shop of sagas in a process of its own, which may be killed on the way.

`python -m tests.sdk.saga_child URL DRIVER DATABASE-AS-JSON WHAT`, which is `commit`, `rollback`,
`refuse`, `fail`, `commit-and-clean`, `too-late`, or `serve`: answer for what others left behind,
until the input ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress

import tidelock
from tests.sdk.saga_stock import OutOfStockError, Stock
from tests.sdk.shops import Reached, overtaken
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
            stock.take_now(3)
            if what in ("refuse", "fail"):
                error = OutOfStockError if what == "refuse" else RuntimeError
                stock.before = _raising(error)
                with suppress(OutOfStockError):
                    stock.take_now(2)
            if what == "rollback":
                transaction.set_rollback_only()
        if what == "commit-and-clean":
            sys.stdin.read()


def _raising(error: type[Exception]) -> Callable[[str], None]:
    def fail(what: str) -> None:
        if what == "step":
            raise error

    return fail


if __name__ == "__main__":
    main(*sys.argv[1:])
