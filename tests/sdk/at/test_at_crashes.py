"""A process may die before and after every write of AT: all of it is done in the end, or nothing.

The process that does the work is killed at a point, and another one that has the same resource, as
a second instance of the service would, answers for what is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.databases.connections import Database
from tests.meta.documents import ROOT
from tests.sdk.at_sources import Shop
from tidelock.crash_points import POINTS
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

DIALECTS = ["mysql", "postgresql", "sqlite"]

PROGRAM = """
import contextlib
import json
import sys
import time

import tidelock
from tidelock.crash_points import watched

url, dialect, where, what = sys.argv[1:]
options = json.loads(where)


def connect():
    if dialect == "mysql":
        import pymysql
        return pymysql.connect(**options)
    if dialect == "postgresql":
        import psycopg
        return psycopg.connect(**options)
    import sqlite3
    return sqlite3.connect(options["name"])


def overtake(point):
    xid = tidelock.current_xid()
    if what == "too late" and point == "at.after-register":
        application.client.run(lambda client: client.transactions.rollback(xid))
        while guards():
            time.sleep(0.02)


def guards():
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SELECT * FROM undo_log")
    found = cursor.fetchall()
    connection.close()
    return found


application = tidelock.Application([url], application_id="testing")
source = tidelock.AtDataSource(connect, application=application)
if what == "serve":
    source.connect().close()
    time.sleep(60)
watching = watched(overtake) if what == "too late" else contextlib.nullcontext()
watching.__enter__()
try:
    with tidelock.transaction(application=application, timeout_ms=60_000):
        for statement in ("UPDATE t SET v = v + 1", "INSERT INTO t VALUES (4, 40, 'four')",
                          "DELETE FROM t WHERE id = 2"):
            connection = source.connect()
            connection.cursor().execute(statement)
            connection.commit()
            connection.close()
        if what == "rollback":
            raise KeyError(what)
except KeyError:
    pass
application.close()
"""

PHASE_ONE = [
    f"at.{name}"
    for name in (
        "before-register", "after-register", "before-undo-row", "after-undo-row",
        "before-local-commit", "after-local-commit", "before-report", "after-report",
    )
]  # fmt: skip
PHASE_TWO = [
    f"at.{name}"
    for name in (
        "before-restore", "after-restore", "before-tombstone", "after-tombstone",
        "before-rollback-commit", "after-rollback-commit",
    )
]  # fmt: skip
COMMITTED = ["at.before-delete", "at.after-delete"]
PLACEHOLDER = ["at.before-placeholder", "at.after-placeholder"]
TOO_LATE = ["at.before-take-back", "at.after-take-back"]

BEFORE = [(1, 10, "one"), (2, 20, "two"), (3, 30, "three")]
AFTER = [(1, 11, "one"), (3, 31, "three"), (4, 40, "four")]


def run_and_die(
    database: Database, coordinator: Coordinator, point: str, decision: str
) -> subprocess.CompletedProcess[str]:
    where: dict[str, Any] = {"name": database.name} if database.server is None else database.where()
    return subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            *(coordinator.url, database.dialect, json.dumps(where)),
            decision,
        ],
        cwd=ROOT,
        env={**os.environ, "TIDELOCK_CRASH_AT": point},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def settled(shop: Shop, coordinator: Coordinator) -> list[tuple[Any, ...]]:
    """Let the transaction time out if it is undecided, and wait until nothing is left behind."""
    ends_at = time.monotonic() + 60
    while coordinator.leftovers() or shop.undo_rows():
        assert time.monotonic() < ends_at, coordinator.leftovers()
        coordinator.advance(15_000)
    return shop.rows()


def another_process(shop: Shop) -> None:
    """Answer for the resource, as the service's other instance does."""
    shop.connect().close()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_process_that_dies_between_its_commit_and_its_report_is_undone(
    shop: Shop, tidelock_coordinator: Coordinator
) -> None:
    died = run_and_die(shop.database, tidelock_coordinator, "at.after-local-commit:2", "commit")
    assert died.returncode == -signal.SIGKILL, died.stderr
    another_process(shop)
    assert settled(shop, tidelock_coordinator) == BEFORE


