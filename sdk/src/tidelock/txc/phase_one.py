"""Phase one of TXC around one connection: first the coordinator's locks, then the database's.

A statement's rows are looked at without locks and locked at the coordinator, EXCLUSIVE, or SHARED
for SELECT … FOR SHARE; then it runs with its images, as in AT. What it turns out to have met beside
that is locked without waiting, or the local transaction cannot be committed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tidelock.application import Application
from tidelock.at.branches import Branches, timed_out
from tidelock.at.errors import RowsLockedError
from tidelock.at.images import Image
from tidelock.at.local_work import Row, Work, keys_of
from tidelock.at.phase_one import PhaseOne, Rules
from tidelock.at.resource import AtResource
from tidelock.at.tracing import Tracer
from tidelock.client.answers import RowLockMode
from tidelock.crash_points import reached
from tidelock.errors import TidelockError
from tidelock.sql.session import Session
from tidelock.sql.statements import Statement
from tidelock.transaction.context import Binding
from tidelock.txc.part import TxcPart
from tidelock.units.unit import current_unit

_log: Final = logging.getLogger("tidelock.txc")


class TxcWork(Work):
    """What one local transaction has done so far, for a branch that it has from the beginning."""

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self.branch_id: int | None = None


class TxcPhaseOne(PhaseOne):
    """TXC around one connection. Implements `tidelock.sql.interception.LocalWork`."""

    # Rows are locked, under their table's name, before any image could prove it.
    _takes_for_granted = False

    def __init__(
        self,
        session: Session,
        rules: Rules,
        branches: Branches,
        resource: AtResource,
        application: Application,
    ) -> None:
        super().__init__(session, rules, branches, resource.take_back)
        self._resource = resource
        self._application = application

    def _new_work(self, binding: Binding) -> TxcWork:
        return TxcWork(binding)

    # --- rows

    async def _lock_first(self, work: Work, tracer: Tracer, *, is_first: bool) -> None:
        if work.binding.xid is None:
            return
        image = await tracer.foreseen()
        if image is not None:
            await self._lock(work, _rows_of(image), "EXCLUSIVE", may_wait=True, is_first=is_first)

    async def _note(self, work: Work, image: Image) -> None:
        await super()._note(work, image)
        if work.binding.xid is not None:
            await self._lock_rest(work, image, "EXCLUSIVE")

    async def _locking(
        self, work: Work, tracer: Tracer, statement: Statement, *, is_first: bool
    ) -> None:
        """Run SELECT … FOR UPDATE or FOR SHARE, whose rows stay locked until the decision."""
        if work.binding.xid is None:
            await super()._locking(work, tracer, statement, is_first=is_first)
            return
        mode: RowLockMode = "SHARED" if statement.shares else "EXCLUSIVE"
        seen = await tracer.foreseen()
        assert seen is not None
        await self._lock(work, _rows_of(seen), mode, may_wait=True, is_first=is_first)
        image = await tracer.locked()
        if image is not None:
            await self._lock_rest(work, image, mode)

    async def _lock_rest(self, work: Work, image: Image, mode: RowLockMode) -> None:
        """Lock what came in between: the statement has run, so nobody waits for it."""
        try:
            await self._lock(work, _rows_of(image), mode, may_wait=False, is_first=False)
        except BaseException as error:
            work.spoiled = (error, len(work.savepoints))
            raise

    async def _lock(
        self,
        work: Work,
        rows: Sequence[Row],
        mode: RowLockMode,
        *,
        may_wait: bool,
        is_first: bool,
    ) -> None:
        """Lock rows that are not locked so yet.

        Raises:
            LockWaitTimeoutError, DeadlockError
            RowsLockedError: it may not be waited for: roll back, and run the work again.
        """
        missing = [
            row
            for row in dict.fromkeys(rows)
            if row not in work.locked or (mode == "EXCLUSIVE" and work.locked[row] == "SHARED")
        ]
        if not missing:
            return
        reached("txc.before-lock")
        try:
            await self._ask(work, missing, mode, 0)
        except RowsLockedError as locked:
            alone = self._session.dialect.writes_alone
            if not may_wait or (alone and not is_first):
                # Who has the rows may need the database to give them back.
                raise
            if is_first:
                # Nothing was done yet, so nothing is lost; and what is read next is fresh.
                await self._session.rollback()
            try:
                await self._ask(work, missing, mode, self._branches.lock_wait_ms)
            except RowsLockedError:
                raise timed_out(locked.lock_keys, self._branches.lock_wait_ms) from locked
            if is_first and alone:
                await self._session.begin()
        reached("txc.after-lock")
        for row in missing:
            work.locked[row] = mode

    async def _ask(self, work: Work, rows: Sequence[Row], mode: RowLockMode, wait_ms: int) -> None:
        assert isinstance(work, TxcWork)
        xid = work.binding.xid
        assert xid is not None
        keys = keys_of(rows)
        if work.branch_id is None:
            work.branch_id = await self._branches.register(
                xid, keys, lock_mode=mode, wait_ms=wait_ms
            )
        else:
            await self._branches.lock(xid, work.branch_id, keys, lock_mode=mode, wait_ms=wait_ms)

    async def _let_go(self, work: Work, rows: Sequence[Row]) -> None:
        assert isinstance(work, TxcWork)
        if not rows or work.branch_id is None or work.binding.xid is None:
            return
        for row in rows:
            del work.locked[row]
        reached("txc.before-unlock")
        try:
            await self._branches.unlock(work.binding.xid, work.branch_id, keys_of(rows))
        except TidelockError as error:
            # They end with the branch.
            _log.warning("rows of %s stay locked until it ends: %s", work.binding.xid, error)
        reached("txc.after-unlock")

    # --- the ends

    def _has_branch(self, work: Work) -> bool:
        if work.binding.xid is None:
            return super()._has_branch(work)
        assert isinstance(work, TxcWork)
        # Also when rows are locked and none is changed: they stay so until the decision.
        return work.branch_id is not None

    async def _registered(self, xid: str, work: Work) -> int:
        assert isinstance(work, TxcWork)
        assert work.branch_id is not None
        return work.branch_id

    async def _abandoned(self, work: Work) -> None:
        assert isinstance(work, TxcWork)
        if work.branch_id is None or work.binding.xid is None:
            return
        try:
            await self._branches.withdraw(work.binding.xid, work.branch_id)
        except TidelockError as error:
            _log.warning("a branch of %s is not withdrawn: %s", work.binding.xid, error)

    async def _finished(self, binding: Binding, branch_id: int) -> None:
        """Report, or leave that to the unit, which may fail yet."""
        unit = current_unit()
        if unit is None:
            await self.report(binding, branch_id)
        else:
            unit.add(TxcPart(binding, branch_id, self._resource, self._branches, self.report))

    async def rollback(self, rollback: Callable[[], Awaitable[None]]) -> None:
        """Roll back, and have the rows free again."""
        work = self._work
        await super().rollback(rollback)
        if work is not None:
            await self._abandoned(work)

    def forget(self) -> None:
        """The connection is closed: what it had not committed is gone."""
        work = self._work
        super().forget()
        if isinstance(work, TxcWork) and work.branch_id is not None:
            xid, branch_id = work.binding.xid, work.branch_id
            assert xid is not None
            # Nobody can wait here; the group's commit waits for this branch.
            with contextlib.suppress(TidelockError):
                self._application.client.submit(
                    lambda client: client.branches.report(xid, branch_id, "WITHDRAWN")
                )


def _rows_of(image: Image) -> list[Row]:
    return [(image.table.full_name, parts) for parts in image.rows]
