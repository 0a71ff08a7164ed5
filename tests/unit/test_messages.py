"""The outbox, its relay, and the inbox, in SQLite; messages by HTTP; two-phase messages."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from aiohttp import web

from tests.integration.serving import serving
from tidelock.application import Application
from tidelock.barrier import BarrierError, BranchBarrier, barrier_ddl
from tidelock.barrier.outcomes import Fate
from tidelock.client.messages import Messages, MessageStep
from tidelock.driving import drive
from tidelock.errors import UnreachableError
from tidelock.messages import (
    Inbox,
    Message,
    Outbox,
    OutboxRelay,
    Published,
    PublishRefusedError,
    inbox_ddl,
    outbox_ddl,
    send,
    send_async,
)
from tidelock.messages.http import HttpError, HttpPublisher, message_of_request
from tidelock.messages.relay import pause_ms
from tidelock.sql.drivers import session_of
from tidelock.sql.drivers.sqlite3_sessions import SQLite3Session


class Broker:
    """Takes messages as it is told, and remembers them."""

    def __init__(self, *answers: Published | Exception) -> None:
        self.heard: list[Message] = []
        self._answers = list(answers) or [Published.ACCEPTED]

    async def publish(self, message: Message) -> Published:
        self.heard.append(message)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Shop:
    """A database with orders and an outbox."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with self.connected() as connection:
            for statement in outbox_ddl("sqlite"):
                connection.execute(statement)
            connection.execute(inbox_ddl("sqlite"))
            connection.execute(barrier_ddl("sqlite"))
            connection.execute("CREATE TABLE orders (id INTEGER)")
            connection.commit()

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=20)

    def connected(self) -> closing[sqlite3.Connection]:
        return closing(self.connect())

    def order(self, topic: str = "paid") -> str:
        with self.connected() as connection:
            connection.execute("INSERT INTO orders VALUES (1)")
            id = Outbox().add(connection, topic, {"order": 1})
            connection.commit()
        return id

    def rows(self, query: str) -> list[Any]:
        with self.connected() as connection:
            return connection.execute(query).fetchall()

    @property
    def statuses(self) -> list[str]:
        return [status for (status,) in self.rows("SELECT status FROM outbox ORDER BY created_at")]

    def hurry(self) -> None:
        """Let what waits for its next attempt be due."""
        with self.connected() as connection:
            connection.execute("UPDATE outbox SET next_at = 0")
            connection.commit()

    def relay(self, broker: Any, **options: Any) -> OutboxRelay:
        return OutboxRelay(self.connect, broker, **options)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop.db")


# The outbox


async def test_a_message_is_published_exactly_if_its_work_was_committed(shop: Shop) -> None:
    broker = Broker()
    with shop.connected() as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        Outbox().add(connection, "paid", {"order": 1})
        connection.rollback()
    id = shop.order()
    assert await shop.relay(broker).once() == 1
    assert await shop.relay(broker).once() == 0
    assert broker.heard == [Message(id=id, topic="paid", payload='{"order":1}')]
    assert shop.statuses == ["DONE"]


def test_a_message_is_written_in_a_transaction_only(shop: Shop) -> None:
    with closing(sqlite3.connect(shop.file, isolation_level=None)) as connection:
        with pytest.raises(BarrierError, match="in the local transaction"):
            Outbox().add(connection, "paid", 1)
        connection.execute("BEGIN")
        Outbox().add(connection, "paid", 1)
        connection.execute("COMMIT")
    assert shop.statuses == ["PENDING"]


def test_a_message_that_is_written_twice_under_an_id_of_ones_own_is_one(shop: Shop) -> None:
    with shop.connected() as connection:
        for _ in range(2):
            assert Outbox().add(connection, "paid", 1, id="order-1") == "order-1"
        connection.commit()
    assert shop.statuses == ["PENDING"]


