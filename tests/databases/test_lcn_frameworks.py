"""LCN with SQLAlchemy, sync and async, and with Django: local transactions on the group's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import tidelock
from tests.databases.connections import Database
from tests.databases.nothing_left import assert_nothing_left
from tests.meta.documents import ROOT
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.testing import Coordinator

pytestmark = [
    pytest.mark.databases,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("tidelock_application"),
]

EVERYWHERE: Final = pytest.mark.parametrize(
    "database", ["sqlite", "mysql", "postgresql"], indirect=True
)
QUICK: Final = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
SYNC: Final = {
    "mysql": "mysql+pymysql",
    "postgresql": "postgresql+psycopg",
    "sqlite": "sqlite+pysqlite",
}
AWAITED: Final = {
    "mysql": "mysql+asyncmy",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}

fails_with: Final = pytest.raises
"""What a whole block, with all that ends with it, raises."""


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "t"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    v: Mapped[int]
    extra: Mapped[Any] = mapped_column(sa.JSON, nullable=True)


def url_of(database: Database, drivers: dict[str, str]) -> str:
    driver, server = drivers[database.dialect], database.server
    if server is None:
        return f"{driver}:///{database.name}"
    return f"{driver}://{server.user}@{server.host}:{server.port}/{database.name}"


def rows(database: Database) -> dict[int, int]:
    return {int(key): int(v) for key, v in database.sql("SELECT id, v FROM t ORDER BY id")}


def add(session: Session, key: int, by: int = 1) -> None:
    session.execute(sa.update(Thing).where(Thing.id == key).values(v=Thing.v + by))


@pytest.fixture
def coordinator(tidelock_coordinator: Coordinator) -> Coordinator:
    return tidelock_coordinator


@pytest.fixture
def filled(database: Database, coordinator: Coordinator) -> Iterator[Database]:
    database.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL, extra JSON)",
        "INSERT INTO t VALUES (1, 10, NULL), (2, 20, NULL)",
    )
    yield database
    assert_nothing_left(coordinator, database)


@pytest.fixture
def engine(filled: Database) -> Iterator[sa.Engine]:
    made = sa.create_engine(url_of(filled, SYNC), pool_pre_ping=True)
    yield made
    made.dispose()


@pytest.fixture
def source(engine: sa.Engine) -> Iterator[tidelock.LcnDataSource]:
    made = tidelock.LcnDataSource.of_engine(engine)
    yield made
    assert made.held() == []


@pytest.fixture
def in_session(engine: sa.Engine, source: tidelock.LcnDataSource) -> Callable[..., None]:
    def do(*keys: int) -> None:
        with Session(engine) as session:
            for key in keys:
                add(session, key)
            session.commit()

    return do


@EVERYWHERE
def test_sessions_commit_and_roll_back_with_their_group(
    filled: Database,
    engine: sa.Engine,
    source: tidelock.LcnDataSource,
    coordinator: Coordinator,
) -> None:
    def work() -> None:
        with Session(engine) as session:
            add(session, 1)
            with fails_with(ZeroDivisionError), session.begin_nested():
                add(session, 2, 100)
                raise ZeroDivisionError
            session.commit()
            session.add(Thing(id=3, v=30, extra={"a": [1, "ä"]}))
            session.commit()
            add(session, 2, 100)
            session.rollback()
        with Session(engine) as session:
            assert session.get_one(Thing, 3).extra == {"a": [1, "ä"]}
            assert session.get_one(Thing, 1).v == 11, "what the group has done so far"

    with fails_with(LookupError), tidelock.transaction():
        work()
        raise LookupError
    assert rows(filled) == {1: 10, 2: 20}
    with tidelock.transaction() as transaction:
        work()
        assert rows(filled) == {1: 10, 2: 20}, "nobody else sees it before the decision"
        assert source.held() == [transaction.xid]
    assert transaction.status == "COMMITTED"
    assert rows(filled) == {1: 11, 2: 20, 3: 30}
    assert {each.mode for each in coordinator.transaction(transaction.xid).branches} == {"LCN"}
    work_outside = sa.update(Thing).where(Thing.id == 3).values(v=31)
    with engine.begin() as connection:
        connection.execute(work_outside)
    assert rows(filled)[3] == 31


@EVERYWHERE
async def test_async_sessions_commit_and_roll_back_with_their_group(filled: Database) -> None:
    engine = create_async_engine(url_of(filled, AWAITED), pool_pre_ping=True)
    source = tidelock.LcnDataSource.of_engine(engine)

    async def work() -> None:
        async with AsyncSession(engine) as session:
            await session.run_sync(add, 1)
            await session.commit()
            session.add(Thing(id=3, v=30, extra={"a": [1, "ä"]}))
            await session.commit()
            await session.run_sync(add, 2)
            await session.rollback()
        async with AsyncSession(engine) as session:
            assert (await session.get_one(Thing, 3)).extra == {"a": [1, "ä"]}
            assert (await session.get_one(Thing, 1)).v == 11

    try:
        with fails_with(LookupError):
            async with tidelock.transaction():
                await work()
                raise LookupError
        assert rows(filled) == {1: 10, 2: 20}
        async with tidelock.transaction() as transaction:
            await work()
            assert rows(filled) == {1: 10, 2: 20}
            assert source.held() == [transaction.xid]
        assert transaction.status == "COMMITTED"
        assert rows(filled) == {1: 11, 2: 20, 3: 30}
        # The group's connection is the next group's, as it was set up.
        async with tidelock.transaction(), AsyncSession(engine) as session:
            await session.run_sync(add, 3)
            await session.commit()
        assert rows(filled)[3] == 31
        async with engine.begin() as connection:
            await connection.execute(sa.update(Thing).where(Thing.id == 3).values(v=0))
        assert rows(filled)[3] == 0
        with pytest.raises(tidelock.LcnMisuseError, match="own sessions"):
            source.connection()
    finally:
        await engine.dispose()
    assert source.held() == []


@QUICK
def test_what_a_unit_does_in_sessions_is_undone_with_it_alone(
    filled: Database, in_session: Callable[..., None], coordinator: Coordinator
) -> None:
    @tidelock.lcn_transaction
    def unit(*, fails: bool) -> None:
        in_session(1)
        in_session(1, 2)
        if fails:
            raise LookupError

    with tidelock.transaction() as transaction:
        unit(fails=False)
        with pytest.raises(LookupError):
            unit(fails=True)
    assert rows(filled) == {1: 12, 2: 21}
    branches = coordinator.transaction(transaction.xid).branches
    assert len(branches) == 1, "a unit is one branch, however many sessions it has"


@QUICK
def test_a_session_within_a_session_works_on_the_same_connection(
    filled: Database, engine: sa.Engine, in_session: Callable[..., None]
) -> None:
    with tidelock.transaction(), Session(engine) as outer:
        add(outer, 1)
        in_session(1)
        with Session(engine) as inner:
            add(inner, 2)
            inner.rollback()
        outer.commit()
    assert rows(filled) == {1: 12, 2: 20}


@QUICK
def test_a_session_that_ends_before_one_that_began_later_does_not_count(
    filled: Database, engine: sa.Engine, source: tidelock.LcnDataSource
) -> None:
    with tidelock.transaction(), Session(engine) as first, Session(engine) as second:
        add(first, 1)
        add(second, 2)
        with pytest.raises(tidelock.LcnMisuseError, match="end the later one first"):
            first.commit()
        with pytest.raises(tidelock.LcnMisuseError, match="end the later one first"):
            second.commit()
    assert rows(filled) == {1: 10, 2: 20}


@QUICK
def test_a_local_transaction_belongs_to_one_global_one(
    filled: Database, engine: sa.Engine, source: tidelock.LcnDataSource
) -> None:
    with Session(engine) as session:
        add(session, 1)
        with (
            pytest.raises(tidelock.LcnMisuseError, match="before the global one"),
            tidelock.transaction(),
        ):
            add(session, 2)
        session.rollback()
        with tidelock.transaction():
            add(session, 1)
            with tidelock.suspended(), pytest.raises(tidelock.LcnMisuseError, match="belongs to"):
                add(session, 2)
            session.commit()
    assert rows(filled) == {1: 11, 2: 20}


@QUICK
def test_what_was_not_committed_goes_with_its_session(
    filled: Database, engine: sa.Engine, source: tidelock.LcnDataSource
) -> None:
    with tidelock.transaction():
        with Session(engine) as session:
            add(session, 1)
        assert source.held() == []
    assert rows(filled) == {1: 10, 2: 20}


@EVERYWHERE
def test_connections_that_commit_each_statement_have_each_join(
    filled: Database, engine: sa.Engine, source: tidelock.LcnDataSource, coordinator: Coordinator
) -> None:
    change = sa.text("UPDATE t SET v = v + 1 WHERE id = 1")
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with tidelock.transaction() as transaction, alone.connect() as connection:
        connection.execute(change)
        connection.execute(change)
        assert connection.scalar(sa.text("SELECT v FROM t WHERE id = 1")) == 12
        assert rows(filled)[1] == 10
    assert rows(filled)[1] == 12
    assert len(coordinator.transaction(transaction.xid).branches) == 3


@QUICK
def test_an_engine_takes_part_once(engine: sa.Engine, source: tidelock.LcnDataSource) -> None:
    with pytest.raises(DatabaseUnsuitableError, match="once"):
        tidelock.LcnDataSource.of_engine(engine)


@QUICK
def test_groups_wait_for_connections_as_many_as_there_may_be(
    filled: Database, engine: sa.Engine
) -> None:
    source = tidelock.LcnDataSource.of_engine(engine, greatest_connections=1, wait_ms=50)
    with tidelock.transaction():
        with Session(engine) as session:
            add(session, 1)
            session.commit()
        with (
            tidelock.transaction(propagation="REQUIRES_NEW"),
            Session(engine) as session,
            pytest.raises(tidelock.ConnectionsHeldError),
        ):
            add(session, 2)
    assert rows(filled) == {1: 11, 2: 20}
    assert source.held() == []


DJANGO: Final = """
import contextlib
import sys

