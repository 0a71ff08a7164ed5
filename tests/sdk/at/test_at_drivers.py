"""Whatever driver, engine or framework SQL comes through, it is undone or kept as a whole."""

# ruff: noqa: PT012, SIM117 (what is undone is a block)
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import tidelock
from tests.databases.connections import AWAITING, Database
from tests.sdk.at_sources import UndoneError
from tidelock.application import Application
from tidelock.at.errors import RowsLockedError
from tidelock.at.resource import AtDataSource
from tidelock.at.undo_log import DEFAULT_TABLES, undo_log_ddl
from tidelock.sql.dialects import DIALECTS
from tidelock.sql.errors import AutocommitError, StatementRefusedError
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

BEFORE = [(1, 10, "one"), (2, 20, "two"), (3, 30, "three")]
AFTER = [(1, 11, "one"), (3, 30, "x"), (4, 40, "four"), (5, 50, "five"), (6, 60, "six")]
TABLE = "CREATE TABLE t (id INT PRIMARY KEY, v INT, name VARCHAR(40))"
COUNTED = {
    "mysql": "CREATE TABLE counted (id INT AUTO_INCREMENT PRIMARY KEY, v INT)",
    "postgresql": "CREATE TABLE counted (id serial PRIMARY KEY, v int)",
    "sqlite": "CREATE TABLE counted (id INTEGER PRIMARY KEY, v INT)",
}
ROWS = "INSERT INTO t VALUES (1, 10, 'one'), (2, 20, 'two'), (3, 30, 'three')"


@pytest.fixture
def filled(database: Database) -> Database:
    database.sql(
        TABLE, ROWS, COUNTED[database.dialect], undo_log_ddl(DIALECTS[database.dialect].name)
    )
    return database


def rows(database: Database) -> list[tuple[Any, ...]]:
    return database.sql("SELECT id, v, name FROM t ORDER BY id")


def nothing_is_left(database: Database, coordinator: Coordinator) -> bool:
    coordinator.assert_clean()
    table = DEFAULT_TABLES[DIALECTS[database.dialect].name]
    return database.sql(f"SELECT * FROM {table}") == []


# Asynchronous drivers

BY_AWAITING_DRIVER = pytest.mark.parametrize(
    ("database", "driver"), [(name, name) for name in AWAITING], indirect=["database"]
)


async def asyncpg_work(connection: Any) -> None:
    async with connection.transaction():
        assert await connection.execute("UPDATE t SET v = v + $1 WHERE id = $2", 1, 1) == "UPDATE 1"
        assert await connection.fetchval("DELETE FROM t WHERE id = $1 RETURNING name", 2) == "two"
        await connection.executemany(
            "INSERT INTO t (id, v, name) VALUES ($1, $2, $3)", [(4, 40, "four"), (5, 50, "five")]
        )
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute("DELETE FROM t")
                raise ZeroDivisionError
        async with connection.transaction():
            await connection.execute("UPDATE t SET name = 'x' WHERE id = 3")
        found = await connection.fetch("INSERT INTO t VALUES (6, 60, 'six') RETURNING id, name")
        assert [tuple(record) for record in found] == [(6, "six")]


async def cursor_work(connection: Any, dialect: str) -> None:
    mark = "%s" if dialect == "mysql" else "?"
    async with connection.cursor() as cursor:
        await cursor.execute(f"UPDATE t SET v = v + {mark} WHERE id = {mark}", (1, 1))
        assert cursor.rowcount == 1
        await cursor.execute("DELETE FROM t WHERE id = 2 RETURNING name")
        assert tuple(await cursor.fetchone()) == ("two",)
        insert = f"INSERT INTO t (id, v, name) VALUES ({mark}, {mark}, {mark})"
        await cursor.executemany(insert, [(4, 40, "four"), (5, 50, "five")])
        assert cursor.rowcount == 2
        await cursor.execute("SAVEPOINT a")
        await cursor.execute("DELETE FROM t")
        await cursor.execute("ROLLBACK TO SAVEPOINT a")
        await cursor.execute("UPDATE t SET name = 'x' WHERE id = 3")
        await cursor.execute("INSERT INTO t VALUES (6, 60, 'six')")
    await connection.commit()


