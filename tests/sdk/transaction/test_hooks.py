"""What hooks hear of a transaction, and what becomes of it when they fail."""

from __future__ import annotations

import asyncio

import pytest

import tidelock
from tidelock import (
    Transaction,
    TransactionHooks,
)
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidelock_application")]


class Noting(TransactionHooks):
    """Notes what is called, and what the code is bound to."""

    def __init__(self, fails_at: str = "") -> None:
        self.noted: list[str] = []
        self._fails_at = fails_at

    def _note(self, step: str, transaction: Transaction) -> None:
        bound = "inside" if tidelock.current_xid() else "outside"
        self.noted.append(f"{step} {bound} {transaction.status or '-'}")
        if step == self._fails_at:
            raise ArithmeticError(step)

    def before_begin(self, transaction: Transaction) -> None:
        self._note("before_begin", transaction)

    def after_begin(self, transaction: Transaction) -> None:
        self._note("after_begin", transaction)

    def before_commit(self, transaction: Transaction) -> None:
        self._note("before_commit", transaction)

    def after_commit(self, transaction: Transaction) -> None:
        self._note("after_commit", transaction)

    def before_rollback(self, transaction: Transaction) -> None:
        self._note("before_rollback", transaction)

    def after_rollback(self, transaction: Transaction) -> None:
        self._note("after_rollback", transaction)

    def after_completion(self, transaction: Transaction) -> None:
        self._note("after_completion", transaction)


COMMITTED_STEPS = [
    "before_begin outside -",
    "after_begin inside BEGIN",
    "before_commit inside BEGIN",
    "after_commit outside COMMITTED",
    "after_completion outside COMMITTED",
]


ROLLED_BACK_STEPS = [
    "before_begin outside -",
    "after_begin inside BEGIN",
    "before_rollback inside BEGIN",
    "after_rollback outside ROLLED_BACK",
    "after_completion outside ROLLED_BACK",
]


def test_hooks_hear_of_each_step_of_the_launcher_only() -> None:
    hooks, inner = Noting(), Noting()
    outer = tidelock.transaction(hooks=[hooks])
    with outer, tidelock.transaction(hooks=[inner]) as within, pytest.raises(RuntimeError):
        within.add_hooks(inner)
    assert hooks.noted == COMMITTED_STEPS
    assert inner.noted == []


def test_hooks_hear_of_rollbacks() -> None:
    hooks = Noting()
    with pytest.raises(LookupError), tidelock.transaction(hooks=[hooks]):
        raise LookupError
    assert hooks.noted == ROLLED_BACK_STEPS


def test_what_can_only_be_rolled_back_is_not_announced_as_a_commit() -> None:
    hooks = Noting()
    with tidelock.transaction(hooks=[hooks]) as transaction:
        transaction.set_rollback_only()
    assert hooks.noted == ROLLED_BACK_STEPS


async def test_hooks_may_be_async_and_be_added_later() -> None:
    heard: list[str] = []

    class Mail(TransactionHooks):
        async def after_commit(self, transaction: Transaction) -> None:
            await asyncio.sleep(0)
            heard.append(transaction.status)

    async with tidelock.transaction() as transaction:
        transaction.add_hooks(Mail())
    assert heard == ["COMMITTED"]


def test_async_hooks_in_plain_blocks_are_refused() -> None:
    class Mail(TransactionHooks):
        async def before_begin(self, transaction: Transaction) -> None:
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="asynchronous"), tidelock.transaction(hooks=[Mail()]):
        pytest.fail("entered")


def test_a_hook_that_fails_before_the_begin_begins_nothing(coordinator: Coordinator) -> None:
    with (
        pytest.raises(ArithmeticError),
        tidelock.transaction(hooks=[Noting("before_begin")]),
    ):
        pytest.fail("entered")
    assert coordinator.transactions() == []


@pytest.mark.parametrize("step", ["after_begin", "before_commit"])
def test_a_hook_that_fails_before_the_decision_rolls_back(
    coordinator: Coordinator, step: str
) -> None:
    hooks = Noting(step)
    with (
        pytest.raises(ArithmeticError),
        tidelock.transaction(hooks=[hooks], no_rollback_for=ArithmeticError),
    ):
        assert step != "after_begin"
    assert [kept.status for kept in coordinator.transactions()] == ["ROLLED_BACK"]
    assert hooks.noted[-2:] == ROLLED_BACK_STEPS[-2:]


@pytest.mark.parametrize("step", ["after_commit", "after_completion"])
def test_a_hook_that_fails_after_the_decision_is_logged(
    caplog: pytest.LogCaptureFixture, step: str
) -> None:
    with tidelock.transaction(hooks=[Noting(step)]) as transaction:
        pass
    assert transaction.status == "COMMITTED"
    assert step in caplog.text


@pytest.mark.parametrize("step", ["before_rollback", "after_rollback"])
def test_a_hook_that_fails_at_a_rollback_is_logged(
    caplog: pytest.LogCaptureFixture, step: str
) -> None:
    with pytest.raises(LookupError), tidelock.transaction(hooks=[Noting(step)]) as transaction:
        raise LookupError
    assert transaction.status == "ROLLED_BACK"
    assert step in caplog.text


def test_a_hook_may_ask_for_a_rollback_instead_of_the_commit() -> None:
    class Cautious(TransactionHooks):
        def before_commit(self, transaction: Transaction) -> None:
            transaction.set_rollback_only("not today")

    with tidelock.transaction(hooks=[Cautious()]) as transaction:
        pass
    assert (transaction.status, transaction.reason) == ("ROLLED_BACK", "not today")


def test_what_are_no_hooks_is_refused_where_it_is_given() -> None:
    with pytest.raises(TypeError, match="objects of a subclass of TransactionHooks"):
        tidelock.transaction(hooks=[object()])  # type: ignore[list-item]  # what is refused
    with pytest.raises(TypeError, match="an object of a subclass of UnitHooks"):
        tidelock.lcn_transaction(hooks=tidelock.UnitHooks)(lambda: None)  # type: ignore[call-overload]  # what is refused
