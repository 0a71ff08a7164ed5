"""The SDK's client against three nodes, of which the leader is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.running_cluster import RunningCluster, running
from tidelock.client import Client

WRITES = 200


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RunningCluster]:
    async with running(tmp_path / "cluster", TIDELOCK_WATCH_HEARTBEAT_MS="500") as made:
        yield made


async def read_numbers(client: Client, count: int, leave: asyncio.Event) -> list[object]:
    """Return the data of the first events; let the writer go on when half of them were told."""
    told = []
    async for applied in client.watch(kinds=["timestamp.event"], after="0", silence_ms=2_000):
        told += [change["eventData"] for change in applied.changes]
        if len(told) >= count // 2:
            leave.set()
        if len(told) >= count:
            break
    return told


@pytest.mark.timeout(180)
async def test_writes_watches_and_locks_outlive_the_leader(cluster: RunningCluster) -> None:
    leader = await cluster.leader()
    # One node is given, the one that is killed; the others are found.
    async with Client([cluster.nodes.place(leader).url], timeout_ms=30_000) as client:
        async with asyncio.timeout(30):
            await client.timestamp()
            while len(client.nodes) < 3:
                await asyncio.sleep(0.02)
        half_told = asyncio.Event()
        watching = asyncio.create_task(read_numbers(client, WRITES, half_told))
        taken = []
        async with client.lock("orders", ttl_ms=20_000) as lock:
            for number in range(WRITES):
                if number == WRITES // 2:
                    await half_told.wait()
                    before = await client.timestamp()
                    cluster.nodes.kill(leader)
                taken.append((await client.sequences.next("orders")).first)
                await client.events.record("taken", number, node_id="orders")
            lock.check()
            assert await client.locks.verify("orders", lock.fencing_token)
        assert await client.timestamp() > before
        assert await cluster.leader() != leader
        assert taken == [*range(1, WRITES + 1)]
        stored = [event.event_data async for event in client.events.list(node_id="orders")]
        assert stored == [*range(WRITES)]
        async with asyncio.timeout(30):
            assert await watching == stored
