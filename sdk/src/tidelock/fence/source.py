"""A database in which steps, and what keeps and undoes them, do their work, next to the fence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from tidelock.fence.errors import FenceError
from tidelock.fence.fence_table import DEFAULT_TABLE, FenceTable
from tidelock.sql.databases import Database
from tidelock.sql.drivers import session_of
from tidelock.sql.session import Session


class FencedDataSource:
    """Gives functions their connections, with the table `tidelock_fence` beside.

    The table must be there: `fence_ddl` is the statement that makes it. One source may serve many
    actions, all of which are `def` (with PyMySQL, psycopg, sqlite3) or `async def` (with asyncmy,
    asyncpg, aiosqlite).
    """

    def __init__(
        self,
        connect: Callable[[], Any] | Callable[[], Awaitable[Any]],
        *,
        table: str = DEFAULT_TABLE,
    ) -> None:
        """Use the database to which `connect` makes, or awaits, new connections.

        `table` may have its schema before it.
        """
        self._connect = connect
        self._table: Final = table
        self._blocking: bool | None = None
        self._database: Database | None = None
        self._given: ContextVar[Any] = ContextVar("tidelock-fence-connection", default=None)

    @contextmanager
    def on(self, connection: Any) -> Iterator[None]:
        """Have the steps that are called in the block use a connection of yours.

        No transaction may be under way on it: each step is one by itself. What keeps or undoes
        them is done by the coordinator's word at another time, with connections from `connect`.
        """
        token = self._given.set(connection)
        try:
            yield
        finally:
            self._given.reset(token)

    def close(self) -> None:
        """Close the connections that are kept. They are opened again when they are needed."""
        if self._database is not None:
            self._database.close()

    def serve(self, *, blocking: bool) -> None:
        """Say whether the functions are `def`.

        Raises:
            TypeError: others are of the other kind.
        """
        if self._blocking is None:
            self._blocking = blocking
            self._database = Database(self._connect, blocking=blocking)
        if self._blocking is not blocking:
            raise TypeError(
                "the functions of one data source are either all `def` or all `async def`, as its "
                "driver is: make another one for the others"
            )

    @property
    def blocking(self) -> bool:
        """Whether the functions are `def`."""
        return self._blocking is not False

    @property
    def database(self) -> Database:
        """Connections of its own."""
        assert self._database is not None, "no action was made with it"
        return self._database

    def given(self) -> Session | None:
        """Return the connection that the caller wants to be used."""
        connection = self._given.get()
        return None if connection is None else session_of(connection)

    def table(self, session: Session) -> FenceTable:
        """Return the table in the language of a session."""
        return FenceTable(session.dialect, self._table)


async def begin(session: Session) -> None:
    """Begin a local transaction. Raises: FenceError: the connection does not do."""
    if session.in_transaction:
        raise FenceError(
            "a local transaction is under way on the connection already: commit it first, since "
            "the fence and the work are one of their own"
        )
    await session.begin()
    if session.autocommits:
        await session.rollback()
        raise FenceError(
            "the connection commits each statement by itself, so the fence and the work would not "
            "be one: turn autocommit off"
        )


async def check_open(session: Session) -> None:
    """See that a local transaction can still be committed with all that was done in it.

    Raises:
        FenceError: somebody has ended it.
        What the driver raises: an error in it was passed over.
    """
    if not session.in_transaction:
        raise FenceError(
            "the local transaction was committed or rolled back by the function itself; leave that "
            "to the fence"
        )
    if session.dialect.name == "postgresql":
        # After an error, PostgreSQL answers COMMIT with a rollback, and says so to nobody.
        await session.execute("SELECT 1")
