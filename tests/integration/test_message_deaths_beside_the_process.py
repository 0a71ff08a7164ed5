"""A database's connections, or the leader, die before and after every write of messages.

The process itself goes on: work and message are both there in the end, or neither. An outbox and an
inbox are a service's own and speak to no coordinator, so there no leader can die.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from tests.databases.connections import Database
from tests.integration.engines import LoopCluster, loop_cluster
from tests.integration.services.dying_sender import (
    RECEIVED,
    Place,
    acknowledge,
    fail,
    relay,
    work,
    write_message,
)
from tests.integration.test_message_crashes import (
    OF_A_RECEIVER,
    OF_A_RELAY,
    OF_A_SENDER,
    OF_A_WRITER,
    OF_ACKNOWLEDGEMENTS,
    OF_THE_BARRIER,
    Receiver,
    hurry,
)
from tests.sdk.deaths import CHANNELS, Dying, assert_all_is_over, dying_leader, lose_connections
from tidelock import Application
from tidelock.barrier import BranchBarrier
from tidelock.client.messages import MessageStep
from tidelock.crash_points import watched
from tidelock.driving import drive
from tidelock.messages import Inbox, Outbox, send
from tidelock.sql.drivers import session_of

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

SERVERS: Final = ("mysql", "postgresql")
QUICK: Final = {
    ("connection", "postgresql", "message.before-submit"),
    ("connection", "mysql", "outbox.after-claim"),
    ("connection", "mysql", "barrier.before-local-commit"),
    ("leader", "sqlite", "message.after-prepare"),
    ("leader", "sqlite", "barrier.after-local-commit"),
}


def cases(dies: str, points: list[str]) -> list[Any]:
    return [
        pytest.param(
            dies, dialect, point,
            marks=() if (dies, dialect, point) in QUICK else (pytest.mark.long,),
        )
        for dialect in (*SERVERS, *(("sqlite",) if dies == "leader" else ()))
        for point in points
    ]  # fmt: skip


@pytest.fixture
def place(database: Database) -> Place:
    where = database.name
    if database.server is not None:
        server, kind = database.server, {"mysql": "mariadb"}.get(database.dialect, database.dialect)
        where = f"{kind}:{server.user}@{server.host}:{server.port}/{database.name}"
    made = Place(where)
    made.make()
    return made


class Branch(Receiver):
    """Does its work behind the barrier when it is called."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.place = place

    async def serve(self, request: web.Request) -> web.Response:
        if request.path != "/branch":
            return await super().serve(request)

        def do() -> None:
            barrier = BranchBarrier.of_request(request.query, dict(request.headers))
            with closing(self.place.connect()) as connection:
                barrier.run(connection, work)

        await asyncio.to_thread(do)
        return web.Response()


@pytest.fixture
async def receiver(place: Place) -> AsyncIterator[Branch]:
    found = Branch(place)
    app = web.Application()
    app.router.add_post("/{path}", found.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LoopCluster]:
    count = 3 if request.node.callspec.params["dies"] == "leader" else 1
    async with loop_cluster(tmp_path / "nodes", count, channels=CHANNELS) as found:
        await found.leader()
        yield found


@contextlib.asynccontextmanager
async def application_of(cluster: LoopCluster) -> AsyncIterator[Application]:
    application = Application(
        [node.url for node in cluster.nodes], application_id="orders", discover=False
    )
    try:
        yield application
    finally:
        await application.aclose(drain_ms=1_000)


async def dying_of(
    dies: str, cluster: LoopCluster, database: Database, point: str
) -> tuple[Dying, list[asyncio.Task[None]]]:
    if dies == "leader":
        return await dying_leader(cluster, point)
    return Dying(point, lambda: lose_connections(database)), []


async def ended(cluster: LoopCluster, application: Application) -> list[str]:
    """Wait until all messages have ended, and return how."""
    found = await asyncio.to_thread(
        lambda: list(application.client.iterate(lambda client: client.transactions.list()))
    )
    rows = [await cluster.until(each.xid, "COMMITTED", "ROLLED_BACK") for each in found]
    return [row.status for row in rows]


