"""Databases in the AT mode, as tests of it use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.databases.connections import DIALECT_OF, Database
from tidelock.application import Application
from tidelock.at.resource import AtDataSource
from tidelock.at.undo_log import DEFAULT_TABLES, undo_log_ddl
from tidelock.sql.dialects import DIALECTS

MARKS = {"mysql": "%s", "postgresql": "%s", "sqlite": "?"}


class Shop:
    """A database with a few rows, through one driver."""

    def __init__(self, database: Database, application: Application, **options: Any) -> None:
        self.database = database
        self.dialect = DIALECTS[database.dialect].name
        self.mark = MARKS[database.dialect]
        self.source = AtDataSource(database.connect, application=application, **options)
        database.sql(undo_log_ddl(self.dialect))

    def connect(self) -> Any:
        return self.source.connect()

    def marked(self, text: str) -> str:
        """Write `?` as the driver's placeholders."""
        return text.replace("?", self.mark)

    def execute(self, *statements: str | tuple[str, Sequence[Any]]) -> list[Any]:
        """Execute statements in one local transaction and commit it; return the last rows."""
        rows: list[Any] = []
        with self.local() as cursor:
            for statement in statements:
                text, values = (statement, None) if isinstance(statement, str) else statement
                if values is None:
                    cursor.execute(text)
                else:
                    cursor.execute(self.marked(text), values)
                rows = list(cursor.fetchall()) if cursor.description else []
        return rows

    @contextmanager
    def local(self) -> Iterator[Any]:
        """Yield a cursor of a new connection, committed at the end unless something is raised."""
        connection = self.connect()
        try:
            yield connection.cursor()
            connection.commit()
        finally:
            connection.close()

    def rows(self, table: str = "t", columns: str = "*") -> list[tuple[Any, ...]]:
        return self.database.sql(f"SELECT {columns} FROM {table} ORDER BY 1")

    def undo_rows(self) -> list[tuple[Any, ...]]:
        table = DEFAULT_TABLES[self.dialect]
        return self.database.sql(f"SELECT xid, branch_id, log_status FROM {table}")


def dialect_of(driver: str) -> str:
    return DIALECT_OF[driver]
