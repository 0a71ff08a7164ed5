"""Definitions that are built in Python, and sagas that follow them by functions that are served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web

import tidelock
from tests.databases.connections import Database
from tests.sdk.served_stock import OutOfStockError, ServedStock, application, tables
from tidelock.application import Application
from tidelock.errors import (
    InvalidRequestError,
    SagaDefinitionNotFoundError,
    TransactionExistsError,
)
from tidelock.saga import (
    END,
    Loop,
    Repeat,
    SagaDefinition,
    SagaRunner,
    SagaUnfinishedError,
)
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

ON_SQLITE = pytest.mark.parametrize("database", ["sqlite3"], indirect=True)


@pytest.fixture
def shop(tidelock_coordinator: Coordinator) -> Iterator[Application]:
    with tidelock_coordinator.application("shop") as application:
        yield application


@pytest.fixture
def sagas(shop: Application) -> SagaRunner:
    return SagaRunner(shop)


@pytest.fixture
def stock(database: Database) -> ServedStock:
    database.sql(*tables("sqlite3"))
    return ServedStock(database, "sqlite3")


@pytest.fixture
async def purchase(stock: ServedStock, sagas: SagaRunner) -> AsyncIterator[SagaDefinition]:
    """Take, pay when it is dear, and undo all when that cannot be paid; served while it is used."""
    runner = web.AppRunner(application(stock), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    take, pay = stock.service.steps(f"http://127.0.0.1:{runner.addresses[0][1]}/saga")
    definition = (
        SagaDefinition("purchase", timeout_ms=60_000)
        .task(
            "take",
            take,
            input={"sku": "$.[sku]", "count": "$.[count]"},
            output={"got": "$.taken"},
            catch={"OUT_OF_STOCK": "none-left"},
        )
        .choice("dear", {"[got] > 2": "pay"}, default="done")
        .task("pay", pay, input={"for_what": {"taken": "$.[got]"}}, catch={"*": "give-up"})
        .succeed("done")
        .undo("give-up", next="unpaid")
        .fail("unpaid", "UNPAID", "it could not be paid")
        .fail("none-left", "NONE_LEFT")
    )
    await sagas.register_async(definition)
    yield definition
    await runner.cleanup()


@ON_SQLITE
async def test_a_saga_follows_its_definition_to_the_end(
    purchase: SagaDefinition,
    stock: ServedStock,
    sagas: SagaRunner,
    tidelock_coordinator: Coordinator,
) -> None:
    run = await sagas.start_async("purchase", {"sku": "tea", "count": 2})
    assert await run.wait_async() is run
    assert run.saga.status == "COMMITTED"
    assert [(each.name, each.status) for each in run.states] == [
        ("take", "SU"),
        ("dear", "SU"),
        ("done", "SU"),
    ]
    assert run.variables["got"] == 2
    assert [each.result for each in run.steps] == [{"taken": 2}]
    assert stock.free() == 8
    found = await asyncio.to_thread(sagas.find, run.xid)
    assert found.saga.status == "COMMITTED"
    assert found.state("pay") is None
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


@ON_SQLITE
async def test_a_saga_that_fails_is_undone_and_says_why(
    purchase: SagaDefinition,
    stock: ServedStock,
    sagas: SagaRunner,
    tidelock_coordinator: Coordinator,
) -> None:
    def follow() -> None:
        run = sagas.start("purchase", {"sku": "tea", "count": 3}, xid="mine:1")
        with pytest.raises(tidelock.TransactionRolledBackError, match="UNPAID"):
            run.wait()
        pay = run.state("pay")
        assert pay is not None
        assert pay.error is not None
        assert (pay.status, pay.error.type) == ("FA", "OUT_OF_STOCK")
        with pytest.raises(TransactionExistsError):
            sagas.start("purchase", {"sku": "tea", "count": 3}, xid="mine:1")
        # Once more says the same.
        with pytest.raises(tidelock.TransactionRolledBackError):
            sagas.find("mine:1").wait(0)

    await asyncio.to_thread(follow)
    assert stock.ran == ["take", "pay for 3", "give back"]
    assert stock.free() == 10
    await asyncio.to_thread(tidelock_coordinator.assert_clean)


@ON_SQLITE
async def test_a_refusal_is_caught_by_its_code(
    purchase: SagaDefinition, stock: ServedStock, sagas: SagaRunner
) -> None:
    def refuse(what: str) -> None:
        raise OutOfStockError

    stock.before = refuse
    run = await sagas.start_async("purchase", {"sku": "tea", "count": 3})
    with pytest.raises(tidelock.TransactionRolledBackError, match="NONE_LEFT"):
        await run.wait_async()
    assert stock.ran == ["take"]


@ON_SQLITE
async def test_a_saga_that_is_at_work_goes_on_though_nobody_waits(
    purchase: SagaDefinition, stock: ServedStock, sagas: SagaRunner
) -> None:
    run = await sagas.start_async("purchase", {"sku": "tea", "count": 1})
    if not run.saga.has_ended:
        with pytest.raises(SagaUnfinishedError, match="goes on"):
            await run.wait_async(0)
    await run.wait_async()
    assert (await run.refresh_async()).saga.status == "COMMITTED"


async def test_all_that_is_wrong_with_a_definition_is_said_at_once(sagas: SagaRunner) -> None:
    wrong = (
        SagaDefinition("wrong")
        .task("a", "http://127.0.0.1:1/a", output={"x": "$.("})
        .choice("b", {"[x] >": "a"})
    )
    with pytest.raises(InvalidRequestError) as refused:
        await sagas.register_async(wrong)
    wrong_fields = {each.path for each in refused.value.errors}
    assert wrong_fields == {"States.a.Output.x", "States.b.Choices[0].Expression"}
    with pytest.raises(SagaDefinitionNotFoundError):
        await sagas.start_async("wrong")


def test_a_definition_is_the_state_language() -> None:
    definition = (
        SagaDefinition("all", timeout_ms=1_000, forward=True, comment="of it")
        .task(
            "ship",
            "http://s/ship",
            input={"sku": "$.[item]"},
            compensation="http://s/return",
            undo_input={"id": "$.[loopResult]"},
            status={"#root.id == null": "FA"},
            retry=[Repeat(max_attempts=3, interval_s=0.5, exceptions=["TIMEOUT"])],
            loop=Loop(collection="$.[items]", element="item", parallel=2, until="[enough]"),
            changes=True,
            timeout_ms=50,
        )
        .sub_machine("pay", "payment", input={"sum": "$.[sum]"}, output={"paid": "$.ok"}, next=END)
        .undo("never")
    )
    states: dict[str, Any] = {
        "ship": {
            "Type": "ServiceTask",
            "ServiceUrl": "http://s/ship",
            "Input": [{"sku": "$.[item]"}],
            "Status": {"#root.id == null": "FA"},
            "Retry": [{"MaxAttempts": 3, "Exceptions": ["TIMEOUT"], "IntervalSeconds": 0.5}],
            "Loop": {
                "Collection": "$.[items]",
                "ElementVariableName": "item",
                "Parallel": 2,
                "CompletionCondition": "[enough]",
            },
            "IsForUpdate": True,
            "TimeoutMs": 50,
            "CompensateState": "ship-compensation",
            "Next": "pay",
        },
        "pay": {
            "Type": "SubStateMachine",
            "StateMachineName": "payment",
            "Input": [{"sum": "$.[sum]"}],
            "Output": {"paid": "$.ok"},
        },
        "never": {"Type": "CompensationTrigger"},
        "ship-compensation": {
            "Type": "ServiceTask",
            "ServiceUrl": "http://s/return",
            "Input": [{"id": "$.[loopResult]"}],
        },
    }
    assert definition.as_json() == {
        "Comment": "of it",
        "TimeoutMs": 1_000,
        "RecoverStrategy": "Forward",
        "StartState": "ship",
        "States": states,
    }
    with pytest.raises(ValueError, match="has a state 'pay' already"):
        definition.succeed("pay")
    with pytest.raises(ValueError, match="has no states"):
        SagaDefinition("none").as_json()