async def test_a_message_waits_for_its_delay(shop: Shop) -> None:
    with shop.connected() as connection:
        Outbox().add(connection, "paid", 1, delay_ms=60_000)
        connection.commit()
    assert await shop.relay(Broker()).once() == 0
    shop.hurry()
    assert await shop.relay(Broker()).once() == 1


@pytest.mark.parametrize(
    ("topic", "payload", "id"),
    [
        ("", 1, None),
        ("a b", 1, None),
        ("a..b", 1, None),
        ("a", "x" * (1 << 20), None),
        ("a", 1, "ä"),
    ],
)
def test_what_is_no_message_is_refused(shop: Shop, topic: str, payload: Any, id: str) -> None:
    with (
        shop.connected() as connection,
        pytest.raises(ValueError, match=r"an id|a topic|a payload"),
    ):
        Outbox().add(connection, topic, payload, id=id)


# The relay


async def test_a_message_that_was_not_taken_is_published_again_later(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    id = shop.order()
    broker = Broker(OSError("down"), OSError("down"), Published.ACCEPTED)
    relay = shop.relay(broker)
    await relay.once()
    assert await relay.once() == 0, "not at once"
    ((status, attempts, error),) = shop.rows("SELECT status, attempts, error FROM outbox")
    assert (status, attempts, error) == ("PENDING", 1, "OSError: down")
    assert id in caplog.text
    for _ in range(2):
        shop.hurry()
        await relay.once()
    assert shop.statuses == ["DONE"]
    assert [message.id for message in broker.heard] == [id] * 3


def test_pauses_between_attempts_grow_up_to_a_minute() -> None:
    assert [pause_ms(n) for n in (1, 2, 3, 7, 1_000)] == [1_000, 2_000, 4_000, 60_000, 60_000]


async def test_a_message_that_is_refused_or_fails_too_often_waits_for_an_operator(
    shop: Shop,
) -> None:
    shop.order()
    await shop.relay(Broker(PublishRefusedError("too large"))).once()
    assert shop.rows("SELECT status, error FROM outbox") == [("FAILED", "too large")]
    ids = [id for (id,) in shop.rows("SELECT id FROM outbox")]
    with shop.connected() as connection:
        drive(Outbox().retry(session_of(connection), ids))
        connection.commit()
    relay = shop.relay(Broker(OSError("down")), greatest_attempts=2)
    for expected in ("PENDING", "FAILED", "FAILED"):
        await relay.once()
        assert shop.statuses == [expected]
        if expected == "PENDING":
            shop.hurry()


async def test_a_message_is_done_when_its_receiver_acknowledges_it(shop: Shop) -> None:
    shop.order()
    broker = Broker()
    relay = shop.relay(broker, reply_to="acknowledged", greatest_attempts=2)
    await relay.once()
    assert shop.statuses == ["SENT"]
    shop.hurry()
    await relay.once()
    assert len(broker.heard) == 2, "published again when no acknowledgement comes"
    answer = broker.heard[0].acknowledgement
    assert answer is not None
    assert answer.topic == "acknowledged"
    await relay.acknowledged(answer)
    assert shop.statuses == ["DONE"]
    await relay.acknowledged(Message(id="a", topic="acknowledged", payload="[]"))
    await relay.acknowledged(Message(id="a", topic="acknowledged", payload='{"acknowledged":"x"}'))


async def test_a_message_that_nobody_acknowledges_fails_when_attempts_are_limited(
    shop: Shop,
) -> None:
    shop.order()
    broker = Broker()
    relay = shop.relay(broker, reply_to="acknowledged", greatest_attempts=1)
    for expected in ("SENT", "FAILED"):
        shop.hurry()
        await relay.once()
        assert shop.statuses == [expected]
    assert len(broker.heard) == 1


async def test_an_acknowledgement_that_is_faster_than_the_broker_counts(shop: Shop) -> None:
    shop.order()

    class Fast(Broker):
        async def publish(self, message: Message) -> Published:
            answer = message.acknowledgement
            assert answer is not None
            await relay.acknowledged(answer)
            return await super().publish(message)

    relay = shop.relay(Fast(), reply_to="acknowledged")
    await relay.once()
    assert shop.statuses == ["DONE"]


async def test_several_relays_share_an_outbox(shop: Shop) -> None:
    ids = {shop.order() for _ in range(20)}
    broker = Broker()
    tried = await asyncio.gather(*[shop.relay(broker, batch=7).once() for _ in range(4)])
    assert sum(tried) == 20
    assert sorted(message.id for message in broker.heard) == sorted(ids)
    assert shop.statuses == ["DONE"] * 20


async def test_a_running_relay_outlives_failures_of_its_database(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    failures = 2

    def connect() -> sqlite3.Connection:
        nonlocal failures
        if failures:
            failures -= 1
            raise sqlite3.OperationalError("gone")
        return shop.connect()

    shop.order()
    broker = Broker()
    task = asyncio.create_task(OutboxRelay(connect, broker, interval_ms=5).run())
    async with asyncio.timeout(20):
        while shop.statuses != ["DONE"]:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert caplog.text.count("gone") == 2
    assert len(broker.heard) == 1


async def test_an_asynchronous_driver_serves_relay_and_inbox(shop: Shop) -> None:
    async with aiosqlite.connect(shop.file) as connection:
        await connection.execute("INSERT INTO orders VALUES (1)")
        await Outbox().add_async(connection, "paid", 1)
        await connection.commit()
        broker = Broker()
        await OutboxRelay(lambda: aiosqlite.connect(shop.file), broker).once()
        (message,) = broker.heard

        async def work(connection: Any) -> None:
            await connection.execute("INSERT INTO orders VALUES (2)")

        found = [await Inbox().receive_async(connection, message, work) for _ in range(2)]
    assert found == [True, False]
    assert shop.statuses == ["DONE"]


@pytest.mark.parametrize("option", ["interval_ms", "batch", "greatest_attempts"])
def test_numbers_of_a_relay_are_above_0(shop: Shop, option: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        shop.relay(Broker(), **{option: 0})


# The inbox


MESSAGE = Message(id="m1", topic="paid", payload="1")


def test_a_message_that_comes_again_is_done_once(shop: Shop) -> None:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO orders VALUES (7)")

    def fail(connection: sqlite3.Connection) -> None:
        work(connection)
        raise LookupError("broken")

    other = Message(id="m1", topic="other", payload="1")
    with shop.connected() as connection:
        with pytest.raises(LookupError):
            Inbox().receive(connection, MESSAGE, fail)
        assert [Inbox().receive(connection, MESSAGE, work) for _ in range(3)] == [
            True,
            False,
            False,
        ]
        assert Inbox().receive(connection, other, work)
    assert len(shop.rows("SELECT * FROM orders")) == 2


def test_old_rows_are_deleted_when_told(shop: Shop) -> None:
    shop.order()
    with shop.connected() as connection:
        Inbox().receive(connection, MESSAGE, lambda _: None)
        session = session_of(connection)
        assert drive(Outbox().purge(session, older_than_ms=-1)) == 0, "it is not done"
        drive(Outbox().acknowledge(session, shop.rows("SELECT id FROM outbox")[0][0]))
        assert drive(Outbox().purge(session, older_than_ms=60_000)) == 0
        assert drive(Outbox().purge(session, older_than_ms=-1_000)) == 1
        assert drive(Inbox().purge(session, older_than_ms=60_000)) == 0
        assert drive(Inbox().purge(session, older_than_ms=-1_000)) == 1
        connection.commit()


# HTTP


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[tuple[str, list[Message]]]:
    """A receiver that answers with these statuses in turn, and what it heard."""
    heard: list[Message] = []
    answers = list(statuses)

    async def receive(request: web.Request) -> web.Response:
        heard.append(message_of_request(request.headers, await request.read()))
        return web.Response(status=answers.pop(0), text="said", headers={"Location": "/else"})

    app = web.Application()
    app.router.add_post("/paid", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/paid", heard
    finally:
        await runner.cleanup()


async def test_a_message_goes_to_the_url_of_its_topic() -> None:
    message = Message(id="m1", topic="paid", payload='{"ä":1}', reply_to="back")
    async with (
        receiving(200, 204, 202, 500, 409, 302) as (url, heard),
        HttpPublisher({"paid": url}, headers={"Authorization": "Bearer x"}) as publisher,
    ):
        found = [await publisher.publish(message) for _ in range(3)]
        assert found == [Published.ACKNOWLEDGED, Published.ACKNOWLEDGED, Published.ACCEPTED]
        for status in (500, 409, 302):
            with pytest.raises(HttpError, match=f"answered {status}: said"):
                await publisher.publish(message)
        with pytest.raises(PublishRefusedError, match="no URL"):
            await publisher.publish(Message(id="m1", topic="other", payload="1"))
    assert heard == [message] * 6


def test_a_request_without_the_headers_is_no_message() -> None:
    with pytest.raises(ValueError, match="an id is"):
        message_of_request({}, b"1")


# Two phases


STEPS = [MessageStep(action="http://127.0.0.1:9/a", payload=1)]
QUERY = "http://127.0.0.1:9/asked"


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    async with serving() as api:
        one = Application([api.url], application_id="a", discover=False)
        async with one:
            yield one


def ordered(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO orders VALUES (1)")


async def test_work_is_done_between_both_phases(shop: Shop, application: Application) -> None:
    def work() -> str:
        with shop.connected() as connection:
            return send(connection, ordered, STEPS, query=QUERY, application=application)

    xid = await asyncio.to_thread(work)
    found = await application.awaiting(lambda client: client.transactions.get(xid))
    assert found.submitted
    with shop.connected() as connection:
        assert BranchBarrier.of_message(xid).query_prepared(connection) is Fate.DONE
    assert len(shop.rows("SELECT * FROM orders")) == 1


async def test_a_submission_that_does_not_arrive_is_left_to_the_question(
    shop: Shop,
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def lost(*arguments: Any, **options: Any) -> None:
        raise UnreachableError("no node answered")

    monkeypatch.setattr(Messages, "submit", lost)

    def work() -> str:
        with shop.connected() as connection:
            return send(connection, ordered, STEPS, query=QUERY, application=application)

    xid = await asyncio.to_thread(work)
    assert f"message {xid} is submitted when the cluster asks" in caplog.text
    assert len(shop.rows("SELECT * FROM orders")) == 1


async def test_a_message_whose_work_fails_is_given_up(shop: Shop, application: Application) -> None:
    async def fail(connection: aiosqlite.Connection) -> None:
        await connection.execute("INSERT INTO orders VALUES (1)")
        raise LookupError("sold out")

    async with aiosqlite.connect(shop.file) as connection:
        sending = send_async(connection, fail, STEPS, query=QUERY, application=application)
        with pytest.raises(LookupError):
            await sending
    found = await application.awaiting(_listed)
    assert [(one.status, one.reason) for one in found] == [("ROLLED_BACK", "LookupError: sold out")]
    assert shop.rows("SELECT * FROM orders") == []


async def _listed(client: Any) -> list[Any]:
    return [one async for one in client.transactions.list()]


async def test_a_commit_of_which_nobody_knows_is_left_to_the_question(
    shop: Shop, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = SQLite3Session.commit

    async def breaking(session: SQLite3Session) -> None:
        await commit(session)
        raise sqlite3.OperationalError("the connection broke")

    monkeypatch.setattr(SQLite3Session, "commit", breaking)

    def work() -> None:
        with shop.connected() as connection:
            send(connection, ordered, STEPS, query=QUERY, application=application)

    with pytest.raises(sqlite3.OperationalError, match="broke"):
        await asyncio.to_thread(work)
    monkeypatch.undo()
    (found,) = await application.awaiting(_listed)
    assert found.status == "BEGIN"
    with shop.connected() as connection:
        assert BranchBarrier.of_message(found.xid).query_prepared(connection) is Fate.DONE
