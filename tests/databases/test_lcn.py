"""LCN on real servers: what is held until the decision, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tests.databases.nothing_left import assert_nothing_left
from tidelock.errors import TransactionNotActiveError
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("tidelock_application")]

DATABASES: Final = pytest.mark.parametrize(
    "database", ["mysql", "postgresql", "sqlite"], indirect=True
)
SERVERS: Final = pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
ONE: Final = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
AWAITING: Final = ("asyncmy", "asyncpg", "aiosqlite")


fails_with: Final = pytest.raises
"""What a whole block, with all that ends with it, raises."""


@pytest.fixture
def coordinator(tidelock_coordinator: Coordinator) -> Coordinator:
    return tidelock_coordinator


def options_of(database: Database) -> dict[str, Any]:
    return {"check_same_thread": False} if database.dialect == "sqlite" else {}


def blocking(database: Database, **options: Any) -> tidelock.LcnDataSource:
    return tidelock.LcnDataSource(lambda: database.connect(**options_of(database)), **options)


@pytest.fixture
def stock(database: Database) -> None:
    database.sql("CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL)")
    database.sql("INSERT INTO stock VALUES (1, 10), (2, 20)")


@pytest.fixture
def source(
    database: Database, stock: None, coordinator: Coordinator
) -> Iterator[tidelock.LcnDataSource]:
    """A table of stock. Nothing is held any more when the test ends."""
    made = blocking(database)
    yield made
    assert_nothing_left(coordinator, database)
    assert made.held() == []


def count(database: Database, key: int = 1) -> int:
    return int(database.sql(f"SELECT n FROM stock WHERE id = {key}")[0][0])


def take(connection: Any, key: int = 1) -> None:
    connection.cursor().execute(f"UPDATE stock SET n = n - 1 WHERE id = {key}")


def branches(coordinator: Coordinator, xid: str) -> list[str]:
    return [branch.status for branch in coordinator.transaction(xid).branches]


# --- one unit


@DATABASES
def test_work_is_committed_with_its_group(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    with tidelock.transaction("purchase") as transaction:
        with source.connection() as connection:
            take(connection)
            connection.commit()
        assert count(database) == 10, "nobody else sees it before the decision"
        assert branches(coordinator, transaction.xid) == ["REGISTERED"], "told with the decision"
        assert source.held() == [transaction.xid]
    assert transaction.status == "COMMITTED"
    assert count(database) == 9
    coordinator.assert_clean()


@DATABASES
def test_work_is_rolled_back_with_its_group(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    @tidelock.lcn_transaction
    def purchase() -> None:
        with source.connection() as connection:
            take(connection)
        raise LookupError("sold out")

    with pytest.raises(LookupError):
        purchase()
    assert coordinator.transactions()[0].status == "ROLLED_BACK"
    assert coordinator.transactions()[0].branch_count == 0, "what fails never joins"
    assert count(database) == 10
    coordinator.assert_clean()


@DATABASES
def test_a_unit_that_joined_is_rolled_back_when_the_group_is(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    @tidelock.lcn_transaction
    def sell() -> None:
        with source.connection() as connection:
            take(connection)

    with fails_with(LookupError), tidelock.transaction() as transaction:
        sell()
        raise LookupError
    assert branches(coordinator, transaction.xid) == ["PHASE_TWO_ROLLED_BACK"]
    assert count(database) == 10
    coordinator.assert_clean()


@DATABASES
def test_outside_of_transactions_a_block_is_a_local_transaction(
    database: Database, source: tidelock.LcnDataSource
) -> None:
    with source.connection() as connection:
        take(connection)
    assert count(database) == 9
    with fails_with(LookupError), source.connection() as connection:
        take(connection)
        raise LookupError
    assert count(database) == 9


@DATABASES
def test_a_rollback_goes_back_to_the_last_commit_of_the_block(
    database: Database, source: tidelock.LcnDataSource
) -> None:
    with tidelock.transaction(), source.connection() as connection:
        take(connection)
        connection.commit()
        take(connection)
        take(connection, 2)
        connection.rollback()
    assert (count(database), count(database, 2)) == (9, 20)


# --- several units of a group


@DATABASES
def test_two_calls_of_a_function_are_two_units_on_one_connection(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    seen: list[int] = []

    @tidelock.lcn_transaction(unit_id="sell")
    def sell() -> None:
        with source.connection() as connection:
            take(connection)
            cursor = connection.cursor()
            cursor.execute("SELECT n FROM stock WHERE id = 1")
            seen.append(cursor.fetchone()[0])

    with tidelock.transaction() as transaction:
        sell()
        sell()
        assert len(source.held()) == 1
    assert seen == [9, 8]
    found = coordinator.transaction(transaction.xid).branches
    assert [branch.unit_id for branch in found] == ["sell", "sell"]
    assert [branch.application_data for branch in found] == [{"call": 1}, {"call": 2}]
    assert {branch.status for branch in found} == {"PHASE_TWO_COMMITTED"}
    assert count(database) == 8


@DATABASES
def test_a_unit_that_fails_is_undone_alone_and_never_joins(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    @tidelock.lcn_transaction
    def sell(key: int, *, fails: bool) -> None:
        with source.connection() as connection:
            take(connection, key)
        with source.connection() as connection:
            take(connection, key)
        if fails:
            raise LookupError

    with tidelock.transaction() as transaction:
        with pytest.raises(LookupError):
            sell(1, fails=True)
        assert source.held() == [], "nothing is left to wait for"
        sell(2, fails=False)
        with pytest.raises(LookupError):
            sell(1, fails=True)
    assert branches(coordinator, transaction.xid) == ["PHASE_TWO_COMMITTED"]
    assert (count(database), count(database, 2)) == (10, 18)
    coordinator.assert_clean()


@ONE
def test_a_unit_can_be_given_up_without_an_exception(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    @tidelock.lcn_transaction
    def sell() -> None:
        with source.connection() as connection:
            take(connection)
        unit = tidelock.current_unit()
        assert unit is not None
        unit.set_rollback_only()

    with tidelock.transaction() as transaction, source.connection() as connection:
        take(connection, 2)
    with tidelock.transaction() as transaction:
        sell()
    assert transaction.status == "COMMITTED"
    assert (count(database), count(database, 2)) == (10, 19)


@DATABASES
def test_a_unit_within_a_unit_is_undone_with_it(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    @tidelock.lcn_transaction
    def inner(*, fails: bool = False) -> None:
        with source.connection() as connection:
            take(connection, 2)
        if fails:
            raise KeyError

    @tidelock.lcn_transaction
    def outer(*, fails: bool) -> None:
        inner()
        with source.connection() as connection:
            take(connection)
        with pytest.raises(KeyError):
            inner(fails=True)
        if fails:
            raise LookupError

    with tidelock.transaction() as transaction, pytest.raises(LookupError):
        outer(fails=True)
    assert branches(coordinator, transaction.xid) == []
    assert (count(database), count(database, 2)) == (10, 20)
    with tidelock.transaction() as transaction:
        outer(fails=False)
    assert branches(coordinator, transaction.xid) == ["PHASE_TWO_COMMITTED"] * 2
    assert (count(database), count(database, 2)) == (9, 19)


@SERVERS
def test_a_group_within_a_group_has_a_connection_of_its_own(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    @tidelock.lcn_transaction(propagation="REQUIRES_NEW")
    def audit() -> None:
        with source.connection() as connection:
            take(connection, 2)

    with fails_with(LookupError), tidelock.transaction():
        with source.connection() as connection:
            take(connection)
            audit()
        raise LookupError
    assert (count(database), count(database, 2)) == (10, 19)
    coordinator.assert_clean()


@ONE
def test_supports_runs_without_a_group_when_there_is_none(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    @tidelock.lcn_transaction(propagation="SUPPORTS")
    def sell() -> None:
        with source.connection() as connection:
            take(connection)

    sell()
    assert count(database) == 9
    assert coordinator.transactions() == []


@ONE
def test_a_unit_that_comes_too_late_cannot_join(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    begun = coordinator.client.run(lambda client: client.transactions.begin())
    with (
        fails_with(TransactionNotActiveError),
        tidelock.bound(begun.xid),
        source.connection() as connection,
    ):
        take(connection)
        coordinator.client.run(lambda client: client.transactions.rollback(begun.xid))
    assert source.held() == []
    assert count(database) == 10


@ONE
def test_a_decision_waits_for_the_unit_that_is_at_work(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    begun = coordinator.client.run(lambda client: client.transactions.begin())
    with tidelock.bound(begun.xid):
        with source.connection() as connection:
            take(connection)
        with fails_with(TransactionNotActiveError), source.connection() as connection:
            take(connection, 2)
            coordinator.client.run(lambda client: client.transactions.commit(begun.xid, wait_ms=0))
            assert source.held() == [begun.xid]
            assert count(database) == 10
    coordinator.assert_clean()
    assert coordinator.transaction(begun.xid).status == "COMMITTED"
    assert (count(database), count(database, 2)) == (9, 20), "what had joined, and no more"


# --- one connection, many who want it


@ONE
def test_units_of_a_group_work_one_after_the_other(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    ready, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    @tidelock.lcn_transaction
    def sell(key: int, wait: Callable[[], object]) -> None:
        with source.connection() as connection:
            wait()
            take(connection, key)
            order.append(f"{key}")

    def first() -> None:
        ready.set()
        go_on.wait(30)

    with tidelock.transaction():
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(sell, 1, first))
        thread.start()
        assert ready.wait(30)
        waiting = contextvars.copy_context()
        second = threading.Thread(target=lambda: waiting.run(sell, 2, lambda: None))
        second.start()
        assert order == []
        go_on.set()
        thread.join(30)
        second.join(30)
    assert order == ["1", "2"]
    assert (count(database), count(database, 2)) == (9, 19)
    coordinator.assert_clean()


@ONE
def test_two_threads_of_one_unit_cannot_share_its_connection(
    source: tidelock.LcnDataSource,
) -> None:
    refused: list[BaseException] = []

    def other() -> None:
        try:
            with source.connection():
                pass
        except tidelock.LcnMisuseError as error:
            refused.append(error)

    @tidelock.lcn_transaction
    def sell() -> None:
        with source.connection():
            context = contextvars.copy_context()
            thread = threading.Thread(target=lambda: context.run(other))
            thread.start()
            thread.join(30)

    sell()
    assert "one after the other" in str(refused[0])


@ONE
@pytest.mark.usefixtures("stock")
def test_who_finds_no_connection_free_is_told_who_has_them(database: Database) -> None:
    source = blocking(database)
    few = tidelock.LcnDataSource(database.connect, greatest_connections=1, wait_ms=50)
    with tidelock.transaction() as transaction:
        with few.connection() as connection:
            take(connection)
        with (
            tidelock.transaction(propagation="REQUIRES_NEW"),
            pytest.raises(tidelock.ConnectionsHeldError) as caught,
            few.connection(),
        ):
            pass
        assert transaction.xid in str(caught.value)
    assert count(database) == 9
    with tidelock.transaction(), few.connection() as connection:
        take(connection)
    assert count(database) == 8, "the place was given back"
    assert (source.held(), few.held()) == ([], [])


@ONE
@pytest.mark.usefixtures("stock")
def test_who_waits_for_a_connection_gets_the_one_that_becomes_free(database: Database) -> None:
    source = tidelock.LcnDataSource(database.connect, greatest_connections=1, wait_ms=20_000)
    sold: list[int] = []

    def sell(key: int) -> None:
        with tidelock.transaction(), source.connection() as connection:
            take(connection, key)
            sold.append(key)

    with tidelock.transaction():
        with source.connection() as connection:
            take(connection)
        other = threading.Thread(target=sell, args=(2,))
        other.start()
        time.sleep(0.05)
        assert sold == []
    other.join(30)
    assert (count(database), count(database, 2)) == (9, 19)


# --- misuse


@ONE
def test_a_connection_cannot_be_used_after_its_block(source: tidelock.LcnDataSource) -> None:
    with tidelock.transaction():
        with source.connection() as connection:
            take(connection)
        with pytest.raises(tidelock.LcnMisuseError):
            take(connection)


@DATABASES
def test_who_ends_the_local_transaction_by_hand_is_found_out(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    with (
        fails_with(tidelock.LcnMisuseError),
        tidelock.transaction() as transaction,
        source.connection() as connection,
    ):
        take(connection)
        connection.cursor().execute("COMMIT")
    assert transaction.status == "ROLLED_BACK"
    coordinator.assert_clean()


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_ddl_that_commits_by_itself_is_found_out(source: tidelock.LcnDataSource) -> None:
    with (
        fails_with(tidelock.LcnMisuseError),
        tidelock.transaction(),
        source.connection() as connection,
    ):
        take(connection)
        connection.cursor().execute("CREATE TABLE other (id INT)")


@ONE
def test_an_error_of_postgresql_that_was_passed_over_does_not_join(
    coordinator: Coordinator, database: Database, source: tidelock.LcnDataSource
) -> None:
    with (
        fails_with(tidelock.LcnMisuseError),
        tidelock.transaction() as transaction,
        source.connection() as connection,
    ):
        take(connection)
        with pytest.raises(Exception, match="nothing"):
            connection.cursor().execute("SELECT * FROM nothing")
    assert transaction.status == "ROLLED_BACK"
    assert count(database) == 10


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("stock")
def test_connections_of_one_thread_are_refused(database: Database) -> None:
    source = tidelock.LcnDataSource(database.connect)
    with (
        pytest.raises(DatabaseUnsuitableError, match="check_same_thread"),
        tidelock.transaction(),
        source.connection(),
    ):
        pass


# --- drivers that are awaited


@pytest.mark.parametrize("database", AWAITING, indirect=True)
@pytest.mark.usefixtures("stock")
async def test_drivers_that_are_awaited_take_part(
    coordinator: Coordinator, database: Database, request: pytest.FixtureRequest
) -> None:
    driver = request.node.callspec.params["database"]
    source = tidelock.LcnDataSource(lambda: database.open(driver))

    async def change(connection: Any, key: int) -> None:
        text = f"UPDATE stock SET n = n - 1 WHERE id = {key}"
        if driver == "asyncpg":
            async with connection.transaction():
                await connection.execute(text)
        elif driver == "asyncmy":
            async with connection.cursor() as cursor:
                await cursor.execute(text)
        else:
            await connection.execute(text)

    @tidelock.lcn_transaction
    async def sell(key: int, *, fails: bool = False) -> None:
        async with source.connection() as connection:
            await change(connection, key)
            await connection.commit()
        if fails:
            raise LookupError

    async with tidelock.transaction() as transaction:
        await sell(1)
        with pytest.raises(LookupError):
            await sell(2, fails=True)
        await sell(1)
        assert source.held() == [transaction.xid]
    assert transaction.status == "COMMITTED"
    assert (count(database), count(database, 2)) == (8, 20)
    with fails_with(LookupError):
        async with tidelock.transaction():
            await sell(1)
            raise LookupError
    assert count(database) == 8
    async with source.connection() as connection:
        await change(connection, 2)
    assert count(database, 2) == 19
    assert source.held() == []
    coordinator.assert_clean()


@pytest.mark.parametrize("database", ["asyncpg"], indirect=True)
@pytest.mark.usefixtures("stock")
async def test_a_task_that_is_cancelled_leaves_nothing_open(
    coordinator: Coordinator, database: Database
) -> None:
    source = tidelock.LcnDataSource(lambda: database.open("asyncpg"))
    at_work = asyncio.Event()

    async def sell() -> None:
        async with tidelock.transaction(), source.connection() as connection:
            await connection.execute("UPDATE stock SET n = n - 1 WHERE id = 1")
            at_work.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(sell())
    await at_work.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.held() == []
    assert count(database) == 10
    coordinator.assert_clean()


@pytest.mark.parametrize("database", ["asyncpg"], indirect=True)
@pytest.mark.usefixtures("stock")
def test_a_loop_that_ends_before_the_decision_loses_its_work_visibly(
    coordinator: Coordinator, database: Database
) -> None:
    made: list[Any] = []

    async def connect() -> Any:
        made.append(await database.open("asyncpg"))
        return made[-1]

    source = tidelock.LcnDataSource(connect)
    begun = coordinator.client.run(lambda client: client.transactions.begin())

    async def sell() -> None:
        with tidelock.bound(begun.xid):
            async with source.connection() as connection:
                await connection.execute("UPDATE stock SET n = n - 1 WHERE id = 1")

    with asyncio.Runner() as runner:
        runner.run(sell())
        coordinator.client.run(lambda client: client.transactions.commit(begun.xid, wait_ms=0))
        coordinator.wait_until(lambda: coordinator.transaction(begun.xid).status == "COMMIT_FAILED")
        database.sql("UPDATE stock SET n = n + 5 WHERE id = 1")  # nobody has the row any more
        made[0].terminate()
        runner.run(asyncio.sleep(0))
    assert count(database) == 15
    assert source.held() == []
