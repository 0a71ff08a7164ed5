"""Connections of PEP 249 behind which a mode works, and which are used as the driver's own.

What is not said here is the driver's: attributes, methods, `isinstance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from tidelock.driving import drive
from tidelock.sql.errors import AutocommitError, StatementRefusedError
from tidelock.sql.interception import (
    BatchCall,
    LocalWork,
    Ran,
    Returned,
    StatementCall,
    execute_batch,
)
from tidelock.sql.placeholders import Style, as_values
from tidelock.sql.session import Session
from tidelock.transaction.context import current

try:
    import wrapt
except ImportError as missing:
    raise ImportError(
        'connections that take part in transactions need more: pip install "tidelock[sql]"'
    ) from missing


class ProxiedConnection(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A connection whose statements and ends a mode sees."""

    def __init__(self, connection: Any, session: Session, work: LocalWork) -> None:
        super().__init__(connection)
        self._self_session = session
        self._self_work = work
        self._self_blocks = 0

    @property
    def tidelock_work(self) -> LocalWork:
        """What the mode does around this connection."""
        return self._self_work

    def cursor(self, *arguments: Any, **options: Any) -> ProxiedCursor:
        """Return a cursor whose statements the mode sees."""
        return ProxiedCursor(self.__wrapped__.cursor(*arguments, **options), self)

    def commit(self) -> None:
        """Commit the local transaction, with what the mode does for it."""

        async def commit() -> None:
            self.__wrapped__.commit()

        drive(self._self_work.commit(commit))

    def rollback(self) -> None:
        """Roll the local transaction back."""

        async def rollback() -> None:
            self.__wrapped__.rollback()

        drive(self._self_work.rollback(rollback))

    def close(self) -> None:
        """Close the connection; what was not committed is rolled back by the database."""
        self._self_work.forget()
        self.__wrapped__.close()

    def execute(self, *arguments: Any, **options: Any) -> Any:
        """As `cursor().execute`, of psycopg and sqlite3."""
        return self.cursor().execute(*arguments, **options)

    def executemany(self, *arguments: Any, **options: Any) -> Any:
        """As `cursor().executemany`, of sqlite3."""
        return self.cursor().executemany(*arguments, **options)

    def executescript(self, script: str) -> Any:
        """As `cursor().executescript`, of sqlite3."""
        return self.cursor().executescript(script)

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any:
        """End as the driver does, with commits and rollbacks that the mode sees."""
        module = type(self.__wrapped__).__module__.partition(".")[0]
        try:
            if module in {"psycopg", "sqlite3"}:
                if error is None:
                    self.commit()
                else:
                    self.rollback()
        finally:
            # One that a pool of psycopg has lent goes back to it.
            if module != "sqlite3" and getattr(self.__wrapped__, "_pool", None) is None:
                self.close()

    # Other ways in which a local transaction ends, or statements are sent

    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Any:
        """Return a block that is a local transaction, or a savepoint within one, of psycopg."""
        from tidelock.sql.drivers.psycopg_blocks import Block  # noqa: PLC0415 (needs psycopg)

        return Block(self, savepoint_name, force_rollback)

    def begin(self) -> Any:
        """Begin a local transaction, of PyMySQL: what is under way would be committed by it."""
        self._not_within("begin()")
        return self.__wrapped__.begin()

    def select_db(self, name: str) -> Any:
        """Choose another database, of PyMySQL."""
        self._not_within("select_db()")
        return self.__wrapped__.select_db(name)

    @property
    def autocommit(self) -> Any:
        """What the driver has under this name: of PyMySQL a method, of others whether each
        statement is committed by itself.
        """
        its = self.__wrapped__.autocommit
        if not callable(its):
            return its

        def change(value: Any) -> Any:
            self._not_within("autocommit()")
            return its(value)

        return change

    def query(self, text: Any, *arguments: Any, **options: Any) -> Any:
        """Send a statement without a cursor, of PyMySQL, outside of global transactions."""
        if is_seen(self._self_work):
            raise StatementRefusedError(
                "query() cannot take part in a global transaction: use a cursor",
                text_of_statement(text),
            )
        return self.__wrapped__.query(text, *arguments, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"autocommit", "isolation_level"}:
            self._not_within(name)
            if name == "autocommit":
                # It is a property here.
                setattr(self.__wrapped__, name, value)
                return
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("tpc_") and is_seen(self._self_work):
            raise StatementRefusedError(
                f"{name}() cannot take part in a global transaction of AT: use the XA mode", name
            )
        if name in {"blobopen", "deserialize"} and is_seen(self._self_work):
            raise StatementRefusedError(
                f"{name}() cannot take part in a global transaction: use UPDATE", name
            )
        return super().__getattr__(name)

    def _not_within(self, what: str) -> None:
        if self._self_work.is_under_way:
            raise AutocommitError(
                f"{what} would end or change the local transaction behind the back of the global "
                "one; commit or roll it back first"
            )


