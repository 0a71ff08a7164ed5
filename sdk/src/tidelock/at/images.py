"""Images of rows: what stood in them, exactly, and by which key they are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from tidelock.at.errors import TooManyRowsError
from tidelock.sql.columns import KeyPart
from tidelock.sql.placeholders import Fragment, Values, picked
from tidelock.sql.postgresql_columns import PINNED
from tidelock.sql.resolution import Sign
from tidelock.sql.session import MARK, Session
from tidelock.sql.tables import Column, Table
from tidelock.sql.values import Value, same

GREATEST_ROWS: Final = 10_000
"""Rows of one local transaction: as many as one branch can lock with its registration."""


class Row(msgspec.Struct, frozen=True):
    """One row."""

    key: tuple[Value, ...]
    """The values of its primary key."""
    values: tuple[Value, ...]
    """Those of the columns of its image."""
    parts: tuple[KeyPart, ...]
    """Its key as row locks know it."""


class Image(msgspec.Struct, frozen=True):
    """Rows of a table as they stood at a moment, by their keys."""

    table: Table
    columns: tuple[Column, ...]
    rows: dict[tuple[KeyPart, ...], Row]
    sign: Any = None
    """What a sign came to that was asked for; None when there are no rows."""

    def __len__(self) -> int:
        return len(self.rows)


def differs(one: Row, other: Row) -> bool:
    """Say whether two images of a row are of different values."""
    return not all(
        same(before, after) for before, after in zip(one.values, other.values, strict=True)
    )


def chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Yield parts of a list."""
    for at in range(0, len(rows), max(1, size)):
        yield rows[at : at + max(1, size)]


class Photographer:
    """Makes images of a table's rows."""

    def __init__(self, session: Session, table: Table, columns: Iterable[Column]) -> None:
        """Take `columns` into the images, and the primary key always."""
        self.session = session
        self.table = table
        wanted = {column.name for column in columns} | set(table.primary_key)
        self.columns = tuple(column for column in table.written_columns if column.name in wanted)
        self._key_at = [
            [column.name for column in self.columns].index(name) for name in table.primary_key
        ]
        self._is_pinned = any(column.form.is_pinned for column in self.columns)

    def select(self, qualifier: str) -> str:
        """Return what is selected, of a table that is called `qualifier`."""
        quote = self.session.dialect.quote
        parts = [
            f"{column.form.read(f'{qualifier}.{quote(column.name)}')}" for column in self.columns
        ]
        for column in self.table.key_columns:
            if column.form.key is not None:
                parts.append(column.form.key(f"{qualifier}.{quote(column.name)}"))
        return ", ".join(parts)

    async def matching(
        self,
        source: Fragment,
        qualifier: str,
        given: Values,
        *,
        locks: bool = True,
        sign: Sign | None = None,
    ) -> Image:
        """Make an image of the rows that `FROM …` of an application's statement selects."""
        locking = self.session.dialect.locking if locks else ""
        shown = "" if sign is None else f", {sign.expression}"
        text = f"SELECT {self.select(qualifier)}{shown} {source.text}{locking}"
        raws = await self._execute(text, picked(source.keys, given))
        return self._image(raws, raws[0][-1] if raws and sign is not None else None)

    async def by_key(self, rows: Sequence[Row]) -> Image:
        """Make an image of the rows that have the keys of others."""
        dialect = self.session.dialect
        name = dialect.qualified(self.table.schema, self.table.name)
        found: dict[tuple[KeyPart, ...], Row] = {}
        for part in chunks(rows, dialect.greatest_values // len(self.table.primary_key)):
            where, values = self.keyed(part)
            text = f"SELECT {self.select(name)} FROM {name} WHERE {where}{dialect.locking}"
            found.update(self._image(await self._execute(text, values)).rows)
        return Image(self.table, self.columns, found)

    def keyed(self, rows: Sequence[Row]) -> tuple[str, list[Any]]:
        """Return the condition that selects rows by their keys, and its values."""
        quote = self.session.dialect.quote
        columns = self.table.key_columns
        if len(columns) == 1:
            form = columns[0].form
            marks = ", ".join([form.write] * len(rows))
            return f"{quote(columns[0].name)} IN ({marks})", [
                form.encode(row.key[0]) for row in rows
            ]
        one = " AND ".join(f"{quote(column.name)} = {column.form.write}" for column in columns)
        values = [
            column.form.encode(value)
            for row in rows
            for column, value in zip(columns, row.key, strict=True)
        ]
        return " OR ".join([f"({one})"] * len(rows)), values

    async def _execute(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        if not self._is_pinned:
            return (await self.session.execute(text, values)).rows
        names = list(PINNED)
        asked = ", ".join(f"current_setting('{name}')" for name in names)
        (before,) = (await self.session.execute(f"SELECT {asked}")).rows
        await self._set(PINNED)
        rows = (await self.session.execute(text, values)).rows
        await self._set(dict(zip(names, before, strict=True)))
        return rows

    async def _set(self, settings: dict[str, str]) -> None:
        calls = ", ".join(f"set_config({MARK}::text, {MARK}::text, true)" for _ in settings)
        await self.session.execute(
            f"SELECT {calls}", [part for setting in settings.items() for part in setting]
        )

    def _image(self, raws: list[tuple[Any, ...]], sign: Any = None) -> Image:
        if len(raws) > GREATEST_ROWS:
            raise TooManyRowsError(
                f"a statement changes {len(raws)} rows of {self.table.full_name}; change at most "
                f"{GREATEST_ROWS} in one local transaction"
            )
        rows: dict[tuple[KeyPart, ...], Row] = {}
        for raw in raws:
            row = self._row(raw)
            rows[row.parts] = row
        return Image(self.table, self.columns, rows, sign)

    def _row(self, raw: tuple[Any, ...]) -> Row:
        values = tuple(
            column.form.decode(part) for column, part in zip(self.columns, raw, strict=False)
        )
        folded = iter(raw[len(self.columns) :])
        key = tuple(values[at] for at in self._key_at)
        parts = tuple(
            column.form.part(value, next(folded) if column.form.key is not None else None)
            for column, value in zip(self.table.key_columns, key, strict=True)
        )
        return Row(key, values, parts)
