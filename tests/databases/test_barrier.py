"""The barrier in MariaDB and PostgreSQL, through all drivers, with calls that come at once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncmy
import asyncpg
import psycopg
import pymysql
import pytest

from tests.databases.servers import Server
from tidelock.barrier import BarrierError, Branch, BranchBarrier, Outcome, barrier_ddl
from tidelock.barrier.outcomes import Fate

pytestmark = pytest.mark.databases


@dataclass(frozen=True)
class Place:
    """A database with an account of 100, and how to reach it."""

    server: Server
    database: str

    @property
    def _where(self) -> dict[str, Any]:
        server = self.server
        return {"host": server.host, "port": server.port, "user": server.user}

    @contextmanager
    def connected(self, *, autocommit: bool = False) -> Iterator[Any]:
        where = self._where
        connection: Any
        if self.server.kind == "mariadb":
            connection = pymysql.connect(**where, database=self.database, autocommit=autocommit)
        else:
            connection = psycopg.connect(**where, dbname=self.database, autocommit=autocommit)
        try:
            yield connection
        finally:
            connection.close()

    @asynccontextmanager
    async def connected_later(self) -> AsyncIterator[Any]:
        where = self._where
        connection: Any
        if self.server.kind == "mariadb":
            connection = await asyncmy.connect(**where, database=self.database)
        else:
            connection = await asyncpg.connect(**where, database=self.database)
        try:
            yield connection
        finally:
            if self.server.kind == "mariadb":
                await connection.ensure_closed()
            else:
                await connection.close()

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        return self.server.sql(*statements, database=self.database)

    @property
    def balance(self) -> int:
        ((found,),) = self.sql("SELECT balance FROM account")
        return int(found)


@pytest.fixture(params=["mariadb", "postgresql"])
def place(request: pytest.FixtureRequest) -> Place:
    server: Server = request.getfixturevalue(request.param)
    made = Place(server, request.getfixturevalue(f"{request.param}_database"))
    dialect = "mysql" if server.kind == "mariadb" else "postgresql"
    made.sql(
        barrier_ddl(dialect),
        "CREATE TABLE account (balance INTEGER NOT NULL)",
        "INSERT INTO account VALUES (100)",
    )
    return made


def barrier(op: str, gid: str = "g") -> BranchBarrier:
    return BranchBarrier(Branch(trans_type="tcc", gid=gid, branch_id="01", op=op))


def take(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE account SET balance = balance - 30")


def give(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE account SET balance = balance + 30")


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_branch_is_done_once_undone_once_and_never_late(place: Place, autocommit: bool) -> None:
    with place.connected(autocommit=autocommit) as connection:
        found = [
            barrier(op).run(connection, work)
            for op, work in [("try", take), ("try", take), ("cancel", give), ("cancel", give)]
        ]
        assert found == [Outcome.FIRST, Outcome.REPEATED, Outcome.FIRST, Outcome.REPEATED]
        found = [
            barrier(op, "h").run(connection, work)
            for op, work in [("cancel", give), ("try", take), ("cancel", give)]
        ]
        assert found == [Outcome.EMPTY, Outcome.LATE, Outcome.REPEATED]
        # Gids that differ in case only are two.
        assert barrier("try", "H").run(connection, take) is Outcome.FIRST
    assert place.balance == 70


def test_the_rows_go_with_the_business_when_it_fails(place: Place) -> None:
    def fail(connection: Any) -> None:
        take(connection)
        raise LookupError("broken")

    with place.connected() as connection:
        with pytest.raises(LookupError):
            barrier("try").run(connection, fail)
        assert barrier("try").run(connection, take) is Outcome.FIRST
    assert place.balance == 70


T = TypeVar("T")


def at_once(place: Place, *calls: Callable[[Any], T]) -> list[T]:
    """Make calls in threads that begin together, each on a connection of its own."""
    together = threading.Barrier(len(calls))

    def work(call: Callable[[Any], T]) -> T:
        with place.connected() as connection:
            together.wait(20)
            return call(connection)

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(work, calls))


def calling(op: str, gid: str, work: Callable[[Any], None]) -> Callable[[Any], Outcome]:
    return lambda connection: barrier(op, gid).run(connection, work)


def test_of_calls_that_come_at_once_one_is_done(place: Place) -> None:
    for round in range(5):
        found = at_once(place, *[calling("try", f"g{round}", take)] * 4)
        assert sorted(outcome.value for outcome in found) == ["FIRST", *["REPEATED"] * 3]
    assert place.balance == 100 - 30 * 5


def test_a_try_and_its_cancel_at_once_come_to_nothing(place: Place) -> None:
    for round in range(8):
        gid = f"g{round}"
        tried, cancelled = at_once(place, calling("try", gid, take), calling("cancel", gid, give))
        assert (tried, cancelled) in [
            (Outcome.FIRST, Outcome.FIRST),
            (Outcome.LATE, Outcome.EMPTY),
        ]
    assert place.balance == 100


def test_a_message_whose_work_is_asked_about_while_it_is_done_has_one_fate(place: Place) -> None:
    for round in range(5):
        xid = f"h:1:{round}"
        before = place.balance
        worked, fate = at_once(place, working_for(xid), asking_about(xid))
        assert fate is (Fate.DONE if worked is Outcome.FIRST else Fate.GIVEN_UP)
        assert place.balance == (before - 30 if worked is Outcome.FIRST else before)


def asking_about(xid: str) -> Callable[[Any], Fate]:
    return lambda connection: BranchBarrier.of_message(xid).query_prepared(connection)


def working_for(xid: str) -> Callable[[Any], Outcome]:
    def work(connection: Any) -> Outcome:
        try:
            return BranchBarrier.of_message(xid).run(connection, take)
        except BarrierError:
            return Outcome.LATE

    return work


async def test_asynchronous_drivers_pass_the_same_barrier(place: Place) -> None:
    async def take_later(connection: Any) -> None:
        if place.server.kind == "mariadb":
            async with connection.cursor() as cursor:
                await cursor.execute("UPDATE account SET balance = balance - 30")
        else:
            await connection.execute("UPDATE account SET balance = balance - 30")

    async def fail(connection: Any) -> None:
        await take_later(connection)
        raise LookupError("broken")

    async with place.connected_later() as connection:
        with pytest.raises(LookupError):
            await barrier("try").run_async(connection, fail)
        for expected in (Outcome.FIRST, Outcome.REPEATED):
            assert await barrier("try").run_async(connection, take_later) is expected
        message = BranchBarrier.of_message("h:1:1")
        assert await message.query_prepared_async(connection) is Fate.GIVEN_UP
    assert place.balance == 70
