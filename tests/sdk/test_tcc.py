"""Try, Confirm and Cancel in real databases: once, in order, and with nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import pytest

import tidelock
from statemachine.transactions import cleaning
from tests.databases.connections import DRIVERS, Database
from tests.databases.nothing_left import assert_nothing_left
from tests.sdk.tcc_stock import Stock
from tidelock.application import Application
from tidelock.client import Client
from tidelock.crash_points import watched
from tidelock.fence import database_fence
from tidelock.fence.context import ActionContext
from tidelock.fence.errors import FenceError
from tidelock.fence.fence_table import fence_ddl
from tidelock.fence.resource import FencedResource
from tidelock.rm.resource import BranchCall, PhaseTwoResult, PhaseTwoStatus
from tidelock.tcc.actions import tcc_transaction
from tidelock.tcc.errors import TryRefusedError
from tidelock.tcc.source import TccDataSource
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

THROUGH_ALL = pytest.mark.parametrize("database", DRIVERS, indirect=True)
ON_ALL = pytest.mark.parametrize("database", ["pymysql", "psycopg", "sqlite3"], indirect=True)


LEAVE_GUARDS: Final = frozenset(
    {
        "test_a_cancel_without_a_try_does_nothing_and_cannot_be_confirmed",
        "test_cancels_at_once_of_many_branches_do_not_hold_each_other_up",
        "test_fences_that_nobody_was_told_to_forget_are_found_by_a_sweep",
    }
)
"""They play the coordinator, or another cluster's application, of whose branches nobody tells."""


class DiedError(BaseException):
    """Stands for the end of a process: nothing that follows is tried."""


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
    if request.node.originalname not in LEAVE_GUARDS:
        assert_nothing_left(tidelock_coordinator, database)
    stock.source.close()


def resource_of(stock: Stock) -> FencedResource:
    found = stock.application.resource("TCC", "shop:take")
    assert isinstance(found, FencedResource)
    return found


def call(xid: str = "x:1", branch_id: int = 1) -> BranchCall:
    return BranchCall(xid=xid, branch_id=branch_id, mode="TCC", resource_id="shop:take")


def asked_now(stock: Stock, what: str, of: BranchCall | None = None) -> PhaseTwoStatus:
    """Ask as the coordinator does, on the loop of the application."""
    resource, branch = resource_of(stock), of or call()

    async def ask(_: object) -> PhaseTwoResult:
        return await (resource.commit if what == "confirm" else resource.rollback)(branch)

    return stock.application.client.run(ask).status


async def asked(stock: Stock, what: str, of: BranchCall | None = None) -> PhaseTwoStatus:
    return await asyncio.to_thread(asked_now, stock, what, of)


async def purchase(stock: Stock, count: int) -> None:
    async with tidelock.transaction(application=stock.application):
        await stock.take(count)


async def clean(coordinator: Coordinator, stock: Stock) -> None:
    """Let the coordinator clean up, and see that nothing is left behind."""
    await asyncio.to_thread(coordinator.advance, 120_000)
    await asyncio.to_thread(coordinator.assert_clean)
    assert stock.fence_rows() == []


