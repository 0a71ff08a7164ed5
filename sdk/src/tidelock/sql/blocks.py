"""Blocks whose connection takes part in the transaction they are in, as modes lend them.

How a block is entered, cancelled and left is the same for all: `with` and `async with` from one
implementation, and what has begun is brought to its end whatever becomes of the task. What a mode
does when it begins and ends is its own.
"""

from __future__ import annotations

import abc
import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol

from tidelock.application import Application
from tidelock.calls import Calls
from tidelock.driving import drive
from tidelock.errors import TidelockError
from tidelock.sql.drivers import closed, session_of
from tidelock.transaction.context import current_xid
from tidelock.transaction.shielding import shielded

Connect = Callable[[], Any] | Callable[[], Awaitable[Any]]
"""Makes a connection of a blocking driver, or awaitably one of an asynchronous driver."""


async def connected(connect: Connect) -> Any:
    """Return a new connection. Raises: what connecting raises."""
    made = connect()
    return await made if inspect.isawaitable(made) else made


class Source(Protocol):
    """A database in a mode, as far as its blocks need one."""

    @property
    def application(self) -> Application:
        """Whose resource it is. Raises: NotConfiguredError."""
        ...

    async def connected(self) -> Any:
        """Return a new connection."""
        ...


class ConnectionBlock(abc.ABC):
    """A block around one connection. It is used once.

    Outside of transactions it is an ordinary connection, whose work is committed at the end of the
    block, and rolled back when an exception leaves it.
    """

    def __init__(self, source: Source) -> None:
        self._of: Final = source
        self._plain: Any = None
        """The connection, outside of transactions."""
        self._has_begun = False
        self._pid = os.getpid()
        self._is_given_up = False

    def __enter__(self) -> Any:
        drive(self._enter(self._of.application.blocking, threading.get_ident()))
        return self._entered()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forget()
        drive(self._leave(self._of.application.blocking, error))

    async def __aenter__(self) -> Any:
        # What is protected from cancellation runs as a task with a context of its own.
        calls, user = self._of.application.awaiting, asyncio.current_task()
        try:
            await shielded(self._enter(calls, user))
        except asyncio.CancelledError as error:
            # Nobody will leave a block that was never entered.
            self._is_given_up = True
            if self._has_begun:
                await shielded(self._leave(calls, error))
            raise
        return self._entered()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forget()
        await shielded(self._leave(self._of.application.awaiting, error))

    # --- what a mode does

    @abc.abstractmethod
    async def _begin(self, calls: Calls, user: object) -> None:
        """Take part in the transaction. `user` is the task or thread of the block, which may have
        this done by another one.
        """

    @abc.abstractmethod
    def _lent(self) -> Any:
        """Return the connection as the block has it. In the block's own context."""

    @abc.abstractmethod
    def _forget(self) -> None:
        """The block has ended. In its own context."""

    @abc.abstractmethod
    async def _end(self, calls: Calls, error: BaseException | None) -> None:
        """End what was begun, well or with an exception."""

    # --- the same for all

    async def _enter(self, calls: Calls, user: object) -> None:
        if current_xid() is None:
            self._plain = await self._of.connected()
        else:
            await self._begin(calls, user)
        self._has_begun = True
        if self._is_given_up:
            # What protected it from the cancellation has waited for long enough.
            await self._leave(calls, asyncio.CancelledError())

    def _entered(self) -> Any:
        return self._lent() if self._plain is None else self._plain

    async def _leave(self, calls: Calls, error: BaseException | None) -> None:
        if os.getpid() != self._pid:
            # A child that was forked within the block: the connection is its parent's.
            return
        if self._plain is None:
            await self._end(calls, error)
            return
        try:
            session = session_of(self._plain)
            if session.in_transaction or not session.autocommits:
                await (session.commit() if error is None else session.rollback())
        finally:
            await closed(self._plain)


class InUse:
    """Which task or thread has a connection in its hands: one, in blocks within blocks."""

    def __init__(self, misuse: type[TidelockError]) -> None:
        """`misuse` is raised when there are two."""
        self._misuse: Final = misuse
        self._lock: Final = threading.Lock()
        self._user: object = None
        self._depth = 0

    def __bool__(self) -> bool:
        return self._depth > 0

    def by(self, user: object) -> bool:
        """Say whether it is in the hands of a task or thread."""
        with self._lock:
            return self._depth > 0 and self._user == user

    def take(self, user: object) -> None:
        """Let a task or thread use the connection; it may already. Raises: the mode's error."""
        with self._lock:
            if self._depth and self._user != user:
                raise two_at_once(self._misuse)
            self._user = user
            self._depth += 1

    def give_back(self) -> None:
        """The innermost block that took it has ended."""
        with self._lock:
            self._depth -= 1


def two_at_once(misuse: type[TidelockError]) -> TidelockError:
    """Return what is raised when two want one connection."""
    return misuse(
        "two tasks or threads use the transaction's one connection at once; within one "
        "transaction, or unit, do the work of one database one after the other"
    )
