"""One branch of XA in its first phase: registered, worked on, prepared, reported.

Written once, as coroutines over `Calls` and `Session`.
"""

from __future__ import annotations

import enum
import logging
from typing import Any, Final

from tidelock.application import Application
from tidelock.calls import Calls
from tidelock.client.branches import ReportStatus
from tidelock.crash_points import reached
from tidelock.errors import ConflictError, NotFoundError, OutcomeUnknownError, UnreachableError
from tidelock.sql.blocks import InUse
from tidelock.sql.drivers import session_of
from tidelock.sql.session import Session
from tidelock.xa.errors import XaBranchError, XaMisuseError
from tidelock.xa.naming import BranchName
from tidelock.xa.servers import XaServer

_log: Final = logging.getLogger("tidelock.xa")


class _Stage(enum.Enum):
    ACTIVE = enum.auto()
    """Its statements are executed."""
    OVER = enum.auto()
    """It is prepared, or it never will be."""


class XaBranch:
    """A branch on one connection, which is its own until the branch is prepared."""

    def __init__(self, connection: Any, server: XaServer, name: BranchName, before: int) -> None:
        """For `begin`."""
        self.connection: Final = connection
        self.name: Final = name
        self._session: Final[Session] = session_of(connection)
        self._server = server
        self._before = before
        self._stage = _Stage.ACTIVE
        self._refused = ""
        """Why it must not be prepared."""
        self.is_late = False
        """It is prepared, and its transaction had ended: who closes the connection undoes it."""
        self.is_launchers = False
        """It is prepared with the block of its transaction, not with the last of its own blocks."""
        self._in_use = InUse(XaMisuseError)

    @classmethod
    async def begin(
        cls,
        application: Application,
        calls: Calls,
        server: XaServer,
        resource_id: str,
        connection: Any,
        xid: str,
    ) -> XaBranch:
        """Register a branch, then start it on a connection that is in no transaction.

        In this order a branch that the cluster does not know is never started, so nothing is left
        prepared that nobody would ask for.

        Raises: what `Branches.register` raises, and what the driver raises.
        """
        # Nothing of the branch is begun yet, so a session that has just ended costs only time.
        await application.session_id(calls)
        reached("xa.before-register")
        registered = await application.in_session(
            calls,
            lambda client, session_id: client.branches.register(
                xid,
                "XA",
                resource_id,
                session_id=session_id,
                application_id=application.application_id,
                application_data={"sessionId": session_id},
            ),
        )
        reached("xa.after-register")
        name = BranchName(xid, registered.branch_id)
        try:
            before = await server.start(session_of(connection), name)
        except Exception as error:
            await _report_failure(calls, name, error)
            raise
        reached("xa.after-start")
        return cls(connection, server, name, before)

    @property
    def is_active(self) -> bool:
        """Whether statements belong to it."""
        return self._stage is _Stage.ACTIVE

    # --- who uses it

    def take(self, user: object) -> None:
        """Let a task or thread use the connection; it may already.

        Raises: XaMisuseError: another one does, or the branch is over.
        """
        if not self.is_active:
            raise XaMisuseError(
                f"the branch of {self.name.xid} is prepared or rolled back; nothing can be added"
            )
        self._in_use.take(user)

    def give_back(self) -> None:
        """The innermost block that took it has ended."""
        self._in_use.give_back()

    @property
    def in_use(self) -> bool:
        """Whether a block still has it."""
        return bool(self._in_use)

    def refuse(self, why: str) -> None:
        """Keep the branch from being prepared, for ever."""
        self._refused = self._refused or why

    # --- its end

    async def prepare(self, calls: Calls) -> None:
        """Prepare the branch and report it, or report that it changed nothing.

        Raises:
            XaBranchError: it is rolled back, and reported so.
        """
        if not self.is_active:
            return
        try:
            if self._refused:
                raise XaBranchError(self._refused)
            changed = await self._server.changed(self._session, self._before)
            reached("xa.before-prepare")
            if changed:
                await self._server.prepare(self._session, self.name)
            else:
                await self._server.abandon(self._session, self.name)
        except Exception as error:
            await self.fail(calls, error)
            raise XaBranchError(
                f"branch {self.name.branch_id} of {self.name.xid} could not be prepared: {error}"
            ) from error
        self._stage = _Stage.OVER
        reached("xa.after-prepare")
        await self._report(calls, "PHASE_ONE_DONE" if changed else "PHASE_ONE_READ_ONLY")
        reached("xa.after-report")

    async def fail(self, calls: Calls, error: BaseException) -> None:
        """Undo what is not prepared, and have the transaction know that it cannot commit."""
        if not self.is_active:
            return
        self._stage = _Stage.OVER
        reached("xa.before-abandon")
        try:
            await self._server.abandon(self._session, self.name)
        except Exception as failure:
            # The connection is closed next, which undoes what is not prepared.
            _log.warning("%s was not rolled back in its session: %s", self.name, failure)
        reached("xa.after-abandon")
        await _report_failure(calls, self.name, error)

    async def _report(self, calls: Calls, status: ReportStatus) -> None:
        """Say that the branch is prepared; undo it when its transaction is over by now."""
        try:
            await calls(
                lambda client: client.branches.report(self.name.xid, self.name.branch_id, status)
            )
        except (NotFoundError, ConflictError) as error:
            # A rollback may have come before PREPARE and found nothing; nobody asks again.
            self.is_late = status == "PHASE_ONE_DONE"
            raise XaBranchError(
                f"transaction {self.name.xid} ended before its branch {self.name.branch_id} was "
                f"prepared, which is rolled back: {error}"
            ) from error


async def _report_failure(calls: Calls, name: BranchName, error: BaseException) -> None:
    """Say that a branch can never be committed."""
    kind = type(error).__name__
    try:
        await calls(
            lambda client: client.branches.report(
                name.xid,
                name.branch_id,
                "PHASE_ONE_FAILED",
                error_type=kind,
                error_message=str(error)[:500],
            )
        )
    except (NotFoundError, ConflictError):
        # It is decided already, and not to commit: this branch never said that it is done.
        return
    except (OutcomeUnknownError, UnreachableError) as unheard:
        # Without a report it cannot be committed either.
        _log.warning("the failure of %s is not reported: %s", name, unheard)
