"""A service written for DTM, with `dtmcli`, and one written with this SDK, in one transaction.

The first keeps its accounts in MariaDB and its barrier where DTM has it, the second in SQLite.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
from aiohttp import web
from dtmcli import barrier as dtm_barrier
from dtmcli import msg as dtm_msg
from dtmcli import saga as dtm_saga
from dtmcli import utils as dtm_utils

from tests.databases.servers import Server
from tests.integration.nodes import Nodes, running_nodes
from tidelock.barrier import BranchBarrier, barrier_ddl
from tidelock.client import Client
from tidelock.client.messages import MessageStep
from tidelock.client.runs import SagaStep

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

WITHIN_S = 30.0


class DtmService:
    """As its author wrote it for a DTM server: blocking, with PyMySQL and `dtmcli`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        server.sql(
            "DROP DATABASE IF EXISTS dtm_barrier",
            "CREATE DATABASE dtm_barrier",
            barrier_ddl("mysql", "dtm_barrier.barrier"),
            "CREATE TABLE dtm_barrier.account (balance INTEGER NOT NULL)",
            "INSERT INTO dtm_barrier.account VALUES (100)",
        )

    @property
    def balance(self) -> int:
        ((found,),) = self._server.sql("SELECT balance FROM dtm_barrier.account")
        return int(found)

    def connect(self) -> Any:
        server = self._server
        return pymysql.connect(
            host=server.host, port=server.port, user=server.user, database="dtm_barrier"
        )

    def serve(self, path: str, query: dict[str, str]) -> int:
        names = ("trans_type", "gid", "branch_id", "op")
        barrier = dtm_barrier.BranchBarrier(*[query[name] for name in names])
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            if path == "asked":
                try:
                    barrier.query_prepared(cursor)
                except dtm_utils.DTMFailureError:
                    return 409
                return 200
            by = -30 if path in ("out", "in-undone") else 30
            barrier.call(cursor, self.adding(by))
        return 200

    @staticmethod
    def adding(by: int) -> Any:
        return lambda cursor: cursor.execute("UPDATE account SET balance = balance + %s", (by,))


class SdkService:
    """Written with this SDK, for either protocol."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with closing(self.connect()) as connection:
            connection.execute(barrier_ddl("sqlite"))
            connection.execute("CREATE TABLE account (balance INTEGER NOT NULL)")
            connection.execute("INSERT INTO account VALUES (100)")
            connection.commit()

    @property
    def balance(self) -> int:
        with closing(self.connect()) as connection:
            ((found,),) = connection.execute("SELECT balance FROM account").fetchall()
            return int(found)

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=20)

    def serve(self, path: str, query: dict[str, str], headers: dict[str, str]) -> int:
        barrier = BranchBarrier.of_request(query, headers)
        with closing(self.connect()) as connection:
            if barrier.branch.is_query:
                return barrier.query_prepared(connection).status
            if path == "refusing":
                return 409
            by = -30 if path in ("out", "in-undone") else 30
            return barrier.run(connection, self.adding(by)).status

    @staticmethod
    def adding(by: int) -> Any:
        def add(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE account SET balance = balance + ?", (by,))

        return add


class Services:
    """Both, and where they are called. Each call comes twice, as if an answer had been lost."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.theirs = DtmService(server)
        self.ours = SdkService(folder / "accounts.db")
        self.port = 0

    @property
    def balances(self) -> tuple[int, int]:
        return self.theirs.balance, self.ours.balance

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def serve(self, request: web.Request) -> web.Response:
        path, query, headers = request.match_info["path"], dict(request.query), request.headers

        def work() -> int:
            if request.match_info["whose"] == "theirs":
                return self.theirs.serve(path, query)
            return self.ours.serve(path, query, dict(headers))

        await asyncio.to_thread(work)
        return web.json_response({}, status=await asyncio.to_thread(work))


