"""The scripts' client tells done, not done and unknown apart, and repeats only what is safe."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from scripts.tidelock_scripts.client import (
    ClusterClient,
    NotDoneError,
    OutcomeUnknownError,
    new_idempotency_key,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ATTEMPT_S = 0.3
DEADLINE_S = 0.8


class FakeNodes:
    """Servers that answer as told and keep the keys that they saw."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.keys: dict[str, list[str]] = {}
        self._servers: list[TestServer] = []

    async def add(self, node_id: str, handler: Handler) -> None:
        self.keys[node_id] = []

        async def noted(request: web.Request) -> web.StreamResponse:
            self.keys[node_id].append(request.headers.get("Idempotency-Key", ""))
            return await handler(request)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", noted)
        server = TestServer(application, host="127.0.0.1")
        await server.start_server()
        self._servers.append(server)
        self.addresses[node_id] = f"127.0.0.1:{server.port}"

    def add_dead(self, node_id: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            self.addresses[node_id] = f"127.0.0.1:{closed.getsockname()[1]}"

    async def close(self) -> None:
        for server in self._servers:
            await server.close()

    def client(self) -> ClusterClient:
        return ClusterClient(self.addresses, attempt_timeout_s=ATTEMPT_S)


@pytest.fixture
async def nodes() -> AsyncIterator[FakeNodes]:
    fakes = FakeNodes()
    yield fakes
    await fakes.close()


async def fine(_: web.Request) -> web.StreamResponse:
    return web.json_response({"done": True})


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(ATTEMPT_S * 4)
    return web.json_response({})


def answers(status: int, code: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"code": code}, status=status)

    return handler


async def test_a_silent_node_is_left_for_another_one_under_the_same_key(nodes: FakeNodes) -> None:
    await nodes.add("n1", silent)
    await nodes.add("n2", fine)
    async with nodes.client() as client:
        answer = await client.post("/event", {}, via="n1")
    assert (answer.node_id, answer.attempts, answer.body) == ("n2", 2, {"done": True})
    assert nodes.keys["n1"] == nodes.keys["n2"] != [""]


async def test_an_unknown_outcome_is_repeated_until_it_is_known(nodes: FakeNodes) -> None:
    await nodes.add("n1", answers(503, "OUTCOME_UNKNOWN"))
    await nodes.add("n2", fine)
    async with nodes.client() as client:
        assert (await client.post("/event", {}, via="n1")).ok


async def test_a_refusal_is_an_answer_and_is_not_repeated(nodes: FakeNodes) -> None:
    await nodes.add("n1", answers(422, "INVALID"))
    await nodes.add("n2", fine)
    async with nodes.client() as client:
        answer = await client.post("/event", {}, via="n1")
    assert answer.status == 422
    assert nodes.keys["n2"] == []


async def test_what_nobody_took_is_not_done(nodes: FakeNodes) -> None:
    nodes.add_dead("n1")
    await nodes.add("n2", answers(503, "NO_QUORUM"))
    await nodes.add("n3", answers(429, "OVERLOADED"))
    async with nodes.client() as client:
        with pytest.raises(NotDoneError):
            await client.post("/event", {}, via="n1", deadline_s=DEADLINE_S)


async def test_what_somebody_may_have_taken_stays_unknown_whatever_the_others_say(
    nodes: FakeNodes,
) -> None:
    await nodes.add("n1", silent)
    await nodes.add("n2", answers(503, "NO_QUORUM"))
    async with nodes.client() as client:
        with pytest.raises(OutcomeUnknownError):
            await client.post("/event", {}, via="n1", deadline_s=DEADLINE_S)


async def test_without_retries_each_ending_is_told_at_once(nodes: FakeNodes) -> None:
    nodes.add_dead("n1")
    await nodes.add("n2", silent)
    await nodes.add("n3", answers(503, "OUTCOME_UNKNOWN"))
    await nodes.add("n4", answers(503, "NO_QUORUM"))
    async with nodes.client() as client:
        for via, ending in (
            ("n1", NotDoneError),
            ("n2", OutcomeUnknownError),
            ("n3", OutcomeUnknownError),
            ("n4", NotDoneError),
        ):
            with pytest.raises(ending):
                await client.post("/event", {}, via=via, retry=False)
    assert [len(keys) for keys in nodes.keys.values()] == [1, 1, 1]


async def test_a_read_goes_to_another_node_and_carries_no_key(nodes: FakeNodes) -> None:
    nodes.add_dead("n1")
    await nodes.add("n2", fine)
    async with nodes.client() as client:
        assert (await client.get("/clock", via="n1")).node_id == "n2"
    assert nodes.keys["n2"] == [""]


async def test_asking_one_node_asks_no_other(nodes: FakeNodes) -> None:
    nodes.add_dead("n1")
    await nodes.add("n2", fine)
    async with nodes.client() as client:
        assert await client.ask("n1", "/health/ready") is None
    assert nodes.keys["n2"] == []


def test_keys_are_uuids_of_version_7_in_the_order_of_time() -> None:
    first, second = UUID(new_idempotency_key()), UUID(new_idempotency_key())
    assert first != second
    assert {first.version, second.version} == {7}
    assert first.int >> 80 <= second.int >> 80