import django
from django.conf import settings

url, engine, name, host, port, user = sys.argv[1:]
database = {"ENGINE": f"django.db.backends.{engine}", "NAME": name}
if host:
    database |= {"HOST": host, "PORT": port, "USER": user, "CONN_HEALTH_CHECKS": True}
else:
    database["OPTIONS"] = {"transaction_mode": "IMMEDIATE"}
if engine == "mysql":
    import pymysql

    pymysql.install_as_MySQLdb()
settings.configure(
    DATABASES={"default": database}, INSTALLED_APPS=[], USE_TZ=True, TIME_ZONE="Asia/Shanghai"
)
django.setup()

from django.db import connection, models, transaction
from django.utils import timezone

import tidelock


class Thing(models.Model):
    name = models.CharField(max_length=40, unique=True)
    v = models.IntegerField()
    made = models.DateTimeField(default=timezone.now)
    extra = models.JSONField(default=dict)

    class Meta:
        app_label = "shop"
        db_table = "t"


with connection.schema_editor() as editor:
    editor.create_model(Thing)
Thing.objects.create(name="one", v=10)
Thing.objects.create(name="two", v=20)

application = tidelock.Application([url], application_id="shop")
tidelock.configure(application)
source = tidelock.LcnDataSource.of_django()


@transaction.atomic
def work():
    Thing.objects.filter(name="one").update(v=models.F("v") + 1)
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        Thing.objects.all().delete()
        raise ZeroDivisionError
    Thing.objects.select_for_update().get(name="two").delete()
    moment = timezone.now()
    three = Thing.objects.create(name="three", v=30, made=moment, extra={"a": [1]})
    three.refresh_from_db()
    assert (three.made, three.extra) == (moment, {"a": [1]})
    Thing.objects.bulk_create([Thing(name="four", v=40), Thing(name="five", v=50)])


