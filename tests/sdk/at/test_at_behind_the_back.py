"""Nothing is changed, committed or lost behind the back of a global transaction."""

# ruff: noqa: PT012, SIM117 (what is undone is a block)
from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import tidelock
from tests.databases.connections import Database
from tests.sdk.at.test_at_conflicts import finish, holding
from tests.sdk.at_sources import Shop, UndoneError
from tidelock.application import Application
from tidelock.at.errors import (
    ImageMismatchError,
    LocalTransactionLostError,
    MixedTransactionsError,
    RowsLockedError,
)
from tidelock.at.resource import AtDataSource
from tidelock.at.units import local_transaction
from tidelock.sql.errors import AutocommitError, StatementRefusedError

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

BEFORE = [(1, 10, "one"), (2, 20, "two"), (3, 30, "three")]
EVERYWHERE = pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)
ON_MYSQL = pytest.mark.parametrize("database", ["mysql"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
CHANGE = "UPDATE t SET v = 99 WHERE id = 1"
CHANGED = [(1, 99, "one"), *BEFORE[1:]]


@pytest.fixture
def connection(shop: Shop) -> Iterator[Any]:
    made = shop.connect()
    yield made
    with contextlib.suppress(Exception):
        made.rollback()
    made.close()


# SQLAlchemy

SCHEMES = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg", "sqlite": "sqlite"}


@EVERYWHERE
def test_an_engine_with_connections_of_the_applications_own_making_takes_part(
    shop: Shop, database: Database, application: Application
) -> None:
    engine = sa.create_engine(f"{SCHEMES[database.dialect]}://", creator=database.connect)
    AtDataSource.of_engine(engine, application=application)

    def work() -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(CHANGE))

    assert shop.undone_by(work) == CHANGED
    assert shop.rows() == BEFORE
    engine.dispose()
    assert shop.undone_by(work) == CHANGED, "also when its pool was made anew"
    assert shop.rows() == BEFORE
    engine.dispose()


@ON_POSTGRESQL
async def test_an_async_engine_with_connections_of_the_applications_own_making_takes_part(
    shop: Shop, database: Database, application: Application
) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: database.open("asyncpg")
    )
    AtDataSource.of_engine(engine, application=application)
    with pytest.raises(UndoneError):
        async with tidelock.transaction(application=application):
            async with engine.begin() as connection:
                await connection.execute(sa.text(CHANGE))
            assert shop.rows() == CHANGED
            raise UndoneError
    await engine.dispose()
    assert shop.rows() == BEFORE


@EVERYWHERE
@pytest.mark.parametrize("commits", [False, True])
def test_an_engine_may_begin_with_a_savepoint(
    shop: Shop, database: Database, application: Application, commits: bool
) -> None:
    engine = sa.create_engine(f"{SCHEMES[database.dialect]}://", creator=database.connect)
    AtDataSource.of_engine(engine, application=application)

    def work() -> None:
        with engine.connect() as connection:
            with connection.begin_nested():
                connection.execute(sa.text(CHANGE))
            if commits:
                connection.commit()

    shop.undone_by(work)
    engine.dispose()
    assert shop.rows() == BEFORE


# Savepoints of SQLite, the first of which begins a transaction


@ON_SQLITE
@pytest.mark.parametrize("isolation_level", [None, ""])
def test_the_release_of_a_savepoint_that_has_begun_the_transaction_is_its_commit(
    shop: Shop, connection: Any, isolation_level: str | None
) -> None:
    connection.isolation_level = isolation_level

    def work() -> None:
        for text in ("SAVEPOINT a", CHANGE, "SAVEPOINT b", "DELETE FROM t", "ROLLBACK TO b",
                     "RELEASE b", "RELEASE a"):  # fmt: skip
            connection.execute(text)

    assert shop.undone_by(work) == CHANGED
    assert shop.rows() == BEFORE
    # Who has read before it writes does not wait for the deletion of a guard.
    shop.coordinator.assert_clean()
    shop.within(work)
    assert shop.rows() == CHANGED


@ON_SQLITE
def test_a_savepoint_from_before_the_transaction_is_not_released_within(
    shop: Shop, connection: Any
) -> None:
    connection.execute("SAVEPOINT a")

    def work() -> None:
        connection.execute(CHANGE)
        connection.execute("RELEASE a")

    with pytest.raises(StatementRefusedError, match="set before"):
        shop.within(work)
    connection.rollback()
    assert shop.rows() == BEFORE


# Drivers


