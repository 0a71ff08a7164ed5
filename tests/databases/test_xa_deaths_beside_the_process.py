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
from tests.databases.dying_xa import TIMEOUT_MS, take
from tests.databases.test_xa_crashes import COMMIT, left, shops
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.sdk.deaths import CHANNELS, Dying, dying_leader, lose_connections
from tidelock.application import Application
from tidelock.crash_points import watched
from tidelock.testing import Coordinator
from tidelock.xa import XaSource

__all__ = ["shops"]  # a fixture

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

ROLL_BACK: Final = ("xa.before-rollback", "xa.after-rollback")
QUICK: Final = {("connection", "xa.after-prepare"), ("leader", "xa.before-commit")}


def cases(dies: str) -> list[Any]:
    return [
        pytest.param(dies, point, marks=() if (dies, point) in QUICK else (pytest.mark.long,))
        for point in (*(f"xa.{name}" for name in COMMIT), *ROLL_BACK)
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
    xid = ""
    with (
        contextlib.suppress(Exception),
        tidelock.transaction(application=application, timeout_ms=TIMEOUT_MS) as begun,
    ):
        assert begun.xid is not None
        xid = begun.xid
        for source in both:
            take(source)
        if point in ROLL_BACK:
            raise KeyError(point)
    return xid


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
        with watched(Dying(point, lose)):
            xid = purchase(application, both, point)
            tidelock_coordinator.advance(TIMEOUT_MS)
            tidelock_coordinator.assert_clean(60)
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
        await eventually(lambda: prepared(shops) == [], "nothing is left prepared")
        assert [left(each) for each in shops] == [9 if ended.status == "COMMITTED" else 10] * 2
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
