"""Blocks within blocks: joining, beginning anew, running without, asking for a rollback."""

from __future__ import annotations

import asyncio

import pytest

import tidelock
from tidelock import (
    Propagation,
    RollbackOnlyError,
    TransactionRolledBackError,
)
from tidelock.testing import Coordinator
from tidelock.transaction.context import current

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidelock_application")]


def test_a_launcher_that_asks_for_a_rollback_ends_quietly(coordinator: Coordinator) -> None:
    with tidelock.transaction() as transaction:
        transaction.set_rollback_only("sold out\n" + "again " * 200)
        assert transaction.rollback_only
    assert transaction.status == "ROLLED_BACK"
    assert coordinator.transaction(transaction.xid).reason.startswith("sold out again again")
    with pytest.raises(RuntimeError, match="nothing is under way"):
        transaction.set_rollback_only()


def test_a_participant_that_asks_for_a_rollback_makes_the_launcher_say_so(
    coordinator: Coordinator,
) -> None:
    @tidelock.global_transaction
    def take_stock() -> None:
        transaction = tidelock.current_transaction()
        assert transaction is not None
        transaction.set_rollback_only("sold out")

    marked: list[bool] = []

    def buy() -> None:
        with tidelock.transaction() as outer:
            take_stock()
            marked.append(outer.rollback_only)

    with pytest.raises(TransactionRolledBackError, match="sold out") as caught:
        buy()
    assert marked == [True]
    assert coordinator.transaction(caught.value.xid).status == "ROLLED_BACK"


def test_a_participant_of_another_process_tells_its_launcher_by_an_exception(
    coordinator: Coordinator,
) -> None:
    def serve() -> None:
        with tidelock.transaction() as transaction:
            assert transaction.role is tidelock.Role.PARTICIPANT
            assert transaction.remaining_ms is None
            transaction.set_rollback_only("sold out")

    begun = coordinator.client.run(lambda client: client.transactions.begin())
    with tidelock.bound(begun.xid), pytest.raises(RollbackOnlyError, match="sold out"):
        serve()
    assert coordinator.transaction(begun.xid).status == "BEGIN"


def test_a_block_within_a_block_only_joins(coordinator: Coordinator) -> None:
    with tidelock.transaction("outer") as outer, tidelock.transaction("inner") as inner:
        assert inner.xid == outer.xid
        assert (outer.role, inner.role) == (tidelock.Role.LAUNCHER, tidelock.Role.PARTICIPANT)
        assert inner.name == "outer"
        assert tidelock.current_transaction() is inner
    assert len(coordinator.transactions()) == 1
    assert coordinator.requests("commit") == 1


def test_a_launcher_that_catches_a_participants_exception_decides_itself(
    coordinator: Coordinator,
) -> None:
    with tidelock.transaction() as outer:
        with pytest.raises(LookupError), tidelock.transaction():
            raise LookupError
        assert not outer.rollback_only
    assert outer.status == "COMMITTED"


@pytest.mark.parametrize(
    ("propagation", "outside", "within"),
    [
        ("REQUIRED", "begins", "joins"),
        ("REQUIRES_NEW", "begins", "begins"),
        ("SUPPORTS", "without", "joins"),
        ("NOT_SUPPORTED", "without", "without"),
        ("MANDATORY", "TransactionRequiredError", "joins"),
        ("NEVER", "without", "TransactionNotAllowedError"),
    ],
)
async def test_a_block_does_what_its_propagation_says(
    propagation: str, outside: str, within: str
) -> None:
    async def enter(around: str | None) -> str:
        try:
            async with tidelock.transaction(propagation=propagation) as transaction:
                assert tidelock.current_xid() == (transaction.xid or None)
                if not transaction.xid:
                    return "without"
                return "joins" if transaction.xid == around else "begins"
        except tidelock.TransactionError as error:
            return type(error).__name__

    assert await enter(None) == outside
    async with tidelock.transaction() as around:
        assert await enter(around.xid) == within
        assert tidelock.current_transaction() is around


def test_a_new_transaction_within_another_one_has_an_outcome_of_its_own(
    coordinator: Coordinator,
) -> None:
    with tidelock.transaction() as outer:
        with tidelock.transaction(propagation=Propagation.REQUIRES_NEW) as inner:
            pass
        outer.set_rollback_only()
    assert (outer.status, inner.status) == ("ROLLED_BACK", "COMMITTED")
    assert len(coordinator.transactions()) == 2


def test_work_outside_of_a_suspended_transaction_asks_for_nothing(coordinator: Coordinator) -> None:
    with tidelock.transaction() as transaction:
        with tidelock.suspended():
            assert tidelock.current_xid() is None
        waiting = tidelock.suspend()
        assert waiting.xid == transaction.xid
        assert tidelock.current_xid() is None
        tidelock.resume(waiting)
        assert tidelock.current_transaction() is transaction
        with pytest.raises(RuntimeError, match="resumed before"):
            tidelock.resume(waiting)


def test_a_global_lock_holds_for_a_block_or_a_function_and_within_a_transaction() -> None:
    def held() -> bool:
        binding = current()
        return binding is not None and binding.global_lock

    @tidelock.global_lock
    def plain() -> bool:
        return held()

    @tidelock.global_lock
    async def awaited() -> bool:
        return held()

    assert plain()
    assert asyncio.run(awaited())
    assert not held()
    with tidelock.global_lock():
        assert held()
        with tidelock.suspended():
            assert held()
    with tidelock.transaction() as transaction, tidelock.global_lock():
        assert held()
        assert tidelock.current_transaction() is transaction
        with tidelock.transaction(propagation="NOT_SUPPORTED"):
            assert held()
            assert tidelock.current_xid() is None
