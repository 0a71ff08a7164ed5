"""Many groups of values for one statement: as few images for all of them as there can be.

A batch has one image before and one after, in parts that a statement can be of. That is as good as
an image around each group where no group can touch what another one does: each names its row by
the whole primary key, and no two name the same. Where that cannot be known for sure, where undoing
rows in another order could fail, or where the database makes the keys, a batch is of one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import UUID

from tidelock.at.images import Image, Photographer, Row
from tidelock.at.inserts import Insertion
from tidelock.at.tracing import Traced, Tracer
from tidelock.at.undo_records import Operation
from tidelock.sql.columns import KeyPart
from tidelock.sql.interception import BatchCall, Ran
from tidelock.sql.placeholders import MARK, Fragment, Key, as_values, picked
from tidelock.sql.session import Session
from tidelock.sql.statements import CellKind, Kind, Statement
from tidelock.sql.tables import Column, Table

GREATEST_BATCH: Final = 1_000
"""Groups of one batch."""

GREATEST_ALTERNATIVES: Final = 300
"""Conditions of one image: SQLite takes no expression that is deeper than 1,000."""

_TEXTS: Final = ("char", "text", "clob", "uuid")


def divided(statement: Statement, table: Table, groups: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield groups in their order, those together that make one batch."""
    keys = _keys(statement, table)
    if keys is None:
        yield from ([group] for group in groups)
        return
    batch: list[Any] = []
    names: set[tuple[object, ...]] = set()
    for group in groups:
        name = _name(table, keys, group)
        alone = name is None or _kinds(name) != _kinds(next(iter(names), name))
        if batch and (alone or name in names or len(batch) == GREATEST_BATCH):
            yield batch
            batch, names = [], set()
        batch.append(group)
        if name is not None:
            names.add(name)
        else:
            yield batch
            batch = []
    if batch:
        yield batch


def _keys(statement: Statement, table: Table) -> tuple[Key, ...] | None:
    """Return which values name the row of a group; None when there are no batches of it."""
    if statement.returning is not None or statement.order.text or table.triggers:
        return None
    if statement.kind is not Kind.UPDATE and _refers_to_itself(table):
        # Rows must go before those that they refer to, and come back after them.
        return None
    if statement.kind is Kind.INSERT:
        return _given_keys(statement, table)
    if statement.kind is Kind.UPDATE and _changes_what_is_unique(statement, table):
        return None
    found: dict[str, Key] = {}
    for name, key in statement.matches:
        column = table.column(name.name)
        if column is not None:
            found[column.name] = key
    if not all(name in found for name in table.primary_key):
        return None
    return tuple(found[name] for name in table.primary_key)


def _given_keys(statement: Statement, table: Table) -> tuple[Key, ...] | None:
    if statement.conflict is not None or len(statement.rows) != 1:
        return None
    names = [each.name for each in statement.columns] or [
        column.name for column in table.columns if not column.is_computed
    ]
    columns = [table.column(name) for name in names]
    (row,) = statement.rows
    if len(row) != len(columns):
        return None
    found: dict[str, Key] = {}
    for column, cell in zip(columns, row, strict=True):
        is_placeholder = len(cell.fragment.keys) == 1 and cell.fragment.text.startswith(MARK)
        if column is not None and cell.kind is CellKind.GIVEN and is_placeholder:
            found[column.name] = cell.fragment.keys[0]
    if not all(name in found for name in table.primary_key):
        return None
    return tuple(found[name] for name in table.primary_key)


def _refers_to_itself(table: Table) -> bool:
    return any(each.table in (table.name, table.full_name) for each in table.references)


def _changes_what_is_unique(statement: Statement, table: Table) -> bool:
    changed = {each.name.lower() for each in statement.columns}
    changed |= {column.name.lower() for column in table.columns if column.auto_updates}
    others = [each for each in table.indexes if each.columns != table.primary_key]
    return any(
        each.columns is None or changed & {name.lower() for name in each.columns} for each in others
    )


def _name(table: Table, keys: Sequence[Key], group: Any) -> tuple[object, ...] | None:
    """Return what tells the row of a group from those of others; None when that is not sure."""
    parts: list[object] = []
    for column, value in zip(table.key_columns, picked(keys, as_values(group)), strict=True):
        part = _part(column, value)
        if part is None:
            return None
        parts.append(part)
    return tuple(parts)


def _part(column: Column, value: object) -> object | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, UUID)):
        return value
    is_text = any(word in column.form.kind for word in _TEXTS)
    if isinstance(value, str) and value.isascii() and value.isprintable() and is_text:
        # No collation folds such texts further.
        return value.lower().rstrip(" ")
    return None


def _kinds(name: tuple[object, ...]) -> list[type]:
    return [type(part) for part in name]


class BatchTracer(Tracer):
    """Runs one batch, and finds out what it changes."""

    def __init__(
        self,
        session: Session,
        statement: Statement,
        table: Table,
        batch: BatchCall,
        groups: Sequence[Any],
    ) -> None:
        super().__init__(session, statement, table, batch.one(groups[0]))
        self._batch = batch
        self._groups = groups

    async def _run(self) -> Ran:
        # An error may come after some groups have had their effect.
        self.has_run = True
        return await self._batch.run(self._groups)

    async def _before(self, photographer: Photographer, *, locks: bool = True) -> Image:
        statement = self._statement
        condition = statement.where.text[len("WHERE") :].strip()
        wanted = Fragment(condition, statement.where.keys)
        return await self._image(
            photographer, statement.target.text, statement.alias, wanted, locks=locks
        )

    async def _insert(self) -> Traced:
        session, table = self._session, self._table
        # It refuses what does not fit the table.
        insertion = Insertion(session, self._statement, table, self._call)
        photographer = Photographer(session, table, table.written_columns)
        ran = await self._run()
        cells = [
            insertion.cell(self._statement.rows[0], column).fragment for column in table.key_columns
        ]
        quote = session.dialect.quote
        ands = [
            f"{quote(column.name)} = {cell.text}"
            for column, cell in zip(table.key_columns, cells, strict=True)
        ]
        wanted = Fragment(" AND ".join(ands), tuple(key for cell in cells for key in cell.keys))
        name = session.dialect.qualified(table.schema, table.name)
        after = await self._image(photographer, name, name, wanted)
        if len(after) != len(self._groups) or ran.row_count not in {-1, len(self._groups)}:
            raise self._mismatch(
                f"{ran.row_count} rows were inserted, and {len(after)} are found by their keys"
            )
        pairs: list[tuple[Row | None, Row | None]] = [(None, row) for row in after.rows.values()]
        return self._traced(Operation.INSERT, after, pairs)

    async def _image(
        self,
        photographer: Photographer,
        source: str,
        qualifier: str,
        wanted: Fragment,
        *,
        locks: bool = True,
    ) -> Image:
        """Make an image of the rows for which the condition holds with any of the groups."""
        found: dict[tuple[KeyPart, ...], Row] = {}
        most = self._session.dialect.greatest_values // max(1, len(wanted.keys))
        size = max(1, min(GREATEST_ALTERNATIVES, most))
        for at in range(0, len(self._groups), size):
            part = self._groups[at : at + size]
            given = [value for group in part for value in picked(wanted.keys, as_values(group))]
            any_of = " OR ".join([f"({wanted.text})"] * len(part))
            text = Fragment(f"FROM {source} WHERE {any_of}", tuple(range(len(given))))
            found.update((await photographer.matching(text, qualifier, given, locks=locks)).rows)
        return Image(self._table, photographer.columns, found)
