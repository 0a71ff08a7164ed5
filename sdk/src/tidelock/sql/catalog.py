"""The tables of a database, asked for once and kept.

A table may change while its description is kept. Who finds a column that is not there, or misses
one, has it read again (`Catalog.forget`).
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.mysql_catalog import read_table as read_mysql
from tidelock.sql.postgresql_catalog import read_table as read_postgresql
from tidelock.sql.session import Session
from tidelock.sql.sqlite_catalog import read_table as read_sqlite
from tidelock.sql.tables import Table


class TableName(NamedTuple):
    """A table as a statement names it."""

    name: str
    schema: str = ""
    """Empty: the statement names none."""
    is_quoted: bool = False
    schema_is_quoted: bool = False

    def __str__(self) -> str:
        """Show it as it is usually written."""
        return f"{self.schema}.{self.name}" if self.schema else self.name


_READERS: Final[dict[str, Callable[[Session, str, str], Awaitable[Table | None]]]] = {
    "mysql": read_mysql,
    "postgresql": read_postgresql,
    "sqlite": read_sqlite,
}


class Catalog:
    """The tables of one database, for all connections to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[tuple[str, str], Table] = {}

    async def table(self, session: Session, name: TableName, path: tuple[str, ...]) -> Table:
        """Return what is known of a table. `path` are the schemas in which it is looked for.

        Raises:
            DatabaseUnsuitableError: there is no such table.
        """
        wanted = folded(session, name)
        schemas = (wanted.schema,) if wanted.schema else path
        for schema in schemas:
            known = self._tables.get((schema, wanted.name))
            if known is not None:
                return known
            found = await _READERS[session.dialect.name](session, schema, wanted.name)
            if found is not None:
                with self._lock:
                    self._tables[schema, wanted.name] = found
                return found
        raise DatabaseUnsuitableError(
            f"there is no table {name} in {' or '.join(schemas)}; a temporary table cannot take "
            "part in global transactions"
        )

    def forget(self, table: Table) -> None:
        """Have a table read again when it is next asked for."""
        with self._lock:
            table.is_current = False
            for place in [place for place, known in self._tables.items() if known is table]:
                del self._tables[place]


def folded(session: Session, name: TableName) -> TableName:
    """Spell a name as the database takes it."""
    match session.dialect.name:
        case "postgresql":
            return TableName(
                name.name if name.is_quoted else name.name.lower(),
                name.schema if name.schema_is_quoted else name.schema.lower(),
            )
        case "sqlite":
            return TableName(name.name.lower(), name.schema.lower())
        case "mysql":
            return TableName(name.name, name.schema)


async def search_path(session: Session) -> tuple[str, ...]:
    """Return the schemas in which the connection looks for a table that comes without one, now."""
    match session.dialect.name:
        case "mysql":
            found = await session.execute("SELECT DATABASE()")
            return (str(found.rows[0][0]),)
        case "postgresql":
            found = await session.execute("SELECT unnest(current_schemas(true))::text")
            return tuple(str(row[0]) for row in found.rows)
        case "sqlite":
            return ("main",)
