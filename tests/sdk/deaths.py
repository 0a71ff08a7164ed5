"""What dies beside a process that goes on: connections of a database, the coordinator's leader."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

from node.config import ChannelsConfig
from statemachine.transactions.cleaning_rows import resources_to_clean
from tests.databases.connections import Database
from tests.databases.nothing_left import left_in
from tests.integration.engines import WITHIN_S, LoopCluster, eventually
from tidelock.application import Application
from tidelock.crash_points import POINTS

CHANNELS: Final = ChannelsConfig(grace_ms=1_000, leaderless_ms=60_000, clean_after_ms=0)


class Dying:
    """Does something once, when a point is reached, or is for the nth time."""

    def __init__(self, point: str, act: Callable[[], object], *, nth: int = 1) -> None:
        assert point in POINTS
        self._point = point
        self._act = act
        self._left = nth
        self._lock = threading.Lock()
        self.has_died = threading.Event()

    def __call__(self, name: str) -> None:
        with self._lock:
            if name != self._point or self.has_died.is_set():
                return
            self._left -= 1
            if self._left > 0:
                return
            self.has_died.set()
        self._act()


def lose_connections(database: Database) -> None:
    """Have the server close all connections to a database."""
    if database.dialect == "mysql":
        found = database.sql(
            "SELECT id FROM information_schema.processlist "
            f"WHERE db = '{database.name}' AND id <> CONNECTION_ID()"
        )
        for (number,) in found:
            with contextlib.suppress(Exception):  # it may have gone by itself
                database.sql(f"KILL {number}")
        return
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def dying_leader(
    cluster: LoopCluster, point: str, *, nth: int = 1
) -> tuple[Dying, list[asyncio.Task[None]]]:
    """Return what has the leader die, and where its end is to be waited for."""
    loop, leader = asyncio.get_running_loop(), await cluster.leader()
    stopping: list[asyncio.Task[None]] = []

    def die() -> None:
        leader.cut_off()
        stopping.append(loop.create_task(leader.stop()))

    return Dying(point, lambda: loop.call_soon_threadsafe(die), nth=nth), stopping


async def assert_all_is_over(
    cluster: LoopCluster, application: Application, database: Database | None = None
) -> None:
    """Wait until no row is locked, no guard is left, and nobody is to be told of any."""

    def left() -> list[object]:
        locked = list(application.client.iterate(lambda client: client.row_locks.list()))
        return [*locked, *([] if database is None else left_in(database))]

    await eventually(lambda: is_cleaned(cluster), "nothing is to be cleaned")
    ends_at = time.monotonic() + WITHIN_S
    # Not in the loop, where the nodes are.
    while found := await asyncio.to_thread(left):
        assert time.monotonic() < ends_at, found
        await asyncio.sleep(0.05)


def is_cleaned(cluster: LoopCluster) -> bool:
    """Whether nobody is to be told any more that guards can go."""
    leading = [node for node in cluster.alive if node.engine.leader_ready]
    return any(resources_to_clean(node.engine.machine_store, "", 1) == [] for node in leading)
