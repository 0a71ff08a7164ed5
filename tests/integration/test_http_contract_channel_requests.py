"""Requests of the HTTP contract over the channel: the same answers, each by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from api import carried_requests
from tests.integration.resource_manager import Message, ResourceManager, connected
from tests.integration.serving import TRANSACTIONS, Api, serving

SEPARATORS = (",", ":")

T = TypeVar("T")


async def ask(
    manager: ResourceManager, method: str, path: str, body: object = None, **more: Any
) -> None:
    """Send a request; its number is one more than that of the last."""
    manager.asked += 1
    message: Message = {"type": "request", "requestId": manager.asked, "method": method}
    message |= {"path": path, **more}
    if body is not None:
        message["body"] = body
    await manager.socket.send_str(json.dumps(message, separators=SEPARATORS))


async def answer(manager: ResourceManager, number: int) -> Message:
    def answers() -> list[Message]:
        told = [each for each in manager.heard if each["type"] == "response"]
        return [each for each in told if each["requestId"] == number]

    (found,) = await manager.until(lambda: answers() or (manager.socket.closed and [None]))
    assert found is not None, "the channel was closed"
    return dict(found)


async def asked(
    manager: ResourceManager, method: str, path: str, body: object = None, **more: Any
) -> tuple[int, Any]:
    """Send a request; return the status and the body of its answer."""
    await ask(manager, method, path, body, **more)
    response = await answer(manager, manager.asked)
    return response["status"], response["body"]


async def test_a_transaction_from_its_beginning_to_its_decision() -> None:
    async with serving() as api, connected(api.url) as manager:
        status, begun = await asked(manager, "POST", TRANSACTIONS, {"name": "order"})
        assert (status, begun["status"], begun["name"]) == (201, "BEGIN", "order")
        path = f"{TRANSACTIONS}/{begun['xid']}"
        branch = {"mode": "AT", "resourceId": "db", "lockKeys": {"t": [[1]]}}
        status, registered = await asked(manager, "POST", f"{path}/branches", branch)
        assert (status, registered["branchId"]) == (201, 1)
        status, shown = await asked(manager, "GET", f"{path}?consistency=local")
        assert (status, [each["branchId"] for each in shown["branches"]]) == (200, [1])
        decision = {"branchesDone": [1]}
        status, decided = await asked(manager, "POST", f"{path}/commit", decision)
        assert (status, decided["status"]) == (200, "ASYNC_COMMITTING")
        assert (await api.get(path)).body["status"] == "ASYNC_COMMITTING"


async def test_a_key_is_the_same_key_whichever_way_it_comes() -> None:
    async with serving() as api, connected(api.url) as manager:
        body = {"name": "order"}
        _, begun = await asked(manager, "POST", TRANSACTIONS, body, key="k1")
        _, again = await asked(manager, "POST", TRANSACTIONS, body, key="k1")
        content = json.dumps(body, separators=SEPARATORS).encode()
        headers = {"Idempotency-Key": "k1", "Content-Type": "application/json"}
        by_http = await api.call("POST", TRANSACTIONS, raw=content, headers=headers)
        assert begun["xid"] == again["xid"] == by_http.body["xid"]
        assert by_http.headers["Idempotency-Replayed"] == "true"
        status, problem = await asked(manager, "POST", TRANSACTIONS, {"name": "other"}, key="k1")
        assert (status, problem["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_who_waits_holds_up_nobody() -> None:
    async with serving() as api, connected(api.url) as manager:
        _, first = await asked(manager, "POST", TRANSACTIONS)
        _, second = await asked(manager, "POST", TRANSACTIONS)
        branch = {"mode": "AT", "resourceId": "db", "lockKeys": {"t": [[1]]}, "waitMs": 20_000}
        path = f"{TRANSACTIONS}/{first['xid']}/branches"
        await asked(manager, "POST", path, branch)
        await ask(manager, "POST", f"{TRANSACTIONS}/{second['xid']}/branches", branch)
        waiting = manager.asked
        status, _ = await asked(manager, "POST", f"{path}/1/report", {"status": "WITHDRAWN"})
        assert status == 200
        registered = await answer(manager, waiting)
        assert (registered["status"], registered["body"]["xid"]) == (201, second["xid"])


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (TRANSACTIONS, '{"name":7}', 422, "INVALID_FIELD"),
        (TRANSACTIONS, '{"name":"a","name":"b"}', 400, "DUPLICATE_KEY"),
        (TRANSACTIONS, "[" * 100 + "]" * 100, 422, "INVALID_FIELD"),
        (TRANSACTIONS, '{"name":"a","surprise":99999999999999999999999}', 422, "INVALID_FIELD"),
        (f"{TRANSACTIONS}/none/commit", "{}", 404, "TRANSACTION_NOT_FOUND"),
        (f"{TRANSACTIONS}/a/b/c", "{}", 404, "NOT_FOUND"),
        (f"{TRANSACTIONS}?surprise=1", "{}", 422, "INVALID_FIELD"),
        ("/api/v1/locks/a/acquire", "{}", 404, "NOT_FOUND"),
        ("/api/v1/watch", "{}", 404, "NOT_FOUND"),
    ],
)
async def test_what_is_refused_is_so_for_who_asked_alone(
    path: str, body: str, status: int, code: str
) -> None:
    async with serving() as api, connected(api.url) as manager:
        head = f'{{"type":"request","requestId":1,"method":"POST","path":"{path}"'
        await manager.socket.send_str(f'{head},"body":{body}}}')
        response = await answer(manager, 1)
        assert (response["status"], response["body"]["code"]) == (status, code)
        assert response["body"]["detail"]
        manager.asked = 1
        assert (await asked(manager, "POST", TRANSACTIONS))[0] == 201


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('{"type":"request","requestId":1,"method":"POST","path":"nowhere"}', "INVALID_FIELD"),
        ('{"type":"request","requestId":1,"method":"PUT","path":"/a"}', "INVALID_FIELD"),
        ('{"type":"request","method":"POST","path":"/a"}', "INVALID_FIELD"),
        ('{"type":"request","requestId":1,"method":"GET","path":"/a","x":1}', "INVALID_FIELD"),
        (
            '{"type":"request","requestId":1,"requestId":2,"method":"GET","path":"/a"}',
            "DUPLICATE_KEY",
        ),
        (
            '{"type":"request","requestId":1,"method":"POST","body":{},"path":"/a"}',
            "INVALID_FIELD",
        ),
        ('{"requestId":1,"type":"request","method":"GET","path":"/a"}', "INVALID_FIELD"),
        ('{"type":"request","requestId":1,"method":"GET","path":"/a","body":{}', "MALFORMED_JSON"),
    ],
)
async def test_what_is_no_request_ends_the_channel(message: str, code: str) -> None:
    async with serving() as api, connected(api.url) as manager:
        await manager.socket.send_str(message)
        assert await manager.ended() == 4400
        assert manager.heard[-1]["code"] == code


async def test_nobody_asks_before_it_has_registered() -> None:
    async with serving() as api, connected(api.url, registers=False) as manager:
        await ask(manager, "POST", TRANSACTIONS)
        assert await manager.ended() == 4400
        assert manager.heard[-1]["code"] == "NOT_REGISTERED"


async def test_only_so_many_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried_requests, "GREATEST_REQUESTS", 1)
    async with serving() as api, connected(api.url) as manager:
        blocked, status, code = await _while_one_waits(api, manager)
        assert (status, code) == (429, "OVERLOADED")
        assert (await answer(manager, blocked))["status"] == 200
        assert (await asked(manager, "POST", TRANSACTIONS))[0] == 201


async def _while_one_waits(api: Api, manager: ResourceManager) -> tuple[int, int, str]:
    """Ask while a commit waits for a branch; return its number, and what is answered."""
    _, begun = await asked(manager, "POST", TRANSACTIONS)
    path = f"{TRANSACTIONS}/{begun['xid']}"
    await asked(manager, "POST", f"{path}/branches", {"mode": "AT", "resourceId": "db"})
    await ask(manager, "POST", f"{path}/commit", {"waitMs": 20_000})
    waiting = manager.asked
    status, problem = await asked(manager, "POST", TRANSACTIONS)
    done = {"status": "PHASE_ONE_DONE"}
    assert (await api.post(f"{path}/branches/1/report", done)).status == 200
    return waiting, status, problem["code"]


async def test_with_the_channel_the_wait_is_over() -> None:
    async with serving() as api:
        async with connected(api.url) as manager:
            _, begun = await asked(manager, "POST", TRANSACTIONS)
            path = f"{TRANSACTIONS}/{begun['xid']}"
            await asked(manager, "POST", f"{path}/branches", {"mode": "AT", "resourceId": "db"})
            await ask(manager, "POST", f"{path}/commit", {"waitMs": 20_000})
            (waiting,) = await _until(lambda: under_way(api))
            await manager.hang_up()
            await asyncio.wait_for(waiting, 10.0)
        assert (await api.get(path)).body["status"] == "BEGIN"


def under_way(api: Api) -> Sequence[asyncio.Task[None]]:
    """Return the requests that are served on the one channel of a node."""
    (channel,) = api.channels._open.values()
    return channel.connection.requests


async def _until(found: Callable[[], T]) -> T:
    async with asyncio.timeout(20.0):
        while not (it := found()):
            await asyncio.sleep(0.005)
    return it
