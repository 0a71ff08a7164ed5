"""Connections of our own to a database, for what is not done on an application's: phase two.

They are made by a function of the application, and used on the loop of `tidelock.Application`:
those of blocking drivers in its worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from tidelock.driving import drive
from tidelock.rm.workers import in_worker
from tidelock.sql.drivers import session_of
from tidelock.sql.session import Session

T = TypeVar("T")

Work = Callable[[Session], Coroutine[Any, Any, T]]

GREATEST_IDLE: Final = 4
_IDLE_S: Final = 5.0
"""For how long a connection of a loop is kept: it ends with the loop's tasks, if not before."""


class _Kept:
    """A connection of an awaiting driver that waits, on its loop, to be used again."""

    def __init__(self, session: Session, gone: Callable[[_Kept], None]) -> None:
        self.session: Final = session
        self.loop: Final = asyncio.get_running_loop()
        self._gone = gone
        self._is_taken = asyncio.Event()
        self._task = self.loop.create_task(self._wait())

    def take(self) -> Session:
        """Use it again. On its loop."""
        self._is_taken.set()
        return self.session

    def close(self) -> None:
        """Have it closed. From any thread."""
        with contextlib.suppress(RuntimeError):
            # Of a loop that is closed nothing is left.
            self.loop.call_soon_threadsafe(self._task.cancel)

    async def _wait(self) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_S):
                    await self._is_taken.wait()
        finally:
            self._gone(self)
            if not self._is_taken.is_set():
                with contextlib.suppress(Exception):
                    await self.session.close()


class Database:
    """Makes connections.

    A few to servers are kept for the next time: those of awaiting drivers, which belong to one
    loop, for a few seconds. Those of SQLite belong to one thread, and are closed after each piece
    of work.
    """

    def __init__(
        self,
        open_connection: Callable[[], Any] | Callable[[], Awaitable[Any]],
        *,
        blocking: bool,
    ) -> None:
        """`open_connection` returns a new connection, which nobody else uses."""
        self._open = open_connection
        self._blocking = blocking
        self._lock = threading.Lock()
        self._idle: deque[tuple[int, Session]] = deque()
        """With the process that each belongs to."""
        self._kept: list[_Kept] = []

    async def run(self, work: Work[T]) -> T:
        """Do work on a connection in which no transaction is under way.

        Work that raises, or leaves a transaction open, costs its connection.

        Raises: what opening and the work raise.
        """
        if self._blocking:
            return await in_worker(lambda: drive(self._run(work, keeps=True)))
        return await self._run(work, keeps=True)

    async def run_here(self, work: Work[T]) -> T:
        """As `run`, in the caller's own thread: with a blocking driver it never waits.

        Raises: what opening and the work raise.
        """
        # A loop of the application's may end without a word.
        return await self._run(work, keeps=self._blocking)

    async def _run(self, work: Work[T], *, keeps: bool) -> T:
        session = self._take() if keeps else None
        if session is None:
            opened = self._open()
            session = session_of(opened if self._blocking else await opened)
        is_sound = False
        try:
            value = await work(session)
            is_sound = not session.in_transaction and await self._left_alone(session)
            return value
        finally:
            if not (is_sound and keeps and self._keep(session)):
                with contextlib.suppress(Exception):
                    await session.close()

    async def _left_alone(self, session: Session) -> bool:
        """End what a mere query may have begun; say whether the connection can still be used.

        Drivers of MySQL are not told of it, and nobody could change the tables while the connection
        is kept.
        """
        if session.dialect.name != "mysql":
            return True
        try:
            await session.rollback()
        except Exception:
            return False
        return True

    def _take(self) -> Session | None:
        if not self._blocking:
            return self._take_of_loop()
        with self._lock:
            while self._idle:
                pid, session = self._idle.pop()
                if pid == os.getpid():
                    return session
        return None

    def _take_of_loop(self) -> Session | None:
        loop = asyncio.get_running_loop()
        with self._lock:
            found = next((each for each in reversed(self._kept) if each.loop is loop), None)
            if found is not None:
                self._kept.remove(found)
        return None if found is None else found.take()

    def _keep(self, session: Session) -> bool:
        if session.dialect.name == "sqlite":
            return False
        with self._lock:
            if not self._blocking:
                if len(self._kept) >= GREATEST_IDLE:
                    return False
                self._kept.append(_Kept(session, self._forget))
                return True
            if len(self._idle) >= GREATEST_IDLE:
                return False
            self._idle.append((os.getpid(), session))
        return True

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            kept = list(self._kept)
        for each in kept:
            each.close()
        while self._blocking and (session := self._take()) is not None:
            with contextlib.suppress(Exception):
                drive(session.close())

    def _forget(self, kept: _Kept) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._kept.remove(kept)

    def __del__(self) -> None:
        self.close()