async def driver_work(connection: Any, dialect: str) -> None:
    if dialect == "postgresql":
        await asyncpg_work(connection)
    else:
        await cursor_work(connection, dialect)


@asynccontextmanager
async def connected(source: AtDataSource) -> AsyncIterator[Any]:
    connection = await source.aconnect()
    try:
        yield connection
    finally:
        await (
            connection.ensure_closed if hasattr(connection, "ensure_closed") else connection.close
        )()


@BY_AWAITING_DRIVER
async def test_an_asynchronous_driver_takes_part(
    filled: Database, driver: str, application: Application, tidelock_coordinator: Coordinator
) -> None:
    source = AtDataSource(lambda: filled.open(driver), application=application)
    async with connected(source) as connection:
        with pytest.raises(UndoneError):
            async with tidelock.transaction(application=application):
                await driver_work(connection, filled.dialect)
                assert rows(filled) == AFTER
                raise UndoneError
        assert rows(filled) == BEFORE
        async with tidelock.transaction(application=application):
            await driver_work(connection, filled.dialect)
    assert rows(filled) == AFTER
    assert nothing_is_left(filled, tidelock_coordinator)


@BY_AWAITING_DRIVER
async def test_rows_of_others_are_refused_and_rolled_back_by_an_asynchronous_driver(
    filled: Database, driver: str, application: Application
) -> None:
    source = AtDataSource(lambda: filled.open(driver), application=application)
    change = "UPDATE t SET v = v + 1 WHERE id = 1"

    async def alone(connection: Any) -> None:
        if driver == "asyncpg":
            async with connection.transaction():
                await connection.execute(change)
        else:
            async with connection.cursor() as cursor:
                await cursor.execute(change)
            await connection.commit()

    async with connected(source) as one, connected(source) as other:
        async with tidelock.transaction(application=application):
            await alone(one)
            with tidelock.suspended(), pytest.raises(RowsLockedError):
                async with tidelock.transaction(application=application):
                    await alone(other)
            with tidelock.suspended():
                await alone(other)
    assert rows(filled)[0] == (1, 12, "one")


@BY_AWAITING_DRIVER
async def test_what_an_asynchronous_driver_cannot_undo_is_refused(
    filled: Database, driver: str, application: Application
) -> None:
    source = AtDataSource(lambda: filled.open(driver), application=application)
    async with connected(source) as connection, tidelock.transaction(application=application):
        if driver == "asyncpg":
            with pytest.raises(StatementRefusedError, match="executemany"):
                await connection.copy_records_to_table("t", records=[])
            with pytest.raises(StatementRefusedError, match="fetch"):
                await connection.prepare("DELETE FROM t")
            with pytest.raises(AutocommitError):
                await connection.execute("DELETE FROM t")
        elif driver == "aiosqlite":
            with pytest.raises(StatementRefusedError, match="one by one"):
                await connection.executescript("DELETE FROM t")
        else:
            async with connection.cursor() as cursor:
                with pytest.raises(StatementRefusedError, match="procedure"):
                    await cursor.callproc("p")
    assert rows(filled) == BEFORE


# SQLAlchemy


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "t"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    v: Mapped[int]
    name: Mapped[str]


class Counted(Base):
    __tablename__ = "counted"

    id: Mapped[int] = mapped_column(primary_key=True)
    v: Mapped[int]


SYNC_URLS = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg", "sqlite": "sqlite"}
ASYNC_URLS = {
    "mysql": "mysql+asyncmy",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}
EVERYWHERE = pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)


def url_of(database: Database, names: dict[str, str]) -> str:
    if database.server is None:
        return f"{names['sqlite']}:///{database.name}"
    server = database.server
    where = f"{server.user}@{server.host}:{server.port}/{database.name}"
    return f"{names[database.dialect]}://{where}"