@THROUGH_ALL
async def test_a_commit_confirms_what_was_tried(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    async with tidelock.transaction(application=application):
        assert await stock.take(3) == "3 of tea"
        assert stock.numbers() == (7, 3, 0)
        await stock.take(2)
    assert stock.numbers() == (5, 0, 5)
    assert sorted(stock.ran) == ["confirm", "confirm", "try", "try"]
    await clean(tidelock_coordinator, stock)


@THROUGH_ALL
async def test_a_rollback_cancels_what_was_tried(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    with contextlib.suppress(UndoneError):
        async with tidelock.transaction(application=application):
            await stock.take(3)
            raise UndoneError
    assert stock.numbers() == (10, 0, 0)
    assert stock.ran == ["try", "cancel"]
    await clean(tidelock_coordinator, stock)


@THROUGH_ALL
async def test_a_try_that_fails_leaves_nothing_and_commits_nothing(
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
    assert stock.numbers() == (10, 0, 0)
    # The fence knows that there is nothing to cancel.
    assert stock.ran == ["try"]
    await clean(tidelock_coordinator, stock)


@THROUGH_ALL
async def test_a_try_after_its_cancel_is_refused(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    branches: list[BranchCall] = []

    def cancel(point: str) -> None:
        # The branch is registered, and its Try is on its way.
        if point == "fence.after-register":
            (summary,) = tidelock_coordinator.transactions()
            (branch,) = tidelock_coordinator.transaction(summary.xid).branches
            branches.append(call(summary.xid, branch.branch_id))
            assert asked_now(stock, "cancel", branches[0]) == "ROLLED_BACK"

    with watched(cancel), pytest.raises(TryRefusedError, match="was rolled back"):
        await purchase(stock, 3)
    assert len(branches) == 1
    assert stock.ran == []
    assert stock.numbers() == (10, 0, 0)
    await clean(tidelock_coordinator, stock)


@ON_ALL
async def test_a_confirm_that_fails_is_repeated_until_it_is_done(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    failures = iter([True, True, False])

    def fail(what: str) -> None:
        if what == "confirm" and next(failures):
            raise UndoneError

    stock.before = fail
    async with tidelock.transaction(application=application, end_wait_ms=0) as transaction:
        await stock.take(3)

    def committed() -> bool:
        tidelock_coordinator.advance(5_000)
        return tidelock_coordinator.transaction(transaction.xid).status == "COMMITTED"

    await asyncio.to_thread(tidelock_coordinator.wait_until, committed)
    assert stock.ran == ["try", "confirm", "confirm", "confirm"]
    assert stock.numbers() == (7, 0, 3)
    await clean(tidelock_coordinator, stock)


@ON_ALL
async def test_a_step_that_comes_again_is_done_once(stock: Stock, application: Application) -> None:
    async def purchase() -> None:
        async with tidelock.transaction(application=application):
            await stock.take(3)
            ((xid, branch_id),) = stock.database.sql("SELECT xid, branch_id FROM tidelock_fence")
            branch = call(xid, int(branch_id))
            for _ in range(2):
                assert await asked(stock, "confirm", branch) == "COMMITTED"
            assert stock.ran == ["try", "confirm"]
            raise UndoneError

    # What is confirmed cannot be cancelled: an operator has to see to it.
    with pytest.raises(tidelock.RollbackFailedError):
        await purchase()
    assert stock.ran == ["try", "confirm"]
    assert stock.numbers() == (7, 0, 3)


@ON_ALL
async def test_a_cancel_without_a_try_does_nothing_and_cannot_be_confirmed(stock: Stock) -> None:
    assert await asked(stock, "confirm") == "COMMIT_FAILED_RETRYABLE"
    for _ in range(2):
        assert await asked(stock, "cancel") == "ROLLED_BACK"
    assert await asked(stock, "confirm") == "COMMIT_FAILED_UNRETRYABLE"
    assert stock.ran == []
    assert stock.fence_rows() == [4]
    assert stock.numbers() == (10, 0, 0)


@ON_ALL
async def test_cancels_at_once_of_many_branches_do_not_hold_each_other_up(stock: Stock) -> None:
    answers = await asyncio.gather(
        *(asked(stock, "cancel", call("x:1", number)) for number in range(1, 9))
    )
    assert set(answers) == {"ROLLED_BACK"}


@ON_ALL
async def test_a_try_that_ends_its_own_transaction_is_refused(
    database: Database, application: Application, tidelock_coordinator: Coordinator
) -> None:
    dialect = database.dialect
    database.sql(fence_ddl(dialect))  # type: ignore[arg-type]  # a dialect's name

    def nothing(context: ActionContext) -> None: ...

    @tcc_transaction(
        confirm=nothing,
        cancel=nothing,
        source=TccDataSource(database.connect),
        application=application,
    )
    def commits(context: ActionContext) -> None:
        context.connection.commit()

    with (
        pytest.raises(FenceError, match="by the function itself"),
        tidelock.transaction(application=application),
    ):
        commits()


@pytest.mark.parametrize("database", ["psycopg", "asyncpg", "asyncmy"], indirect=True)
async def test_a_try_may_use_a_connection_that_a_pool_lends(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    async def take(pool: Any, count: int) -> None:
        if stock.driver == "psycopg":
            with pool.connection() as connection, stock.source.on(connection):
                stock.take_now(count)
            return
        async with pool.acquire() as connection:
            with stock.source.on(connection):
                await stock.take(count)

    async with stock.database.pool(stock.driver) as pool:
        async with tidelock.transaction(application=application):
            await take(pool, 3)
            await take(pool, 1)
            assert stock.numbers() == (6, 4, 0)
        with contextlib.suppress(UndoneError):
            async with tidelock.transaction(application=application):
                await take(pool, 2)
                raise UndoneError
    await asyncio.to_thread(tidelock_coordinator.assert_clean)
    assert stock.numbers() == (6, 0, 4)
    assert stock.fence_rows() == []


@ON_ALL
async def test_a_try_may_use_a_connection_of_the_caller(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    connection = stock.database.connect()
    try:
        with tidelock.transaction(application=application), stock.source.on(connection):
            stock.take_now(1)
            cursor = connection.cursor()
            cursor.execute("SELECT reserved FROM stock")
            assert [int(row[0]) for row in cursor.fetchall()] == [1]
            cursor.execute("UPDATE stock SET sold = sold")
            with pytest.raises(FenceError, match="under way on the connection"):
                stock.take_now(1)
            connection.rollback()
            raise UndoneError
    except UndoneError:
        pass
    finally:
        connection.close()
    assert stock.numbers() == (10, 0, 0)
    await clean(tidelock_coordinator, stock)


@pytest.mark.parametrize("database", ["psycopg"], indirect=True)
def test_an_error_that_was_passed_over_does_not_count_as_a_try(
    database: Database, application: Application
) -> None:
    database.sql(fence_ddl("postgresql"))

    def nothing(context: ActionContext) -> None: ...

    @tcc_transaction(
        confirm=nothing,
        cancel=nothing,
        source=TccDataSource(database.connect),
        application=application,
    )
    def fails(context: ActionContext) -> None:
        try:
            context.connection.execute("SELECT 1/0")
        except Exception:
            return

    with (
        pytest.raises(Exception, match="aborted"),
        tidelock.transaction(application=application),
    ):
        fails()


# --- too late altogether


def roll_back_all(coordinator: Coordinator) -> None:
    found = coordinator.transactions()

    async def roll_back(client: Client) -> None:
        for each in found:
            await client.transactions.rollback(each.xid)

    coordinator.client.run(roll_back)


@THROUGH_ALL
async def test_a_try_that_is_done_when_its_guards_are_gone_is_taken_back(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator
) -> None:
    def end(point: str) -> None:
        if point == "fence.after-register":
            roll_back_all(tidelock_coordinator)
            tidelock_coordinator.assert_clean()

    with watched(end), pytest.raises(TryRefusedError, match="too late"):
        await purchase(stock, 3)
    assert stock.ran == ["try", "cancel"]
    assert stock.numbers() == (10, 0, 0)
    assert stock.fence_rows() == []


@pytest.mark.parametrize("told", ["sweep", "clean"])
@ON_ALL
async def test_a_try_that_nobody_took_back_is_cancelled_before_its_fence_goes(
    stock: Stock, application: Application, tidelock_coordinator: Coordinator, told: str
) -> None:
    def end(point: str) -> None:
        if point == "fence.after-register":
            roll_back_all(tidelock_coordinator)
            tidelock_coordinator.assert_clean()
        if point == "fence.before-take-back-commit":
            raise DiedError

    with watched(end), pytest.raises(DiedError):
        await purchase(stock, 3)
    assert stock.numbers() == (7, 3, 0)
    tidelock_coordinator.advance(120_000)
    resource = application.resource("TCC", f"{application.application_id}:take")
    assert isinstance(resource, FencedResource)
    ((xid, branch_id),) = stock.database.sql("SELECT xid, branch_id FROM tidelock_fence")
    branch = call(str(xid), int(branch_id))
    # The answer to the first `clean` may have been lost with a leader, so that a second one comes.
    work = resource.sweep if told == "sweep" else lambda: resource.clean([branch])
    await asyncio.to_thread(application.client.run, lambda _: work())
    assert stock.numbers() == (10, 0, 0)
    assert stock.fence_rows() == []


@ON_ALL
async def test_fences_that_nobody_was_told_to_forget_are_found_by_a_sweep(
    stock: Stock,
    application: Application,
    tidelock_coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_NOTED", 0)
    monkeypatch.setattr(database_fence, "PAGE", 2)
    stock.database.sql(
        "INSERT INTO tidelock_fence SELECT 'a:1', 1, 'take', 'another', 2, '{}', '2026-01-01',"
        " '2026-01-01'"
        if stock.driver != "psycopg"
        else "INSERT INTO tidelock_fence SELECT 'a:1', 1, 'take', 'another', 2, '{}', now(), now()"
    )
    async with tidelock.transaction(application=application):
        await stock.take(1)
        for _ in range(3):
            async with tidelock.transaction(
                application=application, propagation=tidelock.Propagation.REQUIRES_NEW
            ):
                await stock.take(2)

        def is_swept() -> bool:
            return len(tidelock_coordinator.leftovers()) == 1 and len(stock.fence_rows()) == 2

        # What is undecided keeps its fence, and so does what is of another cluster.
        await asyncio.to_thread(tidelock_coordinator.wait_until, is_swept)
        assert sorted(stock.fence_rows()) == [1, 2]
    await asyncio.to_thread(tidelock_coordinator.assert_clean)
    assert stock.fence_rows() == [2]
    assert stock.numbers() == (3, 0, 7)


# --- the fence of the coordinator


class Seats:
    """A resource without a database."""

    def __init__(self, application: Application, *, awaits: bool) -> None:
        self.ran: list[str] = []
        self.during: dict[str, list[BaseException]] = {}

        async def confirm(context: ActionContext) -> None:
            self._run("confirm", context)

        async def cancel(context: ActionContext) -> None:
            self._run("cancel", context)

        async def reserve_later(context: ActionContext, row: int) -> None:
            context.data["seat"] = f"{row}a"
            self._run("try", context)

        def reserve(context: ActionContext, row: int) -> None:
            context.data["seat"] = f"{row}a"
            self._run("try", context)

        decorate = tcc_transaction(
            confirm=confirm if awaits else lambda context: self._run("confirm", context),
            cancel=cancel if awaits else lambda context: self._run("cancel", context),
            carry=("row",),
            name="seats",
            application=application,
        )
        self._awaits = awaits
        self._reserve = decorate(reserve_later if awaits else reserve)

    async def reserve(self, row: int) -> None:
        if self._awaits:
            await self._reserve(row)  # type: ignore[misc]  # it is awaited then
        else:
            self._reserve(row)

    def _run(self, what: str, context: ActionContext) -> None:
        self.ran.append(f"{what} {context.data.get('seat')} of row {context.data['row']}")
        failures = self.during.get(what)
        if failures:
            raise failures.pop()


@pytest.mark.parametrize("awaits", [False, True])
async def test_without_a_database_the_coordinator_keeps_the_fence(
    awaits: bool, application: Application, tidelock_coordinator: Coordinator
) -> None:
    seats = Seats(application, awaits=awaits)
    async with tidelock.transaction(application=application):
        await seats.reserve(7)
    with contextlib.suppress(UndoneError):
        async with tidelock.transaction(application=application):
            await seats.reserve(8)
            raise UndoneError
    assert seats.ran == [
        "try 7a of row 7",
        "confirm 7a of row 7",
        "try 8a of row 8",
        "cancel 8a of row 8",
    ]
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


@pytest.mark.parametrize("awaits", [False, True])
async def test_without_a_database_a_try_that_failed_is_cancelled(
    awaits: bool, application: Application, tidelock_coordinator: Coordinator
) -> None:
    seats = Seats(application, awaits=awaits)
    seats.during["try"] = [UndoneError()]

    async def reserve() -> None:
        async with tidelock.transaction(application=application):
            await seats.reserve(7)

    with pytest.raises(UndoneError):
        await reserve()
    # It may have had an effect: nobody but it knows.
    assert seats.ran == ["try 7a of row 7", "cancel 7a of row 7"]
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


@pytest.mark.parametrize("point", ["fence.before-fence-enter", "fence.before-fence-done"])
async def test_without_a_database_a_late_try_is_refused_or_undone(
    point: str, application: Application, tidelock_coordinator: Coordinator
) -> None:
    seats = Seats(application, awaits=False)

    def roll_back(reached: str) -> None:
        if reached == point and tidelock_coordinator.transactions()[0].status == "BEGIN":
            roll_back_all(tidelock_coordinator)

    async def reserve() -> None:
        async with tidelock.transaction(application=application):
            await seats.reserve(7)

    with watched(roll_back), pytest.raises(TryRefusedError):
        await reserve()
    tried = [each for each in seats.ran if each.startswith("try")]
    assert len(tried) == (0 if point == "fence.before-fence-enter" else 1)
    assert not tried or seats.ran[-1].startswith("cancel")
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


# --- what is refused


def test_outside_of_a_transaction_nothing_is_tried(application: Application) -> None:
    @tcc_transaction(
        confirm=lambda _: None, cancel=lambda _: None, name="n", application=application
    )
    def action(context: ActionContext) -> None: ...

    with pytest.raises(tidelock.TransactionRequiredError, match="outside of a global transaction"):
        action()


def test_what_cannot_work_is_refused_where_it_is_written(application: Application) -> None:
    async def later(context: ActionContext) -> None: ...

    def now(context: ActionContext) -> None: ...

    source = TccDataSource(lambda: None)
    with pytest.raises(TypeError, match="all three are of one kind"):
        tcc_transaction(confirm=later, cancel=now, source=source, application=application)(now)
    with pytest.raises(ValueError, match="no argument 'sku'"):
        tcc_transaction(confirm=now, cancel=now, carry=("sku",), application=application)(now)
    tcc_transaction(confirm=now, cancel=now, name="a", application=application)(now)
    with pytest.raises(ValueError, match="two actions of one name"):
        tcc_transaction(confirm=now, cancel=now, name="a", application=application)(later)
    elsewhere = tcc_transaction(
        confirm=now, cancel=now, name="a", source=source, application=application
    )
    with pytest.raises(ValueError, match="with different sources"):
        elsewhere(now)
    with pytest.raises(ValueError, match="is none of"):
        fence_ddl("oracle")  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ValueError, match="no name of a table"):
        fence_ddl("mysql", "a; DROP TABLE b")


def test_data_is_json_and_has_bounds(application: Application) -> None:
    @tcc_transaction(
        confirm=lambda _: None,
        cancel=lambda _: None,
        carry=("what",),
        name="n",
        application=application,
    )
    def action(context: ActionContext, what: object) -> None: ...

    with tidelock.transaction(application=application):
        with pytest.raises(ValueError, match="is no JSON"):
            action(object())
        with pytest.raises(ValueError, match="more than 16384"):
            action("x" * 20_000)


async def test_an_action_answers_for_the_application_that_is_configured_later(
    tidelock_coordinator: Coordinator,
) -> None:
    @tcc_transaction(confirm=lambda _: None, cancel=lambda _: None, name="early")
    def action(context: ActionContext) -> None: ...

    from tidelock.application import configured_during  # noqa: PLC0415

    with (
        tidelock_coordinator.application("shop") as application,
        configured_during(application),
    ):
        assert application.resource("TCC", "shop:early") is not None
    assert action.__name__ == "action"