@pytest.mark.long
@pytest.mark.parametrize("database", DIALECTS, indirect=True)
@pytest.mark.parametrize("point", PHASE_ONE)
@pytest.mark.parametrize("number", [1, 2])
def test_a_process_that_dies_in_phase_one_has_done_nothing(
    shop: Shop, tidelock_coordinator: Coordinator, point: str, number: int
) -> None:
    died = run_and_die(shop.database, tidelock_coordinator, f"{point}:{number}", "commit")
    assert died.returncode == -signal.SIGKILL, died.stderr
    another_process(shop)
    assert settled(shop, tidelock_coordinator) == BEFORE


@pytest.mark.long
@pytest.mark.parametrize("database", DIALECTS, indirect=True)
@pytest.mark.parametrize("point", PHASE_TWO)
def test_a_process_that_dies_while_it_undoes_has_undone_all_in_the_end(
    shop: Shop, tidelock_coordinator: Coordinator, point: str
) -> None:
    died = run_and_die(shop.database, tidelock_coordinator, point, "rollback")
    assert died.returncode == -signal.SIGKILL, died.stderr
    another_process(shop)
    assert settled(shop, tidelock_coordinator) == BEFORE


@pytest.mark.long
@pytest.mark.parametrize("database", DIALECTS, indirect=True)
@pytest.mark.parametrize("point", PLACEHOLDER)
def test_a_process_that_dies_while_it_puts_a_placeholder_is_followed_by_another(
    shop: Shop, tidelock_coordinator: Coordinator, point: str
) -> None:
    died = run_and_die(shop.database, tidelock_coordinator, "at.after-register", "commit")
    assert died.returncode == -signal.SIGKILL, died.stderr
    tidelock_coordinator.advance(70_000)
    died = run_and_die(shop.database, tidelock_coordinator, point, "serve")
    assert died.returncode == -signal.SIGKILL, died.stderr
    another_process(shop)
    assert settled(shop, tidelock_coordinator) == BEFORE


# SQLite lets nobody in while a local transaction writes, so there no rollback overtakes it.
@pytest.mark.parametrize(
    ("point", "database"),
    [
        pytest.param(
            point,
            dialect,
            marks=()
            if (point, dialect) == ("at.before-take-back", "postgresql")
            else (pytest.mark.long,),
        )
        for point in TOO_LATE
        for dialect in ("mysql", "postgresql")
    ],
    indirect=["database"],
)
def test_what_a_process_did_too_late_is_undone_when_it_dies(
    shop: Shop, tidelock_coordinator: Coordinator, point: str
) -> None:
    died = run_and_die(shop.database, tidelock_coordinator, point, "too late")
    assert died.returncode == -signal.SIGKILL, died.stderr
    another_process(shop)
    tidelock_coordinator.advance(70_000)
    assert settled(shop, tidelock_coordinator) == BEFORE


@pytest.mark.long
@pytest.mark.parametrize("database", DIALECTS, indirect=True)
@pytest.mark.parametrize("point", COMMITTED)
def test_a_process_that_dies_after_the_commit_has_done_all(
    shop: Shop, tidelock_coordinator: Coordinator, point: str
) -> None:
    died = run_and_die(shop.database, tidelock_coordinator, point, "commit")
    assert died.returncode in {-signal.SIGKILL, 0}, died.stderr
    another_process(shop)
    assert settled(shop, tidelock_coordinator) == AFTER


def test_every_point_of_at_is_died_at() -> None:
    tried = {*PHASE_ONE, *PHASE_TWO, *COMMITTED, *PLACEHOLDER, *TOO_LATE}
    assert {name for name in POINTS if name.startswith("at.")} == tried
