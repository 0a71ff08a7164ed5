"""Whoever dies while it sends, relays or receives: work and message are both there, or neither."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from tests.databases.servers import Server
from tests.integration.engines import LoopCluster, loop_cluster
from tests.integration.services.dying_sender import (
    BRANCH,
    RECEIVED,
    Place,
    execute,
    relay,
    work,
)
from tests.integration.services.running import ROOT
from tidelock.barrier import BranchBarrier
from tidelock.crash_points import POINTS, VARIABLE
from tidelock.driving import drive
from tidelock.messages import Inbox, Outbox
from tidelock.sql.drivers import session_of

pytestmark = pytest.mark.timeout(120)

# Each death takes a process, so those with servers are tried at night.
SERVERS = [
    pytest.param(kind, marks=[pytest.mark.databases, pytest.mark.long])
    for kind in ("mariadb", "postgresql")
]

OF_THE_BARRIER = [name for name in POINTS if name.startswith("barrier.")]
OF_A_SENDER = [*OF_THE_BARRIER, *(name for name in POINTS if name.startswith("message."))]
OF_A_WRITER = ["outbox.before-row", "outbox.after-row"]
OF_A_RELAY = ["outbox.before-claim", "outbox.after-claim", "outbox.before-publish"]
OF_A_RELAY += ["outbox.after-publish", "outbox.after-settle"]
OF_ACKNOWLEDGEMENTS = ["outbox.before-acknowledge", "outbox.after-acknowledge"]
OF_A_RECEIVER = [name for name in POINTS if name.startswith("inbox.")]


def test_the_tests_below_die_at_every_point_of_barrier_and_messages() -> None:
    ours = {
        name for name in POINTS if name.startswith(("barrier.", "message.", "outbox.", "inbox."))
    }
    tried = {*OF_A_SENDER, *OF_A_WRITER, *OF_A_RELAY, *OF_ACKNOWLEDGEMENTS, *OF_A_RECEIVER}
    assert tried == ours


@pytest.fixture(params=["sqlite", *SERVERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    where = str(tmp_path / "place.db")
    if request.param != "sqlite":
        server: Server = request.getfixturevalue(request.param)
        name = request.getfixturevalue(f"{request.param}_database")
        where = f"{request.param}:{server.user}@{server.host}:{server.port}/{name}"
    made = Place(where)
    made.make()
    return made


class Receiver:
    """Hears messages and answers questions from the sender's database. Answers 200 to messages."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.url = ""
        self.delivered = 0

    async def serve(self, request: web.Request) -> web.Response:
        if request.path == "/deliver":
            self.delivered += 1
            return web.Response()

        if request.path == "/accept":
            return web.Response(status=202)

        def ask() -> int:
            barrier = BranchBarrier.of_request(request.query, dict(request.headers))
            with closing(self._place.connect()) as connection:
                return barrier.query_prepared(connection).status

        return web.Response(status=await asyncio.to_thread(ask))


@pytest.fixture
async def receiver(place: Place) -> AsyncIterator[Receiver]:
    found = Receiver(place)
    app = web.Application()
    app.router.add_post("/{path}", found.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def dies(
    point: str, what: str, place: Place, *, cluster: str = "", receiver: str = ""
) -> None:
    """Have a process do something, and be killed at a point."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.services.dying_sender"),
        *(what, place.where, cluster, receiver),
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            VARIABLE: point,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    assert said.endswith(f"killed at {point}\n".encode())


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path / "nodes") as found:
        await found.leader()
        yield found


@pytest.mark.parametrize("point", OF_A_SENDER)
async def test_a_sender_that_dies_has_its_message_delivered_exactly_if_its_work_is_committed(
    point: str, cluster: LoopCluster, place: Place, receiver: Receiver
) -> None:
    what = "fail" if point.endswith("-abort") else "send"
    url = cluster.nodes[0].url
    await dies(point, what, place, cluster=url, receiver=receiver.url)
    kept = await xids(cluster)
    assert len(kept) == (point != "message.before-prepare")
    for xid in kept:
        row = await cluster.until(xid, "COMMITTED", "ROLLED_BACK")
        assert (row.status == "COMMITTED") == (place.work == 1)
    assert receiver.delivered == place.work
    committed = ["barrier.after-local-commit", "message.before-submit", "message.after-submit"]
    assert place.work == (point in committed)


async def xids(cluster: LoopCluster) -> list[str]:
    async with (
        ClientSession() as session,
        session.get(f"{cluster.nodes[0].url}/api/v1/transactions") as response,
    ):
        return [one["xid"] for one in (await response.json())["items"]]


@pytest.mark.parametrize("point", OF_A_WRITER)
async def test_a_writer_that_dies_leaves_neither_work_nor_message(point: str, place: Place) -> None:
    await dies(point, "write", place)
    assert place.work == 0
    assert place.rows("SELECT id FROM outbox") == []


@pytest.mark.parametrize("point", OF_A_RELAY)
async def test_what_a_relay_that_dies_had_taken_is_published_by_another(
    point: str, place: Place, receiver: Receiver
) -> None:
    await dies(point, "relay", place, receiver=receiver.url)
    published = receiver.delivered
    assert published == (point in ("outbox.after-publish", "outbox.after-settle"))
    hurry(place)
    await relay(place, receiver.url)
    assert place.rows("SELECT status FROM outbox") == [("DONE",)]
    # What was published, and whose row does not say so, is published again.
    assert receiver.delivered == (2 if point == "outbox.after-publish" else 1)


@pytest.mark.parametrize("point", OF_ACKNOWLEDGEMENTS)
async def test_an_acknowledgement_comes_again_when_its_sender_dies(
    point: str, place: Place, receiver: Receiver
) -> None:
    await dies(point, "acknowledge", place, receiver=receiver.url)
    known = "DONE" if point == "outbox.after-acknowledge" else "SENT"
    assert place.rows("SELECT status FROM outbox") == [(known,)]
    with closing(place.connect()) as connection:
        drive(Outbox().acknowledge(session_of(connection), "m1"))
        connection.commit()
    assert place.rows("SELECT status FROM outbox") == [("DONE",)]


@pytest.mark.parametrize("point", OF_A_RECEIVER)
async def test_a_receiver_that_dies_does_what_a_message_asks_once(point: str, place: Place) -> None:
    await dies(point, "receive", place)
    assert place.work == (point == "inbox.after-local-commit")
    with closing(place.connect()) as connection:
        for _ in range(2):  # it was not acknowledged, so it comes again
            Inbox().receive(connection, RECEIVED, work)
    assert place.work == 1


@pytest.mark.parametrize("point", OF_THE_BARRIER)
async def test_a_branch_whose_process_dies_is_done_once(point: str, place: Place) -> None:
    await dies(point, "branch", place)
    assert place.work == (point == "barrier.after-local-commit")
    with closing(place.connect()) as connection:
        for _ in range(2):
            BranchBarrier(BRANCH).run(connection, work)
    assert place.work == 1


def hurry(place: Place) -> None:
    """Let what a dead relay had taken be due."""
    with closing(place.connect()) as connection:
        execute(connection, "UPDATE outbox SET next_at = 0")
        connection.commit()
