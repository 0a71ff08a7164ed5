"""The fence in the database of the resource: each step and its row are one local transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from tidelock.application import Application
from tidelock.crash_points import reached
from tidelock.errors import ProblemError
from tidelock.fence.context import ActionContext, encoded
from tidelock.fence.errors import StepRefusedError
from tidelock.fence.fence import (
    CANNOT_CANCEL,
    CANNOT_CONFIRM,
    COMMITTED,
    NO_TRY_FOUND,
    NOT_TRIED,
    ROLLED_BACK,
    Work,
)
from tidelock.fence.fence_table import FenceRow, FenceStatus, FenceTable
from tidelock.fence.source import FencedDataSource, begin, check_open
from tidelock.rm.resource import BranchCall, BranchStatus, PhaseTwoResult
from tidelock.sql.session import Session
from tidelock.sql.sweeping import PAGE, Branch, Guard, clean, sweep
from tidelock.sql.taking_back import take_back_later
from tidelock.transaction.shielding import Protect

T = TypeVar("T")

_STATUSES = {
    FenceStatus.TRIED: BranchStatus.PREPARED,
    FenceStatus.CONFIRMED: BranchStatus.COMMITTED,
    FenceStatus.CANCELLED: BranchStatus.ROLLED_BACK,
    FenceStatus.SUSPENDED: BranchStatus.ROLLED_BACK,
}


class DatabaseFence:
    """The fence of one action. Implements `tidelock.fence.fence.Fence`."""

    def __init__(
        self,
        application: Application,
        source: FencedDataSource,
        name: str,
        refusal: type[StepRefusedError],
    ) -> None:
        self._application = application
        self._source = source
        self._name = name
        self._refusal = refusal

    # --- the step

    async def run_step(
        self, context: ActionContext, work: Work, cancel: Work, protect: Protect
    ) -> Any:
        """Insert the row and run the step, in one local transaction."""

        async def run(session: Session) -> Any:
            await begin(session)
            try:
                value = await self._step(session, context, work)
                reached("fence.before-step-commit")
                await protect(session.commit())
            except BaseException:
                with contextlib.suppress(Exception):
                    await protect(session.rollback())
                raise
            reached("fence.after-step-commit")
            return value

        given = self._source.given()
        return await (self._source.database.run_here(run) if given is None else run(given))

    async def _step(self, session: Session, context: ActionContext, work: Work) -> Any:
        table, branch = self._source.table(session), (context.xid, context.branch_id)
        before = encoded(self._name, context.data)
        reached("fence.before-fence-row")
        try:
            await table.insert(
                session,
                branch,
                self._name,
                FenceStatus.TRIED,
                before,
                cluster_id=self._application.cluster_id,
            )
        except Exception as error:
            if not session.dialect.is_duplicate(error):
                raise
            raise self._refusal(
                f"{self._name} was called too late: its transaction {context.xid} was rolled back"
            ) from error
        reached("fence.after-fence-row")
        value = await work(context.on(session.connection))
        after = encoded(self._name, context.data)
        if after != before:
            await table.put_data(session, branch, after)
        await check_open(session)
        return value

    async def take_back(
        self, context: ActionContext, cancel: Work, refused: ProblemError, protect: Protect
    ) -> None:
        """Cancel at once when the transaction has ended; else the coordinator will ask for it.

        Guards of ended transactions go after a while, so a step that comes still later meets none,
        and nobody asks to cancel it any more.
        """
        standing = refused.transaction
        if standing is not None and standing.ended_at is None:
            return

        async def run(session: Session) -> None:
            table, branch = self._source.table(session), (context.xid, context.branch_id)
            await begin(session)
            row = await table.read(session, branch, locks=True)
            if row is not None and row.status is FenceStatus.TRIED:
                await cancel(context.on(session.connection))
                await check_open(session)
            # Nothing can come after this any more, so there is nothing to guard.
            await table.delete(session, [branch])
            reached("fence.before-take-back-commit")
            await session.commit()
            reached("fence.after-take-back-commit")

        try:
            await protect(self._source.database.run_here(run))
        except Exception:
            take_back_later(
                self._application, lambda: self._source.database.run(run), f"{context!r}"
            )
            raise

    # --- phase two

    async def confirm(self, call: BranchCall, work: Work) -> PhaseTwoResult:
        """Say so in the row and run the Confirm, in one local transaction."""

        async def run(session: Session) -> PhaseTwoResult:
            table, branch = self._source.table(session), (call.xid, call.branch_id)
            await begin(session)
            row = await table.read(session, branch, locks=True)
            if row is None or row.status is not FenceStatus.TRIED:
                await session.rollback()
                return _confirmed_before(row)
            reached("fence.before-confirm")
            await table.put_status(session, branch, FenceStatus.CONFIRMED)
            await work(self._context(call, row, session))
            await check_open(session)
            reached("fence.before-confirm-commit")
            await session.commit()
            reached("fence.after-confirm-commit")
            return COMMITTED

        return await self._source.database.run(run)

    async def cancel(self, call: BranchCall, work: Work) -> PhaseTwoResult:
        """Say so in the row and run the Cancel, in one local transaction.

        Without a row there is nothing to cancel: a row keeps the step from being done later.
        """

        async def run(session: Session) -> PhaseTwoResult:
            table, branch = self._source.table(session), (call.xid, call.branch_id)
            await begin(session)
            # Not locked at first: in MySQL two that lock where there is no row, and then insert
            # it, wait for each other.
            if await table.read(session, branch, locks=False) is None:
                if call.phase_one_done:
                    # A row that comes now would guard against nothing, and nobody would delete it.
                    await session.rollback()
                    return NO_TRY_FOUND
                return await self._suspend(session, call)
            row = await table.read(session, branch, locks=True)
            if row is None or row.status is not FenceStatus.TRIED:
                await session.rollback()
                return _cancelled_before(row)
            reached("fence.before-cancel")
            await table.put_status(session, branch, FenceStatus.CANCELLED)
            await work(self._context(call, row, session))
            await check_open(session)
            reached("fence.before-cancel-commit")
            await session.commit()
            reached("fence.after-cancel-commit")
            return ROLLED_BACK

        return await self._source.database.run(run)

    async def _suspend(self, session: Session, call: BranchCall) -> PhaseTwoResult:
        """Raises: a duplicate, when the step was done meanwhile: the coordinator asks again."""
        branch = (call.xid, call.branch_id)
        reached("fence.before-suspend")
        await self._source.table(session).insert(
            session,
            branch,
            self._name,
            FenceStatus.SUSPENDED,
            "{}",
            cluster_id=call.cluster_id,
        )
        reached("fence.before-suspend-commit")
        await session.commit()
        reached("fence.after-suspend-commit")
        return ROLLED_BACK

    async def status(self, call: BranchCall) -> BranchStatus:
        """Tell from the row."""
        branch = (call.xid, call.branch_id)
        row = await self._looked_up(lambda table, session: table.read(session, branch, locks=False))
        return BranchStatus.UNKNOWN if row is None else _STATUSES[row.status]

    async def forget(self, ended: Sequence[BranchCall], cancel: Work) -> None:
        """Delete the rows."""
        guards = _Guards(self, cancel)
        await clean(self._application, guards, [(call.xid, call.branch_id) for call in ended])

    async def sweep(self, cancel: Work) -> None:
        """Delete the rows of the action whose transaction is finished, page by page."""
        await sweep(self._application, _Guards(self, cancel))

    async def page_after(self, place: tuple[str, int] | None) -> Sequence[Guard]:
        """Return rows of the action behind a branch."""
        return await self._looked_up(
            lambda table, session: table.page(session, self._name, place or ("", 0), PAGE)
        )

    async def undoable(self, branches: Sequence[Branch]) -> Sequence[Branch]:
        """Return those that are tried, and no more."""
        return await self._looked_up(lambda table, session: table.undoable(session, branches))

    async def delete(self, branches: Sequence[Branch], *, only_finished: bool) -> None:
        """Delete rows; or only those of which nothing can be cancelled."""

        async def delete(session: Session) -> None:
            await begin(session)
            reached("fence.before-delete")
            table = self._source.table(session)
            await table.delete(session, branches, only_finished=only_finished)
            await session.commit()
            reached("fence.after-delete")

        await self._source.database.run(delete)

    async def cancel_late(self, xid: str, branch_id: int, cancel: Work) -> PhaseTwoResult:
        """Cancel a step that came when its transaction was over."""
        call = BranchCall(
            xid=xid,
            branch_id=branch_id,
            mode="TCC",
            resource_id="",
            cluster_id=self._application.cluster_id,
        )
        return await self.cancel(call, cancel)

    async def _looked_up(self, look: Callable[[FenceTable, Session], Awaitable[T]]) -> T:
        async def looked(session: Session) -> T:
            found = await look(self._source.table(session), session)
            if session.in_transaction:
                await session.rollback()
            return found

        return await self._source.database.run(looked)

    def _context(self, call: BranchCall, row: FenceRow, session: Session) -> ActionContext:
        return ActionContext(
            xid=call.xid,
            branch_id=call.branch_id,
            name=self._name,
            data=row.data,
            connection=session.connection,
        )


class _Guards:
    """The rows of the action. Implements `tidelock.sql.sweeping.Guards`."""

    def __init__(self, fence: DatabaseFence, cancel: Work) -> None:
        self._fence = fence
        self._cancel = cancel

    async def page_after(self, place: tuple[str, int] | None) -> Sequence[Guard]:
        return await self._fence.page_after(place)

    async def undoable(self, branches: Sequence[Branch]) -> Sequence[Branch]:
        return await self._fence.undoable(branches)

    async def forget(self, branches: Sequence[Branch], *, even_undoable: bool) -> None:
        await self._fence.delete(branches, only_finished=not even_undoable)

    async def roll_back(self, xid: str, branch_id: int) -> PhaseTwoResult:
        return await self._fence.cancel_late(xid, branch_id, self._cancel)


def _confirmed_before(row: FenceRow | None) -> PhaseTwoResult:
    if row is None:
        return NOT_TRIED
    return COMMITTED if row.status is FenceStatus.CONFIRMED else CANNOT_CONFIRM


def _cancelled_before(row: FenceRow | None) -> PhaseTwoResult:
    if row is None:
        # It was deleted meanwhile: only of a transaction that is finished.
        return ROLLED_BACK
    return CANNOT_CANCEL if row.status is FenceStatus.CONFIRMED else ROLLED_BACK