@ON_SQLITE
def test_sqlite3_writes_no_blobs_past_the_images(
    shop: Shop, database: Database, connection: Any
) -> None:
    database.sql("CREATE TABLE b (id INTEGER PRIMARY KEY, d BLOB)", "INSERT INTO b VALUES (1, '')")
    with pytest.raises(StatementRefusedError, match="UPDATE"):
        shop.within(lambda: connection.blobopen("b", "d", 1))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_aiosqlite_cannot_change_its_mind_in_between(
    shop: Shop, database: Database, application: Application
) -> None:
    source = AtDataSource(lambda: database.open("aiosqlite"), application=application)
    connection = await source.aconnect()
    with pytest.raises(AutocommitError):
        async with tidelock.transaction(application=application):
            await connection.execute(CHANGE)
            connection.isolation_level = None
    await connection.rollback()
    await connection.close()
    assert shop.rows() == BEFORE


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
async def test_the_connection_of_a_cursor_takes_part(
    shop: Shop, database: Database, application: Application
) -> None:
    source = AtDataSource(lambda: database.open("asyncmy"), application=application)
    connection = await source.aconnect()
    with pytest.raises(UndoneError):
        async with tidelock.transaction(application=application):
            async with connection.cursor() as cursor:
                await cursor.execute(CHANGE)
                await cursor.connection.commit()
            raise UndoneError
    await connection.ensure_closed()
    assert shop.rows() == BEFORE


@ON_POSTGRESQL
@pytest.mark.parametrize("is_bound", [False, True])
def test_blocks_of_psycopg_that_are_to_be_rolled_back_are(
    shop: Shop, connection: Any, is_bound: bool
) -> None:
    def leave_both() -> None:
        with connection.transaction() as outer:
            connection.execute(CHANGE)
            with connection.transaction():
                connection.execute("DELETE FROM t")
                raise psycopg.Rollback(outer)

    def work() -> None:
        with connection.transaction(force_rollback=True):
            connection.execute(CHANGE)
        leave_both()
        with connection.transaction():
            with connection.transaction("mine", force_rollback=True):
                connection.execute("DELETE FROM t")

    if is_bound:
        shop.within(work)
    else:
        work()
    assert shop.rows() == BEFORE


@ON_MYSQL
def test_what_a_lost_connection_has_lost_is_not_committed_in_part(
    shop: Shop, database: Database, connection: Any
) -> None:
    def work() -> None:
        connection.cursor().execute(CHANGE)
        database.sql(f"KILL {connection.thread_id()}")
        connection.__wrapped__.close()
        connection.connect()
        connection.commit()

    with pytest.raises(LocalTransactionLostError, match="made anew"):
        shop.within(work)
    assert shop.rows() == BEFORE


@ON_MYSQL
def test_what_a_deadlock_has_undone_is_not_committed_in_part(
    shop: Shop, database: Database, connection: Any
) -> None:
    cursor = connection.cursor()
    other = database.connect()
    others = other.cursor()
    waiting = threading.Thread(target=lambda: others.execute("DELETE FROM t WHERE id = 1"))

    def work() -> None:
        cursor.execute(CHANGE)
        # The heavier of two is spared.
        others.execute("INSERT INTO t VALUES (7, 7, ''), (8, 8, ''), (9, 9, '')")
        others.execute("UPDATE t SET v = 0 WHERE id = 3")
        waiting.start()
        waits = f"SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = {other.thread_id()} AND trx_state = 'LOCK WAIT'"  # noqa: E501
        for _ in range(500):
            if database.sql(waits):
                break
        with pytest.raises(pymysql.err.OperationalError, match="eadlock"):
            cursor.execute("UPDATE t SET v = 99 WHERE id = 3")
        waiting.join()
        other.rollback()
        cursor.execute("UPDATE t SET v = 99 WHERE id = 2")
        connection.commit()

    try:
        with pytest.raises(ImageMismatchError, match="eadlock"):
            shop.within(work)
    finally:
        other.close()
    assert shop.rows() == BEFORE


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_two_tasks_do_not_change_rows_on_one_connection_at_once(
    shop: Shop, database: Database, application: Application
) -> None:
    source = AtDataSource(lambda: database.open("aiosqlite"), application=application)
    connection = await source.aconnect()
    with pytest.raises(MixedTransactionsError, match="its own connection"):
        async with tidelock.transaction(application=application):
            await asyncio.gather(
                *[connection.execute(f"UPDATE t SET v = 0 WHERE id = {n}") for n in (1, 2)]
            )
    await connection.rollback()
    await connection.close()
    assert shop.rows() == BEFORE


