"""Blocks and functions that are global transactions, against a real coordinator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import tidelock
from tests.sdk.transaction.branching import branch
from tidelock import (
    Transaction,
    application,
)
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidelock_application")]


def test_a_block_that_ends_well_commits(coordinator: Coordinator) -> None:
    with tidelock.transaction("purchase", timeout_ms=30_000) as transaction:
        assert tidelock.current_xid() == transaction.xid
        assert tidelock.current_transaction() is transaction
        branch(coordinator, transaction.xid)
    assert transaction.status == "COMMITTED"
    kept = coordinator.transaction(transaction.xid)
    assert (kept.name, kept.status) == ("purchase", "COMMITTED")
    coordinator.assert_clean()


async def test_a_block_of_async_code_does_the_same(coordinator: Coordinator) -> None:
    async with tidelock.transaction("purchase") as transaction:
        assert tidelock.current_xid() == transaction.xid
        assert await asyncio.to_thread(tidelock.current_xid) == transaction.xid
    assert transaction.status == "COMMITTED"
    assert coordinator.transaction(transaction.xid).status == "COMMITTED"


def test_an_exception_rolls_back_and_comes_out_as_it_is(coordinator: Coordinator) -> None:
    error = LookupError("no stock\nof a-1")

    def fail() -> None:
        with tidelock.transaction("purchase") as transaction:
            xids.append(transaction.xid)
            branch(coordinator, transaction.xid)
            raise error

    xids: list[str] = []
    with pytest.raises(LookupError) as caught:
        fail()
    assert caught.value is error
    kept = coordinator.transaction(xids[0])
    assert (kept.status, kept.reason) == ("ROLLED_BACK", "LookupError: no stock of a-1")


async def test_an_exception_rolls_async_blocks_back(coordinator: Coordinator) -> None:
    with pytest.raises(LookupError):
        async with tidelock.transaction() as transaction:
            raise LookupError
    assert coordinator.transaction(transaction.xid).status == "ROLLED_BACK"


def test_a_function_is_a_block_and_keeps_its_name_and_its_value(coordinator: Coordinator) -> None:
    @tidelock.global_transaction(timeout_ms=1_234)
    def buy(sku: str, *, count: int = 1) -> str:
        """Buy."""
        return f"{count} {sku} in {tidelock.current_xid()}"

    bought = buy("a-1", count=2)
    (kept,) = coordinator.transactions()
    assert bought == f"2 a-1 in {kept.xid}"
    assert kept.name.endswith("buy")
    assert (buy.__name__, buy.__doc__) == ("buy", "Buy.")


async def test_an_async_function_is_a_block_too_without_parentheses(
    coordinator: Coordinator,
) -> None:
    @tidelock.global_transaction
    async def buy() -> str | None:
        await asyncio.sleep(0)
        return tidelock.current_xid()

    xids = await asyncio.gather(buy(), buy())
    assert sorted(map(str, xids)) == sorted(kept.xid for kept in coordinator.transactions())


def test_methods_are_blocks_of_their_own(coordinator: Coordinator) -> None:
    class Shop:
        @tidelock.global_transaction(name="buy")
        def buy(self) -> str | None:
            return tidelock.current_xid()

    shop = Shop()
    assert shop.buy() != shop.buy()
    assert [kept.name for kept in coordinator.transactions()] == ["buy", "buy"]


def test_a_function_of_a_long_name_is_known_by_the_end_of_it(coordinator: Coordinator) -> None:
    def buy() -> None: ...

    buy.__qualname__ = "é" * 100 + ".buy"
    tidelock.global_transaction(buy)()
    assert coordinator.transactions()[0].name == "é" * 62 + ".buy"


def test_generators_and_classes_are_refused_where_they_are_decorated() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="generator"):
            tidelock.global_transaction(function)
    with pytest.raises(TypeError, match="takes a function"):
        tidelock.global_transaction(type("Shop", (), {}))


def test_a_coroutine_that_a_plain_function_returns_is_refused(coordinator: Coordinator) -> None:
    async def work() -> None: ...

    @tidelock.global_transaction
    def buy() -> Awaitable[None]:
        return work()

    with pytest.raises(TypeError, match="async def"):
        buy()
    assert coordinator.transactions()[0].status == "ROLLED_BACK"


def test_bad_options_are_refused_where_they_are_written() -> None:
    with pytest.raises(ValueError, match="timeout_ms must be"):
        tidelock.global_transaction(timeout_ms=0)(lambda: None)
    with pytest.raises(ValueError, match="no name"):
        tidelock.transaction("a\nb")
    with pytest.raises(ValueError, match="no name"):
        tidelock.transaction("é" * 65)
    with pytest.raises(ValueError, match="SOMETIMES"):
        tidelock.transaction(propagation="SOMETIMES")


def test_a_block_is_used_once() -> None:
    block = tidelock.transaction()
    with block:
        pass
    with pytest.raises(RuntimeError, match="used once"):
        block.__enter__()


def test_without_an_application_it_says_how_to_configure_one() -> None:
    code = "import tidelock\nwith tidelock.transaction(): pass"
    with pytest.raises(tidelock.NotConfiguredError):
        _in_a_fresh_process_state(lambda: exec(code))


def _in_a_fresh_process_state(work: Callable[[], object]) -> None:
    before, application._default = application._default, None
    try:
        work()
    finally:
        application._default = before


def test_threads_and_tasks_have_transactions_of_their_own(coordinator: Coordinator) -> None:
    found: dict[int, str | None] = {}
    together = threading.Barrier(4, timeout=20)

    def work(number: int) -> None:
        with tidelock.transaction() as transaction:
            together.wait()
            found[number] = tidelock.current_xid()
            assert found[number] == transaction.xid

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found.values())) == 4


async def test_a_block_may_end_in_another_context_than_it_began_in() -> None:
    @asynccontextmanager
    async def around() -> AsyncIterator[Transaction]:
        async with tidelock.transaction() as transaction:
            yield transaction

    block = around()
    # Frameworks run the two halves of a fixture in tasks of their own.
    transaction = await asyncio.create_task(block.__aenter__())
    await asyncio.create_task(_exit(block))
    assert transaction.status == "COMMITTED"


async def _exit(block: Any) -> None:
    await block.__aexit__(None, None, None)


def test_a_participants_clock_records_the_beginning_and_the_end(coordinator: Coordinator) -> None:
    with tidelock.transaction("purchase", clock_participant="orders") as transaction:
        pass
    events = list(coordinator.client.iterate(lambda client: client.events.list()))
    told = [(event.event_type, event.event_data["status"]) for event in events]
    assert told == [("TRANSACTION_BEGIN", "BEGIN"), ("TRANSACTION_END", "COMMITTED")]
    assert all(event.event_data["xid"] == transaction.xid for event in events)


def test_several_applications_share_a_process(coordinator: Coordinator) -> None:
    with Coordinator() as other, other.application("billing") as billing:
        with tidelock.transaction() as outer:
            again = tidelock.transaction(application=billing, propagation="REQUIRES_NEW")
            with again as inner:
                assert tidelock.current_transaction() is inner
        assert coordinator.transaction(outer.xid).status == "COMMITTED"
        assert other.transaction(inner.xid).status == "COMMITTED"
