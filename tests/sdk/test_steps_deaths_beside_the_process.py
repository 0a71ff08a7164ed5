"""A database's connections, or the leader, die before and after every write behind a fence.

There are the steps of TCC and of SAGA. The process itself goes on: what was done is
kept as a whole in the end, or given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tests.databases.nothing_left import assert_nothing_left
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.sdk.deaths import (
    CHANNELS,
    Dying,
    assert_all_is_over,
    dying_leader,
    is_cleaned,
    lose_connections,
)
from tests.sdk.saga_stock import Stock as SagaStock
from tests.sdk.seats import Seats
from tests.sdk.tcc_stock import Stock as TccStock
from tests.sdk.test_tcc_crashes import (
    BEFORE_THE_DECISION,
    OF_THE_COORDINATORS_FENCE,
    WHEN_IT_CAME_TOO_LATE,
    WHEN_IT_FAILED,
    WHEN_NOTHING_WAS_TRIED,
    WHILE_IT_CANCELS,
    WHILE_IT_CLEANS,
    WHILE_IT_CONFIRMS,
)
from tidelock.application import Application
from tidelock.crash_points import watched
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

Stock = TccStock | SagaStock

SERVERS: Final = ("pymysql", "psycopg")
OF_BOTH: Final = (
    *BEFORE_THE_DECISION,
    *WHEN_IT_FAILED,
    *WHEN_NOTHING_WAS_TRIED,
    *WHEN_IT_CAME_TOO_LATE,
    *WHILE_IT_CANCELS,
    *WHILE_IT_CLEANS,
)
POINTS_OF: Final = {"TCC": (*OF_BOTH, *WHILE_IT_CONFIRMS), "SAGA": OF_BOTH}
QUICK: Final = {
    ("connection", "TCC", "psycopg", "fence.before-step-commit"),
    ("connection", "TCC", "pymysql", "fence.after-confirm-commit"),
    ("connection", "SAGA", "pymysql", "fence.before-cancel-commit"),
    ("leader", "TCC", "sqlite3", "fence.before-cancel-commit"),
    ("leader", "SAGA", "sqlite3", "fence.after-step-commit"),
}
ENDS: Final = ("COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK")
BEFORE: Final = {"TCC": (10, 0, 0), "SAGA": (10,)}
SOLD: Final = {"TCC": (7, 0, 3), "SAGA": (7,)}


def cases(dies: str, drivers: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(
            dies, mode, driver, point,
            marks=() if (dies, mode, driver, point) in QUICK else (pytest.mark.long,),
        )
        for mode, points in POINTS_OF.items()
        for driver in drivers
        for point in points
    ]  # fmt: skip


class BrokenError(Exception):
    """What a step of these tests fails with."""


class Overtaking:
    """Fails where a point needs it; ends the transaction while its step is on the way."""

    def __init__(self, point: str, dying: Dying, overtake: Callable[[str], None]) -> None:
        self._point = point
        self._dying = dying
        self._overtake = overtake

    def __call__(self, name: str) -> None:
        self._dying(name)
        if name != "fence.after-register":
            return
        if self._point in WHEN_NOTHING_WAS_TRIED:
            raise BrokenError
        if self._point in WHEN_IT_CAME_TOO_LATE:
            xid = tidelock.current_xid()
            assert xid is not None
            self._overtake(xid)


def sell(stock: Stock, point: str) -> str:
    """Sell three, or give them back where that is what is tried."""
    xid = ""

    def fail(what: str) -> None:
        if what in ("try", "step"):
            raise BrokenError

    if point in WHEN_IT_FAILED:
        stock.before = fail
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


def stock_of(mode: str, database: Database, driver: str, application: Application) -> Stock:
    kind: type[Stock] = TccStock if mode == "TCC" else SagaStock
    return kind(database, driver, application)


def numbers(database: Database) -> tuple[int, ...]:
    ((_, *found),) = database.sql("SELECT * FROM stock")
    return tuple(int(number) for number in found)


@pytest.fixture
def stock(
    request: pytest.FixtureRequest, database: Database, tidelock_coordinator: Coordinator
) -> Iterator[Stock]:
    parameters = request.node.callspec.params
    with tidelock_coordinator.application() as application:
        made = stock_of(parameters["mode"], database, parameters["database"], application)
        yield made
        made.source.close()


@pytest.mark.parametrize(
    ("dies", "mode", "database", "point"), cases("connection", SERVERS), indirect=["database"]
)
def test_the_connections_of_a_database_die(
    stock: Stock, tidelock_coordinator: Coordinator, dies: str, mode: str, point: str
) -> None:
    assert dies == "connection"
    dying = Dying(point, lambda: lose_connections(stock.database))

    def overtake(xid: str) -> None:
        tidelock_coordinator.client.run(lambda client: client.transactions.rollback(xid))
        tidelock_coordinator.assert_clean()

    with watched(Overtaking(point, dying, overtake)):
        xid = sell(stock, point)
        ends_at = time.monotonic() + 60
        while tidelock_coordinator.leftovers() or stock.fence_rows():
            assert time.monotonic() < ends_at, tidelock_coordinator.leftovers()
            tidelock_coordinator.advance(15_000)
        assert dying.has_died.is_set()
    assert_nothing_left(tidelock_coordinator, stock.database)
    is_committed = tidelock_coordinator.transaction(xid).status == "COMMITTED"
    assert numbers(stock.database) == (SOLD if is_committed else BEFORE)[mode]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path / "nodes", 3, channels=CHANNELS) as found:
        await found.leader()
        yield found


@pytest.mark.parametrize(
    ("dies", "mode", "database", "point"),
    cases("leader", (*SERVERS, "sqlite3")),
    indirect=["database"],
)
async def test_the_leader_dies(
    cluster: LoopCluster,
    database: Database,
    dies: str,
    mode: str,
    point: str,
    request: pytest.FixtureRequest,
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
        stock = stock_of(mode, database, request.node.callspec.params["database"], application)
        with watched(Overtaking(point, dying, overtake)):
            xid = await asyncio.to_thread(sell, stock, point)
            ended = await cluster.until(xid, *ENDS)
            await eventually(dying.has_died.is_set, "it has died")
        await assert_all_is_over(cluster, application, database)
        assert numbers(database) == (SOLD if ended.status == "COMMITTED" else BEFORE)[mode]
        stock.source.close()
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)


@pytest.mark.parametrize(
    ("dies", "mode", "point", "ends"),
    [
        pytest.param(
            "leader", mode, f"{point}:{nth}", ends,
            marks=()
            if (mode, point, nth) == ("TCC", "fence.before-fence-done", 1)
            else (pytest.mark.long,),
        )
        for mode in ("TCC", "SAGA")
        for ends in ("commit", "rollback")
        for point in OF_THE_COORDINATORS_FENCE
        # A step of SAGA that is committed is not asked for again.
        for nth in ((1,) if (mode, ends) == ("SAGA", "commit") else (1, 2))
    ],
)  # fmt: skip
async def test_the_leader_dies_around_the_fence_that_it_keeps(
    cluster: LoopCluster, dies: str, mode: str, point: str, ends: str
) -> None:
    assert dies == "leader"
    name, _, nth = point.partition(":")
    dying, stopping = await dying_leader(cluster, name, nth=int(nth))
    application = Application(
        [node.url for node in cluster.nodes], application_id="testing", discover=False
    )
    xid = ""

    def reserve(seats: Seats) -> None:
        nonlocal xid
        with (
            contextlib.suppress(Exception),
            tidelock.transaction(application=application, timeout_ms=20_000) as begun,
        ):
            assert begun.xid is not None
            xid = begun.xid
            seats.reserve_now(7)
            if ends == "rollback":
                begun.set_rollback_only()

    try:
        seats = Seats(application, mode=mode)
        with watched(dying):
            await asyncio.to_thread(reserve, seats)
            ended = await cluster.until(xid, *ENDS)
            await eventually(dying.has_died.is_set, "it has died")
        await assert_all_is_over(cluster, application)
        assert seats.is_whole(is_committed=ended.status == "COMMITTED"), seats.ran
    finally:
        await application.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