class ProxiedCursor(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A cursor whose statements a mode sees."""

    def __init__(self, cursor: Any, connection: ProxiedConnection) -> None:
        super().__init__(cursor)
        self._self_connection = connection
        self._self_rows: list[Any] | None = None
        self._self_count: int | None = None

    @property
    def connection(self) -> ProxiedConnection:
        """The connection, as it takes part."""
        return self._self_connection

    def execute(self, text: Any, values: Any = None, *arguments: Any, **options: Any) -> Any:
        """Execute a statement."""
        self._self_rows = self._self_count = None
        work = self._self_connection._self_work
        if not is_seen(work):
            return self._plain(text, values, arguments, options)
        outcome: list[Any] = []

        async def run() -> Ran:
            outcome[:] = [self._plain(text, values, arguments, options)]
            cursor = self.__wrapped__
            return Ran(
                row_count=cursor.rowcount,
                generated_key=getattr(cursor, "lastrowid", None),
                returned=self._returned if cursor.description else None,
            )

        drive(
            work.execute(
                StatementCall(
                    text=text_of_statement(text),
                    values=as_values(values),
                    run=run,
                    style=_style_of(self.__wrapped__),
                )
            )
        )
        return outcome[0] if outcome else self

    def _plain(self, text: Any, values: Any, arguments: Any, options: Any) -> Any:
        cursor = self.__wrapped__
        if values is None and not arguments:
            done = cursor.execute(text, **options)
        else:
            done = cursor.execute(text, values, *arguments, **options)
        return self if done is cursor else done

    async def _returned(self) -> Returned:
        cursor = self.__wrapped__
        columns = tuple(column[0] for column in cursor.description)
        if self._self_rows is None:
            self._self_rows = list(cursor.fetchall())
        rows = [
            [row[name] for name in columns] if isinstance(row, dict) else list(row)
            for row in self._self_rows
        ]
        return Returned(columns, rows)

    def executemany(self, text: Any, rows: Iterable[Any], *arguments: Any, **options: Any) -> Any:
        """Execute a statement for each of several groups of values."""
        self._self_rows = self._self_count = None
        if not is_seen(self._self_connection._self_work):
            done = self.__wrapped__.executemany(text, rows, *arguments, **options)
            return self if done is self.__wrapped__ else done
        if options.get("returning"):
            raise StatementRefusedError(
                "executemany(returning=True) cannot take part in a global transaction; execute the "
                "statements one by one",
                text_of_statement(text),
            )
        work, cursor = self._self_connection._self_work, self.__wrapped__
        counts: list[int] = []

        async def run(groups: Sequence[Any]) -> Ran:
            cursor.executemany(text, groups, *arguments, **options)
            counts.append(cursor.rowcount)
            return Ran(row_count=cursor.rowcount)

        async def run_each(groups: Sequence[Any]) -> Ran:
            # Of many at once, asyncpg does not tell how many rows there were.
            each = [(await one(group).run()).row_count for group in groups]
            return Ran(row_count=sum(each) if min(each) >= 0 else -1)

        def one(group: Any) -> StatementCall:
            async def run_one() -> Ran:
                self._plain(text, group, (), {})
                counts.append(cursor.rowcount)
                return Ran(
                    row_count=cursor.rowcount,
                    generated_key=getattr(cursor, "lastrowid", None),
                    returned=self._returned if cursor.description else None,
                )

            self._self_rows = None
            return StatementCall(
                text=text_of_statement(text),
                values=as_values(group),
                run=run_one,
                style=_style_of(cursor),
            )

        counted = self._self_connection._self_session.style is not Style.NUMERIC_DOLLAR
        batch = BatchCall(
            text=text_of_statement(text),
            groups=list(rows),
            run=run if counted else run_each,
            one=one,
            style=_style_of(cursor),
        )
        drive(execute_batch(work, batch))
        count = sum(max(0, each) for each in counts)
        self._self_count = count
        # So do drivers of MySQL, also as SQLAlchemy shows them; others return nothing of use.
        return count if self._self_connection._self_session.dialect.name == "mysql" else self

    def callproc(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a procedure, outside of global transactions."""
        return self._outside("callproc", "what a procedure changes is not seen", name)(
            name, *arguments, **options
        )

    def executescript(self, script: str) -> Any:
        """Execute statements at once, outside of global transactions."""
        self._outside("executescript", "execute the statements one by one", script)(script)
        return self

    def copy(self, text: Any, *arguments: Any, **options: Any) -> Any:
        """Copy rows, outside of global transactions."""
        return self._outside("copy", "insert the rows with executemany", text_of_statement(text))(
            text, *arguments, **options
        )

    def stream(self, text: Any, *arguments: Any, **options: Any) -> Any:
        """Read rows as they come, outside of global transactions."""
        return self._outside("stream", "use execute", text_of_statement(text))(
            text, *arguments, **options
        )

    def _outside(self, method: str, instead: str, text: str) -> Any:
        if is_seen(self._self_connection._self_work):
            raise StatementRefusedError(
                f"{method}() cannot take part in a global transaction: {instead}", text
            )
        return getattr(self.__wrapped__, method)

    # What was returned, when the mode has read it before the application

    @property
    def rowcount(self) -> int:
        """Rows of the last statement, or of all that executemany has executed."""
        count: int = self.__wrapped__.rowcount if self._self_count is None else self._self_count
        return count

    def fetchone(self) -> Any:
        """Return the next row."""
        if self._self_rows is None:
            return self.__wrapped__.fetchone()
        return self._self_rows.pop(0) if self._self_rows else None

    def fetchmany(self, *arguments: Any, **options: Any) -> Sequence[Any]:
        """Return the next rows."""
        if self._self_rows is None:
            found: Sequence[Any] = self.__wrapped__.fetchmany(*arguments, **options)
            return found
        size = next(iter((*arguments, *options.values())), None) or self.__wrapped__.arraysize
        taken, self._self_rows = self._self_rows[:size], self._self_rows[size:]
        return taken

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that are left."""
        if self._self_rows is None:
            found: Sequence[Any] = self.__wrapped__.fetchall()
            return found
        taken, self._self_rows = self._self_rows, []
        return taken

    def __iter__(self) -> Iterator[Any]:
        if self._self_rows is None:
            yield from self.__wrapped__
            return
        while self._self_rows:
            yield self._self_rows.pop(0)

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *why: Any) -> Any:
        return self.__wrapped__.__exit__(*why)


def is_seen(work: LocalWork) -> bool:
    """Say whether a mode must see what the connection does now."""
    return current() is not None or work.is_under_way


def _style_of(cursor: Any) -> Style | None:
    """Return how placeholders are written for a cursor, if not as its driver has them: Django's of
    SQLite makes question marks of `%s` by itself.
    """
    return Style.FORMAT if hasattr(type(cursor), "convert_query") else None


def text_of_statement(text: Any) -> str:
    """Return a statement as text. What composes statements (psycopg.sql) must be rendered first."""
    if isinstance(text, str):
        return text
    if isinstance(text, (bytes, bytearray)):
        return bytes(text).decode()
    raise StatementRefusedError(
        f"a statement of type {type(text).__name__} cannot be read; give it as text: "
        "statement.as_string(connection)"
    )
