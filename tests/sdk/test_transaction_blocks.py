"""Blocks and functions that are global transactions, against a real coordinator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import tidelock
from tidelock import (
    Propagation,
    RollbackOnlyError,
    Transaction,
    TransactionHooks,
    TransactionRolledBackError,
    TransactionTimedOutError,
    application,
)
from tidelock.errors import BranchFailedError, BranchUnfinishedError
from tidelock.testing import Coordinator
from tidelock.transaction import scope
from tidelock.transaction.context import current

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidelock_application")]


@pytest.fixture
def coordinator(tidelock_coordinator: Coordinator) -> Coordinator:
    return tidelock_coordinator


@pytest.fixture(autouse=True)
def nothing_stays_bound() -> Iterator[None]:
    yield
    assert current() is None


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ends be tried for no longer than a test can wait."""
    monkeypatch.setattr(scope, "_LEAST_MS", 300)


def branch(coordinator: Coordinator, xid: str, status: str = "PHASE_ONE_DONE") -> int:
    """Register a branch of which nobody is told, and report how it went."""

    async def work(client: Any) -> int:
        registered = await client.branches.register(
            xid, "TCC", "stock", commit_url="", rollback_url=""
        )
        if status:
            await client.branches.report(xid, registered.branch_id, status)
        return int(registered.branch_id)

    return coordinator.client.run(work)


# --- launchers


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


# --- what may go wrong at the end


def test_a_block_that_lasts_too_long_is_rolled_back(coordinator: Coordinator) -> None:
    with pytest.raises(TransactionTimedOutError) as caught, tidelock.transaction() as transaction:
        coordinator.advance(60_001)
    assert caught.value.xid == transaction.xid
    assert caught.value.status == transaction.status == "TIMEOUT_ROLLED_BACK"
    assert isinstance(caught.value, TransactionRolledBackError)


async def test_a_failed_branch_makes_the_commit_a_rollback(coordinator: Coordinator) -> None:
    with pytest.raises(TransactionRolledBackError) as caught:
        async with tidelock.transaction() as transaction:
            branch(coordinator, transaction.xid, "PHASE_ONE_FAILED")
    assert isinstance(caught.value.__cause__, BranchFailedError)
    coordinator.assert_clean()
    assert coordinator.transaction(transaction.xid).status == "ROLLED_BACK"


def test_a_branch_that_never_reports_is_rolled_back_in_the_end(
    coordinator: Coordinator, in_a_hurry: None
) -> None:
    def run() -> None:
        with tidelock.transaction(timeout_ms=600, end_wait_ms=100) as transaction:
            branch(coordinator, transaction.xid, "")

    with pytest.raises(TransactionTimedOutError) as caught:
        run()
    assert isinstance(caught.value.__cause__, BranchUnfinishedError)
    coordinator.assert_clean()


def test_a_commit_whose_answer_is_lost_is_asked_for_again(coordinator: Coordinator) -> None:
    with tidelock.transaction() as transaction:
        coordinator.fail_next("commit", "lost")
    assert transaction.status == "COMMITTED"
    assert coordinator.requests("commit") > 1


def test_a_commit_that_nobody_confirms_is_unknown_and_names_its_transaction(
    coordinator: Coordinator, in_a_hurry: None
) -> None:
    with (
        coordinator.failing("commit", "lost"),
        pytest.raises(tidelock.TransactionOutcomeUnknownError) as caught,
        tidelock.transaction(timeout_ms=300, end_wait_ms=0) as transaction,
    ):
        pass
    assert caught.value.xid == transaction.xid
    assert isinstance(caught.value, tidelock.OutcomeUnknownError)
    assert coordinator.transaction(transaction.xid).status == "COMMITTED"


def test_a_rollback_that_nobody_confirms_hides_no_exception(
    coordinator: Coordinator, in_a_hurry: None
) -> None:
    def fail() -> None:
        with tidelock.transaction(end_wait_ms=0):
            raise LookupError("no stock")

    with coordinator.failing("rollback"), pytest.raises(LookupError) as caught:
        fail()
    (note,) = caught.value.__notes__
    assert "not confirmed" in note
    coordinator.advance(60_001)
    coordinator.assert_clean()


def test_what_an_operator_or_another_client_decided_is_told(coordinator: Coordinator) -> None:
    with pytest.raises(TransactionRolledBackError), tidelock.transaction() as transaction:
        coordinator.client.run(lambda client: client.transactions.rollback(transaction.xid))


def test_a_rollback_of_what_is_committed_is_never_reported_as_one(
    coordinator: Coordinator,
) -> None:
    def fail() -> None:
        with tidelock.transaction() as transaction:
            coordinator.client.run(lambda client: client.transactions.commit(transaction.xid))
            raise LookupError("too late")

    with pytest.raises(tidelock.RollbackFailedError, match="committed by somebody else") as caught:
        fail()
    assert isinstance(caught.value.__cause__, LookupError)


def test_when_nobody_can_begin_it_the_block_is_not_entered(coordinator: Coordinator) -> None:
    with (
        coordinator.application(timeout_ms=200) as application,
        coordinator.failing("begin"),
        pytest.raises(tidelock.TidelockError),
        tidelock.transaction(application=application),
    ):
        pytest.fail("entered")
    assert coordinator.transactions() == []


# --- rollback only


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


# --- participants


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


# --- propagation


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


# --- contexts


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


# --- interruptions


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


# --- rollback rules


def test_an_exception_that_does_not_roll_back_commits_and_comes_out() -> None:
    with (
        pytest.raises(LookupError),
        tidelock.transaction(no_rollback_for=LookupError) as transaction,
    ):
        raise LookupError
    assert transaction.status == "COMMITTED"


def test_a_commit_that_fails_after_such_an_exception_names_it_as_its_cause(
    coordinator: Coordinator,
) -> None:
    def run() -> None:
        with tidelock.transaction(no_rollback_for=LookupError):
            coordinator.advance(60_001)
            raise LookupError("harmless")

    with pytest.raises(TransactionTimedOutError) as caught:
        run()
    assert isinstance(caught.value.__cause__, LookupError)


# --- hooks


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


# --- clocks


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
