"""Databases in the AT mode, as tests of it use them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tidelock
from tests.databases.connections import Database
from tidelock.application import Application
from tidelock.at.resource import AtDataSource
from tidelock.at.undo_log import DEFAULT_TABLES, undo_log_ddl
from tidelock.sql.dialects import DIALECTS
from tidelock.testing import Coordinator

MARKS = {"mysql": "%s", "postgresql": "%s", "sqlite": "?"}

Step = str | tuple[str, Sequence[Any]]


class UndoneError(Exception):
    """What makes a transaction of these tests roll back."""


class Shop:
    """A database with a few rows, through the blocking driver of its dialect."""

    def __init__(
        self,
        database: Database,
        application: Application,
        *,
        coordinator: Coordinator | None = None,
        **options: Any,
    ) -> None:
        self.database = database
        self.dialect = DIALECTS[database.dialect].name
        self.mark = MARKS[database.dialect]
        self.source = AtDataSource(database.connect, application=application, **options)
        self._coordinator = coordinator
        database.sql(undo_log_ddl(self.dialect))

    @property
    def coordinator(self) -> Coordinator:
        assert self._coordinator is not None
        return self._coordinator

    def connect(self) -> Any:
        return self.source.connect()

    def marked(self, text: str) -> str:
        """Write `?` as the driver's placeholders."""
        return text.replace("?", self.mark)

    def for_update(self, text: str) -> str:
        return text if self.dialect == "sqlite" else f"{text} FOR UPDATE"

    def full_name(self, table: str) -> str:
        """Return the name of a table as row locks know it."""
        schema = {"mysql": f"{self.database.name}.", "postgresql": "public.", "sqlite": ""}
        return f"{schema[self.dialect]}{table}"

    def execute(self, *statements: Step) -> list[Any]:
        """Execute statements in one local transaction and commit it; return the last rows."""
        rows: list[Any] = []
        with self.local() as cursor:
            for statement in statements:
                if isinstance(statement, str):
                    cursor.execute(statement)
                else:
                    cursor.execute(self.marked(statement[0]), statement[1])
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

    def rows(self, table: str = "t") -> list[tuple[Any, ...]]:
        return sorted(self.database.sql(f"SELECT * FROM {table}"))

    def undo_rows(self) -> list[tuple[Any, ...]]:
        table = DEFAULT_TABLES[self.dialect]
        return self.database.sql(f"SELECT xid, branch_id, log_status FROM {table}")

    def within(self, work: Callable[[], object]) -> None:
        """Do work in a global transaction, and commit it."""
        with tidelock.transaction(application=self.source.application):
            work()

    def undone_by(self, work: Callable[[], object], table: str = "t") -> list[tuple[Any, ...]]:
        """Do work in a global transaction that rolls back; return what it had made."""
        made: list[tuple[Any, ...]] = []
        with (
            contextlib.suppress(UndoneError),
            tidelock.transaction(application=self.source.application),
        ):
            work()
            made = self.rows(table)
            raise UndoneError
        return made


def undone(shop: Shop, *statements: Step) -> list[tuple[Any, ...]]:
    """Execute statements in a global transaction that rolls back; return what they had made."""
    return shop.undone_by(lambda: shop.execute(*statements))
