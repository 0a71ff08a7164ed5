"""Which rows an INSERT has made: by the values that stand in it, that it returned, or that the
database counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Final

from tidelock.at.checks import columns_of, refuse
from tidelock.at.errors import ImageMismatchError
from tidelock.at.images import Image, Photographer
from tidelock.sql.columns import KeyPart
from tidelock.sql.interception import Ran, StatementCall
from tidelock.sql.placeholders import Fragment, picked
from tidelock.sql.session import MARK, Session
from tidelock.sql.statements import Cell, CellKind, Statement
from tidelock.sql.tables import Column, Index, Table

_NULL: Final = Cell(CellKind.DEFAULT, Fragment("NULL"), is_null=True)
_ABSENT: Final = Cell(CellKind.DEFAULT, Fragment("DEFAULT"))
_CONSTANT: Final = re.compile(r"-?\d+(\.\d+)?|'(?:[^']|'')*'(::[\w\s\"()]+)?")


class Insertion:
    """One INSERT, and what is known of its rows."""

    def __init__(
        self, session: Session, statement: Statement, table: Table, call: StatementCall
    ) -> None:
        self.session = session
        self.statement = statement
        self.table = table
        self.call = call
        columns = (
            columns_of(statement, table, statement.columns)
            if statement.columns
            else tuple(column for column in table.columns if not column.is_computed)
        )
        self._at = {column.name: at for at, column in enumerate(columns)}
        for row in statement.rows:
            if row and len(row) != len(columns):
                refuse(statement, f"it gives {len(row)} values for {len(columns)} columns")

    def cell(self, row: Sequence[Cell], column: Column) -> Cell:
        """Return what a row gives for a column."""
        at = self._at.get(column.name)
        if at is None or not row:
            return _ABSENT
        found = row[at]
        if found.fragment.text == MARK and picked(found.fragment.keys, self.call.values) == (None,):
            return _NULL
        return found

    def _counted(self, row: Sequence[Cell]) -> Column | None:
        """Return the column of the key that the database counts for a row, if it does."""
        column = self.table.generated_key
        if column is None:
            return None
        cell = self.cell(row, column)
        if cell.kind is not CellKind.DEFAULT:
            return None
        if cell.is_null and self.session.dialect.name == "postgresql":
            return None
        return column

    # The rows that were inserted

    async def inserted(self, photographer: Photographer, ran: Ran) -> Image:
        """Make an image of the rows that a plain INSERT has made.

        Raises:
            StatementRefusedError: nobody can tell which they are.
            ImageMismatchError: they are not found.
        """
        keys = await self._keys(ran)
        if not keys:
            return Image(self.table, photographer.columns, {})
        image = await photographer.matching(self._source(keys), self._name, self.call.values)
        wanted = len(self.statement.rows) or len(keys)
        if len(image) != wanted or ran.row_count not in {-1, wanted}:
            raise ImageMismatchError(
                f"{ran.row_count} rows were inserted into {self.table.full_name}, and {len(image)} "
                "are found by their keys: a key was changed on its way, as by rounding"
            )
        return image

    @property
    def _name(self) -> str:
        return self.session.dialect.qualified(self.table.schema, self.table.name)

    def _source(self, keys: Sequence[Sequence[Fragment]]) -> Fragment:
        quote = self.session.dialect.quote
        columns = [quote(column.name) for column in self.table.key_columns]
        parts = []
        marks: list[Any] = []
        for key in keys:
            ands = [f"{name} = {each.text}" for name, each in zip(columns, key, strict=True)]
            parts.append(f"({' AND '.join(ands)})")
            marks += [mark for each in key for mark in each.keys]
        return Fragment(f"FROM {self._name} WHERE {' OR '.join(parts)}", tuple(marks))

    async def _keys(self, ran: Ran) -> list[list[Fragment]]:
        statement, table = self.statement, self.table
        rows = statement.rows
        counted = [self._counted(row) for row in rows]
        unknown = [
            column
            for row in rows
            for column in table.key_columns
            if self.cell(row, column).kind is not CellKind.GIVEN
        ]
        if rows and not unknown:
            return [
                [self.cell(row, column).fragment for column in table.key_columns] for row in rows
            ]
        if self._returns_key():
            return await self._returned_keys(ran)
        if not rows:
            refuse(statement, f"add RETURNING {', '.join(table.primary_key)} to INSERT … SELECT")
        generated = table.generated_key
        if generated is None or any(column is not generated for column in unknown):
            refuse(
                statement,
                f"the key of {table.full_name} is computed by the database; give its values, or "
                f"add RETURNING {', '.join(table.primary_key)}",
            )
        if not all(counted):
            refuse(
                statement,
                f"{generated.name} is given in some rows and counted in others; insert them apart",
            )
        numbers = await self._numbers(generated, ran, len(rows))
        return [
            [
                Fragment(str(number)) if column is generated else self.cell(row, column).fragment
                for column in table.key_columns
            ]
            for row, number in zip(rows, numbers, strict=True)
        ]

    async def _numbers(self, column: Column, ran: Ran, count: int) -> Sequence[int]:
        """Return the numbers that the database has counted for rows."""
        match self.session.dialect.name:
            case "mysql":
                first = ran.generated_key
                if not first:
                    refuse(self.statement, f"no number was made for {column.name}; give a value")
                step = 1
                if count > 1:
                    ((step,),) = (
                        await self.session.execute("SELECT @@auto_increment_increment")
                    ).rows
                return range(first, first + count * int(step), int(step))
            case "sqlite":
                last = ran.generated_key
                assert last is not None
                return range(last - count + 1, last + 1)
            case "postgresql":
                if count > 1:
                    refuse(
                        self.statement,
                        "numbers of several rows are only known when they are returned; add "
                        f"RETURNING {', '.join(self.table.primary_key)}",
                    )
                return [await self._current_number(column)]

    async def _current_number(self, column: Column) -> int:
        quote = self.session.dialect.quote
        name = f"{quote(self.table.schema)}.{quote(self.table.name)}"
        found = await self.session.execute(
            f"SELECT currval(pg_get_serial_sequence({MARK}::text, {MARK}::text))::text",
            (name, column.name),
        )
        ((number,),) = found.rows
        if number is None:
            refuse(
                self.statement, f"add RETURNING {column.name}, whose numbers come from elsewhere"
            )
        return int(number)

    def _returns_key(self) -> bool:
        returning = self.statement.returning
        if returning is None:
            return False
        names = {each.name.lower() for each in returning}
        return "*" in names or {name.lower() for name in self.table.primary_key} <= names

    async def _returned_keys(self, ran: Ran) -> list[list[Fragment]]:
        assert ran.returned is not None, "a statement with RETURNING returned nothing to read"
        returned = await ran.returned()
        places = [
            [name.lower() for name in returned.columns].index(column.name.lower())
            for column in self.table.key_columns
        ]
        return [
            [Fragment(literal(self.session, row[at])) for at in places] for row in returned.rows
        ]

    # The rows that it may meet

    async def met(self, photographer: Photographer, *, locks: bool = True) -> Image | None:
        """Make an image of the rows that are there already, by any unique index; None when no row
        of the statement can meet one.

        Raises:
            StatementRefusedError: nobody can tell which they are.
        """
        source = self._conflicting()
        if source is None:
            return None
        return await photographer.matching(source, self._name, self.call.values, locks=locks)

    async def done(self, photographer: Photographer, before: Image, ran: Ran) -> Image:
        """Make an image of the rows that were met or made.

        Raises:
            StatementRefusedError: nobody can tell which they are.
        """
        source = self._conflicting()
        assert source is not None
        found = dict((await photographer.matching(source, self._name, self.call.values)).rows)
        missing = [row for parts, row in before.rows.items() if parts not in found]
        if missing:
            found.update((await photographer.by_key(missing)).rows)
        return Image(before.table, before.columns, found)

    async def marked(self, photographer: Photographer) -> set[tuple[KeyPart, ...]]:
        """Return the keys of the rows that were there before they were locked and changed."""
        source = self._conflicting()
        assert source is not None
        start = len(f"FROM {self._name} WHERE ")
        text = f"{source.text[:start]}({source.text[start:]}) AND xmax::text <> '0'"
        alone = Fragment(text, source.keys)
        image = await photographer.matching(alone, self._name, self.call.values, locks=False)
        return set(image.rows)

    def _conflicting(self) -> Fragment | None:
        """Return `FROM … WHERE …` of the rows that any unique index says to be met."""
        for index in self.table.indexes:
            if index.columns is None:
                refuse(
                    self.statement,
                    f"the unique index {index.name} of {self.table.full_name} is on expressions or "
                    "parts of columns, so nobody can tell which rows it meets; SELECT … FOR UPDATE "
                    "first, then INSERT or UPDATE",
                )
        parts: list[str] = []
        marks: list[Any] = []
        for row in self.statement.rows:
            found = [self._matching(row, index) for index in self.table.indexes]
            usable = [each for each in found if each is not None]
            if not usable and self._counted(row) is None:
                refuse(self.statement, "it gives values of no unique index; use a plain INSERT")
            for each in usable:
                parts.append(f"({each.text})")
                marks += each.keys
            if not usable and len(self.statement.rows) > 1:
                refuse(
                    self.statement, "some of its rows can meet others and some cannot; insert apart"
                )
        if not parts:
            return None
        return Fragment(f"FROM {self._name} WHERE {' OR '.join(parts)}", tuple(marks))

    def _matching(self, row: Sequence[Cell], index: Index) -> Fragment | None:
        """Return the condition under which a row meets another by an index, None if it cannot."""
        assert index.columns is not None
        ands: list[str] = []
        marks: list[Any] = []
        for name in index.columns:
            column = self.table.column(name)
            assert column is not None
            cell = self.cell(row, column)
            if cell.kind is CellKind.COMPUTED:
                refuse(
                    self.statement, f"{name} is unique and computed here; give its value instead"
                )
            if cell.kind is CellKind.DEFAULT:
                # NULL meets nothing, and neither does a number that is counted just now.
                if cell.is_null or column.generates or column.default in {None, "NULL"}:
                    return None
                if not _CONSTANT.fullmatch(column.default or ""):
                    refuse(self.statement, f"{name} is unique and not given; give its value")
                cell = Cell(CellKind.GIVEN, Fragment(column.default or ""))
            ands.append(f"{self.session.dialect.quote(name)} = {cell.fragment.text}")
            marks += cell.fragment.keys
        return Fragment(" AND ".join(ands), tuple(marks))


def literal(session: Session, value: Any) -> str:
    """Write a returned key into a statement: numbers as they are, all else as text or bytes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        digits = bytes(value).hex()
        return f"'\\x{digits}'" if session.dialect.name == "postgresql" else f"x'{digits}'"
    if isinstance(value, (datetime, date)):
        value = value.isoformat()
    text = str(value).replace("'", "''")
    if session.dialect.name == "mysql":
        return f"_utf8mb4 x'{str(value).encode().hex()}'"
    if session.dialect.name == "postgresql" and "\\" in text:
        return "E'" + text.replace("\\", "\\\\") + "'"
    return f"'{text}'"
