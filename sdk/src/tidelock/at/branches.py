"""The coordinator, as phase one asks it: branches with their rows, and whether rows are free."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Final

from tidelock.application import Application
from tidelock.at.errors import LockWaitTimeoutError, RowsLockedError
from tidelock.calls import Calls
from tidelock.client import Client
from tidelock.client.answers import BranchMode, RowLockMode
from tidelock.client.row_keys import LockKeys
from tidelock.errors import Holder, LockConflictError, Problem, TidelockError
from tidelock.transaction.context import Binding
from tidelock.transaction.handle import tells_with_decision
from tidelock.units.unit import current_unit

_log = logging.getLogger(__name__)

DEFAULT_LOCK_WAIT_MS: Final = 10_000
_PAUSE_S: Final = 0.05


class Noted:
    """Branches of a unit that may be run again. See `tidelock.at.units`."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, int]] = []
        """Those that failed before it was run again."""
        self.is_done = False
        """A local transaction of it is committed, and would be done twice."""


noted_of_unit: Final[ContextVar[Noted | None]] = ContextVar("tidelock-unit", default=None)


class Branches:
    """Branches of one resource."""

    def __init__(
        self,
        application: Application,
        calls: Calls,
        resource_id: str,
        *,
        lock_wait_ms: int = DEFAULT_LOCK_WAIT_MS,
        mode: BranchMode = "AT",
    ) -> None:
        self._mode: Final = mode
        self._application = application
        self._calls = calls
        self.resource_id = resource_id
        self.lock_wait_ms: Final = lock_wait_ms

    async def register(
        self, xid: str, keys: LockKeys, *, lock_mode: RowLockMode = "EXCLUSIVE", wait_ms: int = 0
    ) -> int:
        """Register a branch with its rows, all or none. It does not wait for them unless told to.

        Raises:
            RowsLockedError, TransactionNotActiveError, …
        """
        session_id = await self._application.session_id(self._calls)
        unit = current_unit()
        try:
            registered = await self._calls(
                lambda client: client.branches.register(
                    xid,
                    self._mode,
                    self.resource_id,
                    lock_keys=keys,
                    lock_mode=lock_mode,
                    wait_ms=wait_ms,
                    application_id=self._application.application_id,
                    session_id=session_id,
                    unit_id=None if unit is None else unit.unit_id or None,
                    application_data=None if unit is None else unit.application_data,
                )
            )
        except LockConflictError as error:
            raise RowsLockedError(error.problem, self.resource_id, keys, self._mode) from error
        return registered.branch_id

    async def lock(
        self,
        xid: str,
        branch_id: int,
        keys: LockKeys,
        *,
        lock_mode: RowLockMode = "EXCLUSIVE",
        wait_ms: int = 0,
    ) -> None:
        """Lock more rows for a branch that has not reported, all or none.

        Raises:
            RowsLockedError, DeadlockError, TransactionNotActiveError, …
        """
        try:
            await self._calls(
                lambda client: client.branches.lock(
                    xid, branch_id, lock_keys=keys, lock_mode=lock_mode, wait_ms=wait_ms
                )
            )
        except LockConflictError as error:
            raise RowsLockedError(error.problem, self.resource_id, keys, self._mode) from error

    async def unlock(self, xid: str, branch_id: int, keys: LockKeys) -> None:
        """Give rows back that a branch locked since a savepoint."""
        await self._calls(lambda client: client.branches.unlock(xid, branch_id, lock_keys=keys))

    @property
    def cluster_id(self) -> str:
        """The cluster that knows them."""
        return self._application.cluster_id

    async def done(
        self, binding: Binding, branch_id: int, take_back: Callable[[str, int], Awaitable[None]]
    ) -> None:
        """Report that the branch's local transaction is committed; with the decision, where it is
        this process that decides.

        `take_back` undoes the branch, on the application's loop, when it turns out then that its
        transaction had been over before.

        Raises: what the client raises: then the global transaction will not be committed, and the
            branch is undone.
        """
        noted = noted_of_unit.get()
        if noted is not None:
            noted.is_done = True
        xid = binding.xid
        assert xid is not None
        taking_back = functools.partial(take_back, xid, branch_id)
        if tells_with_decision(binding.transaction, branch_id, taking_back):
            return
        await self._calls(lambda client: client.branches.report(xid, branch_id, "PHASE_ONE_DONE"))

    async def on_the_loop(
        self, take_back: Callable[[str, int], Awaitable[None]], xid: str, branch_id: int
    ) -> None:
        """Undo a branch as `done` says, at once."""

        async def undo(_: Client) -> None:
            await take_back(xid, branch_id)

        await self._calls(undo)

    async def failed(self, xid: str, branch_id: int, error: BaseException) -> None:
        """Report that the branch's local transaction was not committed, as far as that is known."""
        noted = noted_of_unit.get()
        if noted is not None:
            noted.failed.append((xid, branch_id))
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
            self._mode,
        )

    async def turn(self, binding: Binding, keys: LockKeys, wait_ms: int | None = None) -> int:
        """Wait until no other transaction has any of the rows.

        Within a transaction it is a place in their queue, and the rows are kept for it, by a branch
        that does nothing, until `leave` is called with what this returns: whoever waited is not
        overtaken while the work is done again. Without one they may be taken again at once.

        Raises:
            LockWaitTimeoutError, DeadlockError, TransactionNotActiveError, …
        """
        wait_ms = self.lock_wait_ms if wait_ms is None else wait_ms
        if binding.xid is None:
            await self._free_within(keys, wait_ms)
            return 0
        xid = binding.xid
        # Of a file, only a manager on the host of the session can be told that it is over.
        session_id = await self._application.session_id(self._calls)
        try:
            kept = await self._calls(
                lambda client: client.branches.register(
                    xid,
                    self._mode,
                    self.resource_id,
                    lock_keys=keys,
                    wait_ms=wait_ms,
                    application_id=self._application.application_id,
                    session_id=session_id,
                )
            )
        except LockConflictError as error:
            raise timed_out(keys, wait_ms) from error
        return kept.branch_id

    async def leave(self, binding: Binding, turn: int) -> None:
        """Keep the rows of a turn no longer. Those that another branch has locked stay locked."""
        if not turn or binding.xid is None:
            return
        try:
            await self.withdraw(binding.xid, turn)
        except TidelockError as error:
            # Then the transaction will not be committed, since this branch has said nothing.
            _log.warning("the turn %d of %s could not be given back: %s", turn, binding.xid, error)

    async def _free_within(self, keys: LockKeys, wait_ms: int) -> None:
        ends_at = time.monotonic() + wait_ms / 1_000
        while True:
            left_ms = max(0, int((ends_at - time.monotonic()) * 1_000))
            found = await self._calls(
                lambda client, ms=left_ms: client.row_locks.query(  # type: ignore[misc]  # it is bound
                    self.resource_id, keys, wait_ms=ms
                )
            )
            if found.lockable:
                return
            if time.monotonic() >= ends_at:
                raise timed_out(keys, wait_ms)
            # The node stops; another one is asked.
            await self._calls(lambda _: asyncio.sleep(_PAUSE_S))


def timed_out(keys: Mapping[str, object], wait_ms: int) -> LockWaitTimeoutError:
    """Return what is raised when rows were waited for in vain."""
    return LockWaitTimeoutError(
        f"rows of {', '.join(keys)} stayed locked by other global transactions for {wait_ms} ms"
    )
