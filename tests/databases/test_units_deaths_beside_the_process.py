"""A database's connections, or the coordinator's leader, die before and after every write of units.

Units are those of LCN and of TXC. The process itself goes on: all that a group did is there in the
end, or nothing; what LCN lost after the decision is visible as COMMIT_FAILED.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tests.databases.dying_units import TIMEOUT_MS, connecting, sell, source_of
from tests.databases.nothing_left import assert_nothing_left
from tests.databases.test_units_crashes import UNDONE, shop, stock, where
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.sdk.deaths import (
    CHANNELS,
    Dying,
    assert_all_is_over,
    dying_leader,
    lose_connections,
)
from tidelock.application import Application
from tidelock.crash_points import watched
from tidelock.testing import Coordinator

__all__ = ["shop"]  # a fixture

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

SERVERS: Final = ("mysql", "postgresql")

COMMITTING: Final = (
    "at.before-register", "at.after-register", "at.before-undo-row", "at.after-undo-row",
    "at.before-local-commit", "at.after-local-commit", "at.before-report", "at.after-report",
    "at.before-delete", "at.after-delete",
)  # fmt: skip
UNDOING: Final = (
    "at.before-restore", "at.after-restore", "at.before-tombstone", "at.after-tombstone",
    "at.before-rollback-commit", "at.after-rollback-commit",
)  # fmt: skip

TRIED: Final = [
    *(("LCN", "commit", f"lcn.{name}") for name in (
        "before-register", "after-register", "before-report", "after-report", "before-commit",
        "after-commit",
    )),
    *(("LCN", "fail a unit", f"lcn.{name}") for name in ("before-undo", "after-undo")),
    *(("LCN", "roll back", f"lcn.{name}") for name in ("before-rollback", "after-rollback")),
    *(("TXC", "commit", f"txc.{name}") for name in ("before-lock", "after-lock")),
    *(("TXC", "commit", name) for name in COMMITTING),
    *(("TXC", "go back", f"txc.{name}") for name in ("before-unlock", "after-unlock")),
    *(("TXC", "fail a unit", f"txc.{name}") for name in (
        "before-undo", "after-undo", "after-withdraw"
    )),
    *(("TXC", "roll back", name) for name in UNDOING),
]  # fmt: skip

QUICK: Final = {
    ("connection", "postgresql", "lcn.before-report"),
    ("connection", "mysql", "lcn.before-commit"),
    ("connection", "mysql", "txc.before-undo"),
    ("leader", "sqlite", "lcn.after-commit"),
    ("leader", "sqlite", "txc.after-lock"),
}
LOST: Final = "COMMIT_FAILED"
BEFORE: Final = [10, 20]


def cases(dies: str, dialects: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(
            dies, mode, what, point, dialect,
            marks=() if (dies, dialect, point) in QUICK else (pytest.mark.long,),
        )
        for mode, what, point in TRIED
        for dialect in dialects
    ]  # fmt: skip


def sold(what: str) -> list[int]:
    """Return the stock when a group was committed."""
    return [8 if what == "go back" else 9, 20]


@pytest.mark.parametrize(
    ("dies", "mode", "what", "point", "database"),
    cases("connection", SERVERS),
    indirect=["database"],
)
def test_the_connections_of_a_database_die(
    tidelock_coordinator: Coordinator,
    shop: Database,
    dies: str,
    mode: str,
    what: str,
    point: str,
) -> None:
    assert dies == "connection"
    dying = Dying(point, lambda: lose_connections(shop))
    xids: list[str] = []
    with tidelock_coordinator.application() as application:
        source = source_of(mode, connecting(shop.dialect, where(shop)), application)
        with watched(dying):
            with contextlib.suppress(Exception):
                sell(mode, source, what, application=application, begun=xids.append)
            (xid,) = xids
            ends_at = time.monotonic() + 60
            while tidelock_coordinator.transaction(xid).status not in {"COMMITTED", LOST, *UNDONE}:
                assert time.monotonic() < ends_at, tidelock_coordinator.transaction(xid)
                tidelock_coordinator.advance(TIMEOUT_MS)
            tidelock_coordinator.wait_until(dying.has_died.is_set, 30)
        if isinstance(source, tidelock.LcnDataSource):
            assert source.held() == []
        assert_nothing_left(tidelock_coordinator, shop)
        status = tidelock_coordinator.transaction(xid).status
        if status == LOST:
            # What was decided and is not there: only while a group's work was in a connection.
            assert mode == "LCN"
            assert stock(shop) == BEFORE
            left = [each for each in tidelock_coordinator.leftovers() if xid not in each]
            assert left == []
        else:
            assert stock(shop) == (sold(what) if status == "COMMITTED" else BEFORE)
        shop.sql("UPDATE stock SET n = n + 1")  # nobody holds a row
        if isinstance(source, tidelock.TxcDataSource):
            source.close()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path / "nodes", 3, channels=CHANNELS) as found:
        await found.leader()
        yield found


@pytest.mark.parametrize(
    ("dies", "mode", "what", "point", "database"),
    cases("leader", (*SERVERS, "sqlite")),
    indirect=["database"],
)
async def test_the_leader_dies(
    cluster: LoopCluster, shop: Database, dies: str, mode: str, what: str, point: str
) -> None:
    assert dies == "leader"
    dying, stopping = await dying_leader(cluster, point)
    application = Application(
        [node.url for node in cluster.nodes], application_id="testing", discover=False
    )
    xids: list[str] = []

    def selling() -> None:
        with contextlib.suppress(Exception):
            sell(mode, source, what, application=application, begun=xids.append)

    try:
        source = source_of(mode, connecting(shop.dialect, where(shop)), application)
        with watched(dying):
            await asyncio.to_thread(selling)
            (xid,) = xids
            ended = await cluster.until(xid, "COMMITTED", *UNDONE)
            await eventually(dying.has_died.is_set, "it has died")
        if isinstance(source, tidelock.LcnDataSource):
            held = source
            await eventually(lambda: held.held() == [], "nothing is held")
        await assert_all_is_over(cluster, application, shop)
        assert stock(shop) == (sold(what) if ended.status == "COMMITTED" else BEFORE)
        shop.sql("UPDATE stock SET n = n + 1")  # nobody holds a row
        if isinstance(source, tidelock.TxcDataSource):
            source.close()
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
