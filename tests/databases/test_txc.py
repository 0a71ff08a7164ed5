"""TXC on real databases: rows are locked before statements, and what fails is undone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tidelock.crash_points import watched
from tidelock.errors import DeadlockError
from tidelock.testing import Coordinator

pytestmark = [
    pytest.mark.databases,
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("tidelock_application"),
]

DATABASES: Final = pytest.mark.parametrize(
    "database", ["mysql", "postgresql", "sqlite"], indirect=True
)
SERVERS: Final = pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
ONE: Final = pytest.mark.parametrize("database", ["mysql"], indirect=True)
AWAITING: Final = ("asyncmy", "asyncpg", "aiosqlite")

fails_with: Final = pytest.raises
"""What a whole block, with all that ends with it, raises."""


@pytest.fixture
def coordinator(tidelock_coordinator: Coordinator) -> Coordinator:
    return tidelock_coordinator


@pytest.fixture
def stock(database: Database) -> None:
    database.sql("CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL)")
    database.sql("INSERT INTO stock VALUES (1, 10), (2, 20)")
    database.sql(tidelock.undo_log_ddl(database.dialect))  # type: ignore[arg-type]  # a dialect


@pytest.fixture
def source(database: Database, stock: None) -> Iterator[tidelock.TxcDataSource]:
    made = tidelock.TxcDataSource(database.connect, lock_wait_timeout_ms=20_000)
    yield made
    made.close()


@pytest.fixture
def hasty(database: Database, stock: None) -> Iterator[tidelock.TxcDataSource]:
    """Waits for nobody."""
    made = tidelock.TxcDataSource(database.connect, lock_wait_timeout_ms=50)
    yield made
    made.close()


def rows(database: Database) -> dict[int, int]:
    return dict(database.sql("SELECT id, n FROM stock ORDER BY id"))


def take(source: tidelock.TxcDataSource, key: int = 1) -> None:
    with source.connection() as connection:
        connection.cursor().execute(f"UPDATE stock SET n = n - 1 WHERE id = {key}")


def branches(coordinator: Coordinator, xid: str) -> list[str]:
    return [branch.status for branch in coordinator.transaction(xid).branches]


def locked(coordinator: Coordinator) -> list[list[object]]:
    return sorted([list(row.key) for row in coordinator.row_locks()], key=str)


def undo_rows(database: Database) -> int:
    return len(database.sql("SELECT xid FROM undo_log"))


def all_is_over(coordinator: Coordinator, database: Database) -> None:
    coordinator.advance(70_000)
    coordinator.assert_clean(30)
    assert undo_rows(database) == 0


# --- one local transaction


@DATABASES
def test_work_is_committed_and_undone_with_its_group(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    @tidelock.txc_transaction(unit_id="change")
    def change(*, fails: bool) -> None:
        with source.connection() as connection:
            cursor = connection.cursor()
            cursor.execute("UPDATE stock SET n = n - 1 WHERE n > 0")
            cursor.execute("INSERT INTO stock VALUES (3, 30)")
            cursor.execute("DELETE FROM stock WHERE id = 2")
        assert rows(database) == {1: 9, 3: 30}, "others see it before the decision"
        if fails:
            raise LookupError

    with fails_with(LookupError), tidelock.transaction():
        change(fails=True)
    assert rows(database) == {1: 10, 2: 20}
    with tidelock.transaction() as transaction:
        change(fails=False)
        assert locked(coordinator) == [[1], [2], [3]]
    assert rows(database) == {1: 9, 3: 30}
    (branch,) = coordinator.transaction(transaction.xid).branches
    assert (branch.unit_id, branch.mode, branch.application_data) == ("change", "TXC", {"call": 2})
    all_is_over(coordinator, database)


@DATABASES
def test_a_local_rollback_frees_its_rows_and_the_group_goes_on(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    with tidelock.transaction() as transaction:
        with fails_with(LookupError), source.connection() as connection:
            connection.cursor().execute("UPDATE stock SET n = 0 WHERE id = 1")
            assert locked(coordinator) == [[1]]
            raise LookupError
        assert locked(coordinator) == []
        connection = source.connect()
        connection.cursor().execute("UPDATE stock SET n = 0 WHERE id = 1")
        connection.close()
        coordinator.wait_until(lambda: locked(coordinator) == [])
        take(source, 2)
    assert sorted(branches(coordinator, transaction.xid)) == [
        "PHASE_TWO_COMMITTED",
        "WITHDRAWN",
        "WITHDRAWN",
    ]
    assert rows(database) == {1: 10, 2: 19}
    all_is_over(coordinator, database)


# --- units


@DATABASES
def test_a_unit_that_fails_is_undone_alone(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    @tidelock.txc_transaction
    def sell(key: int, *, fails: bool) -> None:
        take(source, key)
        take(source, key)
        if fails:
            raise LookupError

    with tidelock.transaction() as transaction:
        with pytest.raises(LookupError):
            sell(1, fails=True)
        assert rows(database) == {1: 10, 2: 20}
        assert locked(coordinator) == [], "its rows are free before the decision"
        sell(2, fails=False)
    assert branches(coordinator, transaction.xid) == ["WITHDRAWN"] * 2 + ["PHASE_TWO_COMMITTED"] * 2
    assert rows(database) == {1: 10, 2: 18}
    all_is_over(coordinator, database)


@ONE
def test_a_unit_that_cannot_be_undone_rolls_the_group_back(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    @tidelock.txc_transaction
    def sell() -> None:
        take(source, 1)
        database.sql("UPDATE stock SET n = 77 WHERE id = 1")  # by somebody who asks for no locks
        raise LookupError

    with fails_with(tidelock.TransactionRolledBackError), tidelock.transaction() as transaction:
        take(source, 2)
        with pytest.raises(LookupError):
            sell()
    coordinator.wait_until(
        lambda: coordinator.transaction(transaction.xid).status == "ROLLBACK_FAILED"
    )
    assert rows(database)[1] == 77, "nobody's change is overwritten"


@ONE
def test_a_unit_within_a_unit_is_undone_with_it(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    @tidelock.txc_transaction
    def inner() -> None:
        take(source, 1)

    @tidelock.txc_transaction
    def outer() -> None:
        inner()
        take(source, 1)
        raise LookupError

    with tidelock.transaction(), pytest.raises(LookupError):
        outer()
    assert rows(database) == {1: 10, 2: 20}
    all_is_over(coordinator, database)


# --- row locks


@DATABASES
def test_a_statement_waits_for_its_rows_before_it_runs(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    seen: list[dict[int, int]] = []

    def other() -> None:
        with tidelock.transaction(), source.connection() as connection:
            connection.cursor().execute("UPDATE stock SET n = n * 2 WHERE id = 1")
            seen.append({})

    with fails_with(LookupError), tidelock.transaction():
        take(source)
        thread = threading.Thread(target=other)
        thread.start()
        coordinator.wait_until(lambda: any("waits" in each for each in coordinator.leftovers()))
        assert seen == []
        assert rows(database)[1] == 9
        raise LookupError
    thread.join(30)
    assert rows(database)[1] == 20, "it doubled what was there after the rollback"
    all_is_over(coordinator, database)


@SERVERS
def test_who_waits_in_vain_is_told_and_nothing_is_done(
    coordinator: Coordinator, database: Database, hasty: tidelock.TxcDataSource
) -> None:
    with tidelock.transaction():
        take(hasty)
        with tidelock.transaction(propagation="REQUIRES_NEW") as other:
            with pytest.raises(tidelock.LockWaitTimeoutError):
                take(hasty)
            assert other.is_active
    assert rows(database) == {1: 9, 2: 20}
    all_is_over(coordinator, database)


@SERVERS
def test_rows_that_were_read_for_share_are_shared_until_the_decision(
    coordinator: Coordinator, database: Database, hasty: tidelock.TxcDataSource
) -> None:
    share = {"mysql": "LOCK IN SHARE MODE", "postgresql": "FOR SHARE"}[database.dialect]

    def read() -> None:
        with hasty.connection() as connection:
            connection.cursor().execute(f"SELECT n FROM stock WHERE id = 1 {share}")

    with fails_with(LookupError), tidelock.transaction():
        read()
        with tidelock.transaction(propagation="REQUIRES_NEW"):
            read()
            with pytest.raises(tidelock.LockWaitTimeoutError):
                take(hasty)
        take(hasty)  # the only one who shares it may change it
        raise LookupError
    assert rows(database) == {1: 10, 2: 20}
    with tidelock.transaction():
        read()
    all_is_over(coordinator, database)


@DATABASES
def test_rows_locked_since_a_savepoint_are_free_when_it_is_gone_back_to(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    with tidelock.transaction(), source.connection() as connection:
        cursor = connection.cursor()
        cursor.execute("UPDATE stock SET n = n - 1 WHERE id = 1")
        cursor.execute("SAVEPOINT here")
        cursor.execute("UPDATE stock SET n = n - 1")
        assert locked(coordinator) == [[1], [2]]
        cursor.execute("ROLLBACK TO SAVEPOINT here")
        assert locked(coordinator) == [[1]]
    assert rows(database) == {1: 9, 2: 20}
    all_is_over(coordinator, database)


@ONE
def test_of_two_who_wait_for_each_other_one_gives_way(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    has_two = threading.Barrier(2)
    gave_way: list[BaseException] = []

    def sell(first: int, second: int) -> None:
        try:
            with tidelock.transaction():
                take(source, first)
                has_two.wait(30)
                take(source, second)
        except DeadlockError as error:
            gave_way.append(error)

    threads = [threading.Thread(target=sell, args=keys) for keys in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(gave_way) == 1
    assert rows(database) == {1: 9, 2: 19}
    all_is_over(coordinator, database)


@ONE
def test_work_that_met_rows_of_others_too_late_is_run_again(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    """Another transaction has deleted the row that is inserted here: no look could see it."""
    deleted, go_on = threading.Event(), threading.Event()

    def delete() -> None:
        with tidelock.transaction():
            with source.connection() as connection:
                connection.cursor().execute("DELETE FROM stock WHERE id = 2")
            deleted.set()
            go_on.wait(30)

    thread = threading.Thread(target=delete)
    thread.start()
    assert deleted.wait(30)
    tries: list[int] = []

    @tidelock.local_transaction
    def insert() -> None:
        tries.append(1)
        with source.connection() as connection:
            connection.cursor().execute("INSERT INTO stock VALUES (2, 5)")

    def purchase() -> None:
        with tidelock.transaction():
            insert()

    other = threading.Thread(target=purchase)
    other.start()
    coordinator.wait_until(lambda: any("waits" in each for each in coordinator.leftovers()))
    go_on.set()
    other.join(60)
    thread.join(30)
    assert len(tries) >= 2
    assert rows(database) == {1: 10, 2: 5}
    all_is_over(coordinator, database)


# --- drivers that are awaited, and SQLAlchemy


@pytest.mark.parametrize("database", AWAITING, indirect=True)
@pytest.mark.usefixtures("stock")
async def test_drivers_that_are_awaited_take_part(
    coordinator: Coordinator, database: Database, request: pytest.FixtureRequest
) -> None:
    driver = request.node.callspec.params["database"]
    source = tidelock.TxcDataSource(lambda: database.open(driver))

    @tidelock.txc_transaction
    async def sell(key: int, *, fails: bool = False) -> None:
        async with source.connection() as connection:
            text = f"UPDATE stock SET n = n - 1 WHERE id = {key}"
            if driver == "asyncmy":
                async with connection.cursor() as cursor:
                    await cursor.execute(text)
            else:
                await connection.execute(text)
        if fails:
            raise LookupError

    async with tidelock.transaction():
        await sell(1)
        with pytest.raises(LookupError):
            await sell(2, fails=True)
        with fails_with(LookupError):
            async with source.connection():
                raise LookupError
    assert rows(database) == {1: 9, 2: 20}
    with fails_with(LookupError):
        async with tidelock.transaction():
            await sell(1)
            raise LookupError
    assert rows(database) == {1: 9, 2: 20}
    all_is_over(coordinator, database)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("stock")
def test_engines_of_sqlalchemy_take_part(coordinator: Coordinator, database: Database) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    where = database.where()
    engine = sqlalchemy.create_engine(
        f"postgresql+psycopg://{where['user']}@{where['host']}:{where['port']}/{where['dbname']}"
    )
    source = tidelock.TxcDataSource.of_engine(engine)

    def change(text: str) -> None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(text))

    with fails_with(LookupError), tidelock.transaction():
        change("UPDATE stock SET n = 0")
        raise LookupError
    with tidelock.transaction():
        change("UPDATE stock SET n = n + 1")
    assert rows(database) == {1: 11, 2: 21}
    all_is_over(coordinator, database)
    engine.dispose()
    source.close()


# --- pools


@pytest.mark.parametrize("database", ["asyncpg", "asyncmy", "psycopg"], indirect=True)
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.usefixtures("stock")
async def test_blocks_borrow_their_connections_from_pools(
    coordinator: Coordinator, database: Database, wrapped: bool, request: pytest.FixtureRequest
) -> None:
    driver = request.node.callspec.params["database"]
    blocks = driver == "psycopg"
    source = tidelock.TxcDataSource(database.connect if blocks else lambda: database.open(driver))

    async with database.pool(driver) as own:
        pool = source.wrap_pool(own) if wrapped else own

        async def change(key: int, *, fails: bool = False) -> None:
            text = f"UPDATE stock SET n = n - 1 WHERE id = {key}"
            if blocks:
                with source.connection(pool) as connection:
                    connection.execute(text)
            else:
                async with source.connection(pool) as connection:
                    if driver == "asyncpg":
                        await connection.execute(text)
                    else:
                        async with connection.cursor() as cursor:
                            await cursor.execute(text)
            if fails:
                raise LookupError

        unit = tidelock.txc_transaction(change)
        async with tidelock.transaction():
            await unit(1)
            with pytest.raises(LookupError):
                await unit(2, fails=True)
            assert rows(database) == {1: 9, 2: 20}
            await unit(1)
        with fails_with(LookupError):
            async with tidelock.transaction():
                await change(2, fails=True)
        assert rows(database) == {1: 8, 2: 20}
        await change(2)
        assert rows(database) == {1: 8, 2: 19}, "as ever outside of transactions"
        all_is_over(coordinator, database)
    source.close()


# --- many groups of values


@DATABASES
def test_executemany_locks_the_rows_of_all_groups_at_once(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    mark = "?" if database.dialect == "sqlite" else "%s"
    asked: list[str] = []

    def change() -> None:
        with source.connection() as connection:
            cursor = connection.cursor()
            cursor.executemany(
                f"UPDATE stock SET n = n + {mark} WHERE id = {mark}", [(1, 1), (2, 2), (5, 9)]
            )
            cursor.executemany(f"INSERT INTO stock VALUES ({mark}, {mark})", [(3, 30), (4, 40)])
            cursor.executemany(f"DELETE FROM stock WHERE id = {mark}", [(1,), (3,)])

    with fails_with(LookupError), tidelock.transaction():
        with watched(asked.append):
            change()
        assert rows(database) == {2: 22, 4: 40}
        assert locked(coordinator) == [[1], [2], [3], [4]]
        raise LookupError
    assert asked.count("txc.before-lock") == 2, "the rows that are there, and the new ones"
    assert rows(database) == {1: 10, 2: 20}
    with tidelock.transaction():
        change()
    assert rows(database) == {2: 22, 4: 40}
    all_is_over(coordinator, database)


@DATABASES
def test_executemany_waits_for_the_rows_of_its_groups(
    coordinator: Coordinator, database: Database, source: tidelock.TxcDataSource
) -> None:
    mark = "?" if database.dialect == "sqlite" else "%s"
    done: list[str] = []

    def later(text: str, groups: list[tuple[int, ...]]) -> None:
        with tidelock.transaction(), source.connection() as connection:
            connection.cursor().executemany(text, groups)
        done.append(text)

    for text, groups in (
        (f"UPDATE stock SET n = n * 2 WHERE id = {mark}", [(1,), (2,)]),
        # Which rows each of these meets, nobody can tell beforehand.
        (f"UPDATE stock SET n = n * {mark} WHERE n > 0", [(2,), (3,)]),
    ):
        with tidelock.transaction():
            take(source)
            thread = threading.Thread(target=later, args=(text, groups))
            thread.start()
            coordinator.wait_until(lambda: any("waits" in each for each in coordinator.leftovers()))
            assert done.count(text) == 0
        thread.join(30)
        assert done.count(text) == 1
    assert rows(database) == {1: ((10 - 1) * 2 - 1) * 6, 2: 20 * 2 * 6}
    all_is_over(coordinator, database)


# --- a source for any type of unit


@DATABASES
@pytest.mark.usefixtures("stock")
def test_the_type_of_the_unit_says_what_becomes_of_its_sql(
    coordinator: Coordinator, database: Database
) -> None:
    options: dict[str, Any] = {"check_same_thread": False} if database.dialect == "sqlite" else {}
    source = tidelock.TxDataSource(lambda: database.connect(**options))

    def sell(key: int) -> None:
        with source.connection() as connection:
            connection.cursor().execute(f"UPDATE stock SET n = n - 1 WHERE id = {key}")

    undone = tidelock.tx_transaction(type="TXC")(sell)
    held = tidelock.tx_transaction(type="LCN")(sell)
    with tidelock.transaction() as transaction:
        undone(1)
        held(2)
        assert rows(database) == {1: 9, 2: 20}
    modes = [branch.mode for branch in coordinator.transaction(transaction.xid).branches]
    assert modes == ["TXC", "LCN"]
    assert rows(database) == {1: 9, 2: 19}
    with pytest.raises(ValueError, match="TccDataSource"):
        tidelock.TxDataSource(database.connect, default="TCC")
    all_is_over(coordinator, database)
    source.close()
