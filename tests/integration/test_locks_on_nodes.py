"""Locks of three real nodes: waits that outlive the leader, their node, or their client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import ClientError

from tests.integration.nodes import Nodes, Response, running_nodes

TTL_MS = 60_000
PATIENCE_MS = 20_000
SHORT_QUEUE = 150
LONG_QUEUE = 10_000


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("locks") / "cluster") as made:
        yield made


class Lock:
    """One lock, asked for through any node."""

    def __init__(self, nodes: Nodes, name: str) -> None:
        self._nodes = nodes
        self.path = f"/api/v1/locks/{name}"

    async def acquire(
        self,
        via: str,
        owner: str,
        *,
        ttl_ms: int = TTL_MS,
        wait_ms: int = 0,
        key: str | None = None,
        timeout_ms: int = PATIENCE_MS,
    ) -> Response:
        body = {"owner": owner, "ttlMs": ttl_ms, "waitMs": wait_ms}
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self._nodes.call(
            via, "POST", f"{self.path}/acquire", body, timeout_ms=timeout_ms, headers=headers
        )

    async def release(self, via: str, owner: str, token: int) -> Any:
        body = {"owner": owner, "fencingToken": token}
        return await self._nodes.post(via, f"{self.path}/release", body)

    async def waiting(self, via: str, owner: str, **more: Any) -> asyncio.Task[Response]:
        """Ask, and return once the request waits."""
        before = await self.queue_length(via)
        task = asyncio.create_task(self.acquire(via, owner, wait_ms=600_000, **more))
        await self.queued(via, before + 1)
        return task

    async def queued(self, via: str, count: int) -> None:
        async def long_enough() -> bool:
            return await self.queue_length(via) == count

        await self._nodes.eventually(long_enough)

    async def queue_length(self, via: str) -> int:
        return int((await self._nodes.get(via, self.path))["queueLength"])


def granted(response: Response, owner: str) -> int:
    """Return the token of a grant."""
    assert response.status == 200, response
    assert response.body["owner"] == owner
    return int(response.body["fencingToken"])


async def test_who_waits_at_one_node_gets_what_another_one_released(nodes: Nodes) -> None:
    await nodes.put_right()
    lock = Lock(nodes, "anywhere")
    first = granted(await lock.acquire("n1", "a"), "a")
    b = await lock.waiting("n2", "b")
    c = await lock.waiting("n3", "c")
    await lock.release("n3", "a", first)
    second = granted(await b, "b")
    await lock.release("n1", "b", second)
    assert first < second < granted(await c, "c")


async def test_a_wait_outlives_the_leader(nodes: Nodes) -> None:
    await nodes.put_right()
    leader = await nodes.leader()
    one, other = (name for name in nodes.names if name != leader)
    lock = Lock(nodes, "failover")
    first = granted(await lock.acquire(leader, "a"), "a")
    waiting = await lock.waiting(one, "b")
    nodes.cluster.kill(leader)
    await lock.release(other, "a", first)
    assert granted(await waiting, "b") > first


async def test_a_lease_that_ends_after_a_failover_is_handed_on(nodes: Nodes) -> None:
    await nodes.put_right()
    leader = await nodes.leader()
    one = next(name for name in nodes.names if name != leader)
    lock = Lock(nodes, "lease")
    first = granted(await lock.acquire(one, "a", ttl_ms=2_000), "a")
    waiting = await lock.waiting(one, "b")
    nodes.cluster.kill(leader)
    second = granted(await waiting, "b")
    assert second > first
    stale = await nodes.call(
        one, "POST", f"{lock.path}/renew", {"owner": "a", "fencingToken": first}
    )
    assert (stale.status, stale.body["code"]) == (409, "FENCING_TOKEN_STALE")
    verdict = await nodes.post(one, f"{lock.path}/verify", {"fencingToken": first})
    assert verdict == {"valid": False}
    assert await nodes.post(one, f"{lock.path}/verify", {"fencingToken": second}) == {"valid": True}


async def test_a_retry_finds_its_wait_again_when_the_node_it_was_at_is_gone(nodes: Nodes) -> None:
    await nodes.put_right()
    leader = await nodes.leader()
    one, other = (name for name in nodes.names if name != leader)
    lock = Lock(nodes, "retried")
    first = granted(await lock.acquire(one, "a"), "a")
    lost = await lock.waiting(leader, "b", key="retried-b")
    nodes.cluster.kill(leader)
    with pytest.raises(ClientError):
        await lost
    retried = asyncio.create_task(lock.acquire(other, "b", wait_ms=600_000, key="retried-b"))
    await lock.release(one, "a", first)
    assert granted(await retried, "b") > first
    assert await lock.queue_length(one) == 0


async def test_who_hangs_up_leaves_the_queue(nodes: Nodes) -> None:
    await nodes.put_right()
    lock = Lock(nodes, "hung-up")
    first = granted(await lock.acquire("n1", "a"), "a")
    gone = await lock.waiting("n2", "b")
    c = await lock.waiting("n3", "c")
    gone.cancel()
    await lock.queued("n1", 1)
    await lock.release("n1", "a", first)
    granted(await c, "c")


async def test_without_a_majority_who_waits_is_told_so_at_its_deadline(nodes: Nodes) -> None:
    await nodes.put_right()
    lock = Lock(nodes, "alone")
    granted(await lock.acquire("n1", "a"), "a")
    waiting = await lock.waiting("n1", "b", timeout_ms=4_000)
    for node_id in ("n2", "n3"):
        nodes.cluster.kill(node_id)
    unknown = await waiting
    assert (unknown.status, unknown.body["code"]) == (503, "OUTCOME_UNKNOWN")
    await nodes.put_right()


async def serve_in_order(nodes: Nodes, name: str, length: int) -> None:
    """Let so many clients wait at three nodes; each releases when its turn comes."""
    await nodes.put_right()
    lock = Lock(nodes, name)
    # Nobody is served before all of them wait.
    first = granted(await lock.acquire("n1", "first", ttl_ms=3_600_000), "first")
    served: list[tuple[int, int]] = []

    async def wait(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        answer = json.loads(await reader.readexactly(size))
        assert head.startswith(b"HTTP/1.1 200"), answer
        served.append((number, answer["fencingToken"]))
        writer.close()
        await lock.release("n1", f"w{number}", answer["fencingToken"])

    waiting = []
    for number in range(length):
        place = nodes.cluster.place(nodes.names[number % 3])
        reader, writer = await asyncio.open_connection("127.0.0.1", place.api_port)
        body = json.dumps({"owner": f"w{number}", "ttlMs": TTL_MS, "waitMs": 3_600_000})
        writer.write(
            f"POST {lock.path}/acquire HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        waiting.append(asyncio.create_task(wait(number, reader, writer)))
        # Who asks later stands further behind only when the one before it stands already.
        await lock.queued(nodes.names[number % 3], number + 1)
    await lock.release("n1", "first", first)
    await asyncio.gather(*waiting)
    tokens = [token for _, token in served]
    assert [number for number, _ in served] == list(range(length))
    assert tokens == sorted(set(tokens))
    assert await lock.queue_length("n1") == 0


async def test_a_queue_is_served_in_the_order_of_asking(nodes: Nodes) -> None:
    await serve_in_order(nodes, "queue", SHORT_QUEUE)


@pytest.mark.long
@pytest.mark.timeout(1_800)
async def test_ten_thousand_who_wait_are_served_in_the_order_of_asking(nodes: Nodes) -> None:
    await serve_in_order(nodes, "long-queue", LONG_QUEUE)
