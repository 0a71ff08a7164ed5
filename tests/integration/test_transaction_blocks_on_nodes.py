"""Blocks of an application at three node processes, whose leader is killed under them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import tidelock
from tests.integration.running_cluster import WITHIN_S, running
from tidelock.client import Client

pytestmark = pytest.mark.timeout(180)

WORKERS = 4


class Told:
    """What the blocks of all workers ended with, by xid."""

    def __init__(self) -> None:
        self.committed: list[str] = []
        self.rolled_back: list[str] = []
        self.stopped = False

    @property
    def count(self) -> int:
        return len(self.committed) + len(self.rolled_back)


async def work(application: tidelock.Application, told: Told) -> None:
    """Run blocks one after the other, of which every other one fails."""
    while not told.stopped:
        async with tidelock.transaction("good", application=application) as transaction:
            pass
        told.committed.append(transaction.xid)
        with pytest.raises(LookupError):
            async with tidelock.transaction("bad", application=application) as transaction:
                raise LookupError
        told.rolled_back.append(transaction.xid)


async def until(told: Told, count: int) -> None:
    """Wait until so many blocks have ended."""
    ends_at = time.monotonic() + WITHIN_S
    while told.count < count:
        assert time.monotonic() < ends_at, f"{told.count} blocks ended, not {count}"
        await asyncio.sleep(0.01)


async def found(application: tidelock.Application, xids: list[str]) -> set[str]:
    """Return how these transactions stand in the cluster."""

    async def ask(client: Client) -> set[str]:
        return {(await client.transactions.get(xid)).status for xid in xids}

    return await application.awaiting(ask)


async def test_each_block_ends_as_it_is_told_though_the_leader_is_killed(tmp_path: Path) -> None:
    told = Told()
    async with running(tmp_path) as cluster:
        addresses = [place.url for place in cluster.nodes.places.values()]
        # Each call may have to wait for two elections on a busy machine.
        with tidelock.Application(
            addresses, application_id="shop", timeout_ms=int(WITHIN_S * 1000)
        ) as application:
            workers = [asyncio.create_task(work(application, told)) for _ in range(WORKERS)]
            for _ in range(2):
                await until(told, told.count + 10 * WORKERS)
                killed = await cluster.leader()
                cluster.nodes.kill(killed)
                await until(told, told.count + 10 * WORKERS)
                cluster.nodes.start(killed)
                await cluster.recover()
            told.stopped = True
            await asyncio.gather(*workers)
            assert await found(application, told.committed) == {"COMMITTED"}
            assert await found(application, told.rolled_back) == {"ROLLED_BACK"}
