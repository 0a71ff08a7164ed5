"""Guards that nobody was told to clean go all the same; none whose transaction may still act."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import msgspec
import pytest

import tidelock
from node.delivery import cleaner
from statemachine.transactions import cleaning
from tests.meta.documents import ROOT
from tests.sdk.at.test_at_crashes import BEFORE, PROGRAM, another_process, settled
from tests.sdk.at_sources import Shop, undone
from tidelock.at import resource
from tidelock.at.resource import AtResource
from tidelock.at.undo_log import DEFAULT_TABLES
from tidelock.client import Client
from tidelock.crash_points import watched
from tidelock.errors import TransactionNotActiveError
from tidelock.rm.resource import BranchCall, Fate, PhaseTwoResult
from tidelock.testing import Coordinator
from tidelock.transaction.errors import TransactionRolledBackError

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

EVERYWHERE = pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator has no room for notes of what is to be cleaned."""
    monkeypatch.setattr(cleaning, "GREATEST_NOTED", 0)


def insert_guard(shop: Shop, xid: str, branch_id: int, context: str) -> None:
    now = "'2026-01-01 00:00:00'"
    shop.database.sql(
        f"INSERT INTO {DEFAULT_TABLES[shop.dialect]} (branch_id, xid, context, rollback_info,"
        f" log_status, log_created, log_modified) VALUES ({branch_id}, '{xid}', '{context}', '',"
        f" 1, {now}, {now})"
    )


def apart(work: object) -> None:
    """Do work in a thread, where no transaction is bound."""
    thread = threading.Thread(target=work)  # type: ignore[arg-type]  # anything that can be called
    thread.start()
    thread.join()


@EVERYWHERE
def test_guards_of_finished_transactions_go_and_all_others_stay(
    shop: Shop, tidelock_coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "PAGE", 2)
    # Of another cluster, whose numbers look like old ones of this cluster; of nobody knows which;
    # and what is no context at all.
    for branch_id, context in ((1, '{"cluster":"c2"}'), (2, "{}"), (3, "?")):
        insert_guard(shop, "a:1", branch_id, context)

    def is_swept() -> bool:
        return not any("swept" in line for line in tidelock_coordinator.leftovers())

    with tidelock.transaction(application=shop.source.application) as transaction:
        shop.execute("UPDATE t SET v = 11 WHERE id = 1")
        for number in range(3):
            change = f"UPDATE t SET v = {number} WHERE id = 2"
            apart(lambda change=change: undone(shop, change))
        tidelock_coordinator.wait_until(lambda: is_swept() and len(shop.undo_rows()) == 4)
        assert {xid for xid, _, _ in shop.undo_rows()} == {"a:1", transaction.xid}
    tidelock_coordinator.assert_clean()
    assert [xid for xid, _, _ in shop.undo_rows()] == ["a:1"] * 3
    assert shop.rows() == [(1, 11, "one"), (2, 20, "two"), (3, 30, "three")]
    shop.database.sql(f"DELETE FROM {DEFAULT_TABLES[shop.dialect]}")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_channel_that_breaks_while_it_is_swept_leaves_the_rest_to_the_next_time(
    shop: Shop, tidelock_coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "PAGE", 1)
    monkeypatch.setattr(cleaner, "_PAUSE_AFTER_FAILURE_S", 0.1)
    application = shop.source.application
    deleted: list[str] = []

    def hang_up(point: str) -> None:
        if point == "at.before-delete":
            deleted.append(point)
            if len(deleted) == 2:
                application.client.run(broken)

    async def broken(_: Client) -> None:
        runtime = application._runtime
        assert runtime is not None
        connection = runtime._session.connection
        assert connection is not None
        await connection.close()

    with watched(hang_up), tidelock.transaction(application=application):
        for _ in range(3):
            apart(lambda: undone(shop, "UPDATE t SET v = 1 WHERE id = 2"))
        tidelock_coordinator.wait_until(lambda: len(deleted) >= 2)
    tidelock_coordinator.assert_clean()
    assert shop.undo_rows() == []
    assert application.health().connections == 2


