"""Connections that pools lend take part, and come back to their pool."""

# ruff: noqa: PT012 (what is undone is a block)
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from typing import Any

import asyncmy
import asyncpg
import psycopg_pool
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

import tidelock
from tests.databases.connections import Database
from tests.sdk.at_sources import Shop, UndoneError
from tidelock.application import Application
from tidelock.at.resource import AtDataSource
from tidelock.sql.errors import AutocommitError, DatabaseUnsuitableError

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

BEFORE = [(1, 10, "one"), (2, 20, "two"), (3, 30, "three")]
AFTER = [(1, 11, "one"), *BEFORE[1:]]
CHANGE = "UPDATE t SET v = v + 1 WHERE id = 1"


def where(database: Database, name: str) -> dict[str, Any]:
    """Return what a driver is told, with the driver's own name for the database."""
    told = database.where()
    return {**{key: told[key] for key in ("host", "port", "user")}, name: database.name}


def source_of(shop: Shop, connect: Callable[[], Any]) -> AtDataSource:
    """Return a source of another driver in the same process, for the same resource."""
    return AtDataSource(connect, application=shop.source.application)


# asyncpg and asyncmy


@asynccontextmanager
async def pool_of_asyncpg(shop: Shop, **options: Any) -> AsyncIterator[Any]:
    told = where(shop.database, "database")
    source = source_of(shop, lambda: asyncpg.connect(**told))
    pool = source.wrap_pool(asyncpg.create_pool(**told, min_size=1, max_size=3, **options))
    async with pool as opened:
        assert opened is pool
        yield pool


@asynccontextmanager
async def pool_of_asyncmy(shop: Shop) -> AsyncIterator[Any]:
    told = where(shop.database, "database")
    source = source_of(shop, lambda: asyncmy.connect(**told))
    async with source.wrap_pool(await asyncmy.create_pool(minsize=1, maxsize=3, **told)) as pool:
        yield pool


async def by_asyncpg(pool: Any) -> None:
    async with pool.acquire(timeout=20) as connection, connection.transaction():
        assert await connection.execute(CHANGE) == "UPDATE 1"


async def by_asyncmy(pool: Any) -> None:
    async with pool.acquire() as connection:
        async with connection.cursor() as cursor:
            assert await cursor.execute(CHANGE) == 1
        await connection.commit()


POOLS = pytest.mark.parametrize(
    ("database", "opened", "work"),
    [("postgresql", pool_of_asyncpg, by_asyncpg), ("mysql", pool_of_asyncmy, by_asyncmy)],
    indirect=["database"],
)


@POOLS
async def test_a_pool_that_is_awaited_lends_connections_that_take_part(
    shop: Shop, opened: Any, work: Any
) -> None:
    application = shop.source.application
    async with opened(shop) as pool:
        for _ in range(5):
            with pytest.raises(UndoneError):
                async with tidelock.transaction(application=application):
                    await work(pool)
                    assert shop.rows() == AFTER
                    raise UndoneError
            assert shop.rows() == BEFORE
        async with tidelock.transaction(application=application):
            await work(pool)
        assert shop.rows() == AFTER
        await work(pool)
        assert shop.rows()[0] == (1, 12, "one"), "as ever outside of transactions"


@POOLS
async def test_more_borrowers_than_connections_wait_for_their_turn(
    shop: Shop, opened: Any, work: Any
) -> None:
    async def alone(pool: Any) -> None:
        @tidelock.local_transaction(application=shop.source.application)
        async def unit() -> None:
            await work(pool)

        async with tidelock.transaction(application=shop.source.application):
            await unit()

    async with opened(shop) as pool:
        async with asyncio.timeout(60):
            await asyncio.gather(*(alone(pool) for _ in range(9)))
    assert shop.rows()[0] == (1, 19, "one")


@POOLS
async def test_what_a_borrower_left_undecided_is_rolled_back_and_forgotten(
    shop: Shop, opened: Any, work: Any
) -> None:
    application = shop.source.application
    async with opened(shop) as pool:
        async with tidelock.transaction(application=application):
            connection = await pool.acquire()
            if hasattr(connection, "transaction"):
                await connection.transaction().start()
                await connection.execute("DELETE FROM t")
            else:
                async with connection.cursor() as cursor:
                    await cursor.execute("DELETE FROM t")
            await pool.release(connection)
        assert shop.rows() == BEFORE
        async with tidelock.transaction(application=application):
            await work(pool)
    assert shop.rows() == AFTER


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_short_cuts_of_a_pool_are_as_ever_and_refused_within(shop: Shop) -> None:
    async with pool_of_asyncpg(shop) as pool:
        assert await pool.fetchval("SELECT v FROM t WHERE id = 1") == 10
        assert [tuple(row) for row in await pool.fetch("SELECT id FROM t ORDER BY id")] == [
            (1,), (2,), (3,)
        ]  # fmt: skip
        await pool.executemany("UPDATE t SET v = $1 WHERE id = $2", [(10, 1), (20, 2)])
        async with tidelock.transaction(application=shop.source.application):
            assert tuple(await pool.fetchrow("SELECT v FROM t WHERE id = 1")) == (10,)
            with pytest.raises(AutocommitError):
                await pool.execute(CHANGE)
    assert shop.rows() == BEFORE


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_pool_that_would_go_past_its_connections_is_refused(shop: Shop) -> None:
    told = where(shop.database, "database")
    source = source_of(shop, lambda: asyncpg.connect(**told))

    made: list[Any] = []

    async def connect(*_: Any, **__: Any) -> Any:
        made.append(await source.aconnect())
        return made[-1]

    with pytest.raises(asyncpg.InterfaceError, match="instance of"):
        await asyncpg.create_pool(connect=connect, min_size=1, max_size=1)
    await made[0].close()


