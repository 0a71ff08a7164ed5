"""Where a mode stands between an application and its connection.

A hook (a proxy of PEP 249, a wrapper of an asynchronous driver, a framework's events) hands over
every statement that is executed while a transaction is bound, and every end of a local transaction.
A mode fulfils `LocalWork` and decides what happens around them. Hooks know no mode, and modes no
framework.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from tidelock.sql.placeholders import Style, Values


class Returned(msgspec.Struct, frozen=True):
    """What a statement with RETURNING returned."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What the application's own statement came to."""

    row_count: int = -1
    """-1: the driver does not tell."""
    generated_key: int | None = None
    returned: Callable[[], Awaitable[Returned]] | None = None
    """Reads what was returned, and keeps it for the application."""


class StatementCall(msgspec.Struct, frozen=True, kw_only=True):
    """A statement on its way to the database."""

    text: str
    values: Values
    run: Callable[[], Awaitable[Ran]]
    """Executes it as the application wrote it, on the application's own cursor."""
    style: Style | None = None
    """How placeholders stand in it, where a framework writes them otherwise than its driver."""


class BatchCall(msgspec.Struct, frozen=True, kw_only=True):
    """A statement that is to be executed with each of several groups of values (`executemany`)."""

    text: str
    groups: Sequence[Any]
    """As the application gave them."""
    run: Callable[[Sequence[Any]], Awaitable[Ran]]
    """Executes it with some of them, as the driver does many at once; counts all their rows."""
    one: Callable[[Any], StatementCall]
    """The statement with one of them."""
    style: Style | None = None


async def one_by_one(work: LocalWork, batch: BatchCall) -> None:
    """Have a statement run with each group by itself. Raises: as `LocalWork.execute`."""
    for group in batch.groups:
        await work.execute(batch.one(group))


@runtime_checkable
class WorksInBatches(Protocol):
    """What a `LocalWork` has besides when it can do more for many groups than for each alone."""

    async def execute_batch(self, batch: BatchCall) -> None:
        """Have a statement run with every group, in their order. Raises: as `LocalWork.execute`."""
        ...


async def execute_batch(work: LocalWork, batch: BatchCall) -> None:
    """Have a statement run with every group, as the mode can. Raises: as `LocalWork.execute`."""
    if isinstance(work, WorksInBatches):
        await work.execute_batch(batch)
    else:
        await one_by_one(work, batch)


class LocalWork(Protocol):
    """What a mode does around the local transactions of one connection."""

    @property
    def is_under_way(self) -> bool:
        """The connection's local transaction belongs to a global one: its end must be handed over
        even when nothing is bound any more.
        """
        ...

    async def execute(self, call: StatementCall) -> None:
        """Have a statement run, once, with what the mode needs before and after it.

        Raises: what the driver raises, and what the mode does, in which case it may not have run.
        """
        ...

    async def commit(self, commit: Callable[[], Awaitable[None]]) -> None:
        """Have the local transaction committed by `commit`. It is rolled back when this raises."""
        ...

    async def rollback(self, rollback: Callable[[], Awaitable[None]]) -> None:
        """Have the local transaction rolled back by `rollback`."""
        ...

    def forget(self) -> None:
        """The connection was closed: whatever was not committed is gone."""
        ...
