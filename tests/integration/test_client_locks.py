"""Locks of the SDK: a holder knows when its lease can no longer be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from api.cluster import NoQuorumError as NoQuorum
from statemachine.commands import AnyCommand, IdempotencyKey
from statemachine.outcomes import RequestOutcome
from tests.integration.local_cluster import LocalCluster
from tests.integration.serving import Api, serving
from tidelock.client import Client, Lock
from tidelock.errors import FencingTokenStaleError, LockHeldError, LockLostError

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


async def test_a_stale_token_is_refused(client: Client) -> None:
    async with client.lock("l", ttl_ms=LONG_MS) as lock:
        pass
    with pytest.raises(FencingTokenStaleError):
        await client.locks.renew("l", lock.owner, lock.fencing_token)
