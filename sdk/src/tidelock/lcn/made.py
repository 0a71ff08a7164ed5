"""A connection that was made for a group, and where its driver lets it be used."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket as _socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec

from tidelock.driving import drive
from tidelock.rm.workers import in_worker
from tidelock.sql.blocks import Connect
from tidelock.sql.drivers import closed, session_of
from tidelock.sql.session import Session

T = TypeVar("T")

_LOOK_S: Final = 0.5
_GONE: Final = "the event loop on which the connection was made runs no more"


class OwnerGoneError(Exception):
    """The event loop on which a connection was made runs no more."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A connection, as units have it, and as its end has it, on the application's loop."""

    connection: Any
    """What blocks are given."""
    session: Session
    """For units, in their thread, task or greenlet."""
    awaited: Session | None = None
    """For its end. None: it blocks, and is `session`."""
    begin: Callable[[], Awaitable[None]]
    """Begins its local transaction, in a unit."""
    let_go: Callable[[], Awaitable[None]]
    """Closes it, or gives it back to its pool, in a unit."""
    let_go_awaited: Callable[[], Awaitable[None]] | None = None
    """The same for its end. None: as in a unit."""
    loop: asyncio.AbstractEventLoop | None = None
    """To which it belongs. None: it may be awaited on any, or blocks."""

    async def on_owner(self, step: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Do something with it, from the application's loop: where it belongs.

        Raises:
            OwnerGoneError, and what the driver raises
        """
        session = self.awaited
        if session is None:
            return await in_worker(lambda: drive(step(self.session)))
        loop = self.loop
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
        """Let it go, from the application's loop. Raises: what the driver raises."""

        async def let_go(_: Session) -> None:
            await (self.let_go_awaited or self.let_go)()

        try:
            await self.on_owner(let_go)
        except OwnerGoneError:
            _hang_up((self.awaited or self.session).connection)


async def made_by(connect: Connect) -> Made:
    """Make a connection by itself. Raises: DatabaseUnsuitableError, and what connecting raises."""
    connecting = connect()
    is_awaited = inspect.isawaitable(connecting)
    connection: Any = await connecting if is_awaited else connecting
    session = session_of(connection)
    driver = type(connection).__module__.partition(".")[0]

    async def begin() -> None:
        if driver == "asyncpg":
            # Its own blocks nest in its own only.
            await connection.transaction().start()
        else:
            await session.begin()

    # The driver of SQLite has a thread, and may be awaited on any loop.
    is_bound = is_awaited and driver != "aiosqlite"
    return Made(
        connection=connection,
        session=session,
        awaited=session if is_awaited else None,
        begin=begin,
        let_go=lambda: closed(connection),
        loop=asyncio.get_running_loop() if is_bound else None,
    )


def _hang_up(connection: Any) -> None:
    """Have the server notice that nobody is there any more: it rolls back and frees rows."""
    writer = getattr(connection, "_writer", None)
    transport = getattr(connection, "_transport", None) or getattr(writer, "transport", None)
    socket = None if transport is None else transport.get_extra_info("socket")
    if socket is not None:
        with contextlib.suppress(OSError):
            socket.shutdown(_socket.SHUT_RDWR)
