"""Tasks that are cancelled, and blocks that are interrupted, in whatever step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import tidelock
from tidelock import (
    Transaction,
)
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidelock_application")]


async def test_a_cancelled_block_is_rolled_back_before_its_task_ends(
    coordinator: Coordinator,
) -> None:
    begun: list[Transaction] = []

    async def work() -> None:
        async with tidelock.transaction() as transaction:
            begun.append(transaction)
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await _until(lambda: bool(begun))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun[0].status == "ROLLED_BACK"


async def test_a_task_cancelled_while_it_commits_has_committed(coordinator: Coordinator) -> None:
    begun: list[Transaction] = []

    async def work() -> None:
        async with tidelock.transaction() as transaction:
            begun.append(transaction)
            coordinator.fail_next("commit", "unavailable", times=3)

    task = asyncio.create_task(work())
    await _until(lambda: coordinator.requests("commit") > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun[0].status == "COMMITTED"


async def test_a_task_cancelled_while_it_rolls_back_is_cancelled_when_it_has(
    coordinator: Coordinator,
) -> None:
    begun: list[Transaction] = []

    async def work() -> None:
        async with tidelock.transaction() as transaction:
            begun.append(transaction)
            coordinator.fail_next("rollback", "unavailable", times=3)
            raise LookupError

    task = asyncio.create_task(work())
    await _until(lambda: coordinator.requests("rollback") > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun[0].status == "ROLLED_BACK"


async def test_a_task_cancelled_while_it_begins_leaves_nothing_under_way(
    coordinator: Coordinator,
) -> None:
    async def work() -> None:
        async with tidelock.transaction():
            pytest.fail("entered")

    coordinator.fail_next("begin", "unavailable", times=3)
    task = asyncio.create_task(work())
    await _until(lambda: coordinator.requests("begin") > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [kept.status for kept in coordinator.transactions()] == ["ROLLED_BACK"]


async def test_a_timeout_around_a_block_rolls_back_and_stays_a_timeout(
    coordinator: Coordinator,
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), tidelock.transaction() as transaction:
            await asyncio.sleep(60)
    assert transaction.status == "ROLLED_BACK"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_rolls_back_and_goes_on(
    coordinator: Coordinator, interruption: type[BaseException]
) -> None:
    with pytest.raises(interruption), tidelock.transaction(no_rollback_for=Exception) as begun:
        raise interruption
    assert begun.status == "ROLLED_BACK"


def test_an_interruption_goes_on_though_the_rollback_fails(
    coordinator: Coordinator, in_a_hurry: None
) -> None:
    with (
        coordinator.failing("rollback"),
        pytest.raises(KeyboardInterrupt),
        tidelock.transaction(end_wait_ms=0),
    ):
        raise KeyboardInterrupt


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.002)
