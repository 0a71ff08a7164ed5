"""The SDK's client gives up what it no longer wants: real nodes, a load balancer, late requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.integration.haproxy import balancing
from tests.integration.nodes import Nodes, running_nodes
from tidelock.client import Applied, Client, Lock
from tidelock.errors import ClientClosedError, CompactedError, LockHeldError

LONG_MS = 600_000
"""Nothing ends by itself while a test runs."""
WITHIN_S = 20.0

CHANGES_KEPT = 1_000
BATCHES = 80
"""Of 1,000 changes each, some 20 MB of events together."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    environment = {"TIDELOCK_WATCH_RETENTION_COUNT": str(CHANGES_KEPT)}
    with running_nodes(tmp_path_factory.mktemp("giving-up") / "cluster", environment) as made:
        yield made


@asynccontextmanager
async def client_of(nodes: Nodes, *names: str) -> AsyncIterator[Client]:
    addresses = [nodes.cluster.place(name).url for name in names or nodes.names]
    async with Client(addresses, discover=False, timeout_ms=20_000) as made:
        yield made


async def enter(lock: Lock) -> None:
    async with lock:
        await asyncio.Event().wait()


async def queue_of(client: Client, name: str, length: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while (await client.locks.get(name)).queue_length != length:
            await asyncio.sleep(0.02)


async def give_up_and_let_the_next_in(client: Client, name: str) -> None:
    async with client.lock(name, ttl_ms=LONG_MS):
        first = asyncio.create_task(enter(client.lock(name, ttl_ms=LONG_MS, wait_ms=LONG_MS)))
        await queue_of(client, name, 1)
        second = asyncio.create_task(
            client.locks.acquire(name, "next", ttl_ms=LONG_MS, wait_ms=LONG_MS)
        )
        await queue_of(client, name, 2)
        first.cancel()
        await asyncio.wait([first])
    async with asyncio.timeout(WITHIN_S):
        lease = await second
    assert (await client.locks.get(name)).queue_length == 0
    await client.locks.release(name, "next", lease.fencing_token)


async def test_who_is_cancelled_makes_room_for_the_next(nodes: Nodes) -> None:
    await nodes.put_right()
    async with client_of(nodes) as client:
        await give_up_and_let_the_next_in(client, "direct")


@pytest.mark.haproxy
async def test_who_is_cancelled_makes_room_through_a_balancer_too(
    nodes: Nodes, tmp_path: Path
) -> None:
    """The balancer sends each request to whichever node it likes."""
    await nodes.put_right()
    ports = {name: nodes.cluster.place(name).api_port for name in nodes.names}
    async with (
        balancing(ports, tmp_path) as balancer,
        Client([balancer.clients], discover=False, timeout_ms=20_000) as client,
    ):
        for turn in range(4):
            await give_up_and_let_the_next_in(client, f"balanced-{turn}")


async def test_many_who_are_cancelled_together_all_leave(nodes: Nodes) -> None:
    await nodes.put_right()
    async with client_of(nodes) as client, client.lock("crowd", ttl_ms=LONG_MS):
        crowd = [
            asyncio.create_task(enter(client.lock("crowd", ttl_ms=LONG_MS, wait_ms=LONG_MS)))
            for _ in range(100)
        ]
        await queue_of(client, "crowd", 100)
        for each in crowd:
            each.cancel()
        await asyncio.wait(crowd)
        await queue_of(client, "crowd", 0)


async def test_closing_the_client_empties_the_queue_before_it_returns(nodes: Nodes) -> None:
    await nodes.put_right()
    async with client_of(nodes) as holder, holder.lock("closed", ttl_ms=LONG_MS):
        async with client_of(nodes) as client:
            waiting = asyncio.create_task(
                enter(client.lock("closed", ttl_ms=LONG_MS, wait_ms=LONG_MS))
            )
            await queue_of(holder, "closed", 1)
        assert (await holder.locks.get("closed")).queue_length == 0
        with pytest.raises(ClientClosedError):
            await waiting


async def acquires_counted(nodes: Nodes, name: str) -> int:
    """How many requests for locks a node has answered, or let go of."""
    async with aiohttp.ClientSession() as session:
        url = f"{nodes.cluster.place(name).url}/metrics"
        async with session.get(url) as response:
            text = await response.text()
    counted = re.findall(
        r"^tidelock_http_request_duration_seconds_count{.*/acquire\".*} (\S+)$", text, re.MULTILINE
    )
    return sum(int(float(each)) for each in counted)


async def test_a_request_that_a_paused_node_reads_later_is_refused(nodes: Nodes) -> None:
    """It was sent, its client was cancelled, and only then does anybody read it."""
    await nodes.put_right()
    leader = await nodes.leader()
    slow, other = (name for name in nodes.names if name != leader)
    before = await acquires_counted(nodes, slow)
    nodes.cluster.pause(slow)
    try:
        async with client_of(nodes, slow, other) as client:
            entering = asyncio.create_task(
                enter(client.lock("late", ttl_ms=LONG_MS, wait_ms=LONG_MS))
            )
            await asyncio.sleep(1)  # it lies in the socket of the node that does not run
            # What follows is to reach the other node alone.
            client._transport.nodes.avoid(URL(nodes.cluster.place(slow).url))
            entering.cancel()
            await asyncio.wait([entering])
    finally:
        nodes.cluster.resume(slow)

    async def is_read() -> bool:
        return await acquires_counted(nodes, slow) > before

    await nodes.eventually(is_read)
    async with client_of(nodes, other) as client:
        view = await client.locks.get("late")
        assert (view.holder, view.queue_length) == (None, 0)
        lease = await client.locks.acquire("late", "other", ttl_ms=1_000)
        assert lease.owner == "other"


async def test_a_client_that_is_closed_gets_past_a_paused_node_with_its_farewell(
    nodes: Nodes,
) -> None:
    await nodes.put_right()
    leader = await nodes.leader()
    slow, other = (name for name in nodes.names if name != leader)
    async with client_of(nodes, other) as holder, holder.lock("left", ttl_ms=LONG_MS):
        async with client_of(nodes, other, slow) as client:
            waiting = asyncio.create_task(
                enter(client.lock("left", ttl_ms=LONG_MS, wait_ms=LONG_MS))
            )
            await queue_of(holder, "left", 1)
            client._transport.nodes.avoid(URL(nodes.cluster.place(other).url))
            nodes.cluster.pause(slow)
        try:
            assert (await holder.locks.get("left")).queue_length == 0
        finally:
            nodes.cluster.resume(slow)
        with pytest.raises(ClientClosedError):
            await waiting


async def test_a_killed_node_takes_no_place_along(nodes: Nodes) -> None:
    """The one where the request waits dies in the moment of the cancellation."""
    await nodes.put_right()
    leader = await nodes.leader()
    dying, other = (name for name in nodes.names if name != leader)
    async with (
        client_of(nodes, other) as holder,
        client_of(nodes, dying, other) as client,
        holder.lock("killed", ttl_ms=LONG_MS),
    ):
        entering = asyncio.create_task(
            enter(client.lock("killed", ttl_ms=LONG_MS, wait_ms=LONG_MS))
        )
        await queue_of(holder, "killed", 1)
        nodes.cluster.kill(dying)
        entering.cancel()
        await asyncio.wait([entering])
        await queue_of(holder, "killed", 0)
        with pytest.raises(LockHeldError):
            await client.locks.acquire("killed", "c", ttl_ms=1_000)


async def toggle(client: Client, batches: int) -> None:
    """Let 1,000 participants join and leave again and again: a change for each."""
    names = [f"{number:04}-{'p' * 120}" for number in range(1_000)]
    for turn in range(batches):
        op = "participant.leave" if turn % 2 else "participant.join"
        await client.batches.run([{"op": op, "nodeId": name} for name in names])


async def test_a_watch_is_told_when_what_it_wants_is_no_longer_kept(nodes: Nodes) -> None:
    """At its beginning; and in its middle, when its reader is much slower than the cluster."""
    await nodes.put_right()
    async with client_of(nodes) as client:
        await client.participants.join("first")
        told = client.watch(after="0", kinds=["participant.*"])
        first = await anext(told)
        # More than the buffers on the way from the node to here hold.
        await toggle(client, BATCHES)
        entry, _ = entry_of(first.id)
        oldest = await trimmed(client, first.id, entry + BATCHES - 5)
        kept = await anext(client.watch(after=oldest, kinds=["participant.*"]))
        assert entry_of(kept.id) >= entry_of(oldest)

        places = [entry_of(first.id)]
        with pytest.raises(CompactedError):
            await follow(told, places)
        assert places == sorted({*places})
        assert len(places) > 100


async def trimmed(client: Client, after: str, upto: int) -> str:
    """Return the oldest position that is kept, once almost nothing is."""
    async with asyncio.timeout(60):
        while True:
            try:
                await anext(client.watch(after=after))
            except CompactedError as compacted:
                oldest = compacted.oldest
                assert oldest is not None
                if entry_of(oldest)[0] >= upto:
                    return oldest
            await asyncio.sleep(0.1)


async def follow(told: AsyncIterator[Applied], places: list[tuple[int, int]]) -> None:
    async with asyncio.timeout(60):
        async for applied in told:
            places.append(entry_of(applied.id))


def entry_of(position: str) -> tuple[int, int]:
    entry, _, place = position.partition(".")
    return int(entry), int(place)
