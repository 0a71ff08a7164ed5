"""Functions whose calls are units: `@lcn_transaction`, `@txc_transaction`, `@tx_transaction`.

Around a call stands the template of TX-LCN: the group is created or joined, hooks are called, what
was done joins or is undone, and who created the group has it decided.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Final, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

import msgspec

from tidelock.application import Application, configured
from tidelock.calls import Calls
from tidelock.driving import drive
from tidelock.tcc.actions import tcc_transaction
from tidelock.transaction.blocks import (
    DEFAULT_TIMEOUT_MS,
    TransactionBlock,
    in_blocks,
    refuse_generators,
    transaction,
)
from tidelock.transaction.context import current_xid
from tidelock.transaction.propagation import Propagation
from tidelock.transaction.rollback_rules import ExceptionType, RollbackRules
from tidelock.transaction.shielding import Protect, shielded, unprotected
from tidelock.units.hooks import UnitHooks
from tidelock.units.unit import GREATEST_ID_BYTES, Unit, UnitType, bind, current_unit, unbind

P = ParamSpec("P")
R = TypeVar("R")

_log: Final = logging.getLogger("tidelock.units")

_NO_HOOKS: Final = UnitHooks()


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a decorator was given."""

    kind: UnitType
    unit_id: str
    group: Callable[[], TransactionBlock]
    rules: RollbackRules
    hooks: UnitHooks
    application: Application | None


