"""What dies beside a process that goes on: connections of a database, the coordinator's leader."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final

from node.config import ChannelsConfig
from tests.databases.connections import Database
from tests.integration.engines import LoopCluster
from tidelock.crash_points import POINTS

CHANNELS: Final = ChannelsConfig(grace_ms=1_000, leaderless_ms=60_000, clean_after_ms=0)


class Dying:
    """Does something once, when a point is reached."""

    def __init__(self, point: str, act: Callable[[], object]) -> None:
        assert point in POINTS
        self._point = point
        self._act = act
        self._lock = threading.Lock()
        self.has_died = threading.Event()

    def __call__(self, name: str) -> None:
        with self._lock:
            if name != self._point or self.has_died.is_set():
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


async def dying_leader(cluster: LoopCluster, point: str) -> tuple[Dying, list[asyncio.Task[None]]]:
    """Return what has the leader die, and where its end is to be waited for."""
    loop, leader = asyncio.get_running_loop(), await cluster.leader()
    stopping: list[asyncio.Task[None]] = []

    def die() -> None:
        leader.cut_off()
        stopping.append(loop.create_task(leader.stop()))

    return Dying(point, lambda: loop.call_soon_threadsafe(die)), stopping
