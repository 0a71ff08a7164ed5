"""Connections of databases, or the coordinator's leader, die before and after every write of XA.

The process itself goes on: both databases have the purchase in the end, or neither.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pymysql
import pytest

import tidelock
from tests.databases.connections import Database
from tests.databases.dying_xa import CHANGE, TIMEOUT_MS, take
from tests.databases.test_xa_crashes import COMMIT, leave_prepared, left, shops
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.sdk.deaths import CHANNELS, Dying, dying_leader, lose_connections
from tidelock.application import Application
from tidelock.crash_points import watched
from tidelock.testing import Coordinator
from tidelock.xa import XaSource

__all__ = ["shops"]  # a fixture

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

ROLL_BACK: Final = ("xa.before-rollback", "xa.after-rollback")
ABANDON: Final = ("xa.before-abandon", "xa.after-abandon")
TOO_LATE: Final = ("xa.before-late-rollback",)
SETTLE: Final = ("xa.before-settle", "xa.after-settle")
QUICK: Final = {("connection", "xa.after-prepare"), ("leader", "xa.before-commit")}


def cases(dies: str) -> list[Any]:
    return [
        pytest.param(dies, point, marks=() if (dies, point) in QUICK else (pytest.mark.long,))
        for point in (*(f"xa.{name}" for name in COMMIT), *ROLL_BACK, *ABANDON, *TOO_LATE)
    ]


def sources(
    application: Application, databases: tuple[Database, Database]
) -> tuple[XaSource, XaSource]:
    mysql, postgres = databases
    first = XaSource(lambda: pymysql.connect(**mysql.where()), application=application)
    second = XaSource(lambda: psycopg.connect(**postgres.where()), application=application)
    first.attach()
    second.attach()
    return first, second


def purchase(application: Application, both: tuple[XaSource, XaSource], point: str) -> str:
    if point in TOO_LATE:
        return take_too_late(application, both)
    xid = ""
    with (
        contextlib.suppress(Exception),
        tidelock.transaction(application=application, timeout_ms=TIMEOUT_MS) as begun,
    ):
        assert begun.xid is not None
        xid = begun.xid
        connections = [take(source) for source in both]
        if point in (*ABANDON, *ROLL_BACK):
            connections[1].rollback()
    return xid


def take_too_late(application: Application, both: tuple[XaSource, XaSource]) -> str:
    """Prepare what is rolled back meanwhile."""
    begun = application.client.run(lambda client: client.transactions.begin())
    for source in both:
        with (
            contextlib.suppress(Exception),
            tidelock.bound(begun.xid),
            source.connection() as connection,
        ):
            with connection.cursor() as cursor:
                cursor.execute(CHANGE)
            if source is both[0]:
                application.client.run(
                    lambda client: client.transactions.rollback(begun.xid, wait_ms=0)
                )
    return begun.xid


def prepared(databases: tuple[Database, Database]) -> list[tuple[Any, ...]]:
    mysql, postgres = databases
    return [
        *mysql.sql("XA RECOVER"),
        *postgres.sql("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"),
    ]


@pytest.mark.parametrize(("dies", "point"), cases("connection"))
def test_the_connections_of_both_databases_die(
    shops: tuple[Database, Database],
    tidelock_coordinator: Coordinator,
    dies: str,
    point: str,
) -> None:
    assert dies == "connection"

    def lose() -> None:
        for each in shops:
            lose_connections(each)

    with tidelock_coordinator.application() as application:
        both = sources(application, shops)
        dying = Dying(point, lose)
        with watched(dying):
            xid = purchase(application, both, point)
            tidelock_coordinator.advance(TIMEOUT_MS)
            tidelock_coordinator.assert_clean(60)
        assert dying.has_died.is_set()
        assert prepared(shops) == []
        is_committed = tidelock_coordinator.transaction(xid).status == "COMMITTED"
        assert [left(each) for each in shops] == [9 if is_committed else 10] * 2


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path / "nodes", 3, channels=CHANNELS) as found:
        await found.leader()
        yield found


@pytest.mark.parametrize(("dies", "point"), cases("leader"))
async def test_the_leader_dies(
    cluster: LoopCluster,
    shops: tuple[Database, Database],
    dies: str,
    point: str,
) -> None:
    assert dies == "leader"
    dying, stopping = await dying_leader(cluster, point)
    application = Application(
        [node.url for node in cluster.nodes], application_id="testing", discover=False
    )
    try:
        both = await asyncio.to_thread(sources, application, shops)
        with watched(dying):
            xid = await asyncio.to_thread(purchase, application, both, point)
            ended = await cluster.until(xid, "COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK")
            await eventually(dying.has_died.is_set, "it has died")
        await eventually(lambda: prepared(shops) == [], "nothing is left prepared")
        assert [left(each) for each in shops] == [9 if ended.status == "COMMITTED" else 10] * 2
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)


def settle(source: XaSource) -> None:
    with contextlib.suppress(Exception):
        source.reconcile()
    assert source.reconcile() == []


@pytest.mark.parametrize(
    ("dies", "database", "point"),
    [
        pytest.param(dies, "postgresql", point, marks=pytest.mark.long)
        for dies in ("connection", "leader")
        for point in SETTLE
    ],
    indirect=["database"],
)
async def test_what_was_left_prepared_is_settled(
    cluster: LoopCluster,
    shops: tuple[Database, Database],
    database: Database,
    dies: str,
    point: str,
) -> None:
    assert database.dialect == "postgresql"
    stopping: list[asyncio.Task[None]] = []
    if dies == "leader":
        dying, stopping = await dying_leader(cluster, point)
    else:
        dying = Dying(point, lambda: lose_connections(shops[1]))
    application = Application(
        [node.url for node in cluster.nodes], application_id="testing", discover=False
    )
    try:
        _, source = await asyncio.to_thread(sources, application, shops)
        begun = await application.awaiting(lambda client: client.transactions.begin())
        await application.awaiting(lambda client: client.transactions.rollback(begun.xid))
        leave_prepared(shops[1], begun.xid, 7)
        with watched(dying):
            await asyncio.to_thread(settle, source)
        assert dying.has_died.is_set()
        assert prepared(shops) == []
        assert left(shops[1]) == 10
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