class UnitBlock:
    """One call of a decorated function: the group's block, and the unit within it."""

    def __init__(self, options: _Options, call: int) -> None:
        self._options = options
        self._call = call
        self._group = options.group()
        self._unit: Unit | None = None
        self._token: Token[Unit | None] | None = None
        self._pid = os.getpid()

    def __enter__(self) -> Unit:
        self._group.__enter__()
        try:
            drive(self._begin())
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self._begun

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid:
            self._leave_to_the_parent()
            self._group.__exit__(kind, error, trace)
            return
        calls = self._application.blocking
        try:
            try:
                drive(self._end(calls, unprotected, error))
            except BaseException:
                self._group.__exit__(*sys.exc_info())
                raise
            self._group.__exit__(kind, error, trace)
        finally:
            drive(self._quietly("post_business"))

    async def __aenter__(self) -> Unit:
        await self._group.__aenter__()
        try:
            await self._begin()
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self._begun

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid:
            self._leave_to_the_parent()
            await self._group.__aexit__(kind, error, trace)
            return
        calls = self._application.awaiting
        try:
            try:
                await self._end(calls, shielded, error)
            except BaseException:
                await self._group.__aexit__(*sys.exc_info())
                raise
            await self._group.__aexit__(kind, error, trace)
        finally:
            await self._quietly("post_business")

    @property
    def _application(self) -> Application:
        return self._options.application or configured()

    @property
    def _begun(self) -> Unit:
        assert self._unit is not None
        return self._unit

    async def _begin(self) -> None:
        self._unit = Unit(
            self._options.kind,
            xid=current_xid() or "",
            unit_id=self._options.unit_id,
            call=self._call,
            outer=current_unit() if current_xid() else None,
        )
        self._token = bind(self._unit)
        await _waited(self._options.hooks.pre_business(self._unit))

    async def _end(self, calls: Calls, protect: Protect, error: BaseException | None) -> None:
        """Have the unit join or be undone. Raises: what keeps it from joining."""
        unit = self._begun
        failed = error is not None and self._options.rules.roll_back(error)
        raised: BaseException | None = None
        try:
            if not failed and not unit.rollback_only:
                try:
                    await _waited(self._options.hooks.on_business_success(unit))
                except BaseException as of_hook:
                    failed, raised = True, of_hook
            if failed or unit.rollback_only:
                await self._quietly("on_business_error", raised or error)
            await protect(unit.end(calls, failed=failed))
        finally:
            self._unbind()
        if raised is not None:
            raise raised

    def _leave_to_the_parent(self) -> None:
        """In a child that was forked within the call, which the parent is still in."""
        self._begun.parts.clear()
        self._unbind()

    def _unbind(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            unbind(token)

    async def _quietly(self, method: str, *arguments: object) -> None:
        try:
            await _waited(getattr(self._options.hooks, method)(self._begun, *arguments))
        except Exception:
            _log.exception("%s of %r failed; the unit goes on", method, self._options.hooks)


async def _waited(waiting: Awaitable[None] | None) -> None:
    if waiting is not None:
        await waiting


def _decorated(
    kind: UnitType,
    function: Callable[..., Any],
    *,
    unit_id: str = "",
    name: str = "",
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
    propagation: Propagation | str = Propagation.REQUIRED,
    rollback_for: ExceptionType | Iterable[ExceptionType] = (),
    no_rollback_for: ExceptionType | Iterable[ExceptionType] = (),
    hooks: UnitHooks | None = None,
    application: Application | None = None,
) -> Callable[..., Any]:
    called = f"{function.__module__}.{function.__qualname__}".replace(".<locals>", "")

    def group() -> TransactionBlock:
        return transaction(
            name or function.__qualname__.replace(".<locals>", "")[-100:],
            timeout_ms=timeout_ms,
            propagation=propagation,
            rollback_for=rollback_for,
            no_rollback_for=no_rollback_for,
            mode=kind.value,
            application=application,
        )

    group()  # refuses bad options where they are written
    if hooks is not None and not isinstance(hooks, UnitHooks):
        raise TypeError(f"hooks must be an object of a subclass of UnitHooks, not {hooks!r}")
    options = _Options(
        kind=kind,
        unit_id=_checked(unit_id or called.encode()[-GREATEST_ID_BYTES:].decode(errors="ignore")),
        group=group,
        rules=RollbackRules(rollback_for, no_rollback_for),
        hooks=hooks or _NO_HOOKS,
        application=application,
    )
    calls = itertools.count(1)
    return in_blocks(function, lambda: UnitBlock(options, next(calls)))


def _checked(unit_id: str) -> str:
    if not unit_id.isprintable() or len(unit_id.encode()) > GREATEST_ID_BYTES:
        raise ValueError(
            f"{unit_id[:80]!r} is no id of a unit: up to {GREATEST_ID_BYTES} bytes of printable "
            "characters"
        )
    return unit_id


def _kind(of: UnitType | str) -> UnitType:
    try:
        return UnitType(of)
    except ValueError:
        raise ValueError(f"type must be one of {', '.join(UnitType)}, not {of!r}") from None


class UnitOptions(TypedDict, total=False):
    """What the decorators of units take; see `lcn_transaction`."""

    unit_id: str
    name: str
    timeout_ms: int
    propagation: Propagation | str
    rollback_for: ExceptionType | Iterable[ExceptionType]
    no_rollback_for: ExceptionType | Iterable[ExceptionType]
    hooks: UnitHooks | None
    application: Application | None


@overload
def lcn_transaction(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def lcn_transaction(
    **options: Unpack[UnitOptions],
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def lcn_transaction(
    function: Callable[P, R] | None = None, /, **options: Unpack[UnitOptions]
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Make each call of a function a unit of LCN: its connections wait for the group's decision.

    ::

        @tidelock.lcn_transaction
        def take(sku: str) -> None:
            with stock.connection() as connection: ...

    Without a transaction the call begins one, the group, and ends it; within one it joins: when the
    function returns, what it did counts. When it raises, that is undone at once and never joins, so
    a caller who catches the exception may commit the rest. The function may be `async def`.

    Args:
        unit_id: the name of the unit on its branches; the function's module and name unless given.
            Each call has a number as well, so two calls are two units.
        propagation: REQUIRED, or SUPPORTS: run without a group when there is none; or any other.
        hooks: called at the steps of the unit, in every process; see `UnitHooks`.
        name, timeout_ms, rollback_for, no_rollback_for, application: as for `transaction`.

    Raises, where it decorates:
        TypeError, ValueError: it is a generator, or an option is none.

    Raises, where the function is called: what `transaction` and `LcnDataSource.connection` raise.
    """
    decorated: Callable[P, R] = _decorator(UnitType.LCN, function, options)
    return decorated


@overload
def txc_transaction(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def txc_transaction(
    **options: Unpack[UnitOptions],
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def txc_transaction(
    function: Callable[P, R] | None = None, /, **options: Unpack[UnitOptions]
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Make each call of a function a unit of TXC: its SQL is committed, and undone if need be.

    As `lcn_transaction`, with connections of a `TxcDataSource`. When the function raises, local
    transactions that it had committed are undone from their images before it returns.
    """
    decorated: Callable[P, R] = _decorator(UnitType.TXC, function, options)
    return decorated


def tx_transaction(
    *, type: UnitType | str = UnitType.LCN, **options: Any
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Make each call of a function a unit of the type: LCN, TXC or TCC.

    `options` are those of `lcn_transaction`; with TCC also `confirm`, `cancel`, `source`, `carry`
    and `resource_id` of `tcc_transaction`, whose context the function takes first.

    Raises, where it decorates:
        TypeError, ValueError: there is no such type, or an option is none.
    """
    kind = _kind(type)
    if kind is not UnitType.TCC:
        return lambda function: cast("Callable[..., R]", _decorator(kind, function, options))
    own = {name: options.pop(name) for name in _OF_TCC if name in options}

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        unit_id = options.get("unit_id", "")
        make = tcc_transaction(**own, name=unit_id, application=options.get("application"))
        return cast("Callable[..., R]", _decorated(kind, make(function), **options))

    return decorate


_OF_TCC: Final = ("confirm", "cancel", "source", "carry", "resource_id")


def _decorator(
    kind: UnitType, function: Callable[..., Any] | None, options: Mapping[str, Any]
) -> Any:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        refuse_generators(function, f"{kind.value.lower()}_transaction")
        return _decorated(kind, function, **options)

    return decorate if function is None else decorate(function)
