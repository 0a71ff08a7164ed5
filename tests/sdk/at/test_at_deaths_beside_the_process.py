"""A database's connections, or the coordinator's leader, die before and after every write of AT.

The process itself goes on, and hears of it as applications do: all is done in the end, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.sdk.at.conftest import ROWS, TABLE
from tests.sdk.at.test_at_crashes import (
    AFTER,
    BEFORE,
    COMMITTED,
    PHASE_ONE,
    PHASE_TWO,
    PLACEHOLDER,
    TOO_LATE,
    settled,
)
from tests.sdk.at_sources import Shop
from tests.sdk.deaths import (
    CHANNELS,
    Dying,
    assert_all_is_over,
    dying_leader,
    is_cleaned,
    lose_connections,
)
from tidelock.application import Application
from tidelock.crash_points import watched
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

SERVERS: Final = ("mysql", "postgresql")
POINTS_OF_AT: Final = (*PHASE_ONE, *PHASE_TWO, *COMMITTED, *PLACEHOLDER, *TOO_LATE)
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
        # SQLite lets nobody in while a local transaction writes, so there no decision overtakes it.
        if not (dialect == "sqlite" and point in TOO_LATE)
    ]  # fmt: skip


class BrokenError(Exception):
    """What a local transaction fails with when its branch is registered."""


class Overtaking:
    """Fails where a point needs it; ends the transaction while a local one is on the way."""

    def __init__(self, point: str, dying: Dying, overtake: Callable[[str], None]) -> None:
        self._point = point
        self._dying = dying
        self._overtake = overtake

    def __call__(self, name: str) -> None:
        self._dying(name)
        if name != "at.after-register":
            return
        if self._point in PLACEHOLDER:
            raise BrokenError
        if self._point in TOO_LATE:
            xid = tidelock.current_xid()
            assert xid is not None
            self._overtake(xid)


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

    def overtake(xid: str) -> None:
        tidelock_coordinator.client.run(lambda client: client.transactions.rollback(xid))
        tidelock_coordinator.assert_clean()

    with watched(Overtaking(point, dying, overtake)):
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
    loop = asyncio.get_running_loop()
    application = Application(
        [node.url for node in cluster.nodes], application_id="testing", discover=False
    )

    def overtake(xid: str) -> None:
        application.client.run(lambda client: client.transactions.rollback(xid))
        cleaned = eventually(lambda: is_cleaned(cluster), "it is over and cleaned")
        asyncio.run_coroutine_threadsafe(cleaned, loop).result()

    try:
        shop = Shop(database, application)
        database.sql(TABLE, ROWS)
        with watched(Overtaking(point, dying, overtake)):
            xid = await asyncio.to_thread(purchase, shop, point)
            ended = await cluster.until(xid, "COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK")
            assert dying.has_died.is_set() or point in COMMITTED
        await assert_all_is_over(cluster, application, database)
        assert shop.rows() == (AFTER if ended.status == "COMMITTED" else BEFORE)
        shop.source.close()
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
