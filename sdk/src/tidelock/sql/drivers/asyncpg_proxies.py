"""Connections of asyncpg behind which a mode works, used as the driver's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, NoReturn

from tidelock.sql.drivers.asyncpg_sessions import count_of
from tidelock.sql.drivers.proxies import is_seen
from tidelock.sql.errors import StatementRefusedError
from tidelock.sql.interception import (
    BatchCall,
    LocalWork,
    Ran,
    Returned,
    StatementCall,
    execute_batch,
)
from tidelock.sql.placeholders import Style
from tidelock.sql.reading import understand
from tidelock.sql.session import Session
from tidelock.sql.statements import Kind

try:
    import wrapt
except ImportError as missing:
    raise ImportError(
        'connections that take part in transactions need more: pip install "tidelock[sql]"'
    ) from missing

_CHANGING = {Kind.INSERT: "INSERT 0", Kind.UPDATE: "UPDATE", Kind.DELETE: "DELETE"}


class AsyncpgConnection(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A connection of asyncpg whose statements and ends a mode sees."""

    def __init__(self, connection: Any, session: Session, work: LocalWork) -> None:
        super().__init__(connection)
        self._self_session = session
        self._self_work = work
        self._self_savepoints = 0

    @property
    def tidelock_work(self) -> LocalWork:
        """What the mode does around this connection."""
        return self._self_work

    async def execute(self, text: str, *values: Any, timeout: float | None = None) -> str:
        """Execute a statement; return what PostgreSQL says of it."""
        if not is_seen(self._self_work):
            status: str = await self.__wrapped__.execute(text, *values, timeout=timeout)
            return status
        status, _ = await self._seen(text, values, timeout=timeout)
        return status

    async def fetch(
        self, text: str, *values: Any, timeout: float | None = None, record_class: Any = None
    ) -> list[Any]:
        """Execute a statement; return all of its rows."""
        if not is_seen(self._self_work):
            found: list[Any] = await self.__wrapped__.fetch(
                text, *values, timeout=timeout, record_class=record_class
            )
            return found
        _, records = await self._seen(text, values, timeout=timeout, record_class=record_class)
        return records

    async def fetchrow(
        self, text: str, *values: Any, timeout: float | None = None, record_class: Any = None
    ) -> Any:
        """Execute a statement; return its first row."""
        if not is_seen(self._self_work):
            return await self.__wrapped__.fetchrow(
                text, *values, timeout=timeout, record_class=record_class
            )
        records = await self.fetch(text, *values, timeout=timeout, record_class=record_class)
        return records[0] if records else None

    async def fetchval(
        self, text: str, *values: Any, column: int = 0, timeout: float | None = None
    ) -> Any:
        """Execute a statement; return one value of its first row."""
        row = await self.fetchrow(text, *values, timeout=timeout)
        return None if row is None else row[column]

    async def executemany(
        self, text: str, rows: Iterable[Any], *, timeout: float | None = None
    ) -> None:
        """Execute a statement for each of several groups of values."""
        if not is_seen(self._self_work):
            await self.__wrapped__.executemany(text, rows, timeout=timeout)
            return

        async def run(groups: Sequence[Any]) -> Ran:
            # Of many at once, asyncpg does not tell how many rows there were.
            return Ran(row_count=sum([(await one(each).run()).row_count for each in groups]))

        def one(group: Any) -> StatementCall:
            async def run_one() -> Ran:
                status, _ = await self._run(text, tuple(group), timeout=timeout)
                return Ran(row_count=count_of(status))

            return StatementCall(text=text, values=tuple(group), run=run_one)

        batch = BatchCall(text=text, groups=list(rows), run=run, one=one)
        await execute_batch(self._self_work, batch)

    async def fetchmany(self, text: str, rows: Iterable[Any], **options: Any) -> list[Any]:
        """Execute a statement for each of several groups of values; return all rows."""
        if not is_seen(self._self_work):
            found: list[Any] = await self.__wrapped__.fetchmany(text, rows, **options)
            return found
        return [record for values in rows for record in await self.fetch(text, *values)]

    async def _seen(
        self, text: str, values: tuple[Any, ...], **options: Any
    ) -> tuple[str, list[Any]]:
        """Have a statement run as the mode wants it; return its status and its rows."""
        outcome: list[tuple[str, list[Any]]] = []

        async def run() -> Ran:
            status, records = await self._run(text, values, **options)
            outcome[:] = [(status, records)]

            async def returned() -> Returned:
                columns = tuple(records[0].keys()) if records else ()
                return Returned(columns, records)

            return Ran(row_count=count_of(status), returned=returned)

        await self._self_work.execute(StatementCall(text=text, values=values, run=run))
        return outcome[0] if outcome else ("", [])

    async def _run(
        self,
        text: str,
        values: tuple[Any, ...],
        *,
        timeout: float | None = None,
        record_class: Any = None,
    ) -> tuple[str, list[Any]]:
        """Run a statement: asyncpg returns either its rows or how many there were."""
        connection = self.__wrapped__
        try:
            read = understand(
                self._self_session.dialect, text, Style.NUMERIC_DOLLAR, has_values=bool(values)
            )
        except StatementRefusedError:
            return await connection.execute(text, *values, timeout=timeout), []
        word = _CHANGING.get(read.kind)
        if word is None and read.kind not in {Kind.READ, Kind.READ_LOCKING}:
            return await connection.execute(text, *values, timeout=timeout), []
        if word is not None and read.returning is None:
            return await connection.execute(text, *values, timeout=timeout), []
        records = await connection.fetch(text, *values, timeout=timeout, record_class=record_class)
        return f"{word or 'SELECT'} {len(records)}", records

    def transaction(self, **options: Any) -> AsyncpgBlock:
        """Return a block that is a local transaction, or a savepoint within one."""
        return AsyncpgBlock(self, options)

    def cursor(self, text: str, *values: Any, **options: Any) -> Any:
        """Read rows as they come: SELECT without FOR UPDATE."""
        self._only_reading(text, values, "cursor()")
        return self.__wrapped__.cursor(text, *values, **options)

    async def prepare(self, text: str, **options: Any) -> Any:
        """Prepare a query that reads."""
        self._only_reading(text, None, "prepare()")
        return await self.__wrapped__.prepare(text, **options)

    def _only_reading(self, text: str, values: Any, method: str) -> None:
        if not is_seen(self._self_work):
            return
        read = understand(self._self_session.dialect, text, Style.NUMERIC_DOLLAR)
        if read.kind is not Kind.READ:
            self._refuse(method, "use execute() or fetch()", text)

    @staticmethod
    def _refuse(method: str, instead: str, text: str) -> NoReturn:
        raise StatementRefusedError(
            f"{method} cannot take part in a global transaction: {instead}", text
        )

    async def copy_records_to_table(self, table: str, **options: Any) -> Any:
        """Copy rows, outside of global transactions."""
        if is_seen(self._self_work):
            self._refuse("copy_records_to_table()", "insert the rows with executemany()", table)
        return await self.__wrapped__.copy_records_to_table(table, **options)

    async def copy_to_table(self, table: str, **options: Any) -> Any:
        """Copy rows, outside of global transactions."""
        if is_seen(self._self_work):
            self._refuse("copy_to_table()", "insert the rows with executemany()", table)
        return await self.__wrapped__.copy_to_table(table, **options)

    async def close(self, **options: Any) -> None:
        """Close the connection."""
        self._self_work.forget()
        await self.__wrapped__.close(**options)

    def terminate(self) -> None:
        """Close the connection at once."""
        self._self_work.forget()
        self.__wrapped__.terminate()

    async def reset(self, **options: Any) -> None:
        """Make the connection as new; what is under way is rolled back."""
        self._self_work.forget()
        await self.__wrapped__.reset(**options)


