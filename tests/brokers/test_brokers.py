"""Messages from an outbox to an inbox and back, through real brokers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Protocol

import aio_pika
import nats
import pytest
import redis.asyncio

from tests.brokers.servers import Broker
from tidelock.messages import (
    Inbox,
    Message,
    Outbox,
    OutboxRelay,
    Published,
    Publisher,
    Subscriber,
    inbox_ddl,
    outbox_ddl,
)
from tidelock.messages.nats_jetstream import NatsJetStream
from tidelock.messages.rabbitmq import RabbitMq
from tidelock.messages.redis_streams import RedisStreams

pytestmark = pytest.mark.brokers

WITHIN_S = 30.0
BACK = "acknowledgements"


class Carrying(Publisher, Subscriber, Protocol):
    """Both sides of a broker."""


@asynccontextmanager
async def redis_streams(broker: Broker) -> AsyncIterator[Carrying]:
    async with redis.asyncio.Redis(host=broker.host, port=broker.port) as client:
        await client.flushall()
        yield RedisStreams(client, prefix="t:", again_after_ms=100)


@asynccontextmanager
async def nats_jetstream(broker: Broker) -> AsyncIterator[Carrying]:
    client = await nats.connect(f"nats://{broker.host}:{broker.port}")
    try:
        with suppress(Exception):
            await client.jetstream().delete_stream("tidelock")
        made = NatsJetStream(client, again_after_s=0.5)
        await made.ensure_stream()
        await made.ensure_stream()
        yield made
    finally:
        await client.close()


@asynccontextmanager
async def rabbitmq(broker: Broker) -> AsyncIterator[Carrying]:
    url = f"amqp://guest:guest@{broker.host}:{broker.port}/"
    connection = await aio_pika.connect(url)
    try:
        async with connection.channel() as channel:
            for queue in ("paid.mail", "paid.audit", f"{BACK}.shop"):
                await channel.queue_delete(queue)
        yield RabbitMq(connection)
    finally:
        await connection.close()


MADE: dict[str, Callable[[Broker], Any]] = {
    "redis": redis_streams,
    "nats": nats_jetstream,
    "rabbitmq": rabbitmq,
}


@pytest.fixture(params=MADE)
async def carrying(request: pytest.FixtureRequest) -> AsyncIterator[Carrying]:
    broker: Broker = request.getfixturevalue(f"{request.param}_broker")
    async with MADE[request.param](broker) as made:
        yield made


@pytest.fixture
async def running() -> AsyncIterator[Callable[[Awaitable[None]], asyncio.Task[None]]]:
    """Runs what never ends, until the test does."""
    tasks: list[asyncio.Task[None]] = []

    def run(work: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.ensure_future(work))
        return tasks[-1]

    yield run
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Place:
    """A database with an outbox, an inbox, and what messages did."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with closing(self.connect()) as connection:
            for statement in outbox_ddl("sqlite"):
                connection.execute(statement)
            connection.execute(inbox_ddl("sqlite"))
            connection.execute("CREATE TABLE done (who TEXT, id TEXT)")
            connection.commit()

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=20)

    def write(self, count: int) -> None:
        with closing(self.connect()) as connection:
            for number in range(count):
                Outbox().add(connection, "paid", {"order": number}, id=f"m{number}")
            connection.commit()

    def rows(self, query: str) -> list[Any]:
        with closing(self.connect()) as connection:
            return connection.execute(query).fetchall()

    def receiver(self, who: str) -> Callable[[Message], Awaitable[None]]:
        async def receive(message: Message) -> None:
            def work(connection: sqlite3.Connection) -> None:
                connection.execute("INSERT INTO done VALUES (?, ?)", (who, message.id))

            with closing(self.connect()) as connection:
                Inbox().receive(connection, message, work)

        return receive


async def eventually(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(WITHIN_S):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(what()) from None


async def test_what_stands_in_the_outbox_is_done_and_acknowledged(
    carrying: Carrying, running: Any, tmp_path: Path
) -> None:
    shop, mail = Place(tmp_path / "shop.db"), Place(tmp_path / "mail.db")
    relay = OutboxRelay(
        shop.connect, carrying, reply_to=BACK, interval_ms=20, acknowledged_within_ms=2_000
    )
    running(carrying.subscribe("paid", "mail", mail.receiver("mail")))
    running(carrying.subscribe(BACK, "shop", relay.acknowledged))
    shop.write(20)
    running(relay.run())

    def statuses() -> list[Any]:
        return shop.rows("SELECT status, count(*) FROM outbox GROUP BY status")

    await eventually(lambda: statuses() == [("DONE", 20)], statuses)
    assert sorted(mail.rows("SELECT id FROM done")) == sorted((f"m{n}",) for n in range(20))


async def test_a_message_that_fails_comes_again_and_each_group_gets_it(
    carrying: Carrying, running: Any
) -> None:
    heard: list[str] = []
    failures = 2

    async def mail(message: Message) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("down")
        heard.append(f"mail {message.id} {message.payload}")

    async def audit(message: Message) -> None:
        heard.append(f"audit {message.id} {message.payload}")

    running(carrying.subscribe("paid", "mail", mail))
    running(carrying.subscribe("paid", "audit", audit))
    message = Message(id="m1", topic="paid", payload='{"ä":1}')
    await published(carrying, message)
    wanted = ['audit m1 {"ä":1}', 'mail m1 {"ä":1}']
    # RabbitMQ has groups one by one; a publication before both were there reached one of them.
    await eventually(lambda: sorted({*heard}) == wanted, lambda: heard)
    assert failures == 0


async def test_what_a_dead_receiver_left_comes_to_another(carrying: Carrying, running: Any) -> None:
    begun, heard = asyncio.Event(), []

    async def hang(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def take(message: Message) -> None:
        heard.append(message.id)

    dying = running(carrying.subscribe("paid", "mail", hang))
    await published(carrying, Message(id="m1", topic="paid", payload="1"))
    async with asyncio.timeout(WITHIN_S):
        await begun.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    running(carrying.subscribe("paid", "mail", take))
    await eventually(lambda: heard == ["m1"], lambda: heard)


async def published(carrying: Carrying, message: Message) -> None:
    """Publish, as a relay does: again, while there is nobody to take it."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                assert await carrying.publish(message) is Published.ACCEPTED
            except aio_pika.exceptions.PublishError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_redis_hands_on_nothing_that_is_no_message(
    redis_broker: Broker, running: Any
) -> None:
    heard: list[str] = []

    async def take(message: Message) -> None:
        heard.append(message.id)

    async with AsyncExitStack() as stack:
        carrying: Any = await stack.enter_async_context(redis_streams(redis_broker))
        async with redis.asyncio.Redis(host=redis_broker.host, port=redis_broker.port) as client:
            await client.xadd("t:paid", {"some": "thing"})
            await carrying.publish(Message(id="m1", topic="paid", payload="1"))
            task = running(carrying.subscribe("paid", "mail", take))
            await eventually(lambda: heard == ["m1"], lambda: heard)
            pending: Any = await client.xpending("t:paid", "mail")
            assert pending["pending"] == 0
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
