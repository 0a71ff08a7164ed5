"""One protocol over six drivers and three databases."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from tests.databases.connections import BLOCKING, DIALECT_OF, DRIVERS, Database
from tidelock.driving import drive
from tidelock.sql import databases
from tidelock.sql.catalog import Catalog, TableName, search_path
from tidelock.sql.drivers import session_of
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.identity import identify
from tidelock.sql.session import MARK, Session, release, rollback_to, savepoint

pytestmark = pytest.mark.databases

BY_DRIVER = pytest.mark.parametrize(
    ("database", "driver"), [(name, name) for name in DRIVERS], indirect=["database"]
)
TABLE = "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))"


async def values(session: Session) -> list[tuple[Any, ...]]:
    return (await session.execute("SELECT id, v FROM t ORDER BY id")).rows


@BY_DRIVER
async def test_statements_have_rows_names_and_counts(database: Database, driver: str) -> None:
    database.sql(TABLE)
    async with database.session(driver) as session:
        await session.begin()
        assert not session.autocommits
        done = await session.execute(f"INSERT INTO t VALUES (1, {MARK}), (2, '100%')", ("a?%s$1",))
        assert session.in_transaction
        assert done.row_count == 2
        found = await session.execute(f"SELECT id, v FROM t WHERE id = {MARK}", (1,))
        assert (found.columns, found.rows) == (("id", "v"), [(1, "a?%s$1")])
        done = await session.execute(f"DELETE FROM t WHERE v LIKE {MARK} OR v = '100%'", ("b%",))
        assert done.row_count == 1
        await session.commit()
    assert database.sql("SELECT * FROM t") == [(1, "a?%s$1")]


@BY_DRIVER
async def test_a_transaction_may_go_back_to_a_savepoint_or_altogether(
    database: Database, driver: str
) -> None:
    database.sql(TABLE, "INSERT INTO t VALUES (1, 'a')")
    async with database.session(driver) as session:
        await session.begin()
        await session.execute("UPDATE t SET v = 'b'")
        await savepoint(session, "s 1")
        await session.execute("UPDATE t SET v = 'c'")
        await rollback_to(session, "s 1")
        await release(session, "s 1")
        assert await values(session) == [(1, "b")]
        await session.rollback()
        assert not session.in_transaction
    assert database.sql("SELECT v FROM t") == [("a",)]


@BY_DRIVER
async def test_columns_are_named_without_any_row(database: Database, driver: str) -> None:
    database.sql(TABLE)
    async with database.session(driver) as session:
        assert await session.describe("SELECT * FROM t WHERE 1 = 0") == ("id", "v")


@BY_DRIVER
async def test_a_connection_says_which_database_it_leads_to(
    database: Database, driver: str
) -> None:
    async with database.session(driver) as session, database.session(driver) as another:
        identity = await identify(session)
        assert await identify(another) == identity
    kind, _, rest = identity.resource_id.partition(":")
    assert kind == DIALECT_OF[driver]
    assert rest.endswith(database.name)


@pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
async def test_another_database_of_the_server_is_another_resource(database: Database) -> None:
    assert database.server is not None
    with database.server.database() as name:
        other = Database(database.dialect, database.server, name)
        driver = {"mysql": "pymysql", "postgresql": "psycopg"}[database.dialect]
        async with database.session(driver) as one, other.session(driver) as another:
            assert (await identify(one)).resource_id != (await identify(another)).resource_id


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
async def test_a_connection_that_spoils_texts_is_unsuitable(database: Database) -> None:
    async with database.session("pymysql", charset="latin1") as session:
        with pytest.raises(DatabaseUnsuitableError, match="utf8mb4"):
            await identify(session)


async def test_a_database_in_memory_is_unsuitable() -> None:
    async with Database("sqlite", None, ":memory:").session("sqlite3") as session:
        with pytest.raises(DatabaseUnsuitableError, match="use a file"):
            await identify(session)


@pytest.mark.parametrize(
    ("database", "driver"), [(name, name) for name in BLOCKING], indirect=["database"]
)
def test_a_blocking_driver_never_waits(database: Database, driver: str) -> None:
    database.sql(TABLE)
    session = session_of(database.connect())
    assert drive(session.execute("SELECT 1")).rows == [(1,)]
    assert drive(Catalog().table(session, TableName("t"), drive(search_path(session)))).name == "t"
    drive(session.close())


@pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)
def test_sessions_see_through_what_applications_set_for_themselves(database: Database) -> None:
    options: dict[str, Any] = {}
    if database.dialect == "mysql":
        from pymysql.cursors import DictCursor  # noqa: PLC0415

        options["cursorclass"] = DictCursor
    if database.dialect == "postgresql":
        from psycopg.rows import dict_row  # noqa: PLC0415

        options["row_factory"] = dict_row
    connection = database.connect(**options)
    if database.dialect == "sqlite":
        connection.row_factory = lambda cursor, row: {"row": row}
        connection.text_factory = bytes
    session = session_of(connection)
    assert drive(session.execute("SELECT 1, 'a'")).rows == [(1, "a")]
    connection.close()


def test_a_connection_of_no_known_driver_is_refused_by_name() -> None:
    with pytest.raises(DatabaseUnsuitableError, match=r"builtins\.dict is no connection"):
        session_of({})


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_connection_of_psycopg_that_is_awaited_is_refused_by_name(
    database: Database,
) -> None:
    connection = await psycopg.AsyncConnection.connect(**database.where())
    try:
        with pytest.raises(DatabaseUnsuitableError, match="use asyncpg"):
            session_of(connection)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("database", "at_once"),
    [("mysql", "SET lock_wait_timeout = 2"), ("postgresql", "SET lock_timeout = '2s'")],
    indirect=["database"],
)
def test_a_connection_that_is_kept_after_a_query_holds_up_nobody(
    database: Database, at_once: str
) -> None:
    database.sql(TABLE)
    source = databases.Database(database.connect, blocking=True)

    async def look(session: Session) -> list[tuple[Any, ...]]:
        found = await values(session)
        if session.in_transaction:
            await session.rollback()
        return found

    assert drive(source.run_here(look)) == []
    database.sql(at_once, "DROP TABLE t")
    source.close()


ON_SERVERS_AWAITED = pytest.mark.parametrize(
    ("database", "driver"), [(name, name) for name in ("asyncmy", "asyncpg")], indirect=["database"]
)


@ON_SERVERS_AWAITED
async def test_an_awaited_connection_is_kept_for_what_comes_next_on_its_loop(
    database: Database, driver: str
) -> None:
    database.sql(TABLE)
    source = databases.Database(lambda: database.open(driver), blocking=False)

    async def which(session: Session) -> object:
        return session.connection

    async def fail(session: Session) -> None:
        raise ZeroDivisionError

    def in_another_loop() -> object:
        return asyncio.run(source.run(which))

    first = await source.run(which)
    assert await source.run(which) is first
    assert await asyncio.to_thread(in_another_loop) is not first
    with pytest.raises(ZeroDivisionError):
        await source.run(fail)
    second = await source.run(which)
    assert second is not first
    closing = asyncio.all_tasks() - {asyncio.current_task()}
    source.close()
    async with asyncio.timeout(10):
        await asyncio.gather(*closing, return_exceptions=True)
    assert await source.run(which) is not second
    source.close()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