class AsyncpgBlock:
    """A local transaction, or a savepoint within one. See `asyncpg.transaction.Transaction`."""

    def __init__(self, connection: AsyncpgConnection, options: dict[str, Any]) -> None:
        self._connection = connection
        self._options = options
        self._outermost: Any = None
        self._savepoint = ""

    async def start(self) -> None:
        """Begin."""
        connection = self._connection
        if connection.__wrapped__.is_in_transaction():
            connection._self_savepoints += 1
            self._savepoint = f"tidelock_{connection._self_savepoints}"
            await connection.execute(f"SAVEPOINT {self._savepoint}")
            return
        self._outermost = connection.__wrapped__.transaction(**self._options)
        await self._outermost.start()

    async def commit(self) -> None:
        """Commit, with what the mode does for it."""
        if self._outermost is None:
            await self._connection.execute(f"RELEASE SAVEPOINT {self._savepoint}")
            return
        try:
            await self._connection._self_work.commit(self._outermost.commit)
        except BaseException:
            # It was rolled back; asyncpg is still to be told that its block has ended.
            with contextlib.suppress(Exception):
                await self._outermost.rollback()
            raise

    async def rollback(self) -> None:
        """Roll back."""
        if self._outermost is None:
            await self._connection.execute(f"ROLLBACK TO SAVEPOINT {self._savepoint}")
            return
        await self._connection._self_work.rollback(self._outermost.rollback)

    async def __aenter__(self) -> AsyncpgBlock:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.commit()
        else:
            await self.rollback()
