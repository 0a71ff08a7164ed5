"""Everything that `tidelock` gives to applications, as a type checker must see it.

It is checked like all files, with mypy's strict rules, and `assert_type` says what each name is. A
test sees to it that no name is missing; nothing here is run.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

import tidelock
import tidelock.testing
from tidelock.transaction.blocks import TransactionBlock
from tidelock.transaction.global_lock import GlobalLock


def applications() -> None:
    application = tidelock.Application(["http://127.0.0.1:7101"], application_id="shop")
    assert_type(tidelock.configure(application), tidelock.Application)
    assert_type(tidelock.configured(), tidelock.Application)
    with application as same:
        assert_type(same, tidelock.Application)


class Mail(tidelock.TransactionHooks):
    def before_begin(self, transaction: tidelock.Transaction) -> None:
        assert_type(transaction.name, str)

    async def after_commit(self, transaction: tidelock.Transaction) -> None:
        assert_type(transaction.xid, str)


def blocks() -> None:
    block = tidelock.transaction(
        "purchase",
        timeout_ms=1_000,
        propagation=tidelock.Propagation.REQUIRES_NEW,
        rollback_for=[ValueError],
        no_rollback_for=LookupError,
        hooks=[Mail()],
        mode="AT",
        end_wait_ms=0,
        clock_participant="orders",
        application=tidelock.configured(),
    )
    assert_type(block, TransactionBlock)
    with block as transaction:
        assert_type(transaction, tidelock.Transaction)
        assert_type(transaction.role, tidelock.Role | None)
        assert_type(transaction.status, str)
        assert_type(transaction.remaining_ms, int | None)
        assert_type(tidelock.current_transaction(), tidelock.Transaction | None)
        assert_type(tidelock.current_xid(), str | None)
        transaction.add_hooks(Mail())
        transaction.set_rollback_only("sold out")
    with tidelock.bound("shop:1"), tidelock.suspended():
        waiting = tidelock.suspend()
        assert_type(waiting, tidelock.Suspended)
        assert_type(waiting.xid, str | None)
        tidelock.resume(waiting)
    with tidelock.global_lock() as nothing:
        assert_type(nothing, None)
    assert_type(tidelock.global_lock(), GlobalLock)


async def async_blocks() -> None:
    async with tidelock.transaction(propagation="MANDATORY") as transaction:
        assert_type(transaction, tidelock.Transaction)
    async with tidelock.global_lock():
        pass


@tidelock.global_transaction
def plain(sku: str, *, count: int = 1) -> float:
    return float(count) if sku else 0.0


@tidelock.global_transaction(name="purchase", timeout_ms=1_000)
async def awaited(sku: str) -> bytes:
    return sku.encode()


@tidelock.global_lock
def locked(sku: str) -> int:
    return len(sku)


async def functions() -> None:
    assert_type(plain("a", count=2), float)
    coroutine = assert_type(awaited("a"), Coroutine[Any, Any, bytes])
    assert_type(await coroutine, bytes)
    assert_type(locked("a"), int)
    unchanged: Callable[[str], int] = locked
    assert_type(unchanged("a"), int)


STOCK = tidelock.TccDataSource(lambda: None, table="shop.tidelock_fence")


def sell(context: tidelock.ActionContext) -> None:
    assert_type((context.xid, context.branch_id), tuple[str, int])
    assert_type(context.data, dict[str, Any])


@tidelock.tcc_transaction(confirm=sell, cancel=sell, source=STOCK, carry=("sku",), name="stock")
def reserve(context: tidelock.ActionContext, sku: str, *, count: int = 1) -> float:
    return float(count) if sku else 0.0


@tidelock.tcc_transaction(confirm=sell, cancel=sell)
async def reserve_later(context: tidelock.ActionContext, sku: str) -> bytes:
    return sku.encode()


async def actions() -> None:
    assert_type(tidelock.fence_ddl("mysql"), str)
    try:
        assert_type(reserve("a", count=2), float)
        assert_type(await reserve_later("a"), bytes)
    except tidelock.TryRefusedError:
        pass
    except tidelock.FenceError:
        pass
    except tidelock.TccError:
        pass


SHELF = tidelock.SagaDataSource(lambda: None)


def put_back(context: tidelock.ActionContext, sku: str, count: int) -> None:
    assert_type(context.xid, str)


@tidelock.saga_step(compensate=put_back, source=SHELF, refused_by=LookupError, name="take")
def take(context: tidelock.ActionContext, sku: str, *, count: int = 1) -> float:
    return float(count) if sku else 0.0


@tidelock.saga_step(compensate=put_back, refused_by=(LookupError, ValueError))
async def take_later(context: tidelock.ActionContext, sku: str, count: int) -> bytes:
    return sku.encode() * count


async def steps() -> None:
    try:
        assert_type(take("a", count=2), float)
        assert_type(await take_later("a", 1), bytes)
    except tidelock.StepRefusedError:
        pass
    except tidelock.StepReportLostError as error:
        of_sagas: tidelock.SagaError = error
        assert_type(of_sagas.args, tuple[Any, ...])


def errors() -> None:
    try:
        plain("a")
    except tidelock.LockConflictError as error:
        holder = error.holder
        assert_type(holder.xid if holder else None, str | None)
    except tidelock.BranchFailedError as error:
        assert_type(error.code, str)
    except tidelock.TransactionTimedOutError as error:
        assert_type((error.xid, error.status), tuple[str, str])
    except (
        tidelock.TransactionRolledBackError,
        tidelock.CommitFailedError,
        tidelock.RollbackFailedError,
        tidelock.RollbackOnlyError,
        tidelock.TransactionRequiredError,
        tidelock.TransactionNotAllowedError,
    ) as error:
        of_transactions: tidelock.TransactionError = error
        assert_type(of_transactions.xid, str)
    except tidelock.TransactionOutcomeUnknownError as error:
        assert_type(error.xid, str)
    except tidelock.OutcomeUnknownError as error:
        assert_type(error.idempotency_key, str | None)
    except tidelock.NotConfiguredError as error:
        of_all: tidelock.TidelockError = error
        assert_type(of_all.args, tuple[Any, ...])


def tests_of_applications() -> None:
    operation: tidelock.testing.Operation = "commit"
    fault: tidelock.testing.Fault = "lost"
    with tidelock.testing.Coordinator() as coordinator:
        assert_type(coordinator, tidelock.testing.Coordinator)
        assert_type(coordinator.application("shop"), tidelock.Application)
        assert_type(coordinator.url, str)
        coordinator.fail_next(operation, fault, times=2)
        with coordinator.failing("begin"):
            coordinator.advance(1_000)
        assert_type([each.status == "COMMITTED" for each in coordinator.transactions()], list[bool])
        assert_type(coordinator.wait_until(lambda: 1), int)
        coordinator.assert_clean(sessions=True)


def databases(application: tidelock.Application) -> None:
    """SQL whose effect is undone."""
    source: tidelock.AtDataSource = tidelock.AtDataSource(
        lambda: None,
        application=application,
        resource_id="mysql:shop",
        allow={"stock"},
        dirty=tidelock.DirtyPolicy.SKIP,
    )
    source.close()
    assert_type(tidelock.undo_log_ddl("mysql"), str)

    @tidelock.local_transaction(lock_wait_timeout_ms=100)
    def unit(number: int) -> str:
        return str(number)

    try:
        assert_type(unit(1), str)
    except tidelock.RowsLockedError as error:
        assert_type(error.resource_id, str)
    except tidelock.LockWaitTimeoutError as error:
        of_all: tidelock.TidelockError = error
        assert_type(of_all.args, tuple[Any, ...])
    except tidelock.StatementRefusedError as error:
        assert_type(error.statement, str)
    except tidelock.TableMissingError as error:
        of_all = error


class Steps(tidelock.UnitHooks):
    def pre_business(self, unit: tidelock.Unit) -> None:
        assert_type((unit.xid, unit.unit_id, unit.call), tuple[str, str, int])

    async def on_business_error(self, unit: tidelock.Unit, error: BaseException | None) -> None:
        assert_type(unit.type, tidelock.UnitType | None)


@tidelock.lcn_transaction
def held_unit(sku: str, *, count: int = 1) -> float:
    return float(count) if sku else 0.0


@tidelock.txc_transaction(unit_id="undone", hooks=Steps(), propagation="SUPPORTS")
async def undone_unit(sku: str) -> bytes:
    return sku.encode()


@tidelock.tx_transaction(type=tidelock.UnitType.LCN, timeout_ms=1_000)
def unit_by_type(sku: str) -> int:
    return len(sku)


async def units() -> None:
    """What joins a group when it returns."""
    source = tidelock.LcnDataSource(lambda: None, greatest_connections=5, wait_ms=1_000)
    assert_type(source.held(), list[str])
    assert_type(tidelock.current_unit(), tidelock.Unit | None)
    try:
        assert_type(held_unit("a", count=2), float)
        assert_type(await undone_unit("a"), bytes)
        assert_type(unit_by_type("a"), int)
    except tidelock.ConnectionsHeldError:
        pass
    except tidelock.LcnMisuseError:
        pass
    except tidelock.GroupOverError:
        pass
    except tidelock.LcnError as error:
        of_all: tidelock.TidelockError = error
        assert_type(of_all.args, tuple[Any, ...])


def sources_of_units() -> None:
    """Databases for units of LCN and TXC."""
    undone = tidelock.TxcDataSource(lambda: None, lock_wait_timeout_ms=1_000)
    undone.close()
    either = tidelock.TxDataSource(lambda: None, default=tidelock.UnitType.TXC)
    assert_type(either.lcn, tidelock.LcnDataSource)
    assert_type(either.txc, tidelock.TxcDataSource)
