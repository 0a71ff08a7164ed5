"""Steps of sagas in real databases: done once, undone once, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

import tidelock
from tests.databases.connections import DRIVERS, Database
from tests.databases.nothing_left import assert_nothing_left
from tests.sdk.saga_stock import OutOfStockError, Stock
from tidelock.application import Application
from tidelock.client import Client
from tidelock.crash_points import watched
from tidelock.errors import TidelockError
from tidelock.fence.context import ActionContext
from tidelock.fence.errors import StepRefusedError
from tidelock.fence.resource import FencedResource
from tidelock.rm.resource import BranchCall, PhaseTwoResult, PhaseTwoStatus
from tidelock.saga.errors import StepReportLostError
from tidelock.saga.source import SagaDataSource
from tidelock.saga.steps import saga_step
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

THROUGH_ALL = pytest.mark.parametrize("database", DRIVERS, indirect=True)
ON_ALL = pytest.mark.parametrize("database", ["pymysql", "psycopg", "sqlite3"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite3"], indirect=True)


class UndoneError(Exception):
    """What makes a transaction of these tests roll back."""


@pytest.fixture
def application(tidelock_coordinator: Coordinator) -> Iterator[Application]:
    with tidelock_coordinator.application("shop") as application:
        yield application


@pytest.fixture
def stock(
    request: pytest.FixtureRequest,
    database: Database,
    application: Application,
    tidelock_coordinator: Coordinator,
) -> Iterator[Stock]:
    driver: str = request.node.callspec.params["database"]
    stock = Stock(database, driver, application)
    yield stock
    assert_nothing_left(tidelock_coordinator, database)
    stock.source.close()


def asked_now(stock: Stock, branch: BranchCall) -> PhaseTwoStatus:
    """Ask to roll back as the coordinator does, on the loop of the application."""
    resource = stock.application.resource("SAGA", "shop:take")
    assert isinstance(resource, FencedResource)

    async def ask(_: object) -> PhaseTwoResult:
        return await resource.rollback(branch)

    return stock.application.client.run(ask).status


def call(xid: str = "x:1", branch_id: int = 1) -> BranchCall:
    return BranchCall(xid=xid, branch_id=branch_id, mode="SAGA", resource_id="shop:take")


def statuses(coordinator: Coordinator) -> list[str]:
    (summary,) = coordinator.transactions()
    return [each.status for each in coordinator.transaction(summary.xid).branches]


def roll_back_all(coordinator: Coordinator) -> None:
    found = coordinator.transactions()

    async def roll_back(client: Client) -> None:
        for each in found:
            await client.transactions.rollback(each.xid)

    coordinator.client.run(roll_back)


async def clean(coordinator: Coordinator, stock: Stock) -> None:
    """Let the coordinator clean up, and see that nothing is left behind."""
    await asyncio.to_thread(coordinator.advance, 120_000)
    await asyncio.to_thread(coordinator.assert_clean)
    assert stock.fence_rows() == []


@THROUGH_ALL
async def test_a_commit_leaves_what_was_done(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    async with tidelock.transaction(application=application):
        assert await stock.take(3) == "3 of tea"
        # Everybody sees it at once.
        assert stock.free() == 7
        await stock.take(2)
    assert stock.free() == 5
    assert stock.ran == ["step", "step"]
    await clean(tidelock_coordinator, stock)


@THROUGH_ALL
async def test_a_rollback_compensates_what_was_done(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    with contextlib.suppress(UndoneError):
        async with tidelock.transaction(application=application):
            await stock.take(3)
            await stock.take(2)
            raise UndoneError
    assert stock.free() == 10
    assert stock.ran == ["step", "step", "compensate", "compensate"]
    await clean(tidelock_coordinator, stock)


@ON_SQLITE
async def test_compensations_come_in_reverse_with_the_arguments_as_they_were(
    stock: Stock, application: Application
) -> None:
    undone: list[tuple[object, ...]] = []

    def undo(
        context: ActionContext, number: int, when: date, price: Decimal, id: UUID | None
    ) -> None:
        undone.append((number, when, price, id, context.data["note"]))

    @saga_step(compensate=undo, name="typed", application=application)
    def step(
        context: ActionContext,
        number: int,
        when: date,
        *,
        price: Decimal = Decimal("19.90"),
        id: UUID | None = None,
    ) -> None:
        context.data["note"] = f"n{number}"

    known = UUID(int=7)
    with contextlib.suppress(UndoneError):
        async with tidelock.transaction(application=application):
            step(1, date(2026, 1, 2), id=known)
            step(2, date(2026, 1, 3))
            raise UndoneError
    assert undone == [
        (2, date(2026, 1, 3), Decimal("19.90"), None, "n2"),
        (1, date(2026, 1, 2), Decimal("19.90"), known, "n1"),
    ]


# --- steps that fail


@THROUGH_ALL
async def test_a_step_that_refuses_may_be_replaced_by_another(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    def refuse(what: str) -> None:
        raise OutOfStockError

    async with tidelock.transaction(application=application):
        stock.before = refuse
        with pytest.raises(OutOfStockError):
            await stock.take(30)
        stock.before = lambda _: None
        await stock.take(3)
    assert statuses(tidelock_coordinator) == ["WITHDRAWN", "PHASE_TWO_COMMITTED"]
    assert stock.ran == ["step", "step"]
    assert stock.free() == 7
    await clean(tidelock_coordinator, stock)


@ON_ALL
async def test_a_step_that_fails_cannot_be_committed_even_if_that_is_caught(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    def fail(what: str) -> None:
        raise UndoneError(what)

    stock.before = fail

    async def passes_over() -> None:
        async with tidelock.transaction(application=application):
            with pytest.raises(UndoneError):
                await stock.take(3)

    with pytest.raises(tidelock.TransactionRolledBackError):
        await passes_over()
    # The fence knows that there is nothing to compensate.
    assert stock.ran == ["step"]
    assert stock.free() == 10
    await clean(tidelock_coordinator, stock)


@ON_SQLITE
async def test_a_failure_that_could_not_be_told_is_raised_and_not_committed(
    stock: Stock, tidelock_coordinator: Coordinator
) -> None:
    def refuse(what: str) -> None:
        raise OutOfStockError(what)

    async def passes_over() -> None:
        async with tidelock.transaction(application=stock.application, timeout_ms=2_000):
            await stock.take(1)
            stock.before = refuse
            with (
                tidelock_coordinator.failing("report"),
                pytest.raises(StepReportLostError) as lost,
            ):
                await stock.take(30)
            assert isinstance(lost.value.__context__, TidelockError)
            stock.before = lambda _: None

    with tidelock_coordinator.application("shop", timeout_ms=300) as impatient:
        # The same database, by a client that gives up soon.
        stock.application = impatient
        stock._take = saga_step(
            compensate=stock._compensate,
            source=stock.source,
            refused_by=OutOfStockError,
            name="take",
            application=impatient,
        )(stock._step)
        # The commit waits for the report, until the time of the transaction is over.
        with pytest.raises(tidelock.TransactionTimedOutError):
            await passes_over()
        await asyncio.to_thread(tidelock_coordinator.assert_clean)
    assert stock.free() == 10


@ON_SQLITE
async def test_a_step_whose_report_is_lost_is_compensated(
    stock: Stock, tidelock_coordinator: Coordinator
) -> None:
    async def purchase(application: Application) -> None:
        take = saga_step(
            compensate=stock._compensate, source=stock.source, name="take", application=application
        )(stock._step)
        async with tidelock.transaction(application=application):
            with tidelock_coordinator.failing("report"):
                take("tea", 3)

    with tidelock_coordinator.application("shop", timeout_ms=300) as impatient:
        with pytest.raises(TidelockError, match="the test wants it"):
            await purchase(impatient)
        await asyncio.to_thread(tidelock_coordinator.assert_clean)
    assert stock.ran == ["step", "compensate"]
    assert stock.free() == 10


# --- late, twice, empty


@THROUGH_ALL
async def test_a_step_after_its_compensation_is_refused(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    def compensate(point: str) -> None:
        # The branch is registered, and its step is on its way.
        if point == "fence.after-register":
            (summary,) = tidelock_coordinator.transactions()
            (branch,) = tidelock_coordinator.transaction(summary.xid).branches
            assert asked_now(stock, call(summary.xid, branch.branch_id)) == "ROLLED_BACK"

    async def purchase() -> None:
        async with tidelock.transaction(application=application):
            await stock.take(3)

    with watched(compensate), pytest.raises(StepRefusedError, match="was rolled back"):
        await purchase()
    assert stock.ran == []
    assert stock.free() == 10
    await clean(tidelock_coordinator, stock)


@THROUGH_ALL
async def test_a_step_that_is_done_when_its_guards_are_gone_is_taken_back(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    def end(point: str) -> None:
        if point == "fence.after-register":
            roll_back_all(tidelock_coordinator)
            tidelock_coordinator.assert_clean()

    async def purchase() -> None:
        async with tidelock.transaction(application=application):
            await stock.take(3)

    with watched(end), pytest.raises(StepRefusedError, match="too late"):
        await purchase()
    assert stock.ran == ["step", "compensate"]
    assert stock.free() == 10
    assert stock.fence_rows() == []


@ON_ALL
async def test_a_compensation_that_comes_again_is_done_once(
    stock: Stock, application: Application
) -> None:
    with contextlib.suppress(UndoneError):
        async with tidelock.transaction(application=application):
            await stock.take(3)
            ((xid, branch_id),) = stock.database.sql("SELECT xid, branch_id FROM tidelock_fence")
            for _ in range(2):
                branch = call(xid, int(branch_id))
                assert await asyncio.to_thread(asked_now, stock, branch) == "ROLLED_BACK"
            raise UndoneError
    assert stock.ran == ["step", "compensate"]
    assert stock.free() == 10


@ON_ALL
async def test_a_compensation_that_fails_is_repeated_until_it_is_done(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    failures = iter([True, True, False])

    def fail(what: str) -> None:
        if what == "compensate" and next(failures):
            raise UndoneError

    stock.before = fail
    async with tidelock.transaction(application=application, end_wait_ms=0) as transaction:
        await stock.take(3)
        transaction.set_rollback_only()

    def rolled_back() -> bool:
        tidelock_coordinator.advance(5_000)
        return tidelock_coordinator.transaction(transaction.xid).status == "ROLLED_BACK"

    await asyncio.to_thread(tidelock_coordinator.wait_until, rolled_back)
    assert stock.ran == ["step", "compensate", "compensate", "compensate"]
    assert stock.free() == 10
    await clean(tidelock_coordinator, stock)


@ON_SQLITE
async def test_a_step_whose_transaction_was_committed_meanwhile_stays_done(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    def commit(point: str) -> None:
        # Somebody else decides, and all is over and cleaned up before the step even begins.
        if point == "fence.after-register":
            (summary,) = tidelock_coordinator.transactions()
            (branch,) = tidelock_coordinator.transaction(summary.xid).branches

            async def decide(client: Client) -> None:
                await client.branches.report(summary.xid, branch.branch_id, "PHASE_ONE_DONE")
                await client.transactions.commit(summary.xid)

            tidelock_coordinator.client.run(decide)
            tidelock_coordinator.assert_clean()

    with watched(commit):
        async with tidelock.transaction(application=application):
            assert await stock.take(3) == "3 of tea"
    assert stock.free() == 7
    assert stock.ran == ["step"]
    assert stock.fence_rows() == []


@ON_ALL
async def test_steps_of_many_transactions_at_once_each_stay_whole(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    async def one(number: int) -> None:
        async def take() -> None:
            async with tidelock.transaction(application=application):
                await asyncio.to_thread(stock.take_now, 1)
                if number % 2:
                    raise UndoneError

        with contextlib.suppress(UndoneError):
            await take()

    lock = asyncio.Lock() if stock.database.dialect == "sqlite" else contextlib.nullcontext()

    async def in_turn(number: int) -> None:
        async with lock:
            await one(number)

    await asyncio.gather(*(in_turn(number) for number in range(8)))
    assert stock.free() == 6
    assert sorted(stock.ran) == ["compensate"] * 4 + ["step"] * 8
    await clean(tidelock_coordinator, stock)


# --- the fence of the coordinator


class Taxi:
    """Steps without a database."""

    def __init__(self, application: Application, *, awaits: bool) -> None:
        self.ran: list[str] = []
        self.fails: BaseException | None = None

        async def cancel_later(context: ActionContext, where: str) -> None:
            self._run("cancel", context, where)

        async def order_later(context: ActionContext, where: str) -> None:
            context.data["car"] = "seven"
            self._run("order", context, where)

        def cancel(context: ActionContext, where: str) -> None:
            self._run("cancel", context, where)

        def order(context: ActionContext, where: str) -> None:
            context.data["car"] = "seven"
            self._run("order", context, where)

        decorate = saga_step(
            compensate=cancel_later if awaits else cancel,
            refused_by=(LookupError,),
            name="taxi",
            application=application,
        )
        self._awaits = awaits
        self._order = decorate(order_later if awaits else order)

    async def order(self, where: str) -> None:
        if self._awaits:
            await self._order(where)  # type: ignore[misc]  # it is awaited then
        else:
            self._order(where)

    def _run(self, what: str, context: ActionContext, where: str) -> None:
        self.ran.append(f"{what} {context.data.get('car')} to {where}")
        if what == "order" and self.fails is not None:
            raise self.fails


@pytest.mark.parametrize("awaits", [False, True])
async def test_without_a_database_what_was_done_is_compensated(
    awaits: bool, application: Application, tidelock_coordinator: Coordinator
) -> None:
    taxi = Taxi(application, awaits=awaits)
    async with tidelock.transaction(application=application):
        await taxi.order("here")
    with contextlib.suppress(UndoneError):
        async with tidelock.transaction(application=application):
            await taxi.order("there")
            raise UndoneError
    assert taxi.ran == ["order seven to here", "order seven to there", "cancel seven to there"]
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


@pytest.mark.parametrize("awaits", [False, True])
@pytest.mark.parametrize(
    ("error", "undone"),
    [(UndoneError(), True), (KeyError("no car"), False)],
    ids=["fail", "refuse"],
)
async def test_without_a_database_what_failed_is_compensated_unless_it_refused(
    awaits: bool,
    error: Exception,
    undone: bool,
    application: Application,
    tidelock_coordinator: Coordinator,
) -> None:
    taxi = Taxi(application, awaits=awaits)
    taxi.fails = error

    async def order() -> None:
        async with tidelock.transaction(application=application):
            await taxi.order("here")

    with pytest.raises(type(error)):
        await order()
    assert taxi.ran == ["order seven to here"] + ["cancel seven to here"] * undone
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


@pytest.mark.parametrize("point", ["fence.before-fence-enter", "fence.before-fence-done"])
async def test_without_a_database_a_late_step_is_refused_or_undone(
    point: str, application: Application, tidelock_coordinator: Coordinator
) -> None:
    taxi = Taxi(application, awaits=False)

    def roll_back(reached: str) -> None:
        if reached == point and tidelock_coordinator.transactions()[0].status == "BEGIN":
            roll_back_all(tidelock_coordinator)

    async def order() -> None:
        async with tidelock.transaction(application=application):
            await taxi.order("here")

    with watched(roll_back), pytest.raises(StepRefusedError):
        await order()
    ordered = [each for each in taxi.ran if each.startswith("order")]
    assert len(ordered) == (0 if point == "fence.before-fence-enter" else 1)
    assert not ordered or taxi.ran[-1].startswith("cancel")
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


# --- what is refused


def test_outside_of_a_transaction_nothing_is_done(application: Application) -> None:
    @saga_step(compensate=lambda _: None, name="n", application=application)
    def step(context: ActionContext) -> None: ...

    with pytest.raises(tidelock.TransactionRequiredError, match="outside of a global transaction"):
        step()


def test_what_cannot_work_is_refused_where_it_is_written(application: Application) -> None:
    async def later(context: ActionContext, sku: str) -> None: ...

    def now(context: ActionContext, sku: str) -> None: ...

    def other(context: ActionContext, count: int) -> None: ...

    def unnamed(context: ActionContext, *skus: str) -> None: ...

    source = SagaDataSource(lambda: None)
    with pytest.raises(TypeError, match="both are of one kind"):
        saga_step(compensate=later, source=source, application=application)(now)
    with pytest.raises(TypeError, match="cannot be called with the arguments of"):
        saga_step(compensate=other, application=application)(now)
    with pytest.raises(TypeError, match="has no name of its own"):
        saga_step(compensate=now, application=application)(unnamed)
    with pytest.raises(TypeError, match="takes no context"):
        saga_step(compensate=now, application=application)(lambda: None)  # type: ignore[arg-type,misc]  # what is refused


def test_arguments_are_what_a_compensation_can_be_given(application: Application) -> None:
    def undo(context: ActionContext, what: object) -> None: ...

    @saga_step(compensate=undo, name="n", application=application)
    def step(context: ActionContext, what: object) -> None:
        context.data["what"] = "else"

    def passes_over() -> None:
        with tidelock.transaction(application=application):
            with pytest.raises(ValueError, match="cannot be kept for the compensation"):
                step(object())
            with pytest.raises(ValueError, match="JSON has no nan"):
                step({"prices": [1.5, math.nan]})
            with pytest.raises(ValueError, match="more than 16384"):
                step("x" * 20_000)
            with pytest.raises(ValueError, match="has replaced what"):
                step("x")

    with pytest.raises(tidelock.TransactionRolledBackError):
        passes_over()
