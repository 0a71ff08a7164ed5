"""What others see of a row that a transaction changed, in real databases.

Each test is a line of the table in docs/TRANSACTIONS.md#isolation, tried at its three moments:
before the decision, when it is decided and the branch has not been told, and afterwards.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pymysql
import pytest

import tidelock
from tests.databases.connections import Database, database_of
from tests.sdk.at_sources import Shop
from tests.sdk.tcc_stock import Stock
from tidelock.application import Application
from tidelock.at.errors import LockWaitTimeoutError, RowsLockedError
from tidelock.crash_points import watched
from tidelock.testing import Coordinator
from tidelock.xa import XaSource

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

EVERYWHERE: Final = pytest.mark.parametrize(
    "database", ["mysql", "postgresql", "sqlite"], indirect=True
)
SERVERS: Final = pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
DECISIONS: Final = pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])

STOCK: Final = (
    "CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL)",
    "INSERT INTO stock VALUES (1, 10), (2, 20)",
)
TAKE: Final = "UPDATE stock SET n = n - 1 WHERE id = 1"
LOOK: Final = "SELECT n FROM stock WHERE id = 1"
WITHIN_S: Final = 60.0


class UndecidedError(Exception):
    """What makes a transaction of these tests roll back."""


class Stop:
    """A point of the second phase at which a branch stands still until it may go on."""

    def __init__(self) -> None:
        self._reached, self._goes_on = threading.Event(), threading.Event()

    def arrive(self) -> None:
        self._reached.set()
        assert self._goes_on.wait(WITHIN_S)

    def await_arrival(self) -> None:
        assert self._reached.wait(WITHIN_S)

    def go_on(self) -> None:
        self._goes_on.set()


@contextmanager
def stopped_at(point: str, time: int = 1) -> Iterator[Stop]:
    """Have whoever reaches a point for the `time`th time stand still there."""
    stop, seen = Stop(), [0]

    def at(name: str) -> None:
        if name == point:
            seen[0] += 1
            if seen[0] == time:
                stop.arrive()

    try:
        with watched(at):
            yield stop
    finally:
        stop.go_on()


@contextmanager
def deciding(work: Callable[[], object], *, commits: bool) -> Iterator[Callable[[], None]]:
    """Have work done in a global transaction of another thread, and yield what has it decided.

    The work is done when the block begins; at its end the transaction has ended.
    """
    done, decide = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with contextlib.suppress(UndecidedError), tidelock.transaction():
                work()
                done.set()
                assert decide.wait(WITHIN_S)
                if not commits:
                    raise UndecidedError
        except BaseException as error:
            failures.append(error)
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert done.wait(WITHIN_S)
    try:
        assert failures == []
        yield decide.set
    finally:
        decide.set()
        thread.join(WITHIN_S)
    assert not thread.is_alive()
    assert failures == []


@pytest.fixture
def coordinator(tidelock_coordinator: Coordinator) -> Coordinator:
    return tidelock_coordinator


@pytest.fixture
def shop(
    database: Database, tidelock_application: Application, coordinator: Coordinator
) -> Iterator[Shop]:
    made = Shop(database, tidelock_application, coordinator=coordinator)
    database.sql(*STOCK)
    yield made
    coordinator.assert_clean()
    assert made.undo_rows() == []
    made.source.close()


def seen(database: Database, look: str = LOOK) -> int:
    """Return what a plain reader sees."""
    ((found,),) = database.sql(look)
    return int(found)


def is_waited_for(database: Database, look: str = LOOK) -> bool:
    """Say whether a reader FOR UPDATE would wait in the database."""
    refusals = (pymysql.OperationalError, psycopg.errors.LockNotAvailable)
    try:
        database.sql(f"{look} FOR UPDATE NOWAIT")
    except refusals:
        return True
    return False


# AT


@EVERYWHERE
@DECISIONS
def test_a_plain_reader_sees_what_at_has_changed_until_it_is_undone(
    database: Database, shop: Shop, commits: bool
) -> None:
    point = "at.before-delete" if commits else "at.before-restore"
    with stopped_at(point) as stop, deciding(lambda: shop.execute(TAKE), commits=commits) as decide:
        assert seen(database) == 9, "before the decision"
        decide()
        stop.await_arrival()
        assert seen(database) == 9, "decided, and not told"
        stop.go_on()
    assert seen(database) == (9 if commits else 10)


@SERVERS
def test_who_asks_for_a_row_of_at_is_refused_until_it_is_decided_or_undone(
    database: Database, shop: Shop
) -> None:
    def ask() -> None:
        with tidelock.transaction():
            shop.execute(TAKE)

    def ask_outside() -> None:
        with tidelock.global_lock():
            shop.execute(TAKE)

    def read() -> None:
        with tidelock.transaction(), shop.local() as cursor:
            cursor.execute("SELECT n FROM stock WHERE id = 2 FOR UPDATE")
            cursor.execute(f"{LOOK} FOR UPDATE")

    with (
        stopped_at("at.before-restore") as stop,
        deciding(lambda: shop.execute(TAKE), commits=False) as decide,
    ):
        for work in (ask, ask_outside, read):
            with pytest.raises(RowsLockedError):
                work()
        decide()
        stop.await_arrival()
        for work in (ask, ask_outside, read):
            with pytest.raises(RowsLockedError):
                work()
        stop.go_on()
    ask()
    assert seen(database) == 9, "it took from what was there before"


@EVERYWHERE
def test_a_row_of_at_is_free_once_it_is_decided_to_commit(database: Database, shop: Shop) -> None:
    with (
        stopped_at("at.before-delete") as stop,
        deciding(lambda: shop.execute(TAKE), commits=True) as decide,
    ):
        decide()
        if database.dialect != "sqlite":
            # There the deletion is kept out, or keeps others out, whoever comes first.
            stop.await_arrival()
        else:
            stop.go_on()
            coordinator = shop.coordinator
            coordinator.wait_until(lambda: coordinator.transactions()[0].status != "BEGIN")
        with tidelock.transaction():
            shop.execute(TAKE)
        assert seen(database) == 8
    assert seen(database) == 8


@SERVERS
def test_of_transactions_of_at_only_who_reads_for_update_notices_the_other(
    database: Database, shop: Shop
) -> None:
    """Write skew: each changes a row, and has read before what the other one changes."""
    looks = "SELECT n FROM stock ORDER BY id"

    def take_all(key: int) -> None:
        assert all(row[0] > 0 for row in shop.execute(looks))
        shop.execute(f"UPDATE stock SET n = 0 WHERE id = {key}")

    with tidelock.transaction():
        assert all(row[0] > 0 for row in shop.execute(looks))
        with deciding(lambda: take_all(2), commits=True):
            pass
        shop.execute("UPDATE stock SET n = 0 WHERE id = 1")
    assert [row[1] for row in shop.rows("stock")] == [0, 0]

    database.sql("INSERT INTO stock VALUES (3, 30)")
    with (
        deciding(lambda: shop.execute("UPDATE stock SET n = 1 WHERE id < 3"), commits=True),
        pytest.raises(RowsLockedError),
        tidelock.transaction(),
    ):
        # A first reader FOR UPDATE would wait for the decision; this one holds a row already.
        shop.execute("UPDATE stock SET n = 31 WHERE id = 3", f"{looks} FOR UPDATE")
    assert [row[1] for row in shop.rows("stock")] == [1, 1, 30]


# TXC


@pytest.fixture
def txc(
    database: Database, tidelock_application: Application, coordinator: Coordinator
) -> Iterator[tidelock.TxcDataSource]:
    """A source of whose rows nobody waits."""
    dialect: Any = database.dialect
    database.sql(*STOCK, tidelock.undo_log_ddl(dialect))
    made = tidelock.TxcDataSource(
        database.connect, application=tidelock_application, lock_wait_timeout_ms=50
    )
    yield made
    coordinator.assert_clean()
    assert database.sql("SELECT xid FROM undo_log") == []
    made.close()


@EVERYWHERE
@DECISIONS
def test_a_plain_reader_sees_what_txc_has_changed_until_it_is_undone(
    database: Database, txc: tidelock.TxcDataSource, commits: bool
) -> None:
    point = "at.before-delete" if commits else "at.before-restore"
    with stopped_at(point) as stop, deciding(lambda: take(txc), commits=commits) as decide:
        assert seen(database) == 9, "before the decision"
        decide()
        stop.await_arrival()
        assert seen(database) == 9, "decided, and not told"
        stop.go_on()
    assert seen(database) == (9 if commits else 10)


@SERVERS
def test_who_asks_for_a_row_of_txc_waits_until_it_is_undone(
    database: Database, txc: tidelock.TxcDataSource
) -> None:
    def ask(text: str) -> None:
        with tidelock.transaction(), txc.connection() as connection:
            connection.cursor().execute(text)

    reads = f"{LOOK} FOR UPDATE", f"{LOOK} FOR SHARE", f"{LOOK} LOCK IN SHARE MODE"
    texts = (TAKE, reads[0], reads[2 if database.dialect == "mysql" else 1])
    with (
        stopped_at("at.before-restore") as stop,
        deciding(lambda: take(txc), commits=False) as decide,
    ):
        for text in texts:
            with pytest.raises(LockWaitTimeoutError):
                ask(text)
        decide()
        stop.await_arrival()
        for text in texts:
            with pytest.raises(LockWaitTimeoutError):
                ask(text)
        stop.go_on()
    ask(TAKE)
    assert seen(database) == 9, "it took from what was there before"


@SERVERS
def test_a_row_that_was_only_read_is_kept_from_writers_by_txc_and_shared_with_readers(
    database: Database, txc: tidelock.TxcDataSource
) -> None:
    """No write skew among those who read FOR SHARE."""
    share = "LOCK IN SHARE MODE" if database.dialect == "mysql" else "FOR SHARE"

    def read() -> None:
        with txc.connection() as connection:
            connection.cursor().execute(f"{LOOK} {share}")

    def read_in_another() -> None:
        with tidelock.transaction():
            read()

    with deciding(read, commits=True):
        read_in_another()
        with pytest.raises(LockWaitTimeoutError), tidelock.transaction():
            take(txc)
    with tidelock.transaction():
        take(txc)
    assert seen(database) == 9


@SERVERS
def test_txc_and_at_know_of_each_others_rows(
    database: Database, txc: tidelock.TxcDataSource, tidelock_application: Application
) -> None:
    at = tidelock.AtDataSource(database.connect, application=tidelock_application)

    def take_by_at() -> None:
        with at.connect() as connection:
            connection.cursor().execute(TAKE)
            connection.commit()

    with (
        deciding(lambda: take(txc), commits=True),
        pytest.raises(RowsLockedError),
        tidelock.transaction(),
    ):
        take_by_at()
    with (
        deciding(take_by_at, commits=True),
        pytest.raises(LockWaitTimeoutError),
        tidelock.transaction(),
    ):
        take(txc)
    assert seen(database) == 8
    at.close()


# XA and LCN


def xa(database: Database) -> Callable[[], None]:
    source = XaSource(database.connect)
    source.attach()
    return lambda: take(source)


def lcn(database: Database) -> Callable[[], None]:
    options = {"check_same_thread": False} if database.dialect == "sqlite" else {}
    source = tidelock.LcnDataSource(lambda: database.connect(**options))
    return lambda: take(source)


def take(source: Any) -> None:
    with source.connection() as connection:
        connection.cursor().execute(TAKE)


@pytest.mark.parametrize(
    ("mode", "database"),
    [("xa", "mysql"), ("xa", "postgresql")]
    + [("lcn", dialect) for dialect in ("mysql", "postgresql", "sqlite")],
    indirect=["database"],
)
@DECISIONS
@pytest.mark.usefixtures("tidelock_application")
def test_what_xa_and_lcn_hold_is_seen_when_the_branch_is_told(
    coordinator: Coordinator, database: Database, mode: str, commits: bool
) -> None:
    database.sql(*STOCK)
    work = {"xa": xa, "lcn": lcn}[mode](database)
    locks = database.dialect != "sqlite"
    client = coordinator.client
    # A participant of another's transaction: what a launcher rolls back, it undoes before it asks.
    xid = client.run(lambda each: each.transactions.begin()).xid
    with tidelock.bound(xid):
        work()
    assert seen(database) == 10, "before the decision"
    assert not locks or is_waited_for(database)
    with stopped_at(f"{mode}.before-{'commit' if commits else 'rollback'}") as stop:
        decision = client.submit(
            lambda each: (each.transactions.commit if commits else each.transactions.rollback)(xid)
        )
        stop.await_arrival()
        assert seen(database) == 10, "decided, and not told"
        assert not locks or is_waited_for(database)
        stop.go_on()
        decision.result(WITHIN_S)
    assert seen(database) == (9 if commits else 10)
    assert not locks or not is_waited_for(database)
    coordinator.assert_clean()


@pytest.mark.usefixtures("tidelock_application")
def test_who_looks_at_two_databases_in_between_sees_one_with_the_change_and_one_without(
    request: pytest.FixtureRequest, coordinator: Coordinator, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        both = [database_of(each, request, tmp_path, stack) for each in ("mysql", "postgresql")]
        for each in both:
            each.sql(*STOCK)
        works = [xa(each) for each in both]

        def work() -> None:
            for each in works:
                each()

        with stopped_at("xa.before-commit", 1) as stop, deciding(work, commits=True) as decide:
            decide()
            stop.await_arrival()
            coordinator.wait_until(
                lambda: sorted(map(seen, both)) == [9, 10], what="the other one is committed"
            )
            stop.go_on()
        assert [seen(each) for each in both] == [9, 9]
        coordinator.assert_clean()


# TCC


@pytest.mark.parametrize(
    ("database", "driver"),
    [("pymysql", "pymysql"), ("psycopg", "psycopg"), ("sqlite3", "sqlite3")],
    indirect=["database"],
)
@DECISIONS
def test_everybody_sees_what_try_made_visible_until_the_branch_is_told(
    coordinator: Coordinator,
    tidelock_application: Application,
    database: Database,
    driver: str,
    commits: bool,
) -> None:
    stock = Stock(database, driver, tidelock_application)
    point = "fence.before-confirm" if commits else "fence.before-cancel"
    with stopped_at(point) as stop, deciding(lambda: stock.take_now(3), commits=commits) as decide:
        assert stock.numbers() == (7, 3, 0), "before the decision: a reservation"
        decide()
        stop.await_arrival()
        assert stock.numbers() == (7, 3, 0), "decided, and not told"
        stop.go_on()
    assert stock.numbers() == ((7, 0, 3) if commits else (10, 0, 0))
    coordinator.assert_clean()
    assert stock.fence_rows() == []
