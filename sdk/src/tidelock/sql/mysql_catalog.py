"""What MySQL and MariaDB tell of a table."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tidelock.sql.columns import text_of
from tidelock.sql.mysql_columns import form_of
from tidelock.sql.session import MARK, Session
from tidelock.sql.tables import Column, Index, Reference, Table, Trigger

_TABLE = f"""
SELECT table_schema, table_name, table_type, engine
FROM information_schema.tables WHERE table_schema = {MARK} AND table_name = {MARK}
"""
_COLUMNS = f"""
SELECT column_name, data_type, collation_name, is_nullable, column_default, extra
FROM information_schema.columns WHERE table_schema = {MARK} AND table_name = {MARK}
ORDER BY ordinal_position
"""
_INDEXES = f"""
SELECT index_name, column_name, sub_part
FROM information_schema.statistics
WHERE table_schema = {MARK} AND table_name = {MARK} AND non_unique = 0
ORDER BY index_name, seq_in_index
"""
_REFERENCES = f"""
SELECT u.constraint_name, u.table_schema, u.table_name, u.referenced_column_name,
       r.update_rule, r.delete_rule
FROM information_schema.key_column_usage AS u
JOIN information_schema.referential_constraints AS r
  ON r.constraint_schema = u.constraint_schema AND r.constraint_name = u.constraint_name
 AND r.table_name = u.table_name
WHERE u.referenced_table_schema = {MARK} AND u.referenced_table_name = {MARK}
ORDER BY u.constraint_schema, u.constraint_name, u.ordinal_position
"""
_TRIGGERS = f"""
SELECT trigger_name, event_manipulation FROM information_schema.triggers
WHERE event_object_schema = {MARK} AND event_object_table = {MARK}
"""


async def read_table(session: Session, schema: str, name: str) -> Table | None:
    """Describe a table, None when there is none."""
    where = (schema, name)
    found = await session.execute(_TABLE, where)
    if not found.rows:
        return None
    schema, name, kind, engine = (
        "" if value is None else text_of(value) for value in found.rows[0]
    )
    columns = [_column(row) for row in (await session.execute(_COLUMNS, where)).rows]
    indexes = _indexes((await session.execute(_INDEXES, where)).rows)
    unsuitable = ""
    if kind != "BASE TABLE":
        unsuitable = f"it is a {kind.lower()}; change the tables beneath it"
    elif engine.lower() not in {"innodb", "rocksdb", "ndbcluster", "tokudb"}:
        unsuitable = f"its engine {engine} has no transactions; ALTER TABLE … ENGINE=InnoDB"
    else:
        strange = [each for each in columns if isinstance(each, str)]
        unsuitable = f"of {', '.join(strange)} no exact image can be made" if strange else ""
    primary = next((index.columns for index in indexes if index.name == "PRIMARY"), None)
    return Table(
        schema,
        name,
        tuple(each for each in columns if isinstance(each, Column)),
        primary or (),
        indexes=indexes,
        references=_references((await session.execute(_REFERENCES, where)).rows),
        triggers=tuple(
            Trigger(text_of(trigger), frozenset({text_of(event)}))
            for trigger, event in (await session.execute(_TRIGGERS, where)).rows
        ),
        unsuitable=unsuitable,
    )


def _column(row: tuple[Any, ...]) -> Column | str:
    """Describe a column, or say which one cannot be."""
    name, data_type, collation, nullable, default, extra = (
        None if value is None else text_of(value) for value in row
    )
    assert name is not None
    assert data_type is not None
    form = form_of(data_type.lower(), collation)
    if form is None:
        return f"{name} ({data_type})"
    flags = (extra or "").lower()
    return Column(
        name,
        form,
        nullable=nullable == "YES",
        default=default,
        generates="auto_increment" in flags,
        auto_updates="on update" in flags,
        is_computed="generated" in flags.replace("default_generated", ""),
    )


def _indexes(rows: list[tuple[Any, ...]]) -> tuple[Index, ...]:
    parts: dict[str, list[str | None]] = defaultdict(list)
    for name, column, length in rows:
        whole = column is not None and length is None
        parts[text_of(name)].append(text_of(column) if whole else None)
    return tuple(
        Index(name, None if None in columns else tuple(map(str, columns)), is_partial=False)
        for name, columns in parts.items()
    )


def _references(rows: list[tuple[Any, ...]]) -> tuple[Reference, ...]:
    found: dict[tuple[str, str, str], tuple[list[str], str, str]] = {}
    for row in rows:
        name, schema, table, column, on_update, on_delete = map(text_of, row)
        found.setdefault((name, schema, table), ([], on_update, on_delete))[0].append(column)
    return tuple(
        Reference(name, f"{schema}.{table}", tuple(columns), on_update, on_delete)
        for (name, schema, table), (columns, on_update, on_delete) in found.items()
    )
