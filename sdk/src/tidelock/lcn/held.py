"""Local transactions that wait for the decision of their groups: one a group, source and process.

Units of one group work in it one after the other, each behind a savepoint of its own, so that one
of them can be undone alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import socket as _socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from tidelock.calls import Calls
from tidelock.client.transport import INHERITED
from tidelock.driving import drive
from tidelock.lcn.errors import ConnectionsHeldError, GroupOverError, LcnMisuseError
from tidelock.rm.workers import in_worker
from tidelock.sql.blocks import InUse
from tidelock.sql.drivers import closed
from tidelock.sql.places import Places
from tidelock.sql.session import Session

T = TypeVar("T")

_log: Final = logging.getLogger("tidelock.lcn")

_LOOK_S: Final = 0.5
_GONE: Final = "the event loop on which the connection was made runs no more"


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


class OwnerGoneError(Exception):
    """The event loop on which a connection was made runs no more."""


class Held:
    """One local transaction. What units do with it is in `tidelock.lcn.part`."""

    def __init__(self, xid: str) -> None:
        self.xid: Final = xid
        self.turn: Final = Places(1)
        """Of the unit, with all units within it, that works here."""
        self.owner: object = None
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
        self._session: Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._blocks = True
        self.in_use: Final = InUse(LcnMisuseError)
        self._names = 0

    # --- the connection

    @property
    def session(self) -> Session:
        """Its connection. There is one while a part is open."""
        assert self._session is not None
        return self._session

    @property
    def is_connected(self) -> bool:
        """Whether it has begun."""
        return self._session is not None

    def begun(self, session: Session, *, awaited: bool) -> None:
        """A connection is there and its local transaction has begun."""
        self._session = session
        self._blocks = not awaited
        if awaited and _driver(session) != "aiosqlite":
            # That one has a thread, and may be awaited on any loop.
            self._loop = asyncio.get_running_loop()

    def name(self) -> str:
        """Return a name for a savepoint."""
        self._names += 1
        return f"tidelock_{self._names}"

    async def on_owner(self, step: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Do something with the connection, from the application's loop: where it belongs.

        Raises:
            OwnerGoneError, and what the driver raises
        """
        session, loop = self.session, self._loop
        if self._blocks:
            return await in_worker(lambda: drive(step(session)))
        if loop is None or loop is asyncio.get_running_loop():
            return await step(session)
        if not loop.is_running():
            raise OwnerGoneError(_GONE)
        started = asyncio.run_coroutine_threadsafe(step(session), loop)
        waited = asyncio.wrap_future(started)
        while not (await asyncio.wait((waited,), timeout=_LOOK_S))[0]:
            if not loop.is_running():
                started.cancel()
                raise OwnerGoneError(_GONE)
        if waited.cancelled():
            raise OwnerGoneError(_GONE)
        return waited.result()

    async def close(self) -> None:
        """Close the connection, from the application's loop."""

        async def close(session: Session) -> None:
            await closed(session.connection)

        try:
            await self.on_owner(close)
        except OwnerGoneError:
            _hang_up(self.session.connection)
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


def _driver(session: Session) -> str:
    return type(session.connection).__module__.partition(".")[0]


def _hang_up(connection: Any) -> None:
    """Have the server notice that nobody is there any more: it rolls back and frees rows."""
    writer = getattr(connection, "_writer", None)
    transport = getattr(connection, "_transport", None) or getattr(writer, "transport", None)
    socket = None if transport is None else transport.get_extra_info("socket")
    if socket is not None:
        with contextlib.suppress(OSError):
            socket.shutdown(_socket.SHUT_RDWR)
