"""What one unit has done in the local transaction that is held for its group.

It stands behind a savepoint, so it can be undone alone. Joining registers a branch of its own: the
group's branches in one process share the connection, and so their end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tidelock.application import Application
from tidelock.calls import Calls
from tidelock.client import Client
from tidelock.client.branches import ReportStatus
from tidelock.crash_points import reached
from tidelock.errors import ConflictError, NotFoundError, TidelockError
from tidelock.lcn.errors import ConnectionsHeldError, LcnMisuseError
from tidelock.lcn.held import Held, Holding, Outcome
from tidelock.lcn.made import Made
from tidelock.sql.session import Session, release, rollback_to, savepoint
from tidelock.transaction.context import current
from tidelock.transaction.handle import tells_with_decision
from tidelock.units.unit import Unit

_log: Final = logging.getLogger("tidelock.lcn")


class Desk:
    """What all parts of one source need."""

    def __init__(
        self,
        application: Callable[[], Application],
        connect: Callable[[], Awaitable[Made]],
        holding: Holding,
        wait_ms: int,
    ) -> None:
        self.application = application
        self.connect = connect
        """Makes a connection."""
        self.holding: Final = holding
        self.wait_ms: Final = wait_ms
        self.resource_id = ""
        """Known once there has been a connection."""
        self.joined: Callable[[], None] = lambda: None
        """Called when something begins to wait for a decision."""
        self.take_back: Callable[[str], Awaitable[None]] = _nothing
        """Rolls back what is held for a group that is over."""

    def at_work(self, xid: str, user: object) -> Unit | None:
        """Return the unit of a group that has its connection in the hands of `user` just now."""
        held = self.holding.find(xid)
        return None if held is None or not held.in_use.by(user) else held.owner


async def _nothing(_: str) -> None:
    """Nothing is held yet."""


async def part_of(desk: Desk, calls: Calls, unit: Unit, user: object) -> LcnPart:
    """Return what a unit does on the source, begun unless it has been, in the hands of `user`.

    Raises:
        ConnectionsHeldError, LcnMisuseError, GroupOverError
        What connecting raises.
    """
    known = next(
        (
            each
            for each in unit.parts
            # Those of units within it have been handed over to it.
            if isinstance(each, LcnPart) and each.desk is desk and each.unit is unit
        ),
        None,
    )
    if known is not None:
        known.held.in_use.take(user)
        return known
    while True:
        held = desk.holding.of(unit.xid)
        if held.owner is not unit.root:
            if not await held.turn.take(calls, desk.wait_ms):
                raise ConnectionsHeldError(
                    f"for {desk.wait_ms} ms another unit of transaction {unit.xid} worked on the "
                    "group's one connection in this process; let its units work one after the other"
                )
            if desk.holding.find(unit.xid) is not held and not held.branches:
                # The unit before it was undone, and nothing was left to hold.
                held.turn.give_back()
                continue
            held.owner = unit.root
        break
    held.in_use.take(user)
    try:
        held.enter()
        try:
            if not held.is_connected:
                await _begin(desk, held, calls)
            name = held.name()
            await savepoint(held.session, name)
        except BaseException:
            # A connection that cannot do that holds nothing of other units either.
            held.doomed = True
            await _left(desk, held)
            raise
    except BaseException:
        held.in_use.give_back()
        if not held.open_parts:
            held.owner = None
            held.turn.give_back()
        raise
    part = LcnPart(desk, held, unit, name)
    unit.add(part)
    return part


async def _begin(desk: Desk, held: Held, calls: Calls) -> None:
    await desk.holding.place(calls, desk.wait_ms)
    try:
        made = await desk.connect()
        try:
            await made.begin()
        except BaseException:
            await _let_go(made)
            raise
        held.begun(made)
    except BaseException:
        desk.holding.give_back()
        raise


class LcnPart:
    """A unit's work on one connection. Implements `tidelock.units.unit.Part`."""

    def __init__(self, desk: Desk, held: Held, unit: Unit, name: str) -> None:
        """For `part_of`."""
        self.desk: Final = desk
        self.held: Final = held
        self.savepoint: Final = name
        """What it stands behind."""
        self.unit: Final = unit
        self._branch_id: int | None = None

    @property
    def session(self) -> Session:
        """The connection."""
        return self.held.session

    async def register(self, calls: Calls) -> None:
        """Join. Raises: what `Branches.register` raises: the group may be gone."""
        application, unit = self.desk.application(), self.unit
        # Nobody has been told of the work yet, so a session that has just ended costs only time.
        await application.session_id(calls)
        reached("lcn.before-register")

        async def register(client: Client, session_id: int) -> tuple[int, int]:
            registered = await client.branches.register(
                self.held.xid,
                "LCN",
                self.desk.resource_id,
                session_id=session_id,
                application_id=application.application_id,
                unit_id=unit.unit_id or None,
                application_data=unit.application_data,
            )
            return registered.branch_id, session_id

        branch_id, session_id = await application.in_session(calls, register)
        self._branch_id = branch_id
        self.held.branches[branch_id] = session_id
        reached("lcn.after-register")

    async def report(self, calls: Calls) -> None:
        """Say that the work is done and its commit can follow.

        Raises:
            LcnMisuseError: the local transaction is not what it was.
            What `Branches.report` raises. When nobody knows whether it was heard, the work is held.
        """
        try:
            # Also tells whether the local transaction is still the one that was begun.
            await release(self.session, self.savepoint)
        except Exception as error:
            why = LcnMisuseError(
                f"the local transaction of {self.held.xid} was ended or broken while a unit worked "
                f"in it, as by COMMIT, by DDL on MySQL, or by a lost connection: {error}"
            )
            self.held.doomed = True
            await self._say(calls, "PHASE_ONE_FAILED", why)
            await self._over()
            raise why from error
        reached("lcn.before-report")
        branch_id = self._branch_id
        assert branch_id is not None
        try:
            if not self._tells_with_decision(branch_id):
                xid = self.held.xid
                await calls(lambda client: client.branches.report(xid, branch_id, "PHASE_ONE_DONE"))
        except (NotFoundError, ConflictError):
            # It is decided, and not to commit: this branch never said that it is done.
            self.held.doomed = True
            await self._over()
            raise
        except BaseException:
            await self._over()
            raise
        reached("lcn.after-report")
        await self._over()
        self.desk.joined()

    def _tells_with_decision(self, branch_id: int) -> bool:
        binding, xid, desk = current(), self.held.xid, self.desk
        if binding is None or binding.xid != xid:
            return False
        return tells_with_decision(binding.transaction, branch_id, lambda: desk.take_back(xid))

    async def leave(self, calls: Calls) -> None:
        """Undo it. If it is known to the group, withdraw it."""
        error = await self._undone()
        if error is None:
            await self._say(calls, "WITHDRAWN", None)
        else:
            await self._say(calls, "PHASE_ONE_FAILED", error)
        await self._over()

    async def spoil(self, calls: Calls, error: BaseException) -> None:
        """Undo it, and have the group know that it cannot be committed."""
        await self._undone()
        await self._say(calls, "PHASE_ONE_FAILED", error)
        await self._over()

    async def _undone(self) -> Exception | None:
        reached("lcn.before-undo")
        try:
            await rollback_to(self.session, self.savepoint)
            await release(self.session, self.savepoint)
        except Exception as error:
            # With it goes what other units have done here.
            self.held.doomed = True
            return error
        reached("lcn.after-undo")
        return None

    async def _say(self, calls: Calls, status: ReportStatus, error: BaseException | None) -> None:
        """Tell the coordinator of a branch that does not count, if it knows it."""
        branch_id, self._branch_id = self._branch_id, None
        if branch_id is None:
            if error is None or not self.held.branches:
                return
            # The work of others is gone as well: nobody may commit what they have reported.
            with contextlib.suppress(TidelockError):
                await self.register(calls)
            branch_id, self._branch_id = self._branch_id, None
            if branch_id is None:
                return
        self.held.branches.pop(branch_id, None)
        told: dict[str, Any] = {}
        if error is not None:
            told = {"error_type": type(error).__name__[:100], "error_message": f"{error}"[:1_000]}
        number = branch_id
        try:
            await calls(
                lambda client: client.branches.report(self.held.xid, number, status, **told)
            )
        except TidelockError as lost:
            # Without a report the group cannot be committed either.
            _log.warning("%s of branch %d of %s is not reported: %s",
                         status, number, self.held.xid, lost)  # fmt: skip

    async def _over(self) -> None:
        await _left(self.desk, self.held)
        if not self.held.open_parts:
            self.held.owner = None
            self.held.turn.give_back()


async def _left(desk: Desk, held: Held) -> None:
    """A unit works here no more: end what nobody waits for."""
    if not held.leave():
        return
    was_connected = held.is_connected
    if was_connected:
        # Closing rolls back as well; this way it has happened when the unit has ended.
        with contextlib.suppress(Exception):
            await held.session.rollback()
        await _let_go(held.made)
    desk.holding.over(held, Outcome.ROLLED_BACK, "its unit was undone")
    if was_connected:
        desk.holding.give_back()


async def _let_go(made: Made) -> None:
    with contextlib.suppress(Exception):
        await made.let_go()
