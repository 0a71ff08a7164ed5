"""A database's connections, or the coordinator's leader, die before and after every write of AT.

The process itself goes on, and hears of it as applications do: all is done in the end, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.sdk.at.conftest import ROWS, TABLE
from tests.sdk.at.test_at_crashes import AFTER, BEFORE, COMMITTED, PHASE_ONE, PHASE_TWO, settled
from tests.sdk.at_sources import Shop
from tests.sdk.deaths import CHANNELS, Dying, dying_leader, lose_connections
from tidelock.application import Application
from tidelock.crash_points import watched
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

SERVERS: Final = ("mysql", "postgresql")
POINTS_OF_AT: Final = (*PHASE_ONE, *PHASE_TWO, *COMMITTED)
QUICK: Final = {
    ("connection", "postgresql", "at.after-undo-row"),
    ("connection", "mysql", "at.before-rollback-commit"),
    ("leader", "sqlite", "at.after-local-commit"),
    ("leader", "sqlite", "at.after-restore"),
}


def cases(dies: str, dialects: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(
            dies, dialect, point,
            marks=() if (dies, dialect, point) in QUICK else (pytest.mark.long,),
        )
        for dialect in dialects
        for point in POINTS_OF_AT
    ]  # fmt: skip


def purchase(shop: Shop, point: str) -> str:
    """Change rows in three branches, and commit, or roll back where that is what is tried."""
    xid = ""
    with (
        contextlib.suppress(Exception),
        tidelock.transaction(application=shop.source.application, timeout_ms=20_000) as begun,
    ):
        assert begun.xid is not None
        xid = begun.xid
        for statement in ("UPDATE t SET v = v + 1", "INSERT INTO t VALUES (4, 40, 'four')",
                          "DELETE FROM t WHERE id = 2"):  # fmt: skip
            shop.execute(statement)
        if point in PHASE_TWO:
            raise KeyError(point)
    return xid


@pytest.mark.parametrize(
    ("dies", "database", "point"), cases("connection", SERVERS), indirect=["database"]
)
def test_the_connections_of_a_database_die(
    shop: Shop, database: Database, tidelock_coordinator: Coordinator, dies: str, point: str
) -> None:
    assert dies == "connection"
    dying = Dying(point, lambda: lose_connections(database))
    with watched(dying):
        xid = purchase(shop, point)
        rows = settled(shop, tidelock_coordinator)
        assert dying.has_died.is_set() or point in COMMITTED
    is_committed = tidelock_coordinator.transaction(xid).status == "COMMITTED"
    assert rows == (AFTER if is_committed else BEFORE)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path / "nodes", 3, channels=CHANNELS) as found:
        await found.leader()
        yield found


@pytest.mark.parametrize(
    ("dies", "database", "point"), cases("leader", (*SERVERS, "sqlite")), indirect=["database"]
)
async def test_the_leader_dies(
    cluster: LoopCluster, database: Database, dies: str, point: str
) -> None:
    assert dies == "leader"
    dying, stopping = await dying_leader(cluster, point)
    application = Application(
        [node.url for node in cluster.nodes], application_id="testing", discover=False
    )
    try:
        shop = Shop(database, application)
        database.sql(TABLE, ROWS)
        with watched(dying):
            xid = await asyncio.to_thread(purchase, shop, point)
            ended = await cluster.until(xid, "COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK")
            await eventually(lambda: shop.undo_rows() == [], "no undo row is left")
            assert dying.has_died.is_set() or point in COMMITTED
        assert shop.rows() == (AFTER if ended.status == "COMMITTED" else BEFORE)
        shop.source.close()
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
