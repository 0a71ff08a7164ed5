"""A process that works by XA dies before and after every write: both databases, or neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import psycopg
import pymysql
import pytest

from tests.databases.connections import Database
from tests.databases.dying_xa import TIMEOUT_MS
from tests.databases.servers import Server
from tests.meta.documents import ROOT
from tidelock import Application
from tidelock.client import Client
from tidelock.crash_points import POINTS, VARIABLE
from tidelock.testing import Coordinator
from tidelock.xa import XaSource
from tidelock.xa.naming import BranchName

pytestmark = [pytest.mark.timeout(120)]

COMMIT: Final = (
    "before-register", "after-register", "after-start", "before-prepare", "after-prepare",
    "after-report", "before-commit", "after-commit",
)  # fmt: skip
ROLL_BACK: Final = ("before-abandon", "after-abandon", "before-rollback", "after-rollback")
ALONE: Final = ("before-late-rollback", "before-settle", "after-settle")

CASES: Final = [
    *(("commit", f"xa.{point}:{nth}") for point in COMMIT for nth in (1, 2)),
    *(("roll back", f"xa.{point}:1") for point in ROLL_BACK),
]


@pytest.fixture
def shops(mariadb: Server, postgresql: Server) -> Iterator[tuple[Database, Database]]:
    with ExitStack() as stack:
        mysql = Database("mysql", mariadb, stack.enter_context(mariadb.database()))
        postgres = Database("postgresql", postgresql, stack.enter_context(postgresql.database()))
        for each in (mysql, postgres):
            each.sql("CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL)")
            each.sql("INSERT INTO stock VALUES (1, 10)")
        yield mysql, postgres


def die(coordinator: Coordinator, shops: tuple[Database, Database], what: str, point: str) -> None:
    """Run a process that dies at a point."""
    mysql, postgres = (json.dumps(each.where()) for each in shops)
    done = subprocess.run(
        [sys.executable, "-m", "tests.databases.dying_xa", coordinator.url, what, mysql, postgres],
        cwd=ROOT,
        env={**os.environ, VARIABLE: point, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"killed at {point.partition(':')[0]}" in done.stderr, done.stderr


@pytest.fixture
def heir(
    tidelock_coordinator: Coordinator, shops: tuple[Database, Database]
) -> Iterator[tuple[XaSource, XaSource]]:
    """Another process of the application, which is there all the time."""
    with Application(
        [tidelock_coordinator.url], application_id="shop", host="h1", discover=False
    ) as application:
        mysql, postgres = shops
        first = XaSource(lambda: pymysql.connect(**mysql.where()), application=application)
        second = XaSource(lambda: psycopg.connect(**postgres.where()), application=application)
        first.attach()
        second.attach()
        yield first, second
        for source in (first, second):
            assert application.client.run(partial(_prepared, source)) == []


def _prepared(source: XaSource, _: Client) -> Coroutine[Any, Any, list[BranchName]]:
    return source.prepared()


def left(shop: Database) -> int:
    return int(shop.sql("SELECT n FROM stock")[0][0])


def test_every_point_is_tried() -> None:
    tried = {point.partition(":")[0] for _, point in CASES} | {f"xa.{point}" for point in ALONE}
    assert tried == {point for point in POINTS if point.startswith("xa.")}


@pytest.mark.parametrize(("what", "point"), CASES, ids=lambda value: value.replace(" ", "-"))
def test_both_databases_or_neither(
    tidelock_coordinator: Coordinator,
    shops: tuple[Database, Database],
    heir: tuple[XaSource, XaSource],
    what: str,
    point: str,
) -> None:
    assert heir
    die(tidelock_coordinator, shops, what, point)
    ended = what == "commit" and point in {"xa.before-commit:1", "xa.after-commit:1",
                                           "xa.before-commit:2", "xa.after-commit:2"}  # fmt: skip
    tidelock_coordinator.advance(TIMEOUT_MS)
    tidelock_coordinator.assert_clean(30)
    (transaction,) = tidelock_coordinator.transactions()
    expected = 9 if ended else 10
    assert (transaction.status == "COMMITTED") == ended
    assert [left(shop) for shop in shops] == [expected, expected]


@pytest.mark.parametrize("point", ["xa.before-late-rollback"])
def test_what_is_prepared_too_late_is_rolled_back_by_another_process(
    tidelock_coordinator: Coordinator,
    shops: tuple[Database, Database],
    heir: tuple[XaSource, XaSource],
    point: str,
) -> None:
    assert heir
    die(tidelock_coordinator, shops, "too late", point)
    tidelock_coordinator.advance(TIMEOUT_MS)
    tidelock_coordinator.assert_clean(30)
    assert tidelock_coordinator.transactions()[0].status == "ROLLED_BACK"
    assert left(shops[1]) == 10


@pytest.mark.parametrize("point", ["xa.before-settle", "xa.after-settle"])
def test_a_reconciler_that_dies_is_followed_by_another_one(
    tidelock_coordinator: Coordinator,
    shops: tuple[Database, Database],
    heir: tuple[XaSource, XaSource],
    point: str,
) -> None:
    ended = tidelock_coordinator.client.run(lambda client: client.transactions.begin())
    tidelock_coordinator.client.run(lambda client: client.transactions.rollback(ended.xid))
    leave_prepared(shops[1], ended.xid, 7)
    die(tidelock_coordinator, shops, "settle", point)
    assert heir[1].reconcile() == []
    assert left(shops[1]) == 10


def leave_prepared(shop: Database, xid: str, branch_id: int) -> None:
    connection = shop.connect()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE stock SET n = 0")
        cursor.execute(f"PREPARE TRANSACTION 'tidelock:{branch_id}:{xid}'")
    connection.close()
