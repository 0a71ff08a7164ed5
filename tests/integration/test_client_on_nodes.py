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


async def waits_for_rows(client: Client, requests: int) -> None:
    async with asyncio.timeout(30):
        while True:
            rows = [row async for row in client.row_locks.list(resource_id="db")]
            if sum(row.queue_length for row in rows) == requests:
                return
            await asyncio.sleep(0.02)


@pytest.mark.timeout(180)
async def test_waits_for_rows_outlive_the_node_that_they_were_asked_of(
    cluster: RunningCluster,
) -> None:
    leader = await cluster.leader()
    others = [cluster.nodes.place(name).url for name in ("n1", "n2", "n3") if name != leader]
    rows = {"t": [[1]]}
    async with (
        Client([cluster.nodes.place(leader).url, *others], discover=False) as first,
        Client(others, discover=False, timeout_ms=30_000) as client,
    ):
        for xid in ("x", "y", "z"):
            await client.transactions.begin(xid=xid)
        holder = await client.branches.register(
            "x", "AT", "db", lock_keys=rows, commit_url="", rollback_url=""
        )
        await client.branches.report("x", holder.branch_id, "PHASE_ONE_DONE")
        waiting, leaving = (
            asyncio.create_task(
                first.branches.register(xid, "AT", "db", lock_keys=rows, wait_ms=60_000)
            )
            for xid in ("y", "z")
        )
        await waits_for_rows(client, 2)
        cluster.nodes.kill(leader)
        await waits_for_rows(client, 2)
        leaving.cancel()
        await waits_for_rows(client, 1)
        assert (await client.transactions.commit("x")).is_to_commit
        async with asyncio.timeout(30):
            registered = await waiting
        branches = {xid: (await client.transactions.get(xid)).branches for xid in ("y", "z")}
        assert [branch.branch_id for branch in branches["y"]] == [registered.branch_id]
        assert branches["z"] == []
