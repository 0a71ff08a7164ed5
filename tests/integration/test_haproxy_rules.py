"""What the shipped HAProxy configuration does with requests when a node fails them, with nodes that
fail on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.integration.haproxy import WITHIN_S, Balancer, balancing

pytestmark = pytest.mark.haproxy

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTidelock-Node: %b\r\n\r\nok"
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"


class PretendedNode:
    """Takes requests; what it does with them is set from outside."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.behaviour = "answer"
        """Or `hang up`, `refuse` with 503, or `hang`, which holds for its checks as well."""
        self.requests: list[str] = []
        """Methods, but for those of checks."""
        self.port = 0
        self._server: asyncio.Server
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for writer in self._connections:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer_one(reader, writer):
                await writer.drain()
        writer.transport.abort()
        self._connections.discard(writer)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        is_check = b" /health/" in head.partition(b"\r\n")[0]
        if not is_check:
            self.requests.append(head.partition(b" ")[0].decode())
        if self.behaviour == "hang":
            await asyncio.sleep(3600)
        if self.behaviour == "hang up" and not is_check:
            return False
        if self.behaviour == "refuse" and not is_check:
            writer.write(_UNAVAILABLE)
        else:
            writer.write(_OK % self.node_id.encode())
        return True


class Site:
    def __init__(self, nodes: list[PretendedNode], balancer: Balancer) -> None:
        self.nodes = nodes
        self.balancer = balancer

    async def ask(self, method: str) -> tuple[int, str]:
        """Return the status and who answered."""
        async with aiohttp.ClientSession() as session, session.request(
            method, f"http://{self.balancer.clients}/"
        ) as answer:  # fmt: skip
            return answer.status, answer.headers.get("Tidelock-Node", "")

    def all_behave(self, behaviour: str) -> None:
        for node in self.nodes:
            node.behaviour = behaviour

    def asked(self, method: str) -> int:
        """Return how often any node was sent such a request."""
        return sum(node.requests.count(method) for node in self.nodes)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    nodes = [PretendedNode(f"n{number}") for number in (1, 2, 3)]
    for node in nodes:
        await node.start()
    async with balancing({node.node_id: node.port for node in nodes}, tmp_path) as balancer:
        yield Site(nodes, balancer)
    for node in nodes:
        await node.stop()


async def test_a_write_that_reached_a_node_is_sent_to_no_other(site: Site) -> None:
    site.all_behave("hang up")
    assert await site.ask("POST") == (502, "")
    assert site.asked("POST") == 1
    site.all_behave("refuse")
    assert (await site.ask("POST"))[0] == 503
    assert site.asked("POST") == 2


@pytest.mark.parametrize("behaviour", ["hang up", "refuse"])
async def test_a_read_is_asked_of_another_node(site: Site, behaviour: str) -> None:
    *bad, good = site.nodes
    for node in bad:
        node.behaviour = behaviour
    for _ in range(6):
        assert await site.ask("GET") == (200, good.node_id)
    assert any(node.requests for node in bad)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_reaches_nobody_goes_to_another_node_at_once(
    site: Site, method: str
) -> None:
    *gone, good = site.nodes
    for node in gone:
        await node.stop()
    for _ in range(6):
        assert await site.ask(method) == (200, good.node_id)


async def test_who_waits_for_a_node_that_is_taken_out_is_let_go(site: Site) -> None:
    """Long before the timeouts, which are those of a request that waits for a lock."""
    (hanging, *others) = site.nodes
    hanging.behaviour = "hang"
    for node in others:
        node.behaviour = "hang up"
    asking = [asyncio.create_task(site.ask("POST")) for _ in range(3)]
    done, _ = await asyncio.wait(asking, timeout=WITHIN_S)
    assert len(done) == len(asking)
    assert hanging.requests
    assert await site.balancer.in_rotation() == {node.node_id for node in others}


async def test_three_checks_must_fail_and_two_succeed(site: Site) -> None:
    (node, *others) = site.nodes
    await node.stop()
    await site.balancer.expect({other.node_id for other in others})
    await node.start()
    await site.balancer.expect({each.node_id for each in site.nodes})
    checks = await site.balancer.checks(node.node_id)
    assert (checks["check_fall"], checks["check_rise"]) == ("3", "2")
