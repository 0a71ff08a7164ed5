"""Local transactions that do not touch, or read, what a global transaction may still undo."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar, overload

from tidelock.transaction.blocks import in_blocks, refuse_generators
from tidelock.transaction.context import Binding, Rebinding, current

P = ParamSpec("P")
R = TypeVar("R")


class GlobalLock:
    """A block of `global_lock`."""

    def __init__(self) -> None:
        self._rebindings: list[Rebinding] = []

    def __enter__(self) -> None:
        before = current()
        if before is None or before.xid is None:
            new = Binding(global_lock=True)
        else:
            new = Binding(
                xid=before.xid,
                role=before.role,
                global_lock=True,
                transaction=before.transaction,
            )
        self._rebindings.append(Rebinding(new))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rebindings.pop().undo()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


@overload
def global_lock(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def global_lock() -> GlobalLock: ...


def global_lock(function: Callable[P, R] | None = None, /) -> Callable[P, R] | GlobalLock:
    """Have a function, or a block, use rows only when no global transaction has them.

    ::

        @tidelock.global_lock
        async def set_price(sku: str, price: Decimal) -> None: ...

        async with tidelock.global_lock(): ...

    For work outside of global transactions on tables that take part in them. Before a local
    transaction commits what it changed, and at `SELECT … FOR UPDATE`, its rows are looked up at the
    coordinator; rows that a global transaction has locked are waited for without local locks, and
    refused when the wait is over. It begins no transaction and registers no branch. Within a global
    transaction, reads with `FOR UPDATE` wait likewise.

    Raises, where it decorates:
        TypeError: it is a generator.
    """
    if function is None:
        return GlobalLock()
    refuse_generators(function, "global_lock")
    return in_blocks(function, GlobalLock)
