"""Engines of SQLAlchemy 2, sync and async, whose connections a mode sees.

What an engine's pool makes is replaced by proxies of PEP 249, so that everything that SQLAlchemy
sends passes there in its last form: executemany, insertmanyvalues, savepoints, two connections of
one engine. An async engine shows its driver's connections as blocking ones, within a greenlet; the
coordinator is asked in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from tidelock.application import Application
from tidelock.calls import Calls, Work
from tidelock.client import BlockingClient
from tidelock.driving import drive
from tidelock.sql.dialects import MYSQL, POSTGRESQL, SQLITE, Dialect
from tidelock.sql.drivers import session_of
from tidelock.sql.drivers.blocking import BlockingSession
from tidelock.sql.drivers.proxies import ProxiedConnection
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.interception import LocalWork
from tidelock.sql.placeholders import Style
from tidelock.sql.session import Session

try:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.util import await_only, greenlet_spawn
except ImportError as missing:
    raise ImportError(
        'engines that take part in transactions need more: pip install "tidelock[sqlalchemy]"'
    ) from missing

T = TypeVar("T")


class InGreenlets:
    """Calls from within the greenlet of an async engine: other tasks of its loop go on."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    async def __call__(self, work: Work[T]) -> T:
        # It never waits as a coroutine: the greenlet around it does.
        value: T = await_only(asyncio.wrap_future(self._client.submit(work)))
        return value


class Source(Protocol):
    """A mode's data source, as far as engines need one."""

    @property
    def application(self) -> Application:
        """The application whose resource it is."""
        ...

    async def work(self, session: Session, calls: Calls, *, blocking: bool) -> LocalWork:
        """Return what the mode does around one connection."""
        ...


def opener(engine: Engine | AsyncEngine) -> tuple[Callable[[], Any], bool]:
    """Return what opens a connection as an engine's pool does, and whether that blocks. That of an
    async engine belongs to the loop on which it is awaited.
    """
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    make = sync.pool._invoke_creator
    if hasattr(make, "tidelock_source"):
        raise DatabaseUnsuitableError("the engine takes part already: call of_engine() once for it")

    def connect() -> Any:
        # Outside of the pool there is no record of it.
        return make(cast("Any", None))

    if not sync.dialect.is_async:
        return connect, True

    async def connect_here() -> Any:
        adapted = await greenlet_spawn(connect)
        return adapted.driver_connection

    return connect_here, False


def install(engine: Engine | AsyncEngine, source: Source, *, blocking: bool) -> None:
    """Have an engine's connections take part. Those that its pool has already are let go of."""
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    make = sync.pool._invoke_creator

    def connect(record: Any) -> Any:
        connection = make(record)
        try:
            session = session_of(connection) if blocking else AdaptedSession(connection)
            application = source.application
            calls = application.blocking if blocking else InGreenlets(application.client)
            work = drive(source.work(session, calls, blocking=blocking))
        except BaseException:
            connection.close()
            raise
        return ProxiedConnection(connection, session, work)

    connect.tidelock_source = source  # type: ignore[attr-defined]  # so that it is known again
    sync.pool.dispose()
    pool = sync.pool.recreate()
    # Whatever makes the connections, `creator` and listeners to `do_connect` included.
    pool._creator = cast("Any", connect)
    sync.pool = pool


_DIALECTS: dict[str, tuple[Dialect, Style]] = {
    "asyncmy": (MYSQL, Style.FORMAT),
    "asyncpg": (POSTGRESQL, Style.NUMERIC_DOLLAR),
    "aiosqlite": (SQLITE, Style.QMARK),
}


class AdaptedSession(BlockingSession):
    """A connection of an async engine, as it looks from within its greenlet: blocking."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._driver = connection.driver_connection
        module = type(self._driver).__module__.partition(".")[0]
        known = _DIALECTS.get(module)
        if known is None:
            raise DatabaseUnsuitableError(
                f"{module} is none of the drivers that are known: {', '.join(_DIALECTS)}"
            )
        self.dialect, self.style = known
        self._inner = session_of(self._driver)

    @property
    def in_transaction(self) -> bool:
        """As the driver knows."""
        return self._inner.in_transaction

    @property
    def autocommits(self) -> bool:
        """As SQLAlchemy has set it: of asyncpg it begins transactions by itself."""
        if self.dialect.name == "postgresql":
            return str(self._connection.isolation_level).lower() == "autocommit"
        return self._inner.autocommits

    @property
    def counts_found_rows(self) -> bool:
        """As the driver does."""
        return self._inner.counts_found_rows

    async def describe(self, text: str) -> tuple[str, ...]:
        """Return the names of the columns that a query returns."""
        if self.dialect.name == "postgresql":
            prepared = await_only(self._driver.prepare(text))
            return tuple(attribute.name for attribute in prepared.get_attributes())
        return await super().describe(text)

    async def begin(self) -> None:
        """Begin a local transaction; on SQLite one that keeps other writers out."""
        if self.dialect.name == "sqlite":
            await_only(self._inner.begin())
