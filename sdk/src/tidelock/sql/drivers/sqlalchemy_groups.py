"""Engines of SQLAlchemy 2 of which a mode holds connections for whole groups.

An engine's pool goes on as ever; its connections are switched (`tidelock.sql.drivers.switching`).
Those for groups come from a second pool of the same kind, so that they are set up as the engine's
own: by its dialect, its `creator` and its listeners.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tidelock.sql.dialects import Dialect
from tidelock.sql.drivers import session_of
from tidelock.sql.drivers.sqlalchemy_hooks import AdaptedSession
from tidelock.sql.drivers.switching import Elsewhere, SwitchingConnection
from tidelock.sql.placeholders import Style
from tidelock.sql.session import Result, Session

try:
    from sqlalchemy import Engine, event
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import PoolProxiedConnection, QueuePool
    from sqlalchemy.util import await_only, greenlet_spawn
except ImportError as missing:
    raise ImportError(
        'engines that take part in transactions need more: pip install "tidelock[sqlalchemy]"'
    ) from missing

T = TypeVar("T")


class GroupConnection:
    """A connection for a group, from the second pool."""

    def __init__(self, lent: PoolProxiedConnection, *, blocking: bool) -> None:
        self._lent = lent
        self.connection: Any = lent.dbapi_connection
        """As the engine's dialect wants it."""
        self.awaited: Session | None = None if blocking else _awaited(self.connection)
        """For who awaits, on the loop of `loop`."""
        self.loop = None if blocking else asyncio.get_running_loop()
        self.session: Session = (
            session_of(self.connection) if self.awaited is None else _InGreenlet(self.awaited)
        )
        """For who blocks; of an async engine, within its greenlet."""

    async def let_go(self) -> None:
        """Give it back to its pool; one whose transaction has not ended is closed."""
        self._let_go()

    async def let_go_awaited(self) -> None:
        """As `let_go`, of an async engine, on the loop of the connection."""
        await greenlet_spawn(self._let_go)

    def _let_go(self) -> None:
        if self.session.in_transaction:
            self._lent.invalidate()
        self._lent.close()


def install(
    engine: Engine | AsyncEngine, elsewhere: Callable[[], Elsewhere], *, blocking: bool
) -> Callable[[], GroupConnection]:
    """Have the statements of an engine's connections go elsewhere, each as its own `elsewhere()`
    says. Returns what lends a connection for a group, in the unit's own thread or greenlet.
    """
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    make = sync.pool._invoke_creator
    groups = sync.pool.recreate()
    if isinstance(groups, QueuePool):
        # How many there may be, the mode says.
        groups._max_overflow = -1

    def connect(record: Any) -> Any:
        connection = make(record)
        try:
            session = session_of(connection) if blocking else AdaptedSession(connection)
        except BaseException:
            connection.close()
            raise
        # Its pool first sets it up, and later asks whether it lives.
        return SwitchingConnection(connection, session, elsewhere(), is_lent=False)

    connect.tidelock_source = elsewhere  # type: ignore[attr-defined]  # so that it is known again
    sync.pool.dispose()
    pool = sync.pool.recreate()
    pool._creator = connect  # type: ignore[assignment]  # as the one of a dialect
    sync.pool = pool

    def lent(connection: Any, *_: Any) -> None:
        connection.tidelock_lend(is_lent=True)

    def given_back(connection: Any, *_: Any) -> None:
        if connection is not None:
            connection.tidelock_lend(is_lent=False)

    set_level = sync.dialect.set_isolation_level

    def set_level_of_own(connection: Any, level: Any) -> None:
        # It sends statements; what they say is the framework's connection's own.
        own = isinstance(connection, SwitchingConnection)
        set_level(connection.__wrapped__ if own else connection, level)

    vars(sync.dialect)["set_isolation_level"] = set_level_of_own
    event.listen(pool, "checkout", lent)
    event.listen(pool, "checkin", given_back)
    event.listen(sync, "engine_disposed", lambda _: groups.dispose())
    return lambda: GroupConnection(groups.connect(), blocking=blocking)


class _Over:
    """A session that stands for another one."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def dialect(self) -> Dialect:
        return self._session.dialect

    @property
    def connection(self) -> Any:
        return self._session.connection

    @property
    def style(self) -> Style:
        return self._session.style

    @property
    def autocommits(self) -> bool:
        return self._session.autocommits

    @property
    def in_transaction(self) -> bool:
        return self._session.in_transaction

    @property
    def counts_found_rows(self) -> bool:
        return self._session.counts_found_rows

    async def execute(self, text: str, values: Sequence[Any] = ()) -> Result:
        return await self._done(self._session.execute(text, values))

    async def describe(self, text: str) -> tuple[str, ...]:
        return await self._done(self._session.describe(text))

    async def begin(self) -> None:
        await self._done(self._session.begin())

    async def commit(self) -> None:
        await self._done(self._session.commit())

    async def rollback(self) -> None:
        await self._done(self._session.rollback())

    async def close(self) -> None:
        await self._done(self._session.close())

    async def _done(self, step: Coroutine[Any, Any, T]) -> T:
        return await step


class _InGreenlet(_Over):
    """A session that is awaited, for code within a greenlet: it never waits as a coroutine."""

    async def _done(self, step: Coroutine[Any, Any, T]) -> T:
        return await_only(step)


class _AdaptedAsyncpg(_Over):
    """A connection of asyncpg whose local transaction SQLAlchemy's adapter has to know."""

    def __init__(self, adapted: Any) -> None:
        super().__init__(session_of(adapted.driver_connection))
        self._adapted = adapted

    async def begin(self) -> None:
        if self._adapted.isolation_level == "autocommit":
            await super().begin()
        else:
            await self._adapted._start_transaction()

    async def commit(self) -> None:
        if self._adapted._transaction is None:
            await super().commit()
        else:
            await greenlet_spawn(self._adapted.commit)

    async def rollback(self) -> None:
        if self._adapted._transaction is None:
            await super().rollback()
        else:
            await greenlet_spawn(self._adapted.rollback)


def _awaited(adapted: Any) -> Session:
    driver = adapted.driver_connection
    if type(driver).__module__.partition(".")[0] == "asyncpg":
        return _AdaptedAsyncpg(adapted)
    return session_of(driver)