def run_and_die(shop: Shop, coordinator: Coordinator, point: str) -> None:
    """Have another process roll back, and die while it sweeps."""
    database = shop.database
    where = {"name": database.name} if database.server is None else database.where()
    lingers = PROGRAM.replace("application.close()", "import time; time.sleep(60)")
    died = subprocess.run(
        [
            *(sys.executable, "-c", lingers),
            *(coordinator.url, database.dialect, json.dumps(where), "rollback"),
        ],
        cwd=ROOT,
        env={**os.environ, "TIDELOCK_CRASH_AT": point},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr


@pytest.mark.parametrize(
    "database",
    [
        pytest.param("mysql", marks=pytest.mark.long),
        pytest.param("postgresql", marks=pytest.mark.long),
        "sqlite",
    ],
    indirect=True,
)
@pytest.mark.parametrize(
    "point", ["at.before-delete", pytest.param("at.after-delete", marks=pytest.mark.long)]
)
def test_a_process_that_dies_while_it_sweeps_leaves_the_rest_to_another(
    shop: Shop, tidelock_coordinator: Coordinator, point: str
) -> None:
    run_and_die(shop, tidelock_coordinator, point)
    # What it undid is undone, and only its guards may be left.
    assert shop.rows() == BEFORE
    another_process(shop)
    assert settled(shop, tidelock_coordinator) == BEFORE


# SQLite lets nobody in while a local transaction writes, so there no rollback overtakes it.
@pytest.mark.parametrize("launches", [True, False], ids=["launcher", "participant"])
@pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
def test_a_branch_that_is_done_when_its_guards_are_gone_is_taken_back(
    shop: Shop, tidelock_coordinator: Coordinator, launches: bool
) -> None:
    seen: list[str] = []

    def end(point: str) -> None:
        seen.append(point)
        if point == "at.after-register":

            async def roll_back(client: Client) -> None:
                for each in found:
                    await client.transactions.rollback(each.xid)

            found = tidelock_coordinator.transactions()
            tidelock_coordinator.client.run(roll_back)
            tidelock_coordinator.assert_clean()

    def change() -> None:
        shop.execute("UPDATE t SET v = 11 WHERE id = 1")

    def take_part() -> None:
        client = tidelock_coordinator.client
        with tidelock.bound(client.run(lambda each: each.transactions.begin()).xid):
            change()

    # Who decides hears of it when it does, who takes part when it reports.
    with (
        watched(end),
        pytest.raises(TransactionRolledBackError if launches else TransactionNotActiveError),
    ):
        shop.within(change) if launches else take_part()
    assert seen[-1] == "at.after-take-back"
    assert shop.rows() == BEFORE
    assert shop.undo_rows() == []


@pytest.mark.parametrize("told", ["sweep", "clean"])
@pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
def test_a_branch_that_nobody_took_back_is_undone_before_its_guard_goes(
    shop: Shop, tidelock_coordinator: Coordinator, told: str
) -> None:
    resource = left_behind(shop, tidelock_coordinator)
    assert shop.rows()[0] == (1, 11, "one")
    client = shop.source.application.client
    if told == "sweep":
        client.run(lambda _: resource.sweep())
    else:
        # The answer to the first one was lost with a leader.
        client.run(lambda _: resource.clean(calls_of(shop)))
    assert shop.undo_rows() == []
    assert shop.rows() == BEFORE


@pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
def test_a_branch_that_comes_between_two_sweeps_of_the_same_guard_is_not_lost(
    shop: Shop, tidelock_coordinator: Coordinator
) -> None:
    left_behind(shop, tidelock_coordinator)
    resource = resource_of(shop)
    (late,) = calls_of(shop)
    branch = (late.xid, late.branch_id)

    async def first_looked(_: Client) -> None:
        # Another sweep has deleted the placeholder meanwhile, and the branch has come.
        await resource.delete([branch], only_finished=True)

    shop.source.application.client.run(first_looked)
    assert [each[0] for each in shop.undo_rows()] == [late.xid]
    shop.source.application.client.run(lambda _: resource.take_back(*branch))
    assert shop.rows() == BEFORE
    assert shop.undo_rows() == []


@pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
def test_nothing_is_deleted_that_may_have_to_be_undone_when_the_cluster_has_forgotten_why(
    shop: Shop,
    tidelock_coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    resource = left_behind(shop, tidelock_coordinator)
    application = shop.source.application
    asked = application.fates

    async def forgotten(*which: Any) -> list[Fate]:
        found = await asked(*which)
        return [msgspec.structs.replace(each, status="FORGOTTEN", may_clean=True) for each in found]

    monkeypatch.setattr(application, "fates", forgotten)
    application.client.run(lambda _: resource.sweep())
    assert len(shop.undo_rows()) == 1
    assert "1 branches have work that could be undone" in caplog.text
    monkeypatch.undo()
    application.client.run(lambda _: resource.sweep())
    assert shop.rows() == BEFORE


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_a_branch_that_cannot_be_undone_keeps_no_other_guard(
    shop: Shop, tidelock_coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = left_behind(shop, tidelock_coordinator)
    application = shop.source.application
    (late,) = calls_of(shop)
    insert_guard(shop, late.xid, late.branch_id + 1, f'{{"cluster":"{application.cluster_id}"}}')

    async def refused(*_: object) -> PhaseTwoResult:
        raise OSError("the database is gone")

    monkeypatch.setattr(resource, "rollback", refused)
    with pytest.raises(OSError, match="gone"):
        application.client.run(lambda _: resource.sweep())
    assert [branch_id for _, branch_id, _ in shop.undo_rows()] == [late.branch_id]
    monkeypatch.undo()
    application.client.run(lambda _: resource.sweep())
    assert shop.rows() == BEFORE


def resource_of(shop: Shop) -> AtResource:
    known = shop.source._known
    assert known is not None
    return known[0]


def calls_of(shop: Shop) -> list[BranchCall]:
    """Return the calls that concern what has undo rows."""
    resource = resource_of(shop)
    return [resource.own_call(xid, branch_id) for xid, branch_id, _ in shop.undo_rows()]


def left_behind(shop: Shop, coordinator: Coordinator) -> AtResource:
    """Have a process commit a branch when its guards are gone, and die before it takes it back."""

    def end(point: str) -> None:
        if point == "at.after-register":
            found = coordinator.transactions()

            async def roll_back(client: Client) -> None:
                for each in found:
                    await client.transactions.rollback(each.xid)

            coordinator.client.run(roll_back)
            coordinator.assert_clean()
        if point == "at.before-take-back":
            raise DiedError

    with watched(end), pytest.raises((DiedError, TransactionRolledBackError)):
        shop.within(lambda: shop.execute("UPDATE t SET v = 11 WHERE id = 1"))
    coordinator.advance(120_000)
    return resource_of(shop)


class DiedError(BaseException):
    """Stands for the end of a process: nothing that follows is tried."""