def orm_work(session: Session) -> None:
    one = session.get(Thing, 1)
    assert one is not None
    one.v += 1
    session.delete(session.get_one(Thing, 2))
    session.add_all([Thing(id=4, v=40, name="four"), Thing(id=5, v=50, name="five")])
    session.flush()
    with session.begin_nested() as nested:
        session.execute(sa.delete(Thing))
        nested.rollback()
    with session.begin_nested():
        session.execute(sa.update(Thing).where(Thing.id == 3).values(name="x"))
    many = [Counted(v=number) for number in range(3)]
    session.add_all(many)
    session.flush()
    assert len({each.id for each in many}) == 3
    session.execute(sa.insert(Thing), [{"id": 6, "v": 60, "name": "six"}])
    session.execute(
        sa.text("UPDATE t SET v = :v WHERE id = :i"), [{"v": 40, "i": 4}, {"v": 50, "i": 5}]
    )
    session.execute(sa.update(Thing), [{"id": 4, "name": "four"}, {"id": 6, "name": "six"}])


@pytest.fixture
def sync_engine(filled: Database, application: Application) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url_of(filled, SYNC_URLS), pool_pre_ping=True)
    source = AtDataSource.of_engine(engine, application=application)
    yield engine
    engine.dispose()
    source.close()


@EVERYWHERE
def test_an_engine_takes_part(
    filled: Database,
    sync_engine: sa.Engine,
    application: Application,
    tidelock_coordinator: Coordinator,
) -> None:
    def work() -> None:
        with Session(sync_engine) as session:
            orm_work(session)
            session.commit()

    with pytest.raises(UndoneError), tidelock.transaction(application=application):
        work()
        assert rows(filled) == AFTER
        assert len(filled.sql("SELECT * FROM counted")) == 3
        raise UndoneError
    assert rows(filled) == BEFORE
    assert filled.sql("SELECT * FROM counted") == []
    with tidelock.transaction(application=application):
        work()
    assert rows(filled) == AFTER
    assert nothing_is_left(filled, tidelock_coordinator)


@EVERYWHERE
def test_an_engine_that_commits_by_itself_is_refused(
    sync_engine: sa.Engine, application: Application
) -> None:
    with (
        sync_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(AutocommitError),
        tidelock.transaction(application=application),
    ):
        connection.execute(sa.text("DELETE FROM t"))


@EVERYWHERE
def test_rows_of_others_veto_the_commit_of_an_engine(
    filled: Database, sync_engine: sa.Engine, application: Application
) -> None:
    change = sa.text("UPDATE t SET v = v + 1 WHERE id = 1")
    with tidelock.transaction(application=application):
        with sync_engine.begin() as connection:
            connection.execute(change)
        with (
            tidelock.suspended(),
            pytest.raises(RowsLockedError),
            tidelock.transaction(application=application),
            sync_engine.begin() as connection,
        ):
            connection.execute(change)
    assert rows(filled)[0] == (1, 11, "one")


@EVERYWHERE
async def test_an_async_engine_takes_part(
    filled: Database, application: Application, tidelock_coordinator: Coordinator
) -> None:
    engine = create_async_engine(url_of(filled, ASYNC_URLS), pool_pre_ping=True)
    AtDataSource.of_engine(engine, application=application)

    async def work() -> None:
        async with AsyncSession(engine) as session:
            await session.run_sync(orm_work)
            await session.commit()

    try:
        with pytest.raises(UndoneError):
            async with tidelock.transaction(application=application):
                await work()
                assert rows(filled) == AFTER
                raise UndoneError
        assert rows(filled) == BEFORE
        async with tidelock.transaction(application=application):
            await work()
    finally:
        await engine.dispose()
    assert rows(filled) == AFTER
    assert nothing_is_left(filled, tidelock_coordinator)
