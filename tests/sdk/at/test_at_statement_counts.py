"""How often a database is asked for what AT does: nobody adds a statement unseen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

import tidelock
from tests.databases.connections import AWAITING, DRIVERS, Database
from tests.databases.statement_logs import log_statements, statements_of
from tests.sdk.at.conftest import ROWS, TABLE
from tests.sdk.at_sources import Shop
from tidelock.application import Application
from tidelock.at.errors import RowsLockedError
from tidelock.at.resource import AtDataSource
from tidelock.at.undo_log import UndoLog, undo_log_ddl
from tidelock.sql.dialects import DIALECTS
from tidelock.sql.drivers import session_of

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

BY_DRIVER = pytest.mark.parametrize(
    ("database", "driver"),
    # aiosqlite says what sqlite3 does.
    [(name, name) for name in DRIVERS if name != "aiosqlite"],
    indirect=["database"],
)
ON_SERVERS = pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)

MARKS = {"mysql": ("%s", "%s"), "postgresql": ("%s", "%s"), "sqlite": ("?", "?")}
UPDATE = "UPDATE t SET v = v + {} WHERE id = {}"
INSERT = "INSERT INTO t (id, v) VALUES ({}, {})"
DELETE = "DELETE FROM t WHERE v > {} AND id = {}"


@asynccontextmanager
async def opened(database: Database, driver: str) -> AsyncIterator[Any]:
    """Yield a connection of a driver, which ends whatever happens: tables could not be dropped."""
    raw = await database.open(driver)
    try:
        yield raw
    finally:
        closing = raw.close()
        if closing is not None:
            await closing


Run = Callable[[str, tuple[int, int]], Awaitable[None]]


def runner(connection: Any, driver: str, database: Database) -> Run:
    """Return what executes a statement and commits it."""
    marks = ("$1", "$2") if driver == "asyncpg" else MARKS[database.dialect]

    async def run(text: str, values: tuple[int, int]) -> None:
        text = text.format(*marks)
        if driver == "asyncpg":
            async with connection.transaction():
                await connection.execute(text, *values)
        elif driver in AWAITING:
            async with connection.cursor() as cursor:
                await cursor.execute(text, values)
            await connection.commit()
        else:
            connection.cursor().execute(text, values)
            connection.commit()

    return run


def words(statements: list[str]) -> list[str]:
    return [text.split()[0].rstrip(";").upper() for text in statements]


BEGINS = {"mysql": [], "postgresql": ["BEGIN"], "sqlite": ["BEGIN"]}
"""What stands before the first statement of a transaction, without AT as well."""


@BY_DRIVER
async def test_a_local_transaction_that_changes_a_row_is_so_many_statements(
    database: Database, driver: str, application: Application
) -> None:
    database.sql(TABLE, ROWS, undo_log_ddl(DIALECTS[database.dialect].name))
    log_statements(database)
    connect = (lambda: database.open(driver)) if driver in AWAITING else database.connect
    source = AtDataSource(connect, application=application)
    async with opened(database, driver) as raw:
        connection = await source.awrap(raw) if driver in AWAITING else source.wrap(raw)
        run = runner(connection, driver, database)
        async with tidelock.transaction(application=application):
            # What is asked once: the table, and whether that for undo rows is there.
            await run(UPDATE, (1, 1))
            await run(INSERT, (10, 50))
            await run(DELETE, (1, 10))
            with statements_of(database, raw) as updating:
                await run(UPDATE, (1, 1))
            with statements_of(database, raw) as inserting:
                await run(INSERT, (11, 50))
            with statements_of(database, raw) as deleting:
                await run(DELETE, (1, 11))
    source.close()
    begin = BEGINS[database.dialect]
    # Before, the application's own, after, the undo row.
    assert words(updating) == [*begin, "SELECT", "UPDATE", "SELECT", "INSERT", "COMMIT"]
    # Where its name leads to, unless it always leads there.
    asks = [] if database.dialect == "sqlite" else ["SELECT"]
    assert words(inserting) == [*begin, *asks, "INSERT", "SELECT", "INSERT", "COMMIT"]
    # The columns that the table has now, which asyncpg learns without executing anything.
    describing = {"asyncpg": begin, "sqlite3": ["SELECT", *begin]}.get(driver, [*begin, "SELECT"])
    assert words(deleting) == [*describing, "SELECT", "DELETE", "INSERT", "COMMIT"]


@BY_DRIVER
async def test_however_many_branches_were_committed_their_rows_go_with_so_many_statements(
    database: Database, driver: str
) -> None:
    dialect = DIALECTS[database.dialect]
    database.sql(undo_log_ddl(dialect.name))
    log_statements(database)
    undo_log = UndoLog(dialect)
    async with opened(database, driver) as raw:
        session = session_of(raw)
        for branches in ([("x", 1)], [("x", number) for number in range(20)]):
            with statements_of(database, raw) as said:
                await session.begin()
                await undo_log.delete(session, branches)
                await session.commit()
            # All but PostgreSQL look first whether there is more than one row of a branch.
            looks = [] if database.dialect == "postgresql" else ["SELECT"]
            assert words(said) == ["BEGIN", *looks, "DELETE", "COMMIT"]


# Where a name leads to may change between transactions


@contextmanager
def connected(shop: Shop) -> Iterator[Any]:
    connection = shop.connect()
    try:
        yield connection
    finally:
        connection.close()


def change_one(shop: Shop, connection: Any) -> None:
    connection.cursor().execute(shop.marked("UPDATE t SET v = v + ? WHERE id = ?"), (1, 1))
    connection.commit()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_name_that_leads_to_another_schema_since_is_not_taken_for_the_former(shop: Shop) -> None:
    shop.database.sql(
        "CREATE SCHEMA other",
        "CREATE TABLE other.t (id INT PRIMARY KEY, v INT)",
        "INSERT INTO other.t VALUES (1, 100)",
    )
    with connected(shop) as connection:
        shop.within(lambda: change_one(shop, connection))
        connection.execute("SET search_path TO other, public")
        connection.commit()

        def conflicting() -> None:
            change_one(shop, connection)
            with tidelock.suspended(), pytest.raises(RowsLockedError, match="other"):
                shop.within(lambda: shop.execute("UPDATE other.t SET v = 0 WHERE id = 1"))

        shop.within(conflicting)
        assert shop.undone_by(lambda: change_one(shop, connection), "other.t") == [(1, 102)]
        assert shop.rows("other.t") == [(1, 101)]
        assert shop.rows()[0][:2] == (1, 11)


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_a_name_that_leads_to_another_database_since_is_not_taken_for_the_former(
    shop: Shop,
) -> None:
    assert shop.database.server is not None
    with shop.database.server.database() as other:
        shop.database.sql(
            f"CREATE TABLE {other}.t (id INT PRIMARY KEY, v INT)",
            f"INSERT INTO {other}.t VALUES (1, 100)",
            undo_log_ddl("mysql", f"{other}.undo_log"),
        )
        with connected(shop) as connection:
            shop.within(lambda: change_one(shop, connection))
            connection.cursor().execute(f"USE {other}")
            taken: list[RowsLockedError] = []

            def conflicting() -> None:
                change_one(shop, connection)
                with (
                    tidelock.suspended(),
                    tidelock.transaction(application=shop.source.application),
                ):
                    with pytest.raises(RowsLockedError) as caught:
                        change_one(shop, connection)
                    taken.append(caught.value)

            shop.within(conflicting)
            assert list(taken[0].lock_keys) == [f"{other}.t"]
            assert shop.rows(f"{other}.t") == [(1, 101)]
    assert shop.rows()[0][:2] == (1, 11)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_temporary_table_before_the_one_that_was_meant_is_noticed(shop: Shop) -> None:
    with connected(shop) as connection:
        shop.within(lambda: change_one(shop, connection))
        connection.execute("CREATE TEMPORARY TABLE t (id INT PRIMARY KEY, v INT)")
        connection.execute("INSERT INTO t VALUES (1, 1)")
        connection.commit()
        with pytest.raises(tidelock.StatementRefusedError, match="temporary"):
            shop.within(lambda: change_one(shop, connection))


@ON_SERVERS
def test_a_statement_that_meets_no_row_proves_nothing_and_asks(shop: Shop) -> None:
    log_statements(shop.database)
    change = shop.marked("UPDATE t SET v = v + ? WHERE id = ?")
    with connected(shop) as connection:

        def meet(key: int) -> None:
            connection.cursor().execute(change, (1, key))
            connection.commit()

        shop.within(lambda: meet(1))
        with statements_of(shop.database, connection) as said:
            shop.within(lambda: meet(404))
    assert words(said) == [*BEGINS[shop.dialect], "SELECT", "SELECT", "UPDATE", "COMMIT"]


@ON_SERVERS
def test_a_table_that_was_made_anew_is_read_anew(shop: Shop) -> None:
    with connected(shop) as connection:
        shop.within(lambda: change_one(shop, connection))
        shop.database.sql(
            "DROP TABLE t",
            "CREATE TABLE t (v BIGINT, id INT PRIMARY KEY)",
            "INSERT INTO t VALUES (5, 1)",
        )
        assert shop.undone_by(lambda: change_one(shop, connection)) == [(6, 1)]
        assert shop.rows() == [(5, 1)]
