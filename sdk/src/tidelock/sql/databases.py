"""Connections of our own to a database, for what is not done on an application's: phase two.

They are made by a function of the application, and used on the loop of `tidelock.Application`:
those of blocking drivers in its worker threads.
"""

from __future__ import annotations

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


class Database:
    """Makes connections.

    Of blocking drivers to servers a few are kept for the next time. Others belong to one thread
    (SQLite) or to one loop, and are closed after each piece of work.
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

    async def run(self, work: Work[T]) -> T:
        """Do work on a connection in which no transaction is under way.

        Work that raises, or leaves a transaction open, costs its connection.

        Raises: what opening and the work raise.
        """
        if self._blocking:
            return await in_worker(lambda: drive(self._run(work)))
        return await self._run(work)

    async def run_here(self, work: Work[T]) -> T:
        """As `run`, in the caller's own thread: with a blocking driver it never waits.

        Raises: what opening and the work raise.
        """
        return await self._run(work)

    async def _run(self, work: Work[T]) -> T:
        session = self._take()
        if session is None:
            opened = self._open()
            session = session_of(opened if self._blocking else await opened)
        is_sound = False
        try:
            value = await work(session)
            is_sound = not session.in_transaction and await self._left_alone(session)
            return value
        finally:
            if not (is_sound and self._keep(session)):
                with contextlib.suppress(Exception):
                    await session.close()

    async def _left_alone(self, session: Session) -> bool:
        """End what a mere query may have begun; say whether the connection can still be used.

        PyMySQL is not told of it, and nobody could change the tables while the connection is kept.
        """
        if not self._blocking or session.dialect.name != "mysql":
            return True
        try:
            await session.rollback()
        except Exception:
            return False
        return True

    def _take(self) -> Session | None:
        with self._lock:
            while self._idle:
                pid, session = self._idle.pop()
                if pid == os.getpid():
                    return session
        return None

    def _keep(self, session: Session) -> bool:
        if not self._blocking or session.dialect.name == "sqlite":
            return False
        with self._lock:
            if len(self._idle) >= GREATEST_IDLE:
                return False
            self._idle.append((os.getpid(), session))
        return True

    def close(self) -> None:
        """Close the connections that are kept."""
        while (session := self._take()) is not None:
            with contextlib.suppress(Exception):
                drive(session.close())

    def __del__(self) -> None:
        self.close()