@pytest.mark.parametrize(
    ("dies", "database", "point"),
    [*cases("connection", OF_A_SENDER), *cases("leader", OF_A_SENDER)],
    indirect=["database"],
)
async def test_a_message_is_delivered_exactly_if_the_work_of_its_sender_is_committed(
    dies: str, database: Database, point: str, place: Place, cluster: LoopCluster, receiver: Branch
) -> None:
    dying, stopping = await dying_of(dies, cluster, database, point)
    fails = point.endswith("-abort")

    def send_one(application: Application) -> None:
        with contextlib.suppress(Exception), closing(place.connect()) as connection:
            send(
                connection,
                fail if fails else work,
                [MessageStep(action=f"{receiver.url}/deliver", payload={})],
                query=f"{receiver.url}/asked",
                application=application,
                query_after_ms=200,
            )

    async with application_of(cluster) as application:
        with watched(dying):
            await asyncio.to_thread(send_one, application)
            statuses = await ended(cluster, application)
        assert dying.has_died.is_set()
        assert place.work == statuses.count("COMMITTED") <= 1
        assert place.work == 0 or not fails
        # It may come more than once: the leader that had it delivered could not say so.
        assert (receiver.delivered > 0) == (place.work == 1)
        await assert_all_is_over(cluster, application)
    await asyncio.gather(*stopping)


@pytest.mark.parametrize(
    ("dies", "database", "point"),
    [*cases("connection", OF_THE_BARRIER), *cases("leader", OF_THE_BARRIER)],
    indirect=["database"],
)
async def test_a_branch_behind_the_barrier_is_done_once(
    dies: str, database: Database, point: str, place: Place, cluster: LoopCluster, receiver: Branch
) -> None:
    async with application_of(cluster) as application:

        def sent() -> str:
            steps = [MessageStep(action=f"{receiver.url}/branch", payload={})]
            client = application.client
            prepared = client.run(
                lambda each: each.messages.prepare(f"{receiver.url}/asked", steps)
            )
            client.run(lambda each: each.messages.submit(prepared.xid))
            return prepared.xid

        dying, stopping = await dying_of(dies, cluster, database, point)
        with watched(dying):
            xid = await asyncio.to_thread(sent)
            await cluster.until(xid, "COMMITTED")
        assert dying.has_died.is_set()
        assert place.work == 1
        await assert_all_is_over(cluster, application)
    await asyncio.gather(*stopping)


def lost(point: str, database: Database) -> contextlib.AbstractContextManager[None]:
    return watched(Dying(point, lambda: lose_connections(database)))


@pytest.mark.parametrize(
    ("dies", "database", "point"), cases("connection", OF_A_WRITER), indirect=["database"]
)
def test_a_writer_leaves_neither_work_nor_message(
    dies: str, database: Database, point: str, place: Place
) -> None:
    assert dies == "connection"
    with lost(point, database), pytest.raises(Exception, match=r"\w"):
        write_message(place)
    assert place.work == 0
    assert place.rows("SELECT id FROM outbox") == []
    write_message(place)
    assert place.work == 1
    assert place.rows("SELECT status FROM outbox") == [("PENDING",)]


@pytest.mark.parametrize(
    ("dies", "database", "point"), cases("connection", OF_A_RELAY), indirect=["database"]
)
async def test_what_a_relay_had_taken_is_published_in_the_end(
    dies: str, database: Database, point: str, place: Place, receiver: Branch
) -> None:
    assert dies == "connection"
    write_message(place)
    with lost(point, database), contextlib.suppress(Exception):
        await relay(place, receiver.url)
    hurry(place)
    await relay(place, receiver.url)
    assert place.rows("SELECT status FROM outbox") == [("DONE",)]
    assert receiver.delivered in (1, 2)


@pytest.mark.parametrize(
    ("dies", "database", "point"), cases("connection", OF_ACKNOWLEDGEMENTS), indirect=["database"]
)
async def test_an_acknowledgement_is_taken_when_it_comes_again(
    dies: str, database: Database, point: str, place: Place, receiver: Branch
) -> None:
    assert dies == "connection"
    write_message(place)
    with lost(point, database), contextlib.suppress(Exception):
        await acknowledge(place, receiver.url)
    with closing(place.connect()) as connection:
        drive(Outbox().acknowledge(session_of(connection), "m1"))
        connection.commit()
    assert place.rows("SELECT status FROM outbox") == [("DONE",)]


@pytest.mark.parametrize(
    ("dies", "database", "point"), cases("connection", OF_A_RECEIVER), indirect=["database"]
)
def test_a_receiver_does_what_a_message_asks_once(
    dies: str, database: Database, point: str, place: Place
) -> None:
    assert dies == "connection"

    def receive() -> None:
        with closing(place.connect()) as connection:
            Inbox().receive(connection, RECEIVED, work)

    with lost(point, database), contextlib.suppress(Exception):
        receive()
    assert place.work in (0, 1)
    for _ in range(2):  # it was not acknowledged, so it comes again
        receive()
    assert place.work == 1
