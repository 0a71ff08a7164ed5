"""Locks of the SDK: a holder knows when its lease can no longer be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from api.cluster import NoQuorumError as NoQuorum
from api.cluster import OutcomeUnknownError as OutcomeUnknown
from statemachine.commands import AnyCommand, IdempotencyKey
from statemachine.outcomes import RequestOutcome
from tests.integration.local_cluster import LocalCluster
from tests.integration.serving import Api, serving
from tidelock.client import Client, Lock, farewells, leases
from tidelock.client.answers import LockLease
from tidelock.errors import (
    ClientClosedError,
    FencingTokenStaleError,
    LockHeldError,
    LockLostError,
    OutcomeUnknownError,
)

LONG_MS = 60_000


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client([f"http://127.0.0.1:{api.port}"], discover=False) as made:
        yield made


async def queued(client: Client, name: str) -> None:
    async with asyncio.timeout(10):
        while (await client.locks.get(name)).queue_length == 0:
            await asyncio.sleep(0.01)


async def test_a_lock_is_held_for_the_time_of_a_block(client: Client) -> None:
    async with client.lock("l", ttl_ms=LONG_MS) as lock:
        lock.check()
        assert 0 < lock.remaining_ms <= LONG_MS
        assert await client.locks.verify("l", lock.fencing_token)
        with pytest.raises(LockHeldError) as refused:
            async with client.lock("l", ttl_ms=LONG_MS):
                pass
        assert refused.value.holder is not None
        assert refused.value.holder.owner == lock.owner
        assert [each.name async for each in client.locks.list()] == ["l"]
    assert not await client.locks.verify("l", lock.fencing_token)
    with pytest.raises(LockLostError):
        lock.check()


async def test_who_waits_is_let_in_when_the_holder_leaves(client: Client) -> None:
    async def wait() -> Lock:
        async with client.lock("l", ttl_ms=LONG_MS, wait_ms=30_000) as lock:
            lock.check()
            return lock

    async with client.lock("l", ttl_ms=LONG_MS) as first:
        waiting = asyncio.create_task(wait())
        await queued(client, "l")
    second = await waiting
    assert second.fencing_token > first.fencing_token


async def test_a_grant_that_was_waited_for_longer_than_its_lease_is_renewed_at_once(
    client: Client,
) -> None:
    async def wait() -> int:
        async with client.lock("l", ttl_ms=2_000, wait_ms=30_000) as lock:
            return lock.remaining_ms

    async with client.lock("l", ttl_ms=LONG_MS):
        waiting = asyncio.create_task(wait())
        await queued(client, "l")
        await asyncio.sleep(2.1)
    assert await waiting > 0


class SlowCluster(LocalCluster):
    """Grants at once, and answers late."""

    async def propose(
        self,
        commands: Sequence[AnyCommand],
        *,
        timeout_ms: int,
        idempotency: IdempotencyKey | None = None,
    ) -> RequestOutcome:
        outcome = await super().propose(commands, timeout_ms=timeout_ms, idempotency=idempotency)
        await asyncio.sleep(0.3)
        return outcome


@asynccontextmanager
async def slow() -> AsyncIterator[tuple[Api, Client]]:
    async with serving(SlowCluster()) as api:
        client = Client([f"127.0.0.1:{api.port}"], discover=False)
        async with client:
            yield api, client


async def test_a_holder_counts_from_the_moment_it_asked() -> None:
    async with serving(SlowCluster()) as api:
        client = Client([f"127.0.0.1:{api.port}"], discover=False)
        async with client, client.lock("l", ttl_ms=LONG_MS) as lock:
            assert lock.remaining_ms <= LONG_MS - 300


async def test_a_lock_is_renewed_while_its_block_lasts(api: Api, client: Client) -> None:
    async with client.lock("l", ttl_ms=900) as lock:
        # The cluster's time moves by hand: only a renewal after this keeps the lease.
        api.cluster.let_pass(800)
        asked = len(api.cluster.timeouts_ms)
        async with asyncio.timeout(10):
            while len(api.cluster.timeouts_ms) == asked:
                await asyncio.sleep(0.01)
        api.cluster.let_pass(800)
        assert await client.locks.verify("l", lock.fencing_token)
        lock.check()


async def hold_until_lost(lock: Lock) -> None:
    async with lock:
        async with asyncio.timeout(10):
            await lock.lost.wait()
        with pytest.raises(LockLostError):
            lock.check()


async def held(client: Client, name: str) -> None:
    async with asyncio.timeout(10):
        while (await client.locks.get(name)).holder is None:
            await asyncio.sleep(0.01)


async def test_a_lease_that_is_over_in_the_cluster_is_lost(api: Api, client: Client) -> None:
    holding = asyncio.create_task(hold_until_lost(client.lock("l", ttl_ms=1_500)))
    await held(client, "l")
    api.cluster.let_pass(1_501)
    with pytest.raises(LockLostError):
        await holding


async def test_a_lease_that_cannot_be_renewed_is_lost_when_it_ends(
    api: Api, client: Client
) -> None:
    lock = client.lock("l", ttl_ms=600)
    holding = asyncio.create_task(hold_until_lost(lock))
    await held(client, "l")
    api.cluster.fault = NoQuorum()
    await lock.lost.wait()
    api.cluster.fault = None
    # The cluster's time stood still, so there the lease ran on: the holder is the careful one.
    assert (await client.locks.get("l")).holder is not None
    with pytest.raises(LockLostError):
        await holding


async def test_the_exception_of_a_block_is_not_hidden_by_the_loss(api: Api, client: Client) -> None:
    async def fail() -> None:
        async with client.lock("l", ttl_ms=LONG_MS):
            api.cluster.let_pass(LONG_MS + 1)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()


async def left(client: Client, name: str) -> None:
    """Return when nobody waits for the lock."""
    async with asyncio.timeout(10):
        while (await client.locks.get(name)).queue_length:
            await asyncio.sleep(0.01)


async def free(client: Client, name: str) -> None:
    """Return when nobody has the lock."""
    async with asyncio.timeout(10):
        while (await client.locks.get(name)).holder is not None:
            await asyncio.sleep(0.01)


async def enter(lock: Lock) -> None:
    async with lock:
        await asyncio.Event().wait()


async def test_who_is_cancelled_leaves_the_queue(client: Client) -> None:
    async with client.lock("l", ttl_ms=LONG_MS):
        waiting = asyncio.create_task(enter(client.lock("l", ttl_ms=LONG_MS, wait_ms=LONG_MS)))
        await queued(client, "l")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await left(client, "l")


async def test_a_call_that_is_cancelled_leaves_the_queue_too(client: Client) -> None:
    async with client.lock("l", ttl_ms=LONG_MS):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.locks.acquire("l", "b", ttl_ms=LONG_MS, wait_ms=LONG_MS)
        await left(client, "l")


async def test_under_a_key_of_its_own_a_cancelled_call_may_be_repeated(client: Client) -> None:
    def ask() -> asyncio.Task[LockLease]:
        return asyncio.create_task(
            client.locks.acquire("l", "b", ttl_ms=LONG_MS, wait_ms=LONG_MS, idempotency_key="k")
        )

    async with client.lock("l", ttl_ms=LONG_MS):
        first = ask()
        await queued(client, "l")
        first.cancel()
        await asyncio.wait([first])
        second = ask()
        assert (await client.locks.get("l")).queue_length == 1
    assert (await second).owner == "b"


async def test_a_grant_that_nobody_waits_for_any_more_goes_back() -> None:
    """The cluster has granted it; the answer is still on its way."""
    async with slow() as (api, client):
        entering = asyncio.create_task(enter(client.lock("l", ttl_ms=LONG_MS)))
        while api.cluster.machine.lock_count == 0:
            await asyncio.sleep(0.01)
        entering.cancel()
        await asyncio.wait([entering])
        await free(client, "l")


async def test_what_stays_unknown_is_undone_before_it_is_too_late(api: Api, client: Client) -> None:
    api.cluster.fault, api.cluster.lose_answers = OutcomeUnknown(), True
    async with Client([f"127.0.0.1:{api.port}"], discover=False, timeout_ms=300) as impatient:
        with pytest.raises(OutcomeUnknownError):
            await enter(impatient.lock("l", ttl_ms=LONG_MS))
        assert api.cluster.machine.lock_count == 1
        api.cluster.fault = None
        await free(client, "l")


async def test_a_block_that_is_cancelled_while_it_ends_gives_the_lock_back() -> None:
    async with slow() as (api, client):
        lock = client.lock("l", ttl_ms=LONG_MS)
        await lock.__aenter__()
        asked = len(api.cluster.timeouts_ms)
        api.cluster.fault = NoQuorum()
        leaving = asyncio.create_task(lock.__aexit__(None, None, None))
        while len(api.cluster.timeouts_ms) == asked:
            await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert lock.remaining_ms == 0
        api.cluster.fault = None
        await free(client, "l")


async def test_a_lock_that_could_not_be_given_back_is_so_as_soon_as_it_can(
    api: Api, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_RELEASE_TIMEOUT_MS", 100)
    async with client.lock("l", ttl_ms=LONG_MS):
        api.cluster.fault = NoQuorum()
    api.cluster.fault = None
    await free(client, "l")


async def test_closing_a_client_gives_up_what_it_waits_for(api: Api, client: Client) -> None:
    async with client.lock("l", ttl_ms=LONG_MS):
        other = Client([f"127.0.0.1:{api.port}"], discover=False)
        waiting = asyncio.create_task(enter(other.lock("l", ttl_ms=LONG_MS, wait_ms=LONG_MS)))
        await queued(client, "l")
        await other.close()
        assert (await client.locks.get("l")).queue_length == 0
        with pytest.raises(ClientClosedError):
            await waiting


async def test_closing_that_is_cancelled_closes_all_the_same(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewells, "PATIENCE_S", 60.0)
    client = Client([f"127.0.0.1:{api.port}"], discover=False)
    async with asyncio.timeout(20):
        lock = client.lock("l", ttl_ms=LONG_MS)
        await lock.__aenter__()
        api.cluster.fault = NoQuorum()
        lock.quit()
        closing = asyncio.create_task(client.close())
        while not client._transport.closing:
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
    assert all(session.closed for session in client._transport._sessions.values())


async def test_a_client_that_is_left_by_an_exception_leaves_nothing_behind(api: Api) -> None:
    async def fail() -> None:
        client = Client([f"127.0.0.1:{api.port}"], discover=False)
        async with client, asyncio.TaskGroup() as group, client.lock("l", ttl_ms=LONG_MS):
            group.create_task(enter(client.lock("l", ttl_ms=LONG_MS, wait_ms=LONG_MS)))
            await queued(client, "l")
            raise KeyError

    with pytest.raises(ExceptionGroup):
        await fail()
    async with Client([f"127.0.0.1:{api.port}"], discover=False) as client:
        view = await client.locks.get("l")
        assert (view.holder, view.queue_length) == (None, 0)


async def test_an_end_that_comes_after_the_acquisition_was_abandoned_is_no_error(
    client: Client,
) -> None:
    """Cancelled before its request was sent: there is nothing to undo, and nothing is left."""
    entering = asyncio.create_task(enter(client.lock("l", ttl_ms=LONG_MS)))
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    await free(client, "l")


async def test_a_stale_token_is_refused(client: Client) -> None:
    async with client.lock("l", ttl_ms=LONG_MS) as lock:
        pass
    with pytest.raises(FencingTokenStaleError):
        await client.locks.renew("l", lock.owner, lock.fencing_token)