# psycopg


@contextmanager
def pool_of_psycopg(shop: Shop) -> Iterator[Any]:
    told = where(shop.database, "dbname")
    with shop.source.wrap_pool(
        psycopg_pool.ConnectionPool(kwargs=told, min_size=1, max_size=2, open=False)
    ) as pool:
        yield pool


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_pool_of_psycopg_lends_connections_that_take_part(shop: Shop) -> None:
    def fail() -> None:
        with pool.connection() as connection:
            connection.execute("DELETE FROM t")
            raise KeyError

    def work() -> None:
        with pool.connection() as connection:
            connection.execute(CHANGE)
        with pytest.raises(KeyError):
            fail()

    with pool_of_psycopg(shop) as pool:
        for _ in range(4):
            assert shop.undone_by(work) == AFTER
            assert shop.rows() == BEFORE
        shop.within(work)
        assert shop.rows() == AFTER
        assert pool.get_stats()["connections_num"] <= 2, "they came back, and were lent again"
        connection = pool.getconn(timeout=20)
        connection.execute("DELETE FROM t")
        connection.rollback()
        pool.putconn(connection)
    assert shop.rows() == AFTER


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_threads_share_a_pool_of_psycopg(shop: Shop) -> None:
    @tidelock.local_transaction(application=shop.source.application)
    def unit() -> None:
        with pool.connection(timeout=60) as connection:
            connection.execute(CHANGE)

    def alone() -> None:
        with tidelock.transaction(application=shop.source.application):
            unit()

    with pool_of_psycopg(shop) as pool, ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(copy_context().run, alone) for _ in range(9)]:
            done.result(60)
    assert shop.rows()[0] == (1, 19, "one")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_what_is_no_pool_of_a_known_driver_is_refused_with_what_to_do(
    shop: Shop, application: Application
) -> None:
    engine = sa.create_engine("sqlite://")
    opening = asyncmy.create_pool()
    for pool, instead in (
        (psycopg_pool.AsyncConnectionPool(open=False), "use asyncpg"),
        (opening, "await asyncmy"),
        (engine.pool, "of_engine"),
        ({}, r"builtins\.dict is no pool"),
    ):
        with pytest.raises(DatabaseUnsuitableError, match=instead):
            shop.source.wrap_pool(pool)
    opening.close()
    engine.dispose()


# SQLAlchemy


def undone_and_done(shop: Shop, engine: sa.Engine) -> None:
    def work() -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(CHANGE))

    before = shop.rows()
    made = shop.undone_by(work)
    assert made[0] == (1, before[0][1] + 1, "one")
    assert shop.rows() == before
    shop.within(work)
    assert shop.rows() == made


MANY = pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)
URLS = {"mysql": "mysql+pymysql://", "postgresql": "postgresql+psycopg://", "sqlite": "sqlite://"}


@MANY
def test_an_engine_takes_part_whose_creator_makes_its_connections(
    shop: Shop, application: Application
) -> None:
    # The URL says nothing, so that phase two can only have come there by the creator.
    engine = sa.create_engine(URLS[shop.database.dialect], creator=shop.database.connect)
    source = AtDataSource.of_engine(engine, application=application)
    undone_and_done(shop, engine)
    engine.dispose()
    source.close()


@pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
def test_an_engine_takes_part_whose_listener_says_how_to_connect(
    shop: Shop, application: Application
) -> None:
    engine = sa.create_engine(URLS[shop.database.dialect])

    @sa.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        options.update(shop.database.where())

    source = AtDataSource.of_engine(engine, application=application)
    undone_and_done(shop, engine)
    engine.dispose()
    source.close()


@MANY
@pytest.mark.parametrize("kind", [NullPool, StaticPool, QueuePool])
def test_an_engine_takes_part_whatever_its_pool(
    shop: Shop, application: Application, kind: type[sa.Pool]
) -> None:
    engine = sa.create_engine(
        URLS[shop.database.dialect], creator=shop.database.connect, poolclass=kind
    )
    source = AtDataSource.of_engine(engine, application=application)
    assert type(engine.pool) is kind
    undone_and_done(shop, engine)
    engine.dispose()
    undone_and_done(shop, engine)  # also with the pool that this has made anew
    engine.dispose()
    source.close()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_an_async_engine_takes_part_whose_creator_makes_its_connections(
    shop: Shop, application: Application
) -> None:
    told = where(shop.database, "database")

    async def create() -> Any:
        return await asyncpg.connect(**told)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=create)
    source = AtDataSource.of_engine(engine, application=application)
    with pytest.raises(UndoneError):
        async with tidelock.transaction(application=application):
            async with engine.begin() as connection:
                await connection.execute(sa.text(CHANGE))
            assert shop.rows() == AFTER
            raise UndoneError
    assert shop.rows() == BEFORE
    await engine.dispose()
    source.close()


@MANY
def test_a_pool_of_any_kind_may_make_its_connections_by_the_source(shop: Shop) -> None:
    pool = QueuePool(shop.source.connect)

    def work() -> None:
        connection = pool.connect()
        connection.cursor().execute(CHANGE)
        connection.commit()
        connection.close()

    assert shop.undone_by(work) == AFTER
    assert shop.rows() == BEFORE
    pool.dispose()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_engine_takes_part_once(shop: Shop, application: Application) -> None:
    engine = sa.create_engine(f"sqlite:///{shop.database.name}")
    AtDataSource.of_engine(engine, application=application).close()
    with pytest.raises(DatabaseUnsuitableError, match="takes part already"):
        AtDataSource.of_engine(engine, application=application)
    engine.dispose()
