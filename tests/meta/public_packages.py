"""What the packages of the SDK beside `tidelock` itself give, as a type checker must see it.

Checked as tests/meta/public_surface.py is; a test sees to it that no name is missing, and nothing
here is run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, assert_type

import msgspec

import tidelock.barrier
import tidelock.client
import tidelock.clocks
import tidelock.messages
import tidelock.saga
import tidelock.services
import tidelock.xa


def xa(source: tidelock.xa.XaSource) -> None:
    source.attach()
    assert_type(source.resource_id, str)
    assert_type(source.reconcile(), list[tidelock.xa.Unsettled])
    try:
        with source.connection() as connection:
            connection.cursor()
    except tidelock.xa.XaMisuseError:
        pass
    except tidelock.xa.XaBranchError:
        pass


def barriers(connection: sqlite3.Connection, headers: dict[str, str]) -> int:
    def work(same: sqlite3.Connection) -> None:
        same.execute("UPDATE stock SET count = count - 1")

    assert_type(tidelock.barrier.barrier_ddl("sqlite"), str)
    try:
        barrier = tidelock.barrier.BranchBarrier.of_request({}, headers)
        assert_type(barrier.branch, tidelock.barrier.Branch)
        outcome = assert_type(barrier.run(connection, work), tidelock.barrier.Outcome)
    except tidelock.barrier.BranchRequestError:
        return 400
    except tidelock.barrier.BarrierError:
        return 500
    return outcome.status


class Paper:
    """Publishes on paper, and brings what comes by post."""

    async def publish(self, message: tidelock.messages.Message) -> tidelock.messages.Published:
        if not message.payload:
            raise tidelock.messages.PublishRefusedError("nothing to print")
        return tidelock.messages.Published.ACCEPTED

    async def subscribe(self, topic: str, group: str, handle: object) -> None:
        assert_type((topic, group), tuple[str, str])


async def messages(connection: sqlite3.Connection, message: tidelock.messages.Message) -> None:
    def work(same: sqlite3.Connection) -> None:
        same.execute("INSERT INTO orders VALUES (1)")

    async def awaited(same: sqlite3.Connection) -> None:
        work(same)

    publisher: tidelock.messages.Publisher = Paper()
    subscriber: tidelock.messages.Subscriber = Paper()
    await subscriber.subscribe("orders", "billing", publisher.publish)
    assert_type(tidelock.messages.Outbox().add(connection, "orders", {"id": 1}), str)
    assert_type(tidelock.messages.Inbox().receive(connection, message, work), bool)
    relay = tidelock.messages.OutboxRelay(lambda: connection, publisher, batch=10)
    assert_type(await relay.once(), int)
    steps = [tidelock.client.MessageStep(topic="orders")]
    assert_type(tidelock.messages.send(connection, work, steps, query="http://a/"), str)
    sent = await tidelock.messages.send_async(connection, awaited, steps, query="http://a/")
    assert_type(sent, str)
    assert_type(tidelock.messages.inbox_ddl("mysql"), str)
    assert_type(tidelock.messages.outbox_ddl("mysql"), list[str])


SHOP = tidelock.saga.SagaService(tidelock.saga.SagaDataSource(lambda: None), key=b"secret")


def put_back(context: tidelock.saga.StepContext, sku: str) -> None:
    assert_type((context.xid, context.branch_id), tuple[str, str])


@SHOP.step(compensate=put_back, refused_by=LookupError, timeout_ms=500)
def take(context: tidelock.saga.StepContext, sku: str, count: int) -> dict[str, int]:
    return {sku: count}


@tidelock.saga.saga_step(compensate=lambda context, sku: None, name="book")
def book(context: tidelock.ActionContext, sku: str) -> str:
    return sku


def sagas(context: tidelock.saga.StepContext) -> None:
    assert_type(tidelock.saga.saga_result_ddl("mysql"), str)
    assert_type(take(context, "tea", 1), dict[str, int])
    (step,) = SHOP.steps("http://shop:9000", {"take": {"sku": "tea", "count": 1}})
    definition = (
        tidelock.saga.SagaDefinition("purchase")
        .task("take", step, retry=[tidelock.saga.Repeat(max_attempts=2)])
        .task("all", step, loop=tidelock.saga.Loop(collection="$.[skus]"), next=tidelock.saga.END)
    )
    assert_type(definition, tidelock.saga.SagaDefinition)
    runner = tidelock.saga.SagaRunner()
    assert_type(runner.register(definition).version, int)
    run = assert_type(runner.start("purchase", {"sku": "tea"}), tidelock.saga.SagaRun)
    try:
        assert_type(run.wait(1_000).variables, dict[str, Any])
        assert_type(book("tea"), str)
    except tidelock.saga.SagaUnfinishedError:
        pass
    except tidelock.saga.StepReportLostError as error:
        of_sagas: tidelock.saga.SagaError = error
        assert_type(of_sagas.args, tuple[Any, ...])


async def client() -> None:
    async with tidelock.client.Client(["http://127.0.0.1:7101"]) as asked:
        retry = tidelock.client.Retry(limit=3)
        saga = tidelock.client.SagaStep(
            name="take", action="http://a/", compensation="http://b/", retry=retry
        )
        tcc = tidelock.client.TccBranch(try_="http://a/", confirm="http://b/", cancel="http://c/")
        assert_type((saga.name, tcc.try_), tuple[str, str])
        rows = tidelock.client.RowsToLock({"shop.stock": [["a-1"]]})
        registered = await asked.branches.register("shop:1", "AT", "mysql:shop", locks=[rows])
        assert_type(registered.branch_id, int)
        batch = [tidelock.client.BusinessCall("BATCH_UPDATE", {"updates": []})]
        assert_type(
            [each.status for each in (await asked.xa.execute_batch(batch)).results],
            list[tidelock.client.answers.ExecutionState],
        )
        async with asked.lock("stock", ttl_ms=10_000) as lock:
            assert_type(lock, tidelock.client.Lock)
        async for applied in asked.watch(kinds=["timestamp.*"]):
            assert_type(applied, tidelock.client.Applied)
    with tidelock.client.BlockingClient(["http://127.0.0.1:7101"]) as blocking:
        assert_type(blocking.lock("stock", ttl_ms=10_000), tidelock.client.BlockingLock)


class Bell:
    """Rings when a transaction ends."""

    def before_completion(self) -> None:
        raise tidelock.services.BusinessError("there is no bell")

    def after_completion(self, status: tidelock.services.JtaStatus) -> None:
        assert_type(status, tidelock.services.JtaStatus)


def business(work: tidelock.services.Work, data: Mapping[str, Any]) -> dict[str, int]:
    bell: tidelock.services.Synchronization = Bell()
    work.register(bell)
    source = assert_type(work.source("primary"), tidelock.services.DataSource)
    if not source.query("SELECT 1"):
        raise tidelock.services.BatchFailedError("nothing", [{"path": "", "message": "nothing"}])
    return {"rows": source.execute("DELETE FROM t WHERE a = %s", [data["a"]])}


def services() -> tidelock.services.Business:
    shapes: list[type[msgspec.Struct]] = [
        tidelock.services.ComplexOrder,
        tidelock.services.BatchUpdate,
        tidelock.services.DataMigration,
    ]
    assert_type((tidelock.services.ENTRY_POINTS, len(shapes)), tuple[str, int])
    return business


def clocks(physical_ms: int) -> None:
    relation = tidelock.clocks.Relation.BEFORE
    assert_type(tidelock.clocks.LamportClock().tick(), tidelock.clocks.LamportClock)
    hybrid = tidelock.clocks.HybridClock().tick(physical_ms)
    assert_type(hybrid.latest, tidelock.clocks.HybridTimestamp)
    vector = tidelock.clocks.VectorClock().tick("a")
    relation = assert_type(vector.compare(vector), tidelock.clocks.Relation)
    retired = tidelock.clocks.Retirements().retire({"a": 1})
    assert_type(retired.floor, tidelock.clocks.Floor)
    assert_type(retired.prune(vector), tidelock.clocks.Pruned[tidelock.clocks.VectorClock])
    version = tidelock.clocks.VersionVector()
    dotted = tidelock.clocks.DottedVersionVector.write("a", version)
    assert_type(dotted.context(), tidelock.clocks.VersionVector)
    siblings = tidelock.clocks.DottedVersionVectorSet[str]()
    assert_type(siblings.siblings, tuple[tuple[tidelock.clocks.Dot, str], ...])
    mine, yours = tidelock.clocks.IntervalTreeClock.seed().fork()
    assert_type(mine.event().compare(yours), tidelock.clocks.Relation)
    assert_type(tidelock.clocks.compare({"a": 1}, {}), tidelock.clocks.Relation)
    assert_type(tidelock.clocks.merge({"a": 1}, {}), dict[str, int])
    assert_type(tidelock.clocks.covers({"a": 1}, {}), bool)
    errors: list[type[tidelock.clocks.ClockError]] = [
        tidelock.clocks.ClockOverflowError,
        tidelock.clocks.ClockSkewError,
        tidelock.clocks.ClockValueError,
        tidelock.clocks.UndecidedError,
        tidelock.clocks.WireFormatError,
    ]
    assert_type((errors[0].__name__, relation.inverse), tuple[str, tidelock.clocks.Relation])
