"""Local work that is run again when others had its rows.

A local transaction never waits for global locks while it holds the database's own: it is rolled
back. A unit is what is done again then, from its beginning, once the rows are free::

    @tidelock.local_transaction(lock_wait_timeout_ms=5_000)
    def take(sku: str) -> None:
        with stock.connect() as connection:
            connection.execute("UPDATE stock SET count = count - 1 WHERE sku = %s", (sku,))

What it does beside the database must bear being done more than once.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from tidelock.application import Application, configured
from tidelock.at.branches import DEFAULT_LOCK_WAIT_MS, Branches, Noted, noted_of_unit
from tidelock.at.errors import ImageMismatchError, LockWaitTimeoutError, RowsLockedError
from tidelock.calls import Calls
from tidelock.driving import drive
from tidelock.errors import TidelockError
from tidelock.sql.dialects import DIALECTS
from tidelock.transaction.context import Binding, current

P = ParamSpec("P")
R = TypeVar("R")

_PAUSE_MS: Final = 5.0
_GREATEST_PAUSE_MS: Final = 200.0

_log = logging.getLogger(__name__)


@overload
def local_transaction(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def local_transaction(
    *, lock_wait_timeout_ms: int = DEFAULT_LOCK_WAIT_MS, application: Application | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def local_transaction(
    function: Callable[P, R] | None = None,
    /,
    *,
    lock_wait_timeout_ms: int = DEFAULT_LOCK_WAIT_MS,
    application: Application | None = None,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Run a function again when its local transaction met rows of other global transactions.

    It begins and ends its own local transaction, and may be a coroutine function. It is run again
    as well when another session came between a statement and its image, and after deadlocks and
    serialisation failures of the database. Within another such function it is run as it is. What
    has committed a local transaction already is not run again: the error is raised.

    Raises (the function that is returned):
        LockWaitTimeoutError: the rows were locked for as long as `lock_wait_timeout_ms`.
        DeadlockError, TransactionNotActiveError, …: there is no point in waiting.
    """

    def decorated(work: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(work):

            @functools.wraps(work)
            async def awaiting(*arguments: P.args, **options: P.kwargs) -> Any:
                calls = (application or configured()).awaiting

                async def attempt() -> Any:
                    return await work(*arguments, **options)

                unit = _Unit(application or configured(), calls, lock_wait_timeout_ms)
                return await unit.run(attempt, asyncio.sleep)

            return cast("Callable[P, R]", awaiting)

        @functools.wraps(work)
        def blocking(*arguments: P.args, **options: P.kwargs) -> R:
            calls = (application or configured()).blocking

            async def attempt() -> R:
                return work(*arguments, **options)

            unit = _Unit(application or configured(), calls, lock_wait_timeout_ms)
            return drive(unit.run(attempt, _sleep))

        return blocking

    return decorated if function is None else decorated(function)


async def _sleep(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 (for callers that block)


class _Unit:
    """One call of a decorated function, with all its attempts."""

    def __init__(self, application: Application, calls: Calls, wait_ms: int) -> None:
        self._application = application
        self._calls = calls
        self._wait_ms = wait_ms
        self._ends_at = time.monotonic() + wait_ms / 1_000
        self._turn: tuple[Branches, Binding, int] | None = None
        """What keeps the rows for the next attempt that the last one had to wait for."""

    async def run(
        self,
        attempt: Callable[[], Coroutine[Any, Any, R]],
        sleep: Callable[[float], Coroutine[Any, Any, None]],
    ) -> R:
        with _outermost() as noted:
            if noted is None:
                return await attempt()
            try:
                return await self._until_done(attempt, sleep, noted)
            finally:
                await self._leave()

    async def _until_done(
        self,
        attempt: Callable[[], Coroutine[Any, Any, R]],
        sleep: Callable[[float], Coroutine[Any, Any, None]],
        noted: Noted,
    ) -> R:
        pause_ms = _PAUSE_MS
        while True:
            try:
                value = await attempt()
            except RowsLockedError as locked:
                _is_undone(noted, locked)
                await self._wait(locked)
            except Exception as error:
                if not _is_passing(error):
                    raise
                _is_undone(noted, error)
                if time.monotonic() >= self._ends_at:
                    raise LockWaitTimeoutError(
                        f"for {self._wait_ms} ms other sessions came in between: {error}"
                    ) from error
                await sleep(pause_ms / 1_000)
                pause_ms = min(2 * pause_ms, _GREATEST_PAUSE_MS)
            else:
                await self._withdraw(noted.failed)
                return value

    async def _wait(self, locked: RowsLockedError) -> None:
        left_ms = int((self._ends_at - time.monotonic()) * 1_000)
        if left_ms <= 0:
            raise LockWaitTimeoutError(
                f"rows stayed locked for {self._wait_ms} ms; the last answer was: {locked}"
            ) from locked
        # What is kept from the last time is among what is waited for now. Who waits keeps nothing.
        await self._leave()
        binding = current() or Binding()
        branches = Branches(self._application, self._calls, locked.resource_id, mode=locked.mode)
        turn = await branches.turn(binding, locked.lock_keys, left_ms)
        self._turn = branches, binding, turn

    async def _leave(self) -> None:
        """Keep rows no longer that were kept for the next attempt."""
        if self._turn is not None:
            (branches, binding, turn), self._turn = self._turn, None
            await branches.leave(binding, turn)

    async def _withdraw(self, failed: list[tuple[str, int]]) -> None:
        """Say of branches that failed that they were run again: they do not count."""
        for xid, branch_id in failed:
            try:
                await Branches(self._application, self._calls, "").withdraw(xid, branch_id)
            except TidelockError as error:
                _log.warning("branch %s of %s could not be withdrawn: %s", branch_id, xid, error)


def _is_passing(error: BaseException) -> bool:
    """Say whether the same work may succeed when it is done again at once."""
    if isinstance(error, ImageMismatchError):
        return True
    return any(dialect.is_transient(error) for dialect in DIALECTS.values())


def _is_undone(noted: Noted, error: Exception) -> None:
    """See that nothing of a unit is committed, before it is run again.

    Raises: the error.
    """
    if noted.is_done:
        error.add_note(
            "the function is not run again: another local transaction of it is committed already, "
            "and would be done twice. Make of each local transaction a function of its own"
        )
        raise error


@contextmanager
def _outermost() -> Iterator[Noted | None]:
    """Yield where branches are noted; None within another unit."""
    if noted_of_unit.get() is not None:
        yield None
        return
    noted = Noted()
    token = noted_of_unit.set(noted)
    try:
        yield noted
    finally:
        noted_of_unit.reset(token)
