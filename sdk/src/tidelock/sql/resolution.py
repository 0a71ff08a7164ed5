"""Which table a statement's name means, on one connection and now.

A connection may be led elsewhere at any time: by `USE`, by `search_path`, by a temporary table. So
it is asked, or what was found before is taken for granted and proved by a *sign*: an expression
that a statement of ours, which is to be executed anyway, returns beside the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from tidelock.sql.catalog import Catalog, TableName, folded, search_path
from tidelock.sql.columns import text_of
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.session import MARK, Session
from tidelock.sql.statements import Statement
from tidelock.sql.tables import Table

GREATEST_GRANTED: Final = 512
"""Statements of one connection of which it is remembered what they mean."""

_NAMED: Final = f"""
SELECT c.oid::text, n.nspname::text, c.relname::text
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass({MARK}::text)
"""


class Sign(NamedTuple):
    """What proves that a name means what it is taken for."""

    expression: str
    """It refers to no column, and is computed once a statement."""
    value: str

    def is_shown_by(self, raw: object) -> bool:
        """Say whether the expression has come to what it should."""
        return raw is not None and text_of(raw) == self.value


class Meant(NamedTuple):
    """A table that a name means."""

    table: Table
    sign: Sign | None
    """None: the name alone says it, or nothing can prove it."""


class Resolution:
    """What the names in a connection's statements mean."""

    def __init__(self, session: Session, catalog: Catalog) -> None:
        self._session = session
        self._catalog = catalog
        self._granted: dict[int, tuple[Statement, Meant]] = {}
        """By the identity of statements, which are kept alive here."""

    def granted(self, statement: Statement) -> Meant | None:
        """Return what a statement meant when it was executed last, which its sign is to prove.

        All that was found out about the statement and that table holds with it.
        """
        known = self._granted.get(id(statement))
        if known is None or not known[1].table.is_current:
            return None
        return known[1]

    def grant(self, statement: Statement, meant: Meant) -> None:
        """Remember what a statement meant."""
        if meant.sign is None:
            return
        if len(self._granted) >= GREATEST_GRANTED:
            self._granted.clear()
        self._granted[id(statement)] = statement, meant

    def revoke(self, statement: Statement) -> None:
        """Ask again what a statement means."""
        self._granted.pop(id(statement), None)

    async def meant(self, name: TableName, known: Iterable[Meant] = ()) -> Meant:
        """Find out what a name means now. `known` was found out while nothing could change it.

        Raises:
            DatabaseUnsuitableError: there is no such table, or not in the connection's database.
        """
        session, catalog = self._session, self._catalog
        match session.dialect.name:
            case "mysql":
                return await self._of_mysql(name, known)
            case "postgresql" if not name.schema:
                return await self._of_postgresql(name)
            case _:
                return Meant(await catalog.table(session, name, ("main",)), None)

    async def _of_mysql(self, name: TableName, known: Iterable[Meant]) -> Meant:
        chosen = next((each.sign.value for each in known if each.sign is not None), None)
        if chosen is None:
            (chosen,) = await search_path(self._session)
        if name.schema not in {"", chosen}:
            raise DatabaseUnsuitableError(
                f"{name} is in another database than the connection's, {chosen}; connect to "
                "it, so that everybody names its rows alike"
            )
        table = await self._catalog.table(self._session, name, (chosen,))
        return Meant(table, Sign("DATABASE()", chosen))

    async def _of_postgresql(self, name: TableName) -> Meant:
        session, catalog = self._session, self._catalog
        quoted = session.dialect.quote(folded(session, name).name)
        found = await session.execute(_NAMED, (quoted,))
        for oid, schema, own in found.rows:
            place = TableName(own, schema, is_quoted=True, schema_is_quoted=True)
            table = await catalog.table(session, place, ())
            if table.number != oid:
                # It was dropped, and made anew.
                catalog.forget(table)
                table = await catalog.table(session, place, ())
            text = quoted.replace("'", "''")
            if "\\" in text:
                # How it is read is a setting.
                return Meant(table, None)
            return Meant(table, Sign(f"(SELECT to_regclass('{text}')::oid::text)", oid))
        # It says in what schemas there is none.
        return Meant(await catalog.table(session, name, await search_path(session)), None)
