"""Pools of asyncpg, asyncmy and psycopg_pool whose connections a mode sees.

A pool keeps the driver's own connections; they are wrapped as they are lent, and unwrapped as they
come back. What a borrower left undecided is rolled back by the pool, as ever: nobody was told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tidelock.sql.errors import DatabaseUnsuitableError

try:
    import wrapt
except ImportError as missing:
    raise ImportError(
        'pools that take part in transactions need more: pip install "tidelock[sql]"'
    ) from missing

Wrap = Callable[[Any], Any]
Awrap = Callable[[Any], Awaitable[Any]]


def wrap_pool(pool: Any, wrap: Wrap, awrap: Awrap) -> Any:
    """Return a pool as one whose connections take part.

    `wrap` makes of a blocking driver's connection one that takes part, `awrap` of an asynchronous
    one.

    Raises:
        DatabaseUnsuitableError: it is no pool of those that are known.
    """
    for kind in type(pool).__mro__:
        match kind.__module__.partition(".")[0], kind.__name__:
            case "asyncpg", "Pool":
                return AsyncpgPool(pool, awrap)
            case "asyncmy", "Pool":
                return AwaitingPool(pool, awrap)
            case "psycopg_pool", "ConnectionPool":
                return PsycopgPool(pool, wrap)
            case "asyncmy", "_PoolContextManager":
                raise DatabaseUnsuitableError("await asyncmy.create_pool(...), then wrap the pool")
            case "psycopg_pool", "AsyncConnectionPool":
                raise DatabaseUnsuitableError(
                    "psycopg's AsyncConnectionPool is not supported: use asyncpg where the code "
                    "awaits, or psycopg_pool.ConnectionPool"
                )
            case "sqlalchemy", "Pool":
                raise DatabaseUnsuitableError(
                    "give an engine of SQLAlchemy to of_engine(), or the pool source.connect as "
                    "what it makes connections with"
                )
    raise DatabaseUnsuitableError(
        f"{type(pool).__module__}.{type(pool).__name__} is no pool of asyncpg, asyncmy or "
        "psycopg_pool; let it lend what source.wrap(connection) returns, or make its connections "
        "with source.connect"
    )


def _own(connection: Any) -> Any:
    """Return what the pool has lent, of a connection that takes part."""
    return connection.__wrapped__ if isinstance(connection, wrapt.ObjectProxy) else connection


class Lending:
    """What can be awaited, or entered with `async with`: a connection on loan."""

    def __init__(self, pool: AwaitingPool, take: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._pool = pool
        self._take = take
        self._lent: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._take().__await__()

    async def __aenter__(self) -> Any:
        self._lent = await self._take()
        return self._lent

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lent, self._lent = self._lent, None
        await self._pool.release(lent)


class AwaitingPool(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A pool of asyncmy; what is not said here is the driver's."""

    def __init__(self, pool: Any, wrap: Awrap) -> None:
        super().__init__(pool)
        self._self_wrap = wrap

    def acquire(self, **options: Any) -> Lending:
        """Lend a connection that takes part, as the driver's pool does."""

        async def take() -> Any:
            lent = await self.__wrapped__.acquire(**options)
            try:
                return await self._self_wrap(lent)
            except BaseException:
                await self.__wrapped__.release(lent)
                raise

        return Lending(self, take)

    async def release(self, connection: Any, **options: Any) -> None:
        """Take a connection back."""
        await self.__wrapped__.release(_own(connection), **options)

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, *why: Any) -> Any:
        return await self.__wrapped__.__aexit__(*why)


def _by_a_connection(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a method of a pool that does what a connection of it does."""

    async def method(self: AwaitingPool, *arguments: Any, **options: Any) -> Any:
        async with self.acquire() as connection:
            return await getattr(connection, name)(*arguments, **options)

    method.__name__ = name
    method.__doc__ = f"As `{name}` of a connection, on one that is lent for it."
    return method


class AsyncpgPool(AwaitingPool):
    """A pool of asyncpg. Its short cuts commit each statement by itself, which global transactions
    refuse: there it takes `acquire()` and `connection.transaction()`.
    """

    execute = _by_a_connection("execute")
    executemany = _by_a_connection("executemany")
    fetch = _by_a_connection("fetch")
    fetchrow = _by_a_connection("fetchrow")
    fetchval = _by_a_connection("fetchval")
    fetchmany = _by_a_connection("fetchmany")
    copy_from_table = _by_a_connection("copy_from_table")
    copy_from_query = _by_a_connection("copy_from_query")
    copy_to_table = _by_a_connection("copy_to_table")
    copy_records_to_table = _by_a_connection("copy_records_to_table")

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self.__wrapped__.__await__()
        return self


class PsycopgPool(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A pool of psycopg_pool; what is not said here is its own."""

    def __init__(self, pool: Any, wrap: Wrap) -> None:
        super().__init__(pool)
        self._self_wrap = wrap

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[Any]:
        """Lend a connection that takes part: committed at the end, rolled back by an exception."""
        connection = self.getconn(timeout)
        try:
            with connection:
                yield connection
        finally:
            self.putconn(connection)

    def getconn(self, timeout: float | None = None) -> Any:
        """Lend a connection that takes part, until it is given to `putconn`."""
        lent = self.__wrapped__.getconn(timeout)
        try:
            return self._self_wrap(lent)
        except BaseException:
            self.__wrapped__.putconn(lent)
            raise

    def putconn(self, connection: Any) -> None:
        """Take a connection back."""
        self.__wrapped__.putconn(_own(connection))

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *why: Any) -> Any:
        return self.__wrapped__.__exit__(*why)