@tidelock.lcn_transaction
def unit(fails):
    with transaction.atomic():
        Thing.objects.filter(name="one").update(v=models.F("v") + 1)
    if fails:
        raise LookupError


def show(when):
    print(when, sorted(Thing.objects.values_list("name", "v")))


with contextlib.suppress(RuntimeError), tidelock.transaction():
    work()
    show("undecided")
    with tidelock.suspended():
        show("others")
    raise RuntimeError
show("rolled back")
with tidelock.transaction():
    work()
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        Thing.objects.all().delete()
        raise ZeroDivisionError
    Thing.objects.filter(name="three").update(v=31)
    unit(False)
    with contextlib.suppress(LookupError):
        unit(True)
show("committed")
assert source.held() == []
connection.close()
application.close()
"""

BEFORE: Final = "[('one', 10), ('two', 20)]"
PRINTED: Final = f"""\
undecided [('five', 50), ('four', 40), ('one', 11), ('three', 30)]
others {BEFORE}
rolled back {BEFORE}
committed [('five', 50), ('four', 40), ('one', 12), ('three', 31)]
"""


@EVERYWHERE
def test_the_orm_of_django_takes_part(database: Database, coordinator: Coordinator) -> None:
    server = database.server
    where = [server.host, str(server.port), server.user] if server else ["", "", ""]
    engine = {"mysql": "mysql", "postgresql": "postgresql", "sqlite": "sqlite3"}[database.dialect]
    done = subprocess.run(
        [sys.executable, "-c", DJANGO, coordinator.url, engine, database.name, *where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == PRINTED
    coordinator.assert_clean()