# Rows that slip in


@ON_MYSQL
@pytest.mark.parametrize("statement", ["DELETE FROM t", "UPDATE t SET v = 99"])
def test_no_row_slips_under_a_limit(shop: Shop, connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    connection.commit()
    with pytest.raises(StatementRefusedError, match="LIMIT"):
        shop.within(lambda: cursor.execute(f"{statement} WHERE v < 25 ORDER BY id LIMIT 1"))
    connection.rollback()
    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    def work() -> None:
        cursor.execute(f"{statement} WHERE v < 25 ORDER BY id LIMIT 1")
        connection.commit()

    assert shop.undone_by(work) != BEFORE
    assert shop.rows() == BEFORE


@ON_POSTGRESQL
def test_a_row_has_one_name(shop: Shop, database: Database) -> None:
    database.sql("CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
                 "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
                 "INSERT INTO p VALUES (1, 1)",
                 "CREATE TABLE q (id int PRIMARY KEY)",
                 "CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (q)")  # fmt: skip
    assert shop.undone_by(lambda: shop.execute("UPDATE p SET v = 2"), "p") == [(1, 2)]
    assert shop.rows("p") == [(1, 1)]
    for text in ("UPDATE p1 SET v = 2", "INSERT INTO heir VALUES (1)", "INSERT INTO q VALUES (1)"):
        with pytest.raises(StatementRefusedError, match="unsuitable"):
            shop.within(lambda text=text: shop.execute(text))  # type: ignore[misc]  # its argument is bound


# Units


@EVERYWHERE
def test_a_unit_that_has_committed_is_not_run_again(shop: Shop, application: Application) -> None:
    thread, decide = holding(shop, "UPDATE t SET v = v + 1 WHERE id = 1")
    attempts: list[int] = []

    @local_transaction(application=application)
    def two() -> None:
        attempts.append(1)
        shop.execute("UPDATE t SET v = v + 1 WHERE id = 2")
        shop.execute("UPDATE t SET v = v + 1 WHERE id = 1")

    try:
        with pytest.raises(RowsLockedError) as refused:
            shop.within(two)
        assert "a function of its own" in refused.value.__notes__[0]
    finally:
        finish(thread, decide)
    assert attempts == [1]
    assert shop.rows() == [(1, 11, "one"), *BEFORE[1:]]


# What undoing does, row by row


SHIFTED = {
    "mysql": "UPDATE s SET place = place + 1 ORDER BY place DESC",
    "postgresql": "UPDATE s SET place = place + 1",
    "sqlite": "UPDATE s SET place = place + 1",
}


@EVERYWHERE
@pytest.mark.parametrize("rows", ["(1, 3), (2, 2), (3, 1)", "(1, 1), (2, 2), (3, 3)"])
def test_unique_values_that_moved_up_move_down_again(
    shop: Shop, database: Database, rows: str
) -> None:
    checked = {"postgresql": " DEFERRABLE"}.get(database.dialect, "")
    database.sql(f"CREATE TABLE s (id INT PRIMARY KEY, place INT, UNIQUE (place){checked})",
                 f"INSERT INTO s VALUES {rows}")  # fmt: skip
    before = shop.rows("s")
    text = SHIFTED[database.dialect]
    if database.dialect == "sqlite":
        # It moves row by row, and refuses what it meets on the way.
        text += " WHERE id = 1" if before[0][1] == 3 else " WHERE id = 3"
    assert shop.undone_by(lambda: shop.execute(text), "s") != before
    assert shop.rows("s") == before


@EVERYWHERE
def test_rows_that_refer_to_each_other_come_back(shop: Shop, database: Database) -> None:
    database.sql("CREATE TABLE tree (id INT PRIMARY KEY, up INT, "
                 "FOREIGN KEY (up) REFERENCES tree (id))",
                 "INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2)",
                 "INSERT INTO tree VALUES (9, NULL), (8, 9), (7, 8)")  # fmt: skip
    before = shop.rows("tree")
    order = " ORDER BY id DESC" if database.dialect == "mysql" else ""
    other = " ORDER BY id" if database.dialect == "mysql" else ""
    made = shop.undone_by(
        lambda: shop.execute(
            f"DELETE FROM tree WHERE id < 4{order}", f"DELETE FROM tree WHERE id > 4{other}"
        ),
        "tree",
    )
    assert made == []
    assert sorted(map(repr, database.sql("SELECT * FROM tree"))) == sorted(map(repr, before))
