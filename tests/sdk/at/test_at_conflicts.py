"""Rows of others: who waits, who is refused, and who changed what an undo would restore."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from typing import Any

import pytest

import tidelock
from tests.sdk.at_sources import Shop
from tidelock.at.errors import LockWaitTimeoutError, MixedTransactionsError, RowsLockedError
from tidelock.at.undo_log import DEFAULT_TABLES
from tidelock.at.units import local_transaction
from tidelock.crash_points import watched
from tidelock.errors import TidelockError
from tidelock.testing import Coordinator
from tidelock_testing.faults import Operation

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

EVERYWHERE = pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)
ONE = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

BEFORE = [(1, 10, "one"), (2, 20, "two"), (3, 30, "three")]


def holding(shop: Shop, statement: str) -> tuple[threading.Thread, threading.Event]:
    """Have another thread change a row in a global transaction, and commit when it is told to."""
    held, decide = threading.Event(), threading.Event()

    def work() -> None:
        with tidelock.transaction(application=shop.source.application):
            shop.execute(statement)
            held.set()
            assert decide.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(60)
    return thread, decide


def decide_after(shop: Shop, requests: int, operation: Operation, decide: threading.Event) -> None:
    """Have the other transaction decide once so many requests of a kind have come from now on."""
    wanted = shop.coordinator.requests(operation) + requests

    def watch() -> None:
        shop.coordinator.wait_until(lambda: shop.coordinator.requests(operation) >= wanted, 60)
        decide.set()

    threading.Thread(target=watch).start()


def finish(thread: threading.Thread, decide: threading.Event) -> None:
    decide.set()
    thread.join(60)
    assert not thread.is_alive()


@EVERYWHERE
def test_a_row_of_another_transaction_is_refused_with_its_holder(shop: Shop) -> None:
    thread, decide = holding(shop, "UPDATE t SET v = 11 WHERE id = 1")
    try:
        with (
            pytest.raises(RowsLockedError) as refused,
            tidelock.transaction(application=shop.source.application) as transaction,
        ):
            shop.execute("UPDATE t SET v = 21 WHERE id = 2", "UPDATE t SET v = 12 WHERE id = 1")
        holder = refused.value.holder
        assert holder is not None
        assert holder.xid not in {None, transaction.xid}
        assert holder.key == (1,)
        assert refused.value.lock_keys.keys() == {shop.full_name("t")}
    finally:
        finish(thread, decide)
    assert shop.rows() == [(1, 11, "one"), *BEFORE[1:]]


@EVERYWHERE
def test_a_unit_waits_for_rows_without_locks_and_is_run_again(shop: Shop) -> None:
    thread, decide = holding(shop, "UPDATE t SET v = v + 1 WHERE id = 1")
    attempts: list[int] = []

    @local_transaction(application=shop.source.application)
    def add() -> None:
        attempts.append(1)
        if len(attempts) == 2:
            assert decide.is_set()
        if len(attempts) == 1:
            # One that is refused, and one that waits.
            decide_after(shop, 2, "register", decide)
        shop.execute("UPDATE t SET v = v + 10 WHERE id = 1")

    with tidelock.transaction(application=shop.source.application):
        add()
    thread.join(60)
    assert len(attempts) >= 2
    assert shop.rows()[0] == (1, 21, "one")


@ONE
def test_a_unit_gives_up_when_its_time_is_over(shop: Shop) -> None:
    thread, decide = holding(shop, "UPDATE t SET v = v + 1 WHERE id = 1")

    @local_transaction(application=shop.source.application, lock_wait_timeout_ms=200)
    def add() -> None:
        shop.execute("UPDATE t SET v = v + 10 WHERE id = 1")

    try:
        with (
            pytest.raises(LockWaitTimeoutError, match="locked"),
            tidelock.transaction(application=shop.source.application),
        ):
            add()
    finally:
        finish(thread, decide)
    assert shop.rows()[0] == (1, 11, "one")


@EVERYWHERE
def test_a_plain_reader_sees_what_is_undecided_and_one_with_for_update_waits(shop: Shop) -> None:
    thread, decide = holding(shop, "UPDATE t SET v = 11 WHERE id = 1")
    assert shop.rows()[0] == (1, 11, "one")
    threading.Timer(0.3, decide.set).start()
    with tidelock.transaction(application=shop.source.application):
        (row,) = shop.execute(shop.for_update("SELECT v FROM t WHERE id = 1"))
        if shop.dialect != "sqlite":
            assert decide.is_set()
    finish(thread, decide)
    assert row == (11,)


@ONE
def test_work_under_a_global_lock_waits_at_the_coordinator(shop: Shop) -> None:
    thread, decide = holding(shop, "UPDATE t SET v = 11 WHERE id = 1")
    asked_before = shop.coordinator.requests("lock")
    decide_after(shop, 2, "lock", decide)

    @local_transaction(application=shop.source.application)
    @tidelock.global_lock
    def set_price() -> None:
        shop.execute("UPDATE t SET v = v + 100 WHERE id = 1")

    set_price()
    finish(thread, decide)
    assert shop.rows()[0] == (1, 111, "one")
    # Looked up, waited for, looked up again: it is not asked again and again meanwhile.
    assert shop.coordinator.requests("lock") - asked_before <= 4


@ONE
def test_who_waited_for_a_row_is_not_overtaken_while_its_work_is_done_again(shop: Shop) -> None:
    thread, decide = holding(shop, "UPDATE t SET v = 11 WHERE id = 1")
    attempts: list[int] = []

    @local_transaction(application=shop.source.application)
    def add() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            decide_after(shop, 2, "register", decide)
        else:
            # The row is this transaction's already, so nobody else can have it.
            (row,) = shop.coordinator.row_locks()
            assert [holder.xid for holder in row.holders] == [tidelock.current_xid()]
        shop.execute("UPDATE t SET v = v + 10 WHERE id = 1")

    with tidelock.transaction(application=shop.source.application) as transaction:
        add()
        assert len(attempts) == 2
        xid = transaction.xid
    finish(thread, decide)
    assert shop.rows()[0] == (1, 21, "one")
    assert xid is not None

    def ended() -> bool:
        branches = shop.coordinator.transaction(xid).branches
        return sorted(branch.status for branch in branches) == ["PHASE_TWO_COMMITTED", "WITHDRAWN"]

    shop.coordinator.wait_until(ended, what="the branch whose work counts is committed")


@EVERYWHERE
def test_a_global_lock_keeps_out_of_rows_of_transactions(shop: Shop) -> None:
    thread, decide = holding(shop, "UPDATE t SET v = 11 WHERE id = 1")
    try:
        with pytest.raises(RowsLockedError), tidelock.global_lock():
            shop.execute("UPDATE t SET v = 99 WHERE id = 1")
        with tidelock.global_lock():
            shop.execute("UPDATE t SET v = 29 WHERE id = 2")
    finally:
        finish(thread, decide)
    assert shop.rows() == [(1, 11, "one"), (2, 29, "two"), BEFORE[2]]
    shop.coordinator.assert_clean()
    assert shop.undo_rows() == []


@EVERYWHERE
def test_what_was_done_since_a_savepoint_to_which_it_went_back_is_no_matter(shop: Shop) -> None:
    def work() -> None:
        with shop.local() as cursor:
            cursor.execute("UPDATE t SET v = 11 WHERE id = 1")
            cursor.execute("SAVEPOINT a")
            cursor.execute("UPDATE t SET v = 21 WHERE id = 2")
            cursor.execute("SAVEPOINT b")
            cursor.execute("DELETE FROM t WHERE id = 3")
            cursor.execute("ROLLBACK TO SAVEPOINT b")
            cursor.execute("RELEASE SAVEPOINT b")
            cursor.execute("ROLLBACK TO SAVEPOINT a")
            cursor.execute("UPDATE t SET v = 31 WHERE id = 3")
            cursor.execute("RELEASE SAVEPOINT a")

    keys: list[Any] = []

    def and_look() -> None:
        work()
        keys.extend(row.key for row in shop.coordinator.row_locks())

    made = shop.undone_by(and_look)
    assert made == [(1, 11, "one"), (2, 20, "two"), (3, 31, "three")]
    assert sorted(keys) == [[1], [3]]
    assert shop.rows() == BEFORE


@EVERYWHERE
def test_several_local_transactions_are_several_branches_undone_backwards(shop: Shop) -> None:
    def work() -> None:
        shop.execute("UPDATE t SET v = v + 1 WHERE id = 1")
        shop.execute("UPDATE t SET v = v * 2 WHERE id = 1")
        shop.execute("DELETE FROM t WHERE id = 1")

    assert shop.undone_by(work) == BEFORE[1:]
    assert shop.rows() == BEFORE


@EVERYWHERE
def test_a_local_transaction_belongs_to_one_global_one(shop: Shop) -> None:
    connection = shop.connect()
    cursor = connection.cursor()
    shop.within(lambda: cursor.execute("UPDATE t SET v = 11 WHERE id = 1"))
    with pytest.raises(MixedTransactionsError, match="commit it"):
        cursor.execute("UPDATE t SET v = 21 WHERE id = 2")
    with pytest.raises(MixedTransactionsError, match="cannot belong"):
        shop.within(lambda: cursor.execute("UPDATE t SET v = 12 WHERE id = 1"))
    connection.rollback()
    connection.close()
    assert shop.rows() == BEFORE


@EVERYWHERE
def test_a_local_rollback_leaves_no_trace(shop: Shop, tidelock_coordinator: Coordinator) -> None:
    def work() -> None:
        connection = shop.connect()
        connection.cursor().execute("UPDATE t SET v = 0")
        connection.rollback()
        connection.close()

    shop.within(work)
    assert shop.rows() == BEFORE
    assert tidelock_coordinator.row_locks() == []


@ONE
def test_who_decides_reports_its_branches_with_the_decision(
    shop: Shop, tidelock_coordinator: Coordinator
) -> None:
    shop.within(lambda: shop.execute("UPDATE t SET v = 11 WHERE id = 1"))
    assert shop.undone_by(lambda: shop.execute("DELETE FROM t")) == []
    assert shop.rows() == [(1, 11, "one"), *BEFORE[1:]]
    assert tidelock_coordinator.requests("report") == 0
    tidelock_coordinator.assert_clean()


@ONE
def test_who_takes_part_in_another_process_s_transaction_reports_at_once(
    shop: Shop, tidelock_coordinator: Coordinator
) -> None:
    client = tidelock_coordinator.client
    begun = client.run(lambda each: each.transactions.begin())
    with tidelock.bound(begun.xid):
        shop.execute("UPDATE t SET v = 11 WHERE id = 1")
        with tidelock.transaction(application=shop.source.application):
            shop.execute("UPDATE t SET v = 21 WHERE id = 2")
    assert tidelock_coordinator.requests("report") == 2
    assert client.run(lambda each: each.transactions.commit(begun.xid)).is_to_commit


@ONE
def test_a_branch_that_is_done_after_the_decision_was_asked_for_is_waited_for(shop: Shop) -> None:
    """Another thread of the same block is not ready yet when the block ends."""
    committed = threading.Event()

    def pause(name: str) -> None:
        if name == "at.after-local-commit":
            committed.set()
            shop.coordinator.wait_until(lambda: shop.coordinator.requests("commit"))

    def late() -> None:
        shop.execute("UPDATE t SET v = 11 WHERE id = 1")

    with watched(pause), tidelock.transaction(application=shop.source.application):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(late,))
        thread.start()
        assert committed.wait(60)
    thread.join(60)
    assert shop.coordinator.requests("report") == 1
    assert shop.rows()[0] == (1, 11, "one")


# What others do without asking for global locks


DIRTY = "UPDATE t SET v = 99, name = 'dirty' WHERE id = 1"


def changed_by_others(shop: Shop, statement: str, dirty: str) -> str:
    """Roll back what others changed meanwhile; return the xid."""
    xids: list[str] = []

    def work() -> None:
        xid = tidelock.current_xid()
        assert xid is not None
        xids.append(xid)
        shop.execute(statement)
        shop.database.sql(dirty)

    with contextlib.suppress(TidelockError):
        shop.undone_by(work)
    return xids[0]


@EVERYWHERE
def test_a_row_that_others_changed_is_left_to_an_operator_with_the_difference(
    shop: Shop, tidelock_coordinator: Coordinator
) -> None:
    xid = changed_by_others(shop, "UPDATE t SET v = 11, name = 'x' WHERE id < 3", DIRTY)
    found = tidelock_coordinator.transaction(xid)
    assert found.status == "ROLLBACK_FAILED"
    (branch,) = found.branches
    assert "v is 99, left as 11, before 10" in str(branch)
    assert shop.rows()[:2] == [(1, 99, "dirty"), (2, 11, "x")], "nothing of the branch is undone"
    assert [row[2] for row in shop.undo_rows()] == [0], "and its undo row is kept"
    shop.database.sql("UPDATE t SET v = 11, name = 'x' WHERE id = 1")
    tidelock_coordinator.client.run(
        lambda client: client.transactions.operate(xid, "RETRY_NOW", "the row was mended")
    )
    tidelock_coordinator.wait_until(lambda: shop.rows() == BEFORE, what="undone after all")


@EVERYWHERE
@pytest.mark.parametrize(
    ("policy", "row"),
    [
        (tidelock.DirtyPolicy.SKIP, (1, 99, "dirty")),
        (tidelock.DirtyPolicy.OVERWRITE, (1, 10, "one")),
    ],
)
def test_a_policy_may_skip_or_overwrite_such_rows(
    shop: Shop, policy: tidelock.DirtyPolicy, row: tuple[Any, ...]
) -> None:
    other = Shop(shop.database, shop.source.application, coordinator=shop.coordinator, dirty=policy)
    changed_by_others(other, "UPDATE t SET v = 11, name = 'x' WHERE id < 3", DIRTY)
    assert shop.rows() == [row, *BEFORE[1:]]
    other.source.close()


@EVERYWHERE
@pytest.mark.parametrize(
    ("statement", "by_others"),
    [
        ("UPDATE t SET v = 11 WHERE id = 1", "UPDATE t SET v = 10 WHERE id = 1"),
        ("INSERT INTO t VALUES (4, 40, 'four')", "DELETE FROM t WHERE id = 4"),
        ("DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (1, 10, 'one')"),
    ],
)
def test_what_is_as_it_was_before_needs_no_undoing(
    shop: Shop, statement: str, by_others: str
) -> None:
    changed_by_others(shop, statement, by_others)
    assert shop.rows() == BEFORE


@EVERYWHERE
@pytest.mark.parametrize(
    ("statement", "by_others", "difference"),
    [
        ("UPDATE t SET v = 11 WHERE id = 1", "DELETE FROM t WHERE id = 1", "is gone"),
        ("DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (1, 0, 'new')", "is there again"),
        ("INSERT INTO t VALUES (4, 4, 'x')", "UPDATE t SET v = 5 WHERE id = 4", "left as 4"),
    ],
)
def test_each_kind_of_change_by_others_is_told(
    shop: Shop,
    tidelock_coordinator: Coordinator,
    statement: str,
    by_others: str,
    difference: str,
) -> None:
    xid = changed_by_others(shop, statement, by_others)
    found = tidelock_coordinator.transaction(xid)
    assert found.status == "ROLLBACK_FAILED"
    assert difference in str(found.branches)


@EVERYWHERE
def test_a_done_branch_without_an_undo_row_is_never_said_to_be_rolled_back(
    shop: Shop, tidelock_coordinator: Coordinator
) -> None:
    table = DEFAULT_TABLES[shop.dialect]
    xid = changed_by_others(shop, "UPDATE t SET v = 11 WHERE id = 1", f"DELETE FROM {table}")
    assert tidelock_coordinator.transaction(xid).status == "ROLLBACK_FAILED"


@EVERYWHERE
def test_a_branch_that_comes_after_its_rollback_finds_the_placeholder(
    shop: Shop, tidelock_coordinator: Coordinator
) -> None:
    def roll_back_first(name: str) -> None:
        if name == "at.before-undo-row":
            xid = tidelock.current_xid()
            assert xid is not None
            tidelock_coordinator.client.run(lambda client: client.transactions.rollback(xid))

    failed = None
    with watched(roll_back_first):
        try:
            shop.within(lambda: shop.execute("UPDATE t SET v = 11 WHERE id = 1"))
        except Exception as error:
            failed = error
    assert failed is not None
    tidelock_coordinator.assert_clean()
    assert shop.rows() == BEFORE
    assert shop.undo_rows() == []


@ONE
def test_a_change_that_slips_in_between_is_noticed_and_the_unit_run_again(shop: Shop) -> None:
    attempts: list[int] = []

    @local_transaction(application=shop.source.application)
    def add() -> None:
        attempts.append(1)
        with shop.local() as cursor:
            call = cursor.execute

            if len(attempts) == 1:
                real = cursor.__wrapped__

                class Slow:
                    """Lets another session insert a row that matches, before the statement runs."""

                    def __getattr__(self, name: str) -> Any:
                        return getattr(real, name)

                    def execute(self, *arguments: Any, **options: Any) -> Any:
                        shop.database.sql("INSERT INTO t VALUES (4, 40, 'four')")
                        return real.execute(*arguments, **options)

                cursor.__wrapped__ = Slow()
            call("UPDATE t SET v = 0 WHERE v >= 30")

    with tidelock.transaction(application=shop.source.application):
        add()
    assert len(attempts) == 2
    assert shop.rows() == [*BEFORE[:2], (3, 0, "three"), (4, 0, "four")]
