"""Local transactions that wait for the decision of their groups: one a group, source and process.

Units of one group work in it one after the other, each behind a savepoint of its own, so that one
of them can be undone alone.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from tidelock.calls import Calls
from tidelock.client.transport import INHERITED
from tidelock.lcn.errors import ConnectionsHeldError, GroupOverError, LcnMisuseError
from tidelock.lcn.made import Made
from tidelock.sql.blocks import InUse
from tidelock.sql.places import Places
from tidelock.sql.session import Session
from tidelock.units.unit import Unit

if TYPE_CHECKING:
    from tidelock.lcn.lending import Lent

_log: Final = logging.getLogger("tidelock.lcn")


class Outcome(enum.Enum):
    """What became of a local transaction."""

    COMMITTED = enum.auto()
    ROLLED_BACK = enum.auto()
    LOST = enum.auto()
    """It was to be committed, and nobody can say that it was."""


class Stage(enum.Enum):
    """How far a local transaction has got."""

    OPEN = enum.auto()
    ENDING = enum.auto()
    OVER = enum.auto()


class Held:
    """One local transaction. What units do with it is in `tidelock.lcn.part`."""

    def __init__(self, xid: str) -> None:
        self.xid: Final = xid
        self.turn: Final = Places(1)
        """Of the unit, with all units within it, that works here."""
        self.owner: Unit | None = None
        """The outermost unit that has the turn."""
        self.open_parts = 0
        """What units have under way, neither joined nor undone."""
        self.branches: dict[int, int] = {}
        """Branches that have joined, with the session that each was registered with."""
        self.since = time.monotonic()
        self.stage = Stage.OPEN
        self.doomed = False
        """It is to be rolled back as soon as nobody works in it."""
        self.ending: asyncio.Task[tuple[Outcome, str] | None] | None = None
        """On the application's loop."""
        self._lock: Final = threading.Lock()
        self._made: Made | None = None
        self.in_use: Final = InUse(LcnMisuseError)
        self.lent: Final[list[Lent]] = []
        """To whom it is lent now, in the order in which they began."""
        self._names = 0

    # --- the connection

    @property
    def made(self) -> Made:
        """Its connection. There is one while a part is open."""
        assert self._made is not None
        return self._made

    @property
    def session(self) -> Session:
        """Its connection, for units."""
        return self.made.session

    @property
    def is_connected(self) -> bool:
        """Whether it has begun."""
        return self._made is not None

    def begun(self, made: Made) -> None:
        """A connection is there and its local transaction has begun."""
        self._made = made

    def name(self) -> str:
        """Return a name for a savepoint."""
        self._names += 1
        return f"tidelock_{self._names}"

    async def close(self) -> None:
        """Close the connection, from the application's loop."""
        try:
            await self.made.close()
        except Exception as error:
            _log.info("a connection of %s was broken when it was closed: %s", self.xid, error)

    # --- who works in it

    def enter(self) -> None:
        """A unit begins to work here. Raises: GroupOverError"""
        with self._lock:
            if self.stage is not Stage.OPEN or self.doomed:
                raise GroupOverError(
                    f"transaction {self.xid} was decided, or lost its session, and what it held in "
                    "this process has ended"
                )
            self.open_parts += 1

    def leave(self) -> bool:
        """A unit has joined or is undone. True: nothing is left to wait for, so end it now."""
        with self._lock:
            self.open_parts -= 1
            if self.open_parts or self.stage is not Stage.OPEN:
                return False
            if self.branches and not self.doomed:
                return False
            self.stage = Stage.ENDING
            return True

    def ends(self, *, commit: bool) -> bool:
        """Begin the end. False: a unit works here; a rollback follows when it has ended."""
        with self._lock:
            if self.open_parts or self.stage is not Stage.OPEN:
                self.doomed = self.doomed or not commit
                return False
            self.stage = Stage.ENDING
            return True

    def goes_on(self) -> None:
        """The end could not be done, and may be tried again."""
        with self._lock:
            self.stage = Stage.OPEN


class Holding:
    """What one source holds in this process."""

    def __init__(self, greatest: int) -> None:
        self.greatest: Final = greatest
        self._lock = threading.Lock()
        self._places = Places(greatest)
        self._held: dict[str, Held] = {}
        self.ended: dict[tuple[str, int], tuple[Outcome, str]] = {}
        """What became of branches, until the coordinator has them cleaned."""
        self._sessions: dict[tuple[str, int], int] = {}

    def of(self, xid: str) -> Held:
        """Return what is held for a group, made when there is nothing."""
        with self._lock:
            found = self._held.get(xid)
            if found is None:
                found = self._held[xid] = Held(xid)
            return found

    def find(self, xid: str) -> Held | None:
        """Return what is held for a group."""
        return self._held.get(xid)

    def all(self) -> list[Held]:
        """Return what is held."""
        with self._lock:
            return list(self._held.values())

    async def place(self, calls: Calls, wait_ms: int) -> None:
        """Take a place for a connection. Raises: ConnectionsHeldError"""
        if not await self._places.take(calls, wait_ms):
            oldest = min(
                (held for held in self.all() if held.is_connected),
                key=lambda held: held.since,
                default=None,
            )
            longest = (
                ""
                if oldest is None
                else f", {oldest.xid} for {time.monotonic() - oldest.since:.1f} s"
            )
            raise ConnectionsHeldError(
                f"all {self.greatest} connections are held for groups that are undecided{longest}; "
                f"none became free in {wait_ms} ms. Decide sooner, or raise greatest_connections"
            )

    def over(self, held: Held, outcome: Outcome, detail: str = "") -> None:
        """What was held has ended: note it for each of its branches."""
        held.stage = Stage.OVER
        with self._lock:
            if self._held.get(held.xid) is held:
                del self._held[held.xid]
            for branch_id, session_id in held.branches.items():
                self.ended[held.xid, branch_id] = outcome, detail
                self._sessions[held.xid, branch_id] = session_id

    def give_back(self) -> None:
        """A connection is closed."""
        self._places.give_back()

    def forget(self, xid: str, branch_id: int) -> None:
        """Keep no more of a branch that has ended."""
        with self._lock:
            self.ended.pop((xid, branch_id), None)
            self._sessions.pop((xid, branch_id), None)

    def forget_session(self, session_id: int) -> None:
        """Nobody asks for its branches any more."""
        with self._lock:
            over = [each for each, session in self._sessions.items() if session == session_id]
        for xid, branch_id in over:
            self.forget(xid, branch_id)

    def after_fork(self) -> None:
        """In the child: what is held is the parent's, whose connections must not be touched."""
        INHERITED.append((self._held, self._places, self._lock))
        self._lock = threading.Lock()
        self._places = Places(self.greatest)
        self._held = {}
        self.ended = {}
        self._sessions = {}
