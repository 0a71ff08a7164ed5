"""A process with units of LCN or TXC dies before and after every write; so does its connection."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tests.databases.dying_units import TIMEOUT_MS, connecting, source_of
from tests.meta.documents import ROOT
from tidelock.crash_points import POINTS, VARIABLE
from tidelock.rm.resource import SessionBound
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

fails_with: Final = pytest.raises
"""What a whole block, with all that ends with it, raises."""

DIALECTS: Final = ("mysql", "postgresql", "sqlite")

UNDECIDED: Final = [
    ("LCN", "commit", "lcn.before-register"),
    ("LCN", "commit", "lcn.after-register"),
    ("LCN", "commit", "lcn.before-report"),
    ("LCN", "commit", "lcn.after-report"),
    ("LCN", "fail a unit", "lcn.before-undo"),
    ("LCN", "fail a unit", "lcn.after-undo"),
    ("LCN", "roll back", "lcn.before-rollback"),
    ("LCN", "roll back", "lcn.after-rollback"),
    ("TXC", "commit", "txc.before-lock"),
    ("TXC", "commit", "txc.after-lock"),
    ("TXC", "commit", "at.after-undo-row"),
    ("TXC", "commit", "at.after-local-commit"),
    ("TXC", "commit", "at.after-report"),
    ("TXC", "go back", "txc.before-unlock"),
    ("TXC", "go back", "txc.after-unlock"),
    ("TXC", "fail a unit", "txc.before-undo"),
    ("TXC", "fail a unit", "txc.after-undo"),
    ("TXC", "fail a unit", "txc.after-withdraw"),
    ("TXC", "roll back", "at.after-restore"),
    ("TXC", "roll back", "at.after-rollback-commit"),
]
UNDONE: Final = {"ROLLED_BACK", "TIMEOUT_ROLLED_BACK"}
DECIDED: Final = ["lcn.before-commit", "lcn.after-commit"]
DECIDED_QUICK: Final = {
    ("lcn.before-commit", "mysql"),
    ("lcn.after-commit", "postgresql"),
    ("lcn.before-commit", "sqlite"),
}

EVERYWHERE: Final = [
    pytest.param(
        *(mode, what, point, dialect),
        marks=() if number % len(DIALECTS) == place else pytest.mark.long,
    )
    for number, (mode, what, point) in enumerate(UNDECIDED)
    for place, dialect in enumerate(DIALECTS)
]
"""Each point in one database, and at night in all of them."""


@pytest.fixture
def shop(database: Database) -> Database:
    database.sql("CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL)")
    database.sql("INSERT INTO stock VALUES (1, 10), (2, 20)")
    database.sql(tidelock.undo_log_ddl(database.dialect))  # type: ignore[arg-type]  # a dialect
    return database


def where(shop: Database) -> dict[str, Any]:
    return {"name": shop.name} if shop.server is None else shop.where()


@pytest.fixture
def heir(tidelock_coordinator: Coordinator, shop: Database) -> Iterator[tidelock.Application]:
    """Another process of the application, which is there all the time."""
    with tidelock.Application(
        [tidelock_coordinator.url], application_id="shop", host="h1", discover=False
    ) as application:
        for mode in ("LCN", "TXC"):
            source = source_of(mode, connecting(shop.dialect, where(shop)), application)
            with tidelock.transaction(application=application), source.connection() as connection:
                connection.cursor().execute("SELECT n FROM stock")
        tidelock_coordinator.advance(70_000)
        tidelock_coordinator.assert_clean(30)
        yield application
        if isinstance(source, tidelock.TxcDataSource):
            source.close()


def die(coordinator: Coordinator, shop: Database, mode: str, what: str, point: str) -> str:
    """Run a process that dies at a point; return its transaction."""
    known = len(coordinator.transactions())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.databases.dying_units"),
            *(coordinator.url, mode, what, shop.dialect, json.dumps(where(shop))),
        ],
        cwd=ROOT,
        env={**os.environ, VARIABLE: point, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    begun = coordinator.transactions()
    assert len(begun) == known + 1
    return begun[0].xid


def stock(shop: Database) -> list[int]:
    return [int(n) for (n,) in shop.sql("SELECT n FROM stock ORDER BY id")]


def test_every_point_is_tried() -> None:
    tried = {point for _, _, point in UNDECIDED} | set(DECIDED)
    assert {point for point in POINTS if point.startswith(("lcn.", "txc."))} <= tried


@pytest.mark.parametrize(("mode", "what", "point", "database"), EVERYWHERE, indirect=["database"])
@pytest.mark.usefixtures("heir")
def test_what_was_undecided_is_undone_and_nothing_is_left(
    tidelock_coordinator: Coordinator, shop: Database, mode: str, what: str, point: str
) -> None:
    xid = die(tidelock_coordinator, shop, mode, what, point)
    tidelock_coordinator.advance(TIMEOUT_MS)
    tidelock_coordinator.wait_until(
        lambda: (
            tidelock_coordinator.transaction(xid).status in {"ROLLED_BACK", "TIMEOUT_ROLLED_BACK"}
        ),
        30,
    )
    tidelock_coordinator.advance(70_000)
    tidelock_coordinator.assert_clean(30)
    assert stock(shop) == [10, 20]
    assert shop.sql("SELECT xid FROM undo_log") == []
    shop.sql("UPDATE stock SET n = n + 1")  # nobody holds a row


@pytest.mark.parametrize(
    ("point", "database"),
    [
        pytest.param(
            point,
            dialect,
            marks=() if (point, dialect) in DECIDED_QUICK else pytest.mark.long,
        )
        for point in DECIDED
        for dialect in DIALECTS
    ],
    indirect=["database"],
)
@pytest.mark.usefixtures("heir")
def test_what_is_lost_after_the_decision_is_visible(
    tidelock_coordinator: Coordinator, shop: Database, point: str
) -> None:
    xid = die(tidelock_coordinator, shop, "LCN", "commit", point)
    tidelock_coordinator.advance(TIMEOUT_MS)
    tidelock_coordinator.wait_until(
        lambda: tidelock_coordinator.transaction(xid).status == "COMMIT_FAILED", 30
    )
    found = tidelock_coordinator.transaction(xid)
    assert [each.status for each in found.branches] == ["PHASE_TWO_COMMIT_FAILED_UNRETRYABLE"]
    assert stock(shop) == [9 if point == "lcn.after-commit" else 10, 20]
    assert [each for each in tidelock_coordinator.leftovers() if xid not in each] == []
    shop.sql("UPDATE stock SET n = n + 1")  # nobody holds a row


# --- connections that die


@pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
@pytest.mark.usefixtures("tidelock_application")
def test_a_connection_that_dies_after_its_unit_joined_is_lost_visibly(
    tidelock_coordinator: Coordinator, shop: Database
) -> None:
    source = tidelock.LcnDataSource(shop.connect)
    with fails_with(tidelock.CommitFailedError), tidelock.transaction() as transaction:
        with source.connection() as connection:
            connection.cursor().execute("UPDATE stock SET n = n - 1 WHERE id = 1")
        kill_connections(shop)
    assert transaction.status == "COMMIT_FAILED"
    assert stock(shop) == [10, 20]
    assert source.held() == []


@pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
@pytest.mark.usefixtures("tidelock_application")
def test_a_connection_that_dies_under_a_unit_fails_the_group(
    tidelock_coordinator: Coordinator, shop: Database
) -> None:
    source = tidelock.LcnDataSource(shop.connect)

    def sell(*, dies: bool) -> None:
        with source.connection() as connection:
            connection.cursor().execute("UPDATE stock SET n = n - 1 WHERE id = 1")
            if dies:
                kill_connections(shop)

    with fails_with(tidelock.TransactionRolledBackError), tidelock.transaction():
        sell(dies=False)
        with pytest.raises(tidelock.LcnMisuseError):
            sell(dies=True)  # and what had joined is gone with it: nobody may commit that
    assert stock(shop) == [10, 20]
    assert source.held() == []
    tidelock_coordinator.assert_clean(30)


def kill_connections(shop: Database) -> None:
    """End what is open to the database, but for the connection that asks for it."""
    if shop.dialect == "postgresql":
        shop.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{shop.name}' AND pid <> pg_backend_pid()"
        )
        return
    for (number,) in shop.sql(
        f"SELECT id FROM information_schema.processlist WHERE db = '{shop.name}'"
        " AND id <> CONNECTION_ID()"
    ):
        shop.sql(f"KILL {number}")


# --- sessions that are lost


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_a_process_that_lost_its_session_asks_what_became_of_what_it_holds(
    tidelock_coordinator: Coordinator, shop: Database
) -> None:
    with tidelock_coordinator.application() as application:
        source = tidelock.LcnDataSource(shop.connect, application=application)

        def hold(key: int) -> str:
            begun = application.client.run(lambda client: client.transactions.begin())
            with tidelock.bound(begun.xid), source.connection() as connection:
                connection.cursor().execute(f"UPDATE stock SET n = n - 1 WHERE id = {key}")
            return begun.xid

        undecided = hold(1)
        session_id = application.health().session_id
        assert session_id is not None
        resource: object = application.resource("LCN", source.desk.resource_id)
        assert isinstance(resource, SessionBound)
        bound = resource
        application.client.run(lambda _: bound.session_lost(session_id))
        assert source.held() == []
        assert stock(shop) == [10, 20]
        application.client.run(lambda client: client.transactions.rollback(undecided))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_is_held_when_an_application_closes_is_rolled_back(
    tidelock_coordinator: Coordinator, shop: Database
) -> None:
    application = tidelock_coordinator.application()
    source = tidelock.LcnDataSource(shop.connect, application=application)
    begun = application.client.run(lambda client: client.transactions.begin())
    with tidelock.bound(begun.xid), source.connection() as connection:
        connection.cursor().execute("UPDATE stock SET n = 0")
    application.close()
    assert source.held() == []
    shop.sql("UPDATE stock SET n = n + 1")
    assert stock(shop) == [11, 21]
    tidelock_coordinator.wait_until(
        lambda: tidelock_coordinator.transaction(begun.xid).status == "ROLLED_BACK"
    )


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
@pytest.mark.usefixtures("tidelock_application")
def test_a_group_of_which_nobody_speaks_is_asked_for(
    tidelock_coordinator: Coordinator, shop: Database
) -> None:
    source = tidelock.LcnDataSource(shop.connect, ask_after_ms=50)
    begun = tidelock_coordinator.client.run(lambda client: client.transactions.begin())
    with tidelock.bound(begun.xid), source.connection() as connection:
        connection.cursor().execute("UPDATE stock SET n = 0")
    found = tidelock_coordinator.transaction(begun.xid)
    assert [each.status for each in found.branches] == ["PHASE_ONE_DONE"]
    tidelock_coordinator.wait_until(lambda: tidelock_coordinator.requests("status") > 2)
    assert source.held() == [begun.xid], "it is undecided"
    tidelock_coordinator.client.run(lambda client: client.transactions.rollback(begun.xid))
    tidelock_coordinator.wait_until(lambda: source.held() == [])
    tidelock_coordinator.assert_clean(30)
