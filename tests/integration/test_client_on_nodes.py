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


@pytest.mark.timeout(180)
async def test_no_write_is_lost_or_done_twice_when_the_leader_is_killed(
    cluster: RunningCluster,
) -> None:
    # One node is given; the others are found.
    address = cluster.nodes.place(await cluster.follower()).url
    async with Client([address], timeout_ms=30_000) as client:
        taken = []
        for number in range(WRITES):
            if number == WRITES // 2:
                cluster.nodes.kill(await cluster.leader())
            taken.append((await client.sequences.next("orders")).first)
            await client.events.record("taken", number, node_id="orders")
        assert taken == [*range(1, WRITES + 1)]
        stored = [event.event_data async for event in client.events.list(node_id="orders")]
        assert stored == [*range(WRITES)]


@pytest.mark.timeout(180)
async def test_the_client_goes_on_when_the_only_node_it_was_given_is_killed(
    cluster: RunningCluster,
) -> None:
    leader = await cluster.leader()
    async with Client([cluster.nodes.place(leader).url], timeout_ms=30_000) as client:
        before = await client.timestamp()
        async with asyncio.timeout(30):
            while len(client.nodes) < 3:
                await asyncio.sleep(0.02)
        cluster.nodes.kill(leader)
        assert await client.timestamp() > before
