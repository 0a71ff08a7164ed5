"""Calls of an application go over its channel while there is one, and else over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tests.integration.fake_channel import FakeChannels, Line, Message, welcome
from tests.integration.recording_resource import Recording, until
from tidelock import Application
from tidelock.client import transport as transport_module
from tidelock.errors import OutcomeUnknownError, TransactionNotFoundError

Serve = Callable[[Line], Awaitable[None]]
BEGUN = {"xid": "n1:8", "status": "BEGIN", "name": "", "timeoutMs": 60_000}


class Node(FakeChannels):
    """A node that can be asked both ways."""

    def __init__(self, serve: Serve) -> None:
        super().__init__(serve)
        self.by_http: list[tuple[str, Any, str]] = []
        """Paths, bodies and keys."""

    async def begin(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        self.by_http.append((request.path, await request.json(), key))
        return web.json_response(BEGUN, status=201)


def answering(*responses: Message | None, takes_requests: bool = True) -> Serve:
    """Return what welcomes, and answers requests in turn; None hangs up instead."""

    async def serve(line: Line) -> None:
        await line.next("register")
        await line.say(welcome(takesRequests=takes_requests))
        for number, response in enumerate(responses, start=1):
            request = await line.next("request", number)
            if response is None:
                line.break_off()
                return
            await line.say({"type": "response", "requestId": request["requestId"], **response})

    return serve


@asynccontextmanager
async def applying(serve: Serve, **differently: Any) -> AsyncIterator[tuple[Node, Application]]:
    """Give a node, and an application whose channel leads there."""
    node = Node(serve)
    app = web.Application()
    app.router.add_get("/api/v1/rm/channel", node.handle)
    app.router.add_post("/api/v1/transactions", node.begin)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        application = Application(
            [address], application_id="orders", host="h1", discover=False, **differently
        )
        try:
            application.attach(Recording())
            await application.session_id(application.awaiting)
            yield node, application
        finally:
            await application.aclose(drain_ms=100)
    finally:
        await runner.cleanup()


async def begin(application: Application, name: str = "order", **options: Any) -> str:
    begun = await application.awaiting(lambda client: client.transactions.begin(name, **options))
    return begun.xid


async def test_calls_go_over_the_channel() -> None:
    async with applying(answering({"status": 201, "body": BEGUN})) as (node, application):
        assert await begin(application) == "n1:8"
        request = await node.lines[0].next("request")
        assert (request["method"], request["path"]) == ("POST", "/api/v1/transactions")
        assert request["body"] == {"name": "order"}
        assert len(request["key"]) > 10
        assert 0 < request["timeoutMs"] <= 5_000
        assert list(request)[-1] == "body"
        assert node.by_http == []


async def test_threads_go_the_same_way() -> None:
    async with applying(answering({"status": 201, "body": BEGUN})) as (node, application):

        def work() -> str:
            return application.client.run(lambda client: client.transactions.begin()).xid

        assert await asyncio.to_thread(work) == "n1:8"
        assert node.by_http == []


async def test_a_node_that_takes_no_requests_is_asked_over_http() -> None:
    async with applying(answering(takes_requests=False)) as (node, application):
        assert await begin(application) == "n1:8"
        assert [path for path, _, _ in node.by_http] == ["/api/v1/transactions"]


async def test_what_was_under_way_on_a_channel_that_broke_is_asked_again_under_its_key() -> None:
    async with applying(answering(None)) as (node, application):
        assert await begin(application, timeout_ms=20_000) == "n1:8"
        request = await node.lines[0].next("request")
        ((_, body, key),) = node.by_http
        assert (body, key) == (request["body"], request["key"])


async def test_so_is_what_was_not_answered_in_time() -> None:
    async def deaf(line: Line) -> None:
        await line.next("register")
        await line.say(welcome(takesRequests=True))

    async with applying(deaf) as (node, application):
        # The first attempt may take 2 s.
        assert await begin(application, timeout_ms=20_000) == "n1:8"
        assert node.by_http[0][2] == (await node.lines[0].next("request"))["key"]


async def test_nobody_knows_what_became_of_a_write_that_no_one_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_module, "_GRACE_S", 0.0)

    async def deaf(line: Line) -> None:
        await line.next("register")
        await line.say(welcome(takesRequests=True))

    async with applying(deaf) as (_, application):
        with pytest.raises(OutcomeUnknownError) as unknown:
            await begin(application, timeout_ms=200)
        assert "no answer came in time" in str(unknown.value)


async def test_what_is_refused_is_raised() -> None:
    problem = {"type": "urn:x", "title": "t", "detail": "d", "code": "TRANSACTION_NOT_FOUND"}
    refused = {"status": 404, "body": {**problem, "status": 404}}
    async with applying(answering(refused)) as (_, application):
        with pytest.raises(TransactionNotFoundError):
            await application.awaiting(lambda client: client.transactions.commit("n1:9"))


@pytest.mark.parametrize(
    "rubbish",
    [
        {"status": 201, "body": {"surprise": 1}},
        {"status": 201},
        {"status": 503, "body": [1]},
        {"status": 429, "body": {"status": 429, "code": "OVERLOADED", "detail": "full"}},
    ],
)
async def test_after_an_answer_that_decides_nothing_it_is_asked_again(rubbish: Message) -> None:
    async with applying(answering(rubbish, {"status": 201, "body": BEGUN})) as (node, application):
        assert await begin(application, timeout_ms=20_000) == "n1:8"
        first = await node.lines[0].next("request")
        keys = {key for _, _, key in node.by_http}
        keys |= {each["key"] for each in node.lines[0].heard if each["type"] == "request"}
        assert keys == {first["key"]}


async def test_what_answers_nobody_harms_nobody() -> None:
    stray = {"status": 201, "body": BEGUN, "requestId": 99}
    async with applying(answering(stray, {"status": 201, "body": BEGUN})) as (node, application):
        line = node.lines[0]
        await line.say({"type": "response", "requestId": 7, "status": 200, "body": None})
        begun = application.client.submit(lambda client: client.transactions.begin())
        await line.next("request")
        await line.say({"type": "response", "requestId": 1, "status": 201, "body": BEGUN})
        await until(begun.done)
        assert begun.result().xid == "n1:8"


async def test_what_is_too_large_for_a_message_goes_over_http() -> None:
    async with applying(answering()) as (node, application):
        await begin(application, "x" * 70_000)
        assert node.by_http[0][1] == {"name": "x" * 70_000}


async def test_who_leaves_leaves_nothing_behind() -> None:
    async def deaf(line: Line) -> None:
        await line.next("register")
        await line.say(welcome(takesRequests=True))

    async with applying(deaf) as (node, application):
        begun = application.client.submit(lambda client: client.transactions.begin())
        await node.lines[0].next("request")
        begun.cancel()
        runtime = application._runtime
        assert runtime is not None
        carried = runtime._session._carried
        assert carried is not None
        await until(lambda: not carried.under_way)
