"""Outbox and inbox in MariaDB and PostgreSQL, with relays and receivers that come at once."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncmy
import asyncpg
import psycopg
import pymysql
import pytest

from tests.databases.servers import Server
from tidelock.messages import (
    Inbox,
    Message,
    Outbox,
    OutboxRelay,
    Published,
    inbox_ddl,
    outbox_ddl,
)

pytestmark = pytest.mark.databases


class Shop:
    """A database with an outbox, an inbox and orders."""

    def __init__(self, server: Server, database: str) -> None:
        self._server = server
        self._database = database
        dialect = "mysql" if server.kind == "mariadb" else "postgresql"
        self.sql(
            *outbox_ddl(dialect),
            *outbox_ddl(dialect),
            inbox_ddl(dialect),
            "CREATE TABLE orders (id INTEGER)",
        )

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        return self._server.sql(*statements, database=self._database)

    @property
    def _where(self) -> dict[str, Any]:
        server = self._server
        return {"host": server.host, "port": server.port, "user": server.user}

    def connect(self) -> Any:
        if self._server.kind == "mariadb":
            return pymysql.connect(**self._where, database=self._database)
        return psycopg.connect(**self._where, dbname=self._database)

    def connect_later(self) -> Any:
        """Return what gives a connection when it is awaited."""
        if self._server.kind == "mariadb":
            return asyncmy.connect(**self._where, database=self._database)
        return asyncpg.connect(**self._where, database=self._database)

    def write(self, count: int) -> None:
        connection = self.connect()
        for number in range(count):
            Outbox().add(connection, "paid", {"ä": number}, id=f"m{number}")
        connection.commit()
        connection.close()

    def statuses(self) -> list[tuple[Any, ...]]:
        return self.sql("SELECT status, count(*) FROM outbox GROUP BY status")


@pytest.fixture(params=["mariadb", "postgresql"])
def shop(request: pytest.FixtureRequest) -> Shop:
    server: Server = request.getfixturevalue(request.param)
    return Shop(server, request.getfixturevalue(f"{request.param}_database"))


class Broker:
    """Takes all messages."""

    def __init__(self) -> None:
        self.heard: list[Message] = []

    async def publish(self, message: Message) -> Published:
        self.heard.append(message)
        return Published.ACCEPTED


async def test_relays_that_come_at_once_publish_each_message_once(shop: Shop) -> None:
    shop.write(20)
    broker = Broker()
    relays = [OutboxRelay(shop.connect, broker, batch=5) for _ in range(3)]
    relays.append(OutboxRelay(shop.connect_later, broker, batch=5))

    async def empty(relay: OutboxRelay) -> None:
        tried = 5
        while tried:
            tried = await ignoring_deadlocks(relay)

    await asyncio.gather(*[empty(relay) for relay in relays])
    assert shop.statuses() == [("DONE", 20)]
    assert sorted(message.id for message in broker.heard) == sorted(f"m{n}" for n in range(20))
    assert {message.payload for message in broker.heard} >= {'{"ä":7}'}


async def ignoring_deadlocks(relay: OutboxRelay) -> int:
    """As `run` does, which tries again."""
    try:
        return await relay.once()
    except Exception as error:
        if "eadlock" not in str(error):
            raise
        return 1


async def test_a_message_that_comes_at_once_is_done_once(shop: Shop) -> None:
    message = Message(id="m1", topic="paid", payload="1")

    def receive() -> bool:
        connection = shop.connect()
        try:
            return Inbox().receive(connection, message, order)
        finally:
            connection.close()

    found = await asyncio.gather(
        *[asyncio.to_thread(receive) for _ in range(4)], return_exceptions=True
    )
    assert found.count(True) == 1, found
    assert shop.sql("SELECT count(*) FROM orders") == [(1,)]
    other = Message(id="M1", topic="paid", payload="1")
    connection = shop.connect()
    assert Inbox().receive(connection, other, order), "ids that differ in case only are two"
    connection.close()


def order(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (1)")


async def test_a_message_goes_with_its_work_through_an_asynchronous_driver(shop: Shop) -> None:
    connection = await shop.connect_later()
    if isinstance(connection, asyncpg.Connection):
        transaction = connection.transaction()
        await transaction.start()
        await Outbox().add_async(connection, "paid", 1)
        await transaction.rollback()
        async with connection.transaction():
            await Outbox().add_async(connection, "paid", 2)
        await connection.close()
    else:
        await Outbox().add_async(connection, "paid", 1)
        await connection.rollback()
        await Outbox().add_async(connection, "paid", 2)
        await connection.commit()
        await connection.ensure_closed()
    assert shop.sql("SELECT payload FROM outbox") == [("2",)]
