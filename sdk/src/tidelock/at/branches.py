"""The coordinator, as phase one asks it: branches with their rows, and whether rows are free."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

from tidelock.application import Application
from tidelock.at.errors import LockWaitTimeoutError, RowsLockedError
from tidelock.calls import Calls
from tidelock.client.row_keys import LockKeys
from tidelock.errors import Holder, LockConflictError, Problem, TidelockError
from tidelock.transaction.context import Binding

_log = logging.getLogger(__name__)

DEFAULT_LOCK_WAIT_MS: Final = 10_000

failed_before: Final[ContextVar[list[tuple[str, int]] | None]] = ContextVar(
    "tidelock-failed", default=None
)
"""Branches of the unit that failed before it was run again. See `tidelock.at.units`."""


class Branches:
    """Branches of one resource."""

    def __init__(
        self,
        application: Application,
        calls: Calls,
        resource_id: str,
        *,
        lock_wait_ms: int = DEFAULT_LOCK_WAIT_MS,
    ) -> None:
        self._application = application
        self._calls = calls
        self.resource_id = resource_id
        self._lock_wait_ms = lock_wait_ms

    async def register(self, xid: str, keys: LockKeys) -> int:
        """Register a branch with its rows, all or none. It does not wait for them.

        Raises:
            RowsLockedError, TransactionNotActiveError, …
        """
        session_id = await self._application.session_id(self._calls)
        try:
            registered = await self._calls(
                lambda client: client.branches.register(
                    xid,
                    "AT",
                    self.resource_id,
                    lock_keys=keys,
                    application_id=self._application.application_id,
                    session_id=session_id,
                )
            )
        except LockConflictError as error:
            raise RowsLockedError(error.problem, self.resource_id, keys) from error
        return registered.branch_id

    @property
    def cluster_id(self) -> str:
        """The cluster that knows them."""
        return self._application.cluster_id

    async def done(self, xid: str, branch_id: int) -> None:
        """Report that the branch's local transaction is committed.

        Raises: what the client raises: then the global transaction will not be committed, and the
            branch is undone.
        """
        await self._calls(lambda client: client.branches.report(xid, branch_id, "PHASE_ONE_DONE"))

    async def failed(self, xid: str, branch_id: int, error: BaseException) -> None:
        """Report that the branch's local transaction was not committed, as far as that is known."""
        again = failed_before.get()
        if again is not None:
            again.append((xid, branch_id))
        message = f"{error}"[:1_000]
        kind = type(error).__name__[:100]
        try:
            await self._calls(
                lambda client: client.branches.report(
                    xid, branch_id, "PHASE_ONE_FAILED", error_type=kind, error_message=message
                )
            )
        except TidelockError as lost:
            # The transaction will not be committed without a report.
            _log.warning("branch %s of %s failed, and could not say so: %s", branch_id, xid, lost)

    async def withdraw(self, xid: str, branch_id: int) -> None:
        """Say that a failed branch was run again as another."""
        await self._calls(lambda client: client.branches.report(xid, branch_id, "WITHDRAWN"))

    # Rows of others

    async def are_free(self, binding: Binding, keys: LockKeys) -> bool:
        """Say whether no other transaction has any of the rows."""
        found = await self._calls(
            lambda client: client.row_locks.query(self.resource_id, keys, xid=binding.xid)
        )
        return found.lockable

    async def check(self, binding: Binding, keys: LockKeys) -> None:
        """See that no other transaction has any of the rows.

        Raises:
            RowsLockedError
        """
        found = await self._calls(
            lambda client: client.row_locks.query(self.resource_id, keys, xid=binding.xid)
        )
        if found.lockable:
            return
        holder = found.holder
        assert holder is not None
        raise RowsLockedError(
            Problem(
                status=409,
                code="LOCK_CONFLICT",
                detail=f"{holder.xid} has {holder.table} {list(holder.key)}",
                holder=Holder(
                    xid=holder.xid,
                    branch_id=holder.branch_id,
                    resource_id=self.resource_id,
                    table=holder.table,
                    key=tuple(holder.key),
                    since=holder.since,
                ),
                retryable=True,
            ),
            self.resource_id,
            keys,
        )

    async def wait_until_free(
        self, binding: Binding, keys: LockKeys, wait_ms: int | None = None
    ) -> None:
        """Wait until no other transaction has any of the rows. They may be taken again at once.

        Raises:
            LockWaitTimeoutError, DeadlockError, TransactionNotActiveError, …
        """
        wait_ms = self._lock_wait_ms if wait_ms is None else wait_ms
        if binding.xid is None:
            await self._ask_until_free(binding, keys, wait_ms)
            return
        xid = binding.xid
        try:
            # Its turn in the queue of the rows; what it is granted it gives back at once.
            turn = await self._calls(
                lambda client: client.branches.register(
                    xid,
                    "AT",
                    self.resource_id,
                    lock_keys=keys,
                    wait_ms=wait_ms,
                    application_id=self._application.application_id,
                )
            )
        except LockConflictError as error:
            raise _timed_out(keys, wait_ms) from error
        await self.withdraw(xid, turn.branch_id)

    async def _ask_until_free(self, binding: Binding, keys: LockKeys, wait_ms: int) -> None:
        """Ask again and again: who has no transaction has no place in a queue."""
        ends_at = time.monotonic() + wait_ms / 1_000
        pause_ms = 5.0
        while not await self.are_free(binding, keys):
            if time.monotonic() >= ends_at:
                raise _timed_out(keys, wait_ms)
            await self._calls(lambda client, ms=pause_ms: _pause(ms))  # type: ignore[misc]  # its argument is bound
            pause_ms = min(pause_ms * 1.5, 100.0)


async def _pause(ms: float) -> None:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(ms / 1_000)


def _timed_out(keys: Mapping[str, object], wait_ms: int) -> LockWaitTimeoutError:
    return LockWaitTimeoutError(
        f"rows of {', '.join(keys)} stayed locked by other global transactions for {wait_ms} ms"
    )
