"""A database's connections, or the leader, die before and after every write of a served step.

The service goes on, and is called again: each step is done once, and undone once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tests.databases.connections import Database
from tests.integration.engines import LoopCluster, loop_cluster
from tests.sdk.deaths import CHANNELS, Dying, assert_all_is_over, dying_leader, lose_connections
from tests.sdk.served_stock import ServedStock, tables
from tests.sdk.test_saga_service import BACKWARD, FORWARD, PAYLOAD, serving
from tidelock.application import Application
from tidelock.crash_points import watched

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

SERVERS: Final = ("pymysql", "psycopg")
QUICK: Final = {
    ("connection", "pymysql", "saga.after-result-row"),
    ("leader", "sqlite3", "saga.before-result-row"),
}


def cases(dies: str, drivers: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(
            dies, driver, point,
            marks=() if (dies, driver, point) in QUICK else (pytest.mark.long,),
        )
        for driver in drivers
        for point in (*FORWARD, *BACKWARD)
    ]  # fmt: skip


@pytest.fixture
async def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LoopCluster]:
    count = 3 if request.node.callspec.params["dies"] == "leader" else 1
    async with loop_cluster(tmp_path / "nodes", count, channels=CHANNELS) as found:
        await found.leader()
        yield found


@pytest.mark.parametrize(
    ("dies", "database", "point"),
    [*cases("connection", SERVERS), *cases("leader", (*SERVERS, "sqlite3"))],
    indirect=["database"],
)
async def test_each_step_is_done_once_and_undone_once(
    cluster: LoopCluster, database: Database, dies: str, point: str, request: pytest.FixtureRequest
) -> None:
    driver: str = request.node.callspec.params["database"]
    database.sql(*tables(driver))
    stock = ServedStock(database, driver)
    name, _, nth = point.partition(":")
    stopping: list[asyncio.Task[None]] = []
    if dies == "leader":
        dying, stopping = await dying_leader(cluster, name, nth=int(nth or 1))
    else:
        dying = Dying(name, lambda: lose_connections(database), nth=int(nth or 1))
    application = Application(
        [node.url for node in cluster.nodes], application_id="testing", discover=False
    )
    try:
        async with serving(stock) as url:
            steps = stock.service.steps(url, {"take": PAYLOAD})
            if point in BACKWARD:
                # What comes behind it refuses, so it is undone.
                refused = msgspec.structs.replace(steps[0], name="more", payload={"sku": "tea"})
                steps.append(refused)
            with watched(dying):
                saga = await asyncio.to_thread(
                    lambda: application.client.run(lambda client: client.sagas.run(steps))
                )
                status = "ROLLED_BACK" if point in BACKWARD else "COMMITTED"
                await cluster.until(saga.xid, status)
        assert dying.has_died.is_set()
        assert stock.free() == (10 if point in BACKWARD else 7)
        await assert_all_is_over(cluster, application)
        swept = await stock.service.sweep(application=application, ended_since_ms=-60_000)
        assert (swept.deleted > 0, swept.under_way) == (True, 0)
        for table in ("barrier", "tidelock_saga_result"):
            assert [tuple(row) for row in database.sql(f"SELECT * FROM {table}")] == []
        stock.source.close()
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
