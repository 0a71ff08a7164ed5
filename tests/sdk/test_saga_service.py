"""Functions that the cluster calls as steps of sagas: once, in order, with the same answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import fastapi
import httpx
import msgspec
import pytest
from aiohttp import web

from tests.databases.connections import DRIVERS, Database
from tests.meta.documents import ROOT
from tests.sdk.served_stock import OutOfStockError, ServedStock, application, tables
from tidelock.barrier.signatures import SIGNATURE, sign
from tidelock.client.answers import Saga
from tidelock.crash_points import VARIABLE
from tidelock.saga.context import StepContext
from tidelock.saga.service import SagaService
from tidelock.saga.serving import Reply, Request
from tidelock.saga.source import SagaDataSource
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

THROUGH_ALL = pytest.mark.parametrize("database", DRIVERS, indirect=True)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite3"], indirect=True)

PAYLOAD = {"sku": "tea", "count": 3}


@pytest.fixture
def stock(request: pytest.FixtureRequest, database: Database) -> Iterator[ServedStock]:
    driver: str = request.node.callspec.params["database"]
    database.sql(*tables(driver))
    stock = ServedStock(database, driver)
    yield stock
    stock.source.close()


async def called(
    stock: ServedStock,
    operation: str = "FORWARD",
    *,
    path: str = "",
    branch: str = "1",
    body: object = PAYLOAD,
    headers: dict[str, str] | None = None,
) -> Reply:
    paths = {"FORWARD": "take", "ROLLBACK": "take/compensate"}
    return await stock.service.answer(
        Request(
            path=path or paths[operation],
            query={},
            headers={
                "X-Tx-Xid": "x:1",
                "Tidelock-Branch-Id": branch,
                "Tidelock-Operation": operation,
                **(headers or {}),
            },
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        )
    )


def code_of(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["code"]


@THROUGH_ALL
async def test_a_step_is_done_and_undone_once_and_answers_the_same(stock: ServedStock) -> None:
    for _ in range(2):
        reply = await called(stock)
        assert (reply.status, json.loads(reply.body)) == (200, {"taken": 3})
    assert stock.free() == 7
    for _ in range(2):
        assert (await called(stock, "ROLLBACK")).status == 200
    assert stock.free() == 10
    assert stock.ran == ["take", "give back"]


@THROUGH_ALL
async def test_a_compensation_without_its_step_does_nothing_and_keeps_it_from_coming(
    stock: ServedStock,
) -> None:
    assert (await called(stock, "ROLLBACK")).status == 200
    assert code_of(await called(stock)) == (409, "UNDONE_BEFORE")
    assert stock.ran == []
    assert stock.free() == 10


@THROUGH_ALL
async def test_a_refusal_leaves_nothing_and_stays_one(stock: ServedStock) -> None:
    def refuse(what: str) -> None:
        raise OutOfStockError("no tea")

    stock.before = refuse
    refused = await called(stock)
    assert code_of(refused) == (409, "OUT_OF_STOCK")
    # A copy that comes later, when there would be enough.
    stock.before = lambda _: None
    assert await called(stock) == refused
    # It is asked for when a saga has failed steps compensated, too.
    assert (await called(stock, "ROLLBACK")).status == 200
    assert stock.ran == ["take"]
    assert stock.free() == 10


@ON_SQLITE
async def test_what_is_not_refused_is_done_when_it_comes_again(stock: ServedStock) -> None:
    def fail(what: str) -> None:
        raise ConnectionError("nobody there")

    stock.before = fail
    assert code_of(await called(stock)) == (500, "ConnectionError")
    assert stock.free() == 10
    stock.before = lambda _: None
    assert (await called(stock)).status == 200
    assert stock.free() == 7


@pytest.mark.parametrize("database", ["pymysql", "psycopg", "sqlite3"], indirect=True)
async def test_calls_at_once_of_one_branch_are_one(stock: ServedStock) -> None:
    replies = await asyncio.gather(*(called(stock) for _ in range(5)))
    assert {(reply.status, reply.body) for reply in replies} == {(200, b'{"taken":3}')}
    assert stock.ran == ["take"]


@ON_SQLITE
async def test_a_call_that_cannot_be_meant_says_so(stock: ServedStock) -> None:
    def payload(body: object) -> Any:
        return called(stock, body=body)

    assert code_of(await called(stock, path="give")) == (404, "STEP_NOT_FOUND")
    assert code_of(await called(stock, path="pay/compensate")) == (404, "STEP_NOT_FOUND")
    assert code_of(await called(stock, path="take/compensate")) == (400, "OPERATION_INVALID")
    assert code_of(await called(stock, "ROLLBACK", path="take")) == (400, "OPERATION_INVALID")
    nothing = {"X-Tx-Xid": ""}
    assert code_of(await called(stock, headers=nothing)) == (400, "BRANCH_INVALID")
    for body in (b"{", b"7", {"sku": "tea"}, {**PAYLOAD, "who": 1}, {"sku": "tea", "count": "3"}):
        assert code_of(await payload(body)) == (409, "PAYLOAD_INVALID")
    assert (await payload(["tea", 2])).status == 200
    assert stock.free() == 8


@ON_SQLITE
async def test_with_a_key_only_the_cluster_is_served(stock: ServedStock) -> None:
    stock = ServedStock(stock.database, "sqlite3", key=b"secret")
    assert code_of(await called(stock)) == (401, "SIGNATURE_INVALID")
    body = json.dumps(PAYLOAD).encode()
    forged = {SIGNATURE: sign(body, b"guessed", int(time.time()))}
    assert code_of(await called(stock, body=body, headers=forged)) == (401, "SIGNATURE_INVALID")
    signed = {SIGNATURE.lower(): sign(body, b"secret", int(time.time()))}
    assert (await called(stock, body=body, headers=signed)).status == 200


@ON_SQLITE
async def test_it_is_an_application_of_asgi(stock: ServedStock) -> None:
    here = httpx.ASGITransport(stock.service, root_path="/saga")
    headers = {"X-Tx-Xid": "x:1", "Tidelock-Branch-Id": "1", "Tidelock-Operation": "FORWARD"}
    async with httpx.AsyncClient(transport=here, base_url="http://stock") as client:
        done = await client.post("/saga/take", json=PAYLOAD, headers=headers)
        assert (done.status_code, done.json()) == (200, {"taken": 3})
        assert (await client.get("/saga/take")).status_code == 405
        large = b" " * (1024 * 1024 + 1)
        assert (await client.post("/saga/take", content=large)).status_code == 413
        # As a DTM server calls it.
        query = {"gid": "g", "trans_type": "saga", "branch_id": "01", "op": "action"}
        done = await client.post("/saga/take", json=PAYLOAD, params=query)
        assert done.status_code == 200
    assert stock.free() == 4


@ON_SQLITE
async def test_it_can_be_mounted_in_an_application_of_a_framework(stock: ServedStock) -> None:
    app = fastapi.FastAPI()
    app.mount("/saga", stock.service)
    headers = {"X-Tx-Xid": "x:1", "Tidelock-Branch-Id": "1", "Tidelock-Operation": "FORWARD"}
    here = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=here, base_url="http://stock") as client:
        done = await client.post("/saga/take", json=PAYLOAD, headers=headers)
    assert (done.status_code, done.json()) == (200, {"taken": 3})


@asynccontextmanager
async def serving(stock: ServedStock) -> AsyncIterator[str]:
    runner = web.AppRunner(application(stock), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}/saga"
    finally:
        await runner.cleanup()


async def run(coordinator: Coordinator, steps: Any, **options: Any) -> Saga:
    def submitted() -> Saga:
        return coordinator.client.run(
            lambda client: client.sagas.run(steps, wait_ms=20_000, **options)
        )

    return await asyncio.to_thread(submitted)


@THROUGH_ALL
async def test_a_saga_of_served_steps_is_done(
    stock: ServedStock, tidelock_coordinator: Coordinator
) -> None:
    async with serving(stock) as url:
        saga = await run(tidelock_coordinator, stock.service.steps(url, {"take": PAYLOAD}))
        assert (saga.status, saga.steps[0].result) == ("COMMITTED", {"taken": 3})
    assert stock.free() == 7
    with tidelock_coordinator.application() as asked:
        swept = await stock.service.sweep(application=asked, ended_since_ms=-60_000)
    assert (swept.deleted > 0, swept.under_way) == (True, 0)
    for table in ("barrier", "tidelock_saga_result"):
        assert [tuple(row) for row in stock.database.sql(f"SELECT * FROM {table}")] == []
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


@ON_SQLITE
async def test_a_saga_with_a_step_that_refuses_is_undone(
    stock: ServedStock, tidelock_coordinator: Coordinator
) -> None:
    async with serving(stock) as url:
        steps = stock.service.steps(url, {"take": PAYLOAD, "pay": {"for_what": {"$ref": "take"}}})
        saga = await run(tidelock_coordinator, steps)
    assert saga.status == "ROLLED_BACK"
    assert saga.steps[1].error is not None
    assert saga.steps[1].error.type == "OUT_OF_STOCK"
    assert stock.ran == ["take", "pay for 3", "give back"]
    assert stock.free() == 10
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


@ON_SQLITE
def test_steps_are_what_the_service_serves(stock: ServedStock) -> None:
    take, pay = stock.service.steps("http://s/saga/")
    assert (take.action, take.compensation) == (
        "http://s/saga/take",
        "http://s/saga/take/compensate",
    )
    assert pay.compensation == ""
    (later,) = stock.service.steps(
        "http://s", {"pay": {"for_what": {}}}, depends_on={"pay": ["take"]}
    )
    assert later.depends_on == ["take"]
    with pytest.raises(ValueError, match="no step 'give' is served"):
        stock.service.steps("http://s", {"give": {}})
    with pytest.raises(ValueError, match="count is missing"):
        stock.service.steps("http://s", {"take": {"sku": "tea"}})
    with pytest.raises(ValueError, match="has no argument who"):
        stock.service.steps("http://s", {"take": {**PAYLOAD, "who": 1}})


def test_what_cannot_be_served_is_refused_where_it_is_written() -> None:
    service = SagaService(SagaDataSource(lambda: None))

    def now(context: StepContext) -> None: ...

    async def later(context: StepContext) -> None: ...

    service.step()(now)
    with pytest.raises(ValueError, match="there is a step 'now' already"):
        service.step()(now)
    with pytest.raises(ValueError, match="no name of a step"):
        service.step(name="a/b")(now)
    with pytest.raises(TypeError, match="both `def`, or both `async def`"):
        service.step(compensate=now)(later)
    with pytest.raises(TypeError, match="either all `def` or all `async def`"):
        service.step()(later)
    with pytest.raises(ValueError, match="key of signatures is empty"):
        SagaService(SagaDataSource(lambda: None), key=b"")


# --- killed on the way

FORWARD = (
    "barrier.before-rows",
    "barrier.after-rows",
    "saga.before-result-row",
    "saga.after-result-row",
    "barrier.before-local-commit",
    "barrier.after-local-commit",
)
BACKWARD = (
    "barrier.before-rows:2",
    "barrier.after-rows:2",
    "barrier.before-local-commit:2",
    "barrier.after-local-commit:2",
)
QUICK = ("barrier.after-local-commit", "barrier.before-local-commit:2")
KILLED_ON = ("sqlite3", "pymysql", "psycopg")


def cases() -> list[Any]:
    return [
        pytest.param(
            point,
            driver,
            marks=() if point in QUICK and driver == "sqlite3" else (pytest.mark.long,),
        )
        for point in (*FORWARD, *BACKWARD)
        for driver in KILLED_ON
    ]


@asynccontextmanager
async def process(
    database: Database, driver: str, port: int, crash_at: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    where = {} if database.server is None else database.where()
    told = json.dumps({"dialect": database.dialect, "name": database.name, "where": where})
    found = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.sdk.served_stock", driver, told, str(port)),
        env={**os.environ, "PYTHONPATH": str(ROOT)} | ({VARIABLE: crash_at} if crash_at else {}),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield found
    finally:
        if found.returncode is None:
            found.kill()
            await found.wait()


@pytest.mark.parametrize(("point", "database"), cases(), indirect=["database"])
async def test_killed_on_the_way_a_step_is_done_once_and_undone_once(
    point: str,
    database: Database,
    request: pytest.FixtureRequest,
    tidelock_coordinator: Coordinator,
) -> None:
    driver: str = request.node.callspec.params["database"]
    database.sql(*tables(driver))
    stock, port = ServedStock(database, driver), free_port()
    url = f"http://127.0.0.1:{port}/saga"
    steps = stock.service.steps(url, {"take": PAYLOAD})
    if point in BACKWARD:
        # What comes behind it refuses, so it is undone.
        steps.append(msgspec.structs.replace(steps[0], name="more", payload={"sku": "tea"}))
    async with process(database, driver, port, point) as dying:
        xid = (await submitted(tidelock_coordinator, steps)).xid
        await dead(tidelock_coordinator, dying)
    async with process(database, driver, port, ""):
        status = "ROLLED_BACK" if point in BACKWARD else "COMMITTED"

        while tidelock_coordinator.transaction(xid).status != status:
            await asyncio.to_thread(tidelock_coordinator.advance, 20_000)
            await asyncio.sleep(0.2)
    assert stock.free() == (10 if point in BACKWARD else 7)
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def submitted(coordinator: Coordinator, steps: Any) -> Saga:
    return await asyncio.to_thread(
        lambda: coordinator.client.run(lambda client: client.sagas.run(steps))
    )


async def dead(coordinator: Coordinator, process: asyncio.subprocess.Process) -> None:
    """Let the coordinator call until a process dies of it."""
    while process.returncode is None:
        await asyncio.to_thread(coordinator.advance, 20_000)
        try:
            await asyncio.wait_for(process.wait(), 0.2)
        except TimeoutError:
            continue
    assert process.returncode == -signal.SIGKILL