@pytest.fixture
async def services(mariadb: Server, tmp_path: Path) -> AsyncIterator[Services]:
    found = Services(mariadb, tmp_path)
    app = web.Application()
    app.router.add_route("*", "/{whose}/{path}", found.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("both")) as found:
        yield found


def dtm_of(nodes: Nodes) -> str:
    return nodes.cluster.place("n2").dtm_url


@asynccontextmanager
async def client_of(nodes: Nodes) -> AsyncIterator[Client]:
    async with Client([nodes.cluster.place("n1").url]) as client:
        yield client


async def ended(nodes: Nodes, xid: str, status: str) -> None:
    async def has() -> bool:
        found = await nodes.get("n3", f"/api/v1/transactions/{xid}")
        return bool(found["status"] == status)

    await nodes.eventually(has)


async def run_saga(nodes: Nodes, services: Services, last: str) -> str:
    def work() -> str:
        dtm = dtm_of(nodes)
        gid = str(dtm_utils.gen_gid(dtm))
        saga = dtm_saga.Saga(dtm, gid)
        saga.add({}, services.url("theirs/out"), services.url("theirs/out-undone"))
        saga.add({}, services.url(f"ours/{last}"), services.url("ours/in-undone"))
        saga.submit()
        return gid

    return await asyncio.to_thread(work)


async def test_both_take_part_in_a_saga_of_dtms(nodes: Nodes, services: Services) -> None:
    await ended(nodes, await run_saga(nodes, services, "in"), "COMMITTED")
    assert services.balances == (70, 130)


async def test_both_undo_a_saga_of_dtms_once_and_only_what_was_done(
    nodes: Nodes, services: Services
) -> None:
    await ended(nodes, await run_saga(nodes, services, "refusing"), "ROLLED_BACK")
    assert services.balances == (100, 100)


async def test_a_message_of_dtms_reaches_both(nodes: Nodes, services: Services) -> None:
    def send() -> str:
        dtm = dtm_of(nodes)
        gid = str(dtm_utils.gen_gid(dtm))
        message = dtm_msg.Msg(dtm, gid)
        message.add({}, services.url("ours/in")).add({}, services.url("theirs/in"))
        with closing(services.theirs.connect()) as connection, connection.cursor() as cursor:
            asked = services.url("theirs/asked")
            message.do_and_submit_db(asked, cursor, services.theirs.adding(-60))
        return gid

    await ended(nodes, await asyncio.to_thread(send), "COMMITTED")
    assert services.balances == (70, 130)


async def test_a_saga_of_the_cluster_is_done_and_undone_by_the_sdks_service(
    nodes: Nodes, services: Services
) -> None:
    def step(name: str, action: str) -> SagaStep:
        undone = services.url(f"ours/{name}-undone")
        return SagaStep(name=name, action=services.url(f"ours/{action}"), compensation=undone)

    async with client_of(nodes) as client:
        done = await client.sagas.run([step("in", "in")], wait_ms=20_000)
        assert done.status == "COMMITTED"
        assert services.ours.balance == 130
        undone = await client.sagas.run(
            [step("out", "out"), step("in", "refusing")], compensate_failed=True, wait_ms=20_000
        )
        assert undone.status == "ROLLED_BACK"
    assert services.ours.balance == 130


@pytest.mark.parametrize("works", [True, False])
async def test_a_sender_that_dies_before_it_submits_is_asked(
    nodes: Nodes, services: Services, works: bool
) -> None:
    async with client_of(nodes) as client:
        prepared = await client.messages.prepare(
            services.url("ours/asked"),
            [MessageStep(action=services.url("ours/in"), payload={})],
            query_after_ms=300,
        )
        if works:
            with closing(services.ours.connect()) as connection:
                BranchBarrier.of_message(prepared.xid).run(connection, services.ours.adding(-10))
        await ended(nodes, prepared.xid, "COMMITTED" if works else "ROLLED_BACK")
    assert services.ours.balance == (120 if works else 100)
