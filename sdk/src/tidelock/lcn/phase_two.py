"""How held connections end: by the coordinator's word, or by asking for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Final

from tidelock.application import Application
from tidelock.crash_points import reached
from tidelock.errors import ClientClosedError, TidelockError, TransactionNotFoundError
from tidelock.lcn.held import Held, Holding, Outcome, Stage
from tidelock.rm.resource import BranchCall, BranchStatus, Mode, PhaseTwoResult, PhaseTwoStatus
from tidelock.sql.session import Session
from tidelock.transaction.verdicts import is_committed

_log: Final = logging.getLogger("tidelock.lcn")

_PAUSE_S: Final = 0.1
_GREATEST_PAUSE_S: Final = 2.0

_Ended = tuple[Outcome, str]


class LcnResource:
    """Implements `tidelock.rm.resource.Resource` and `SessionBound`. All is on one loop."""

    mode: Final[Mode] = "LCN"

    def __init__(
        self, resource_id: str, application: Application, holding: Holding, ask_after_ms: int
    ) -> None:
        """Undecided for `ask_after_ms`, a group is asked for."""
        self._resource_id = resource_id
        self._application = application
        self._holding = holding
        self._ask_after_s = ask_after_ms / 1_000
        self._lock = threading.Lock()
        self._watches = False
        _living.add(self)

    @property
    def resource_id(self) -> str:
        """The database, by the server's own name for it."""
        return self._resource_id

    # --- what the coordinator asks

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        """Commit the held connection, for all branches of the group in this process."""
        ended = await self._ended(call, commit=True)
        if ended is None:
            return PhaseTwoResult(
                status=PhaseTwoStatus.COMMIT_FAILED_RETRYABLE,
                detail="a unit works on the group's connection just now, or its database is busy",
            )
        outcome, detail = ended
        if outcome is Outcome.COMMITTED:
            return PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)
        return PhaseTwoResult(
            status=PhaseTwoStatus.COMMIT_FAILED_UNRETRYABLE,
            detail=detail or "its local transaction was rolled back before",
        )

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        """Roll the held connection back."""
        ended = await self._ended(call, commit=False)
        if ended is None:
            return PhaseTwoResult(
                status=PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE,
                detail="a unit works on the group's connection, and is undone when it ends",
            )
        outcome, detail = ended
        if outcome is Outcome.COMMITTED:
            return PhaseTwoResult(
                status=PhaseTwoStatus.ROLLBACK_FAILED_UNRETRYABLE,
                detail="its local transaction was committed before",
            )
        return PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK, detail=detail)

    async def status(self, call: BranchCall) -> BranchStatus:
        """Tell whether it is held, or how it ended."""
        known = self._holding.ended.get((call.xid, call.branch_id))
        if known is not None:
            return {
                Outcome.COMMITTED: BranchStatus.COMMITTED,
                Outcome.ROLLED_BACK: BranchStatus.ROLLED_BACK,
            }.get(known[0], BranchStatus.UNKNOWN)
        held = self._holding.find(call.xid)
        holds = held is not None and call.branch_id in held.branches
        return BranchStatus.PREPARED if holds else BranchStatus.UNKNOWN

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        """Forget how branches ended."""
        for call in ended:
            self._holding.forget(call.xid, call.branch_id)

    async def sweep(self) -> None:
        """Nothing is kept but in this process's memory, for its own branches."""

    async def session_lost(self, session_id: int) -> None:
        """Roll back what was held in a session, but commit what is decided so."""
        lost = [held for held in self._holding.all() if session_id in held.branches.values()]
        await asyncio.gather(*(self._settle(held) for held in lost))
        self._holding.forget_session(session_id)

    async def take_back(self, xid: str) -> None:
        """Roll back what is held for a group that was over when its branch was reported."""
        held = self._holding.find(xid)
        if held is not None:
            await self._end(held, commit=False)

    # --- the end of what is held

    async def _ended(self, call: BranchCall, *, commit: bool) -> _Ended | None:
        """Return how a branch ended, ended so just now if need be; None: it cannot be yet."""
        known = self._holding.ended.get((call.xid, call.branch_id))
        if known is not None:
            return known
        held = self._holding.find(call.xid)
        if held is None or (commit and call.branch_id not in held.branches):
            if not commit:
                return Outcome.ROLLED_BACK, "nothing is held"
            return Outcome.LOST, "this process holds nothing of it, so its work is lost"
        return await self._end(held, commit=commit)

    async def _end(self, held: Held, *, commit: bool) -> _Ended | None:
        if held.ending is None:
            if not held.ends(commit=commit):
                return None
            held.ending = asyncio.create_task(self._finish(held, commit=commit))
        # Several branches share the connection, and are asked for at once.
        return await asyncio.shield(held.ending)

    async def _finish(self, held: Held, *, commit: bool) -> _Ended | None:
        outcome, detail = Outcome.ROLLED_BACK, ""
        try:
            if commit:
                if not await held.made.on_owner(_commit):
                    held.ending = None
                    held.goes_on()
                    return None
                outcome = Outcome.COMMITTED
            else:
                await held.made.on_owner(_roll_back)
        except (Exception, asyncio.CancelledError) as error:
            # A rollback is done by the database itself, when the connection ends.
            if commit:
                outcome = Outcome.LOST
                detail = f"nobody can say that the local commit was done: {error}"
                _log.error("what was held of %s is lost: %s", held.xid, error)
        with contextlib.suppress(asyncio.CancelledError):
            await held.close()
        self._holding.over(held, outcome, detail)
        self._holding.give_back()
        return outcome, detail

    # --- groups of which nobody says anything

    def joined(self) -> None:
        """Something waits for a decision now. From any thread."""
        with self._lock:
            if self._watches:
                return
            self._watches = True
        try:
            self._application.client.submit(lambda _: self._watch())
        except ClientClosedError:
            self._watches = False

    async def _watch(self) -> None:
        """Ask for what is held for long, as long as something is held."""
        try:
            while True:
                with self._lock:
                    if not any(held.branches for held in self._holding.all()):
                        self._watches = False
                        return
                await asyncio.sleep(self._ask_after_s / 2)
                for held in self._holding.all():
                    if held.branches and time.monotonic() - held.since >= self._ask_after_s:
                        await self._ask(held)
        except BaseException:
            self._watches = False
            raise

    async def _ask(self, held: Held) -> None:
        with contextlib.suppress(TidelockError):
            decided = await self._decision(held.xid)
            if decided is not None and held.stage is Stage.OPEN:
                await self._end(held, commit=decided)

    async def _settle(self, held: Held) -> None:
        """End what belongs to a session that is over, once it is known how."""
        pause_s = _PAUSE_S
        try:
            while held.stage is not Stage.OVER:
                try:
                    # Without a decision there will be none to commit: the session is over.
                    commit = await self._decision(held.xid) is True
                    if await self._end(held, commit=commit) is not None:
                        return
                except TidelockError as error:
                    _log.warning("the fate of %s is not known yet: %s", held.xid, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _GREATEST_PAUSE_S)
        except asyncio.CancelledError:
            # The process leaves, and nobody could tell.
            with contextlib.suppress(Exception):
                await self._end(held, commit=False)
            raise

    async def _decision(self, xid: str) -> bool | None:
        """Return whether a group is to be committed; None while that is open.

        Raises: what the client raises when nobody can tell.
        """
        try:
            found = await self._application.awaiting(lambda client: client.transactions.get(xid))
        except TransactionNotFoundError:
            return False
        return is_committed(found.status)

    def after_fork(self) -> None:
        """In the child nothing is held."""
        self._lock = threading.Lock()
        self._watches = False
        self._holding.after_fork()


async def _commit(session: Session) -> bool:
    """Commit. False: it can be tried again."""
    reached("lcn.before-commit")
    try:
        await session.commit()
    except Exception:
        if session.dialect.writes_alone and session.in_transaction:
            # A reader is in its way, and the local transaction is as it was.
            return False
        raise
    reached("lcn.after-commit")
    return True


async def _roll_back(session: Session) -> None:
    reached("lcn.before-rollback")
    await session.rollback()
    reached("lcn.after-rollback")


_living: Final[weakref.WeakSet[LcnResource]] = weakref.WeakSet()


def _forked() -> None:
    for resource in list(_living):
        resource.after_fork()


os.register_at_fork(after_in_child=_forked)
