"""Connections of a database, or the coordinator's leader, die before and after every write of TCC.

The process itself goes on: what was tried is kept as a whole in the end, or given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.sdk.deaths import CHANNELS, Dying, dying_leader, lose_connections
from tests.sdk.tcc_stock import Stock
from tests.sdk.test_tcc_crashes import (
    BEFORE_THE_DECISION,
    WHILE_IT_CANCELS,
    WHILE_IT_CLEANS,
    WHILE_IT_CONFIRMS,
)
from tidelock.application import Application
from tidelock.crash_points import watched
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

SERVERS: Final = ("pymysql", "psycopg")
POINTS_OF_TCC: Final = (
    *BEFORE_THE_DECISION,
    *WHILE_IT_CONFIRMS,
    *WHILE_IT_CANCELS,
    *WHILE_IT_CLEANS,
)
QUICK: Final = {
    ("connection", "psycopg", "fence.before-step-commit"),
    ("connection", "pymysql", "fence.after-confirm-commit"),
    ("leader", "sqlite3", "fence.before-cancel-commit"),
}
AS_BEFORE: Final = (10, 0, 0)
SOLD: Final = (7, 0, 3)


def cases(dies: str, drivers: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(
            dies, driver, point,
            marks=() if (dies, driver, point) in QUICK else (pytest.mark.long,),
        )
        for driver in drivers
        for point in POINTS_OF_TCC
    ]  # fmt: skip


def sell(stock: Stock, point: str) -> str:
    """Sell three, or give them back where that is what is tried."""
    xid = ""
    with (
        contextlib.suppress(Exception),
        tidelock.transaction(application=stock.application, timeout_ms=20_000) as begun,
    ):
        assert begun.xid is not None
        xid = begun.xid
        stock.take_now(3)
        if point in WHILE_IT_CANCELS:
            begun.set_rollback_only()
    return xid


@pytest.fixture
def stock(
    request: pytest.FixtureRequest, database: Database, tidelock_coordinator: Coordinator
) -> Iterator[Stock]:
    driver: str = request.node.callspec.params["database"]
    with tidelock_coordinator.application() as application:
        made = Stock(database, driver, application)
        yield made
        made.source.close()


@pytest.mark.parametrize(
    ("dies", "database", "point"), cases("connection", SERVERS), indirect=["database"]
)
def test_the_connections_of_a_database_die(
    stock: Stock, tidelock_coordinator: Coordinator, dies: str, point: str
) -> None:
    assert dies == "connection"
    dying = Dying(point, lambda: lose_connections(stock.database))
    with watched(dying):
        xid = sell(stock, point)
        ends_at = time.monotonic() + 60
        while tidelock_coordinator.leftovers() or stock.fence_rows():
            assert time.monotonic() < ends_at, tidelock_coordinator.leftovers()
            tidelock_coordinator.advance(15_000)
        assert dying.has_died.is_set()
    is_committed = tidelock_coordinator.transaction(xid).status == "COMMITTED"
    assert stock.numbers() == (SOLD if is_committed else AS_BEFORE)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path / "nodes", 3, channels=CHANNELS) as found:
        await found.leader()
        yield found


@pytest.mark.parametrize(
    ("dies", "database", "point"), cases("leader", (*SERVERS, "sqlite3")), indirect=["database"]
)
async def test_the_leader_dies(
    cluster: LoopCluster,
    database: Database,
    dies: str,
    point: str,
    request: pytest.FixtureRequest,
) -> None:
    assert dies == "leader"
    dying, stopping = await dying_leader(cluster, point)
    application = Application(
        [node.url for node in cluster.nodes], application_id="testing", discover=False
    )
    try:
        stock = Stock(database, request.node.callspec.params["database"], application)
        with watched(dying):
            xid = await asyncio.to_thread(sell, stock, point)
            ended = await cluster.until(xid, "COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK")
            await eventually(lambda: stock.fence_rows() == [], "no fence row is left")
            assert dying.has_died.is_set()
        assert stock.numbers() == (SOLD if ended.status == "COMMITTED" else AS_BEFORE)
        stock.source.close()
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
