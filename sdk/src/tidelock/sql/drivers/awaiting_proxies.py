"""Connections of asyncmy and aiosqlite behind which a mode works, used as the driver's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any

from tidelock.sql.drivers.proxies import is_seen, text_of_statement
from tidelock.sql.errors import AutocommitError, StatementRefusedError
from tidelock.sql.interception import (
    BatchCall,
    LocalWork,
    Ran,
    Returned,
    StatementCall,
    execute_batch,
)
from tidelock.sql.placeholders import as_values
from tidelock.sql.session import Session

try:
    import wrapt
except ImportError as missing:
    raise ImportError(
        'connections that take part in transactions need more: pip install "tidelock[sql]"'
    ) from missing


class Opening:
    """What can be awaited, or entered with `async with`: a cursor on its way."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._make = make
        self._made: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._make().__await__()

    async def __aenter__(self) -> Any:
        self._made = await self._make()
        return self._made

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._made.close()


class AwaitingConnection(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A connection whose statements and ends a mode sees."""

    def __init__(self, connection: Any, session: Session, work: LocalWork) -> None:
        super().__init__(connection)
        self._self_session = session
        self._self_work = work

    @property
    def tidelock_work(self) -> LocalWork:
        """What the mode does around this connection."""
        return self._self_work

    async def commit(self) -> None:
        """Commit the local transaction, with what the mode does for it."""
        await self._self_work.commit(self.__wrapped__.commit)

    async def rollback(self) -> None:
        """Roll the local transaction back."""
        await self._self_work.rollback(self.__wrapped__.rollback)

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, *why: Any) -> Any:
        self._self_work.forget()
        return await self.__wrapped__.__aexit__(*why)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "isolation_level":
            # Without one, sqlite3 commits what is under way.
            self._not_within(name)
        super().__setattr__(name, value)

    def _not_within(self, what: str) -> None:
        if self._self_work.is_under_way:
            raise AutocommitError(
                f"{what} would end or change the local transaction behind the back of the global "
                "one; commit or roll it back first"
            )


class AsyncmyConnection(AwaitingConnection):
    """A connection of asyncmy."""

    def cursor(self, *arguments: Any, **options: Any) -> AwaitingCursor:
        """Return a cursor whose statements the mode sees."""
        return AwaitingCursor(self.__wrapped__.cursor(*arguments, **options), self)

    def close(self) -> None:
        """Close the connection at once."""
        self._self_work.forget()
        self.__wrapped__.close()

    async def ensure_closed(self) -> None:
        """Close the connection, and tell the server."""
        self._self_work.forget()
        await self.__wrapped__.ensure_closed()

    async def autocommit(self, value: Any) -> Any:
        """Have each statement committed by itself or not."""
        self._not_within("autocommit()")
        return await self.__wrapped__.autocommit(value)

    async def begin(self) -> Any:
        """Begin a local transaction: what is under way would be committed by it."""
        self._not_within("begin()")
        return await self.__wrapped__.begin()

    async def select_db(self, name: str) -> Any:
        """Choose another database."""
        self._not_within("select_db()")
        return await self.__wrapped__.select_db(name)

    async def prepare(self, text: Any) -> Any:
        """Prepare a statement, outside of global transactions."""
        if is_seen(self._self_work):
            raise StatementRefusedError(
                "prepare() cannot take part in a global transaction: use a cursor",
                text_of_statement(text),
            )
        return await self.__wrapped__.prepare(text)

    async def query(self, text: Any, *arguments: Any, **options: Any) -> Any:
        """Send a statement without a cursor, outside of global transactions."""
        if is_seen(self._self_work):
            raise StatementRefusedError(
                "query() cannot take part in a global transaction: use a cursor",
                text_of_statement(text),
            )
        return await self.__wrapped__.query(text, *arguments, **options)


class AiosqliteConnection(AwaitingConnection):
    """A connection of aiosqlite."""

    def cursor(self) -> Opening:
        """Return a cursor whose statements the mode sees."""

        async def make() -> AwaitingCursor:
            return AwaitingCursor(await self.__wrapped__.cursor(), self)

        return Opening(make)

    def execute(self, text: Any, values: Any = None) -> Opening:
        """Execute a statement on a cursor of its own."""
        return self._executing("execute", text, () if values is None else values)

    def executemany(self, text: Any, rows: Iterable[Any]) -> Opening:
        """Execute a statement for each group of values, on a cursor of its own."""
        return self._executing("executemany", text, rows)

    def executescript(self, script: str) -> Opening:
        """Execute statements at once, outside of global transactions."""
        return self._executing("executescript", script)

    def _executing(self, method: str, *arguments: Any) -> Opening:
        async def make() -> AwaitingCursor:
            cursor = AwaitingCursor(await self.__wrapped__.cursor(), self)
            await getattr(cursor, method)(*arguments)
            return cursor

        return Opening(make)

    async def execute_insert(self, text: Any, values: Any = None) -> Any:
        """Insert a row and return its rowid, in a row."""
        async with self.execute(text, values) as cursor:
            return (cursor.lastrowid,)

    def execute_fetchall(self, text: Any, values: Any = None) -> Opening:
        """Execute a query and return all of its rows."""

        async def make() -> Any:
            async with self.execute(text, values) as cursor:
                return await cursor.fetchall()

        return Opening(make)

    async def close(self) -> None:
        """Close the connection."""
        self._self_work.forget()
        await self.__wrapped__.close()


class AwaitingCursor(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A cursor whose statements a mode sees."""

    def __init__(self, cursor: Any, connection: AwaitingConnection) -> None:
        super().__init__(cursor)
        self._self_connection = connection
        self._self_rows: list[Any] | None = None
        self._self_count: int | None = None

    @property
    def connection(self) -> AwaitingConnection:
        """The connection, as it takes part."""
        return self._self_connection

    async def execute(self, text: Any, values: Any = None) -> Any:
        """Execute a statement."""
        self._self_rows = self._self_count = None
        work = self._self_connection._self_work
        if not is_seen(work):
            return self._own(await self._plain(text, values))
        outcome: list[Any] = []

        async def run() -> Ran:
            outcome[:] = [await self._plain(text, values)]
            cursor = self.__wrapped__
            return Ran(
                row_count=cursor.rowcount,
                generated_key=cursor.lastrowid,
                returned=self._returned if cursor.description else None,
            )

        call = StatementCall(text=text_of_statement(text), values=as_values(values), run=run)
        await work.execute(call)
        return self._own(outcome[0]) if outcome else self

    async def _plain(self, text: Any, values: Any) -> Any:
        if values is None:
            return await self.__wrapped__.execute(text)
        return await self.__wrapped__.execute(text, values)

    def _own(self, done: Any) -> Any:
        return self if done is self.__wrapped__ else done

    async def _returned(self) -> Returned:
        columns = tuple(column[0] for column in self.__wrapped__.description)
        if self._self_rows is None:
            self._self_rows = list(await self.__wrapped__.fetchall())
        rows = [
            [row[name] for name in columns] if isinstance(row, dict) else list(row)
            for row in self._self_rows
        ]
        return Returned(columns, rows)

    async def executemany(self, text: Any, rows: Iterable[Any]) -> Any:
        """Execute a statement for each of several groups of values."""
        self._self_rows = self._self_count = None
        if not is_seen(self._self_connection._self_work):
            return self._own(await self.__wrapped__.executemany(text, rows))
        cursor = self.__wrapped__
        counts: list[int] = []

        async def run(groups: Sequence[Any]) -> Ran:
            await cursor.executemany(text, groups)
            counts.append(cursor.rowcount)
            return Ran(row_count=cursor.rowcount)

        def one(group: Any) -> StatementCall:
            async def run_one() -> Ran:
                await self._plain(text, group)
                counts.append(cursor.rowcount)
                return Ran(
                    row_count=cursor.rowcount,
                    generated_key=cursor.lastrowid,
                    returned=self._returned if cursor.description else None,
                )

            self._self_rows = None
            return StatementCall(text=text_of_statement(text), values=as_values(group), run=run_one)

        batch = BatchCall(text=text_of_statement(text), groups=list(rows), run=run, one=one)
        await execute_batch(self._self_connection._self_work, batch)
        count = sum(max(0, each) for each in counts)
        self._self_count = count
        return self if hasattr(self.__wrapped__, "executescript") else count

    async def executescript(self, script: str) -> Any:
        """Execute statements at once, outside of global transactions."""
        if is_seen(self._self_connection._self_work):
            raise StatementRefusedError(
                "executescript() cannot take part in a global transaction: execute the statements "
                "one by one",
                script,
            )
        return self._own(await self.__wrapped__.executescript(script))

    async def callproc(self, name: str, *arguments: Any) -> Any:
        """Call a procedure, outside of global transactions."""
        if is_seen(self._self_connection._self_work):
            raise StatementRefusedError(
                "callproc() cannot take part in a global transaction: what a procedure changes is "
                "not seen",
                name,
            )
        return await self.__wrapped__.callproc(name, *arguments)

    @property
    def rowcount(self) -> int:
        """Rows of the last statement, or of all that executemany has executed."""
        count: int = self.__wrapped__.rowcount if self._self_count is None else self._self_count
        return count

    async def fetchone(self) -> Any:
        """Return the next row."""
        if self._self_rows is None:
            return await self.__wrapped__.fetchone()
        return self._self_rows.pop(0) if self._self_rows else None

    async def fetchmany(self, size: int | None = None) -> Any:
        """Return the next rows."""
        if self._self_rows is None:
            return await self.__wrapped__.fetchmany(size)
        size = size or self.__wrapped__.arraysize
        taken, self._self_rows = self._self_rows[:size], self._self_rows[size:]
        return taken

    async def fetchall(self) -> Any:
        """Return the rows that are left."""
        if self._self_rows is None:
            return await self.__wrapped__.fetchall()
        taken, self._self_rows = self._self_rows, []
        return taken

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (row := await self.fetchone()) is not None:
            yield row

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, *why: Any) -> Any:
        return await self.__wrapped__.__aexit__(*why)


def wrap(connection: Any, session: Session, work: LocalWork) -> Any:
    """Return a connection of an asynchronous driver as one that takes part."""
    module = type(connection).__module__.partition(".")[0]
    if module == "asyncpg":
        from tidelock.sql.drivers.asyncpg_proxies import AsyncpgConnection  # noqa: PLC0415

        return AsyncpgConnection(connection, session, work)
    if module == "aiosqlite":
        return AiosqliteConnection(connection, session, work)
    return AsyncmyConnection(connection, session, work)
