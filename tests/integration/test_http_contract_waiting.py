"""Requests that wait for a lock: their turn, their deadline, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api.cluster import NoQuorumError, OutcomeUnknownError
from api.settings import ApiSettings
from statemachine.commands import (
    AbandonLock,
    AcquireLock,
    AnyCommand,
    CancelWait,
    IdempotencyKey,
    ReleaseLock,
)
from statemachine.lock_rows import get_lock
from statemachine.outcomes import RequestOutcome
from tests.integration.local_cluster import LocalCluster
from tests.integration.serving import LOCKS, Answered, Api, serving

LOCK = f"{LOCKS}/stock"
ACQUIRE = f"{LOCK}/acquire"
SOON_S = 10.0


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


def waiters(cluster: LocalCluster) -> list[str]:
    return [each.owner for each in get_lock(cluster.store, "stock", limit=100).waiters]


def holders(cluster: LocalCluster) -> list[str]:
    return [each.owner for each in get_lock(cluster.store, "stock", limit=100).holders]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.001)


async def acquire(api: Api, owner: str, *, wait_ms: int = 60_000, **headers: str) -> Answered:
    body = {"owner": owner, "ttlMs": 60_000, "waitMs": wait_ms}
    return await api.post(ACQUIRE, body, **headers)


async def release(api: Api, owner: str, token: int) -> None:
    body = {"owner": owner, "fencingToken": token}
    assert (await api.post(f"{LOCK}/release", body)).status == 200


async def waiting(api: Api, owner: str, **more: Any) -> asyncio.Task[Answered]:
    """Send a request that waits, and return once it does."""
    before = len(waiters(api.cluster))
    task = asyncio.create_task(acquire(api, owner, **more))
    await until(lambda: len(waiters(api.cluster)) > before)
    return task


async def answer(task: asyncio.Task[Answered]) -> Answered:
    return await asyncio.wait_for(task, SOON_S)


@asynccontextmanager
async def client(api: Api, owner: str, *headers: str) -> AsyncIterator[Callable[[], None]]:
    """A client that sends a request and can go away before it is answered."""
    body = json.dumps({"owner": owner, "ttlMs": 60_000, "waitMs": 60_000})
    head = [
        f"POST {ACQUIRE} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())
    try:
        yield writer.close
    finally:
        writer.close()
        await writer.wait_closed()


class MeddlingCluster(LocalCluster):
    """Calls `meddle` with each command before it is proposed."""

    meddle: Callable[[AnyCommand], Awaitable[None]] | None = None

    async def propose(
        self,
        commands: Sequence[AnyCommand],
        *,
        timeout_ms: int,
        idempotency: IdempotencyKey | None = None,
    ) -> RequestOutcome:
        if self.meddle is not None:
            await self.meddle(commands[0])
        return await super().propose(commands, timeout_ms=timeout_ms, idempotency=idempotency)


@pytest.fixture
async def meddled() -> AsyncIterator[tuple[Api, MeddlingCluster]]:
    cluster = MeddlingCluster()
    async with serving(cluster) as served:
        yield served, cluster


# Turns


async def test_who_waits_is_answered_when_its_turn_comes(api: Api) -> None:
    await acquire(api, "a")
    b = await waiting(api, "b")
    c = await waiting(api, "c")
    await release(api, "a", 1)
    granted = await answer(b)
    assert (granted.status, granted.body["owner"], granted.body["fencingToken"]) == (200, "b", 2)
    assert not c.done()
    await release(api, "b", 2)
    assert (await answer(c)).body["fencingToken"] == 3


async def test_a_lease_begins_with_the_grant_and_not_with_the_wait(api: Api) -> None:
    await acquire(api, "a")
    b = await waiting(api, "b", wait_ms=600_000)
    api.cluster.let_pass(50_000)
    await release(api, "a", 1)
    assert (await answer(b)).body["expiresAt"] == api.cluster.wall_ms + 60_000


async def test_the_end_of_a_lease_answers_who_waits(api: Api) -> None:
    await acquire(api, "a")
    b = await waiting(api, "b", wait_ms=600_000)
    api.cluster.let_pass(60_000)
    assert (await answer(b)).body["fencingToken"] == 2


async def test_the_answer_reflects_the_position_of_the_grant(api: Api) -> None:
    await acquire(api, "a")
    b = await waiting(api, "b")
    await release(api, "a", 1)
    entry = int((await answer(b)).headers["Tidelock-Index"].partition(".")[0])
    assert entry >= 3


async def test_a_queue_is_shown(api: Api) -> None:
    await acquire(api, "a")
    tasks = [await waiting(api, owner) for owner in ("b", "c")]
    shown = (await api.get(LOCK)).body
    assert shown["queueLength"] == 2
    assert shown["queue"] == [
        {"owner": "b", "mode": "EXCLUSIVE"},
        {"owner": "c", "mode": "EXCLUSIVE"},
    ]
    for task in tasks:
        task.cancel()


# Ends of waits


async def test_a_wait_that_is_over_is_refused_with_the_holder(api: Api) -> None:
    await acquire(api, "a")
    b = await waiting(api, "b", wait_ms=5_000)
    api.cluster.let_pass(4_999)
    assert not b.done()
    api.cluster.let_pass(1)
    refused = await answer(b)
    assert refused.refused == (409, "LOCK_HELD", [])
    assert refused.body["holder"]["owner"] == "a"
    assert refused.body["retryable"] is True


async def test_a_request_that_names_its_deadline_is_answered_by_then(api: Api) -> None:
    await acquire(api, "a")
    refused = await asyncio.wait_for(acquire(api, "b", Tidelock_Timeout_Ms="100"), SOON_S)
    assert refused.refused == (409, "LOCK_HELD", [])
    assert waiters(api.cluster) == []
    assert api.cluster.timeouts_ms[1] == 100


async def test_the_deadline_is_the_default_and_the_wait_unless_it_is_named() -> None:
    async with serving(settings=ApiSettings(default_timeout_ms=50)) as api:
        await acquire(api, "a")
        # Time stands still in this cluster, so that the wait does not end by itself.
        refused = await asyncio.wait_for(acquire(api, "b", wait_ms=100), SOON_S)
        assert refused.refused == (409, "LOCK_HELD", [])
        assert waiters(api.cluster) == []
        assert api.cluster.timeouts_ms[1] == 50


async def test_a_grant_that_comes_before_the_cancellation_is_the_answer(
    meddled: tuple[Api, MeddlingCluster],
) -> None:
    api, cluster = meddled
    await acquire(api, "a")

    async def release_first(command: AnyCommand) -> None:
        if isinstance(command, CancelWait):
            cluster.meddle = None
            await cluster.propose(
                (ReleaseLock(name="stock", owner="a", fencing_token=1),), timeout_ms=1_000
            )

    cluster.meddle = release_first
    granted = await asyncio.wait_for(acquire(api, "b", Tidelock_Timeout_Ms="50"), SOON_S)
    assert (granted.status, granted.body["fencingToken"]) == (200, 2)
    assert holders(cluster) == ["b"]


@pytest.mark.parametrize("fault", [NoQuorumError(), OutcomeUnknownError()])
async def test_when_nobody_knows_how_a_wait_ended_it_says_so_and_is_undone(
    meddled: tuple[Api, MeddlingCluster], fault: Exception
) -> None:
    api, cluster = meddled
    await acquire(api, "a")

    async def lose(command: AnyCommand) -> None:
        if isinstance(command, CancelWait):
            raise fault

    cluster.meddle = lose
    unknown = await asyncio.wait_for(acquire(api, "b", Tidelock_Timeout_Ms="50"), SOON_S)
    assert unknown.refused == (503, "OUTCOME_UNKNOWN", [])
    await until(lambda: waiters(cluster) == [])


async def test_with_a_key_an_unknown_wait_is_left_to_the_retry(
    meddled: tuple[Api, MeddlingCluster],
) -> None:
    api, cluster = meddled
    await acquire(api, "a")
    undone = []

    async def lose(command: AnyCommand) -> None:
        if isinstance(command, CancelWait):
            raise OutcomeUnknownError
        undone.append(isinstance(command, AbandonLock))

    cluster.meddle = lose
    lost = await acquire(api, "b", Idempotency_Key="k", Tidelock_Timeout_Ms="50")
    assert lost.code == "OUTCOME_UNKNOWN"
    assert waiters(cluster) == ["b"]
    assert not any(undone)
    cluster.meddle = None
    retried = asyncio.create_task(acquire(api, "b", Idempotency_Key="k"))
    await release(api, "a", 1)
    assert (await answer(retried)).body["fencingToken"] == 2


# Clients that go away


async def test_a_client_that_goes_leaves_the_queue(api: Api) -> None:
    await acquire(api, "a")
    async with client(api, "b") as go:
        await until(lambda: waiters(api.cluster) == ["b"])
        c = await waiting(api, "c")
        go()
        await until(lambda: waiters(api.cluster) == ["c"])
    await release(api, "a", 1)
    assert (await answer(c)).body["fencingToken"] == 2
    counted = (await api.get("/metrics")).content.decode().splitlines()
    assert any('status="499"' in line and "acquire" in line for line in counted)


async def test_who_went_while_its_grant_was_on_the_way_gives_it_back(
    meddled: tuple[Api, MeddlingCluster],
) -> None:
    api, cluster = meddled
    await acquire(api, "a")
    async with client(api, "b") as go:
        await until(lambda: waiters(cluster) == ["b"])
        c = await waiting(api, "c")

        async def release_first(command: AnyCommand) -> None:
            if isinstance(command, AbandonLock):
                cluster.meddle = None
                await release(api, "a", 1)
                assert holders(cluster) == ["b"]

        cluster.meddle = release_first
        go()
        assert (await answer(c)).body["fencingToken"] == 3
    assert holders(cluster) == ["c"]


async def test_who_went_before_it_heard_of_its_lock_gives_it_back(
    meddled: tuple[Api, MeddlingCluster],
) -> None:
    api, cluster = meddled
    reached, gone = asyncio.Event(), asyncio.Event()

    async def hold_up(command: AnyCommand) -> None:
        if isinstance(command, AcquireLock):
            reached.set()
            await gone.wait()

    cluster.meddle = hold_up
    async with client(api, "a") as go:
        await reached.wait()
        known = api.connections
        go()
        await until(lambda: api.connections < known)
        gone.set()
        await until(lambda: cluster.machine.lock_count == 0 and bool(cluster.machine.applied_index))
    assert holders(cluster) == []


async def test_what_the_owner_asked_for_again_is_not_taken_from_it(
    meddled: tuple[Api, MeddlingCluster],
) -> None:
    """Its first connection breaks, it connects again, and only then is the first one undone."""
    api, cluster = meddled
    await acquire(api, "a")
    async with client(api, "b") as go:
        await until(lambda: waiters(cluster) == ["b"])
        asked_again = []

        async def ask_again_first(command: AnyCommand) -> None:
            if isinstance(command, AbandonLock):
                cluster.meddle = None
                await release(api, "a", 1)
                assert (await acquire(api, "b")).body["fencingToken"] == 2
                asked_again.append(cluster.applied_position())

        cluster.meddle = ask_again_first
        go()
        await until(lambda: asked_again != [] and cluster.applied_position() > asked_again[0])
    assert holders(cluster) == ["b"]


async def test_with_a_key_the_wait_goes_on_without_its_client(api: Api) -> None:
    await acquire(api, "a")
    async with client(api, "b", "Idempotency-Key: k") as go:
        await until(lambda: waiters(api.cluster) == ["b"])
        c = await waiting(api, "c")
        known = api.connections
        go()
        await until(lambda: api.connections < known)
    assert waiters(api.cluster) == ["b", "c"]
    await release(api, "a", 1)
    retried = await answer(asyncio.create_task(acquire(api, "b", Idempotency_Key="k")))
    assert (retried.status, retried.body["fencingToken"]) == (200, 2)
    assert retried.headers["Idempotency-Replayed"] == "true"
    await release(api, "b", 2)
    await answer(c)


async def test_a_wait_that_is_abandoned_ends_at_whichever_node_it_waits(api: Api) -> None:
    await acquire(api, "a")
    async with serving(api.cluster) as other:
        b = await waiting(api, "b", Idempotency_Key="k")
        c = await waiting(api, "c")
        body = {"owner": "b", "idempotencyKey": "k"}
        abandoned = await other.post(f"{LOCK}/abandon", body)
        assert (abandoned.body["cancelled"], abandoned.body["released"]) == (True, False)
        assert (await answer(b)).code == "LOCK_HELD"
    assert waiters(api.cluster) == ["c"]
    await release(api, "a", 1)
    assert (await answer(c)).body["fencingToken"] == 2


async def test_a_retry_attaches_to_the_wait_at_any_node(api: Api) -> None:
    await acquire(api, "a")
    async with serving(api.cluster) as other:
        first = await waiting(api, "b", Idempotency_Key="k")
        second = asyncio.create_task(acquire(other, "b", Idempotency_Key="k"))
        await other.get(LOCK)
        assert waiters(api.cluster) == ["b"]
        await release(other, "a", 1)
        answers = [await answer(task) for task in (first, second)]
    assert [each.body["fencingToken"] for each in answers] == [2, 2]
    assert answers[0].content == answers[1].content
    assert holders(api.cluster) == ["b"]


# A node that stops


@pytest.mark.parametrize(
    ("headers", "code", "left"),
    [({}, "LOCK_HELD", []), ({"Idempotency_Key": "k"}, "OUTCOME_UNKNOWN", ["b"])],
)
async def test_a_node_that_stops_answers_those_who_wait_at_once(
    headers: dict[str, str], code: str, left: list[str]
) -> None:
    cluster = LocalCluster()
    async with serving(cluster) as other, serving(cluster) as api:
        await acquire(other, "a")
        b = await waiting(api, "b", **headers)
        await asyncio.wait_for(api.stop(), SOON_S)
        assert (await answer(b)).code == code
        assert waiters(cluster) == left
