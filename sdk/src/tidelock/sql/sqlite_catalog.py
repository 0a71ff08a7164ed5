"""What SQLite tells of a table."""

from __future__ import annotations

import re
from typing import Any, Final

from tidelock.sql.session import MARK, Session
from tidelock.sql.sqlite_columns import form_of
from tidelock.sql.tables import Column, Index, Reference, Table, Trigger

_NORMAL: Final = 0
_HIDDEN: Final = 1
"""Of virtual tables. 2 and 3 are generated columns."""


async def read_table(session: Session, schema: str, name: str) -> Table | None:
    """Describe a table, None when there is none."""
    quoted = session.dialect.quote(schema)
    found = await session.execute(
        f"SELECT name, type, sql FROM {quoted}.sqlite_master "
        f"WHERE type IN ('table', 'view') AND lower(name) = {MARK}",
        (name.lower(),),
    )
    if not found.rows:
        return None
    name, kind, definition = found.rows[0]

    async def pragma(what: str, of: str) -> list[tuple[Any, ...]]:
        asked = f"PRAGMA {quoted}.{what}({session.dialect.quote(of)})"
        return (await session.execute(asked)).rows

    info = await pragma("table_xinfo", name)
    keyed = sorted((row for row in info if row[5]), key=lambda row: int(row[5]))
    primary = tuple(str(row[1]) for row in keyed)
    indexes, collations = await _indexes(session, pragma, name, primary)
    rowid = _is_rowid(definition or "", keyed)
    columns = tuple(
        Column(
            str(column),
            form_of(str(declared), collations.get(str(column), "BINARY")),
            nullable=not not_null,
            default=default,
            generates=rowid and bool(key),
            is_computed=hidden not in {_NORMAL, _HIDDEN},
        )
        for _, column, declared, not_null, default, key, hidden in info
    )
    unsuitable = ""
    if kind != "table":
        unsuitable = "it is a view; change the tables beneath it"
    elif re.match(r"\s*CREATE\s+VIRTUAL\b", definition or "", re.IGNORECASE):
        unsuitable = "it is a virtual table, which keeps its rows elsewhere"
    return Table(
        # The file is the database, and has the one schema that matters.
        "" if schema == "main" else schema,
        name,
        columns,
        primary,
        indexes=indexes,
        references=await _references(session, pragma, quoted, name, primary),
        triggers=await _triggers(session, quoted, name),
        unsuitable=unsuitable or ("" if schema == "main" else "it is in an attached database"),
    )


def _is_rowid(definition: str, keyed: list[tuple[Any, ...]]) -> bool:
    """Say whether the primary key is another name of the rowid, which SQLite counts."""
    if len(keyed) != 1 or str(keyed[0][2]).upper() != "INTEGER":
        return False
    return not re.search(r"\bWITHOUT\s+ROWID\b[^)]*$", definition, re.IGNORECASE)


async def _indexes(
    session: Session, pragma: Any, table: str, primary: tuple[str, ...]
) -> tuple[tuple[Index, ...], dict[str, str]]:
    """Return the unique indexes, and by which collations the primary key compares."""
    found: list[Index] = []
    collations: dict[str, str] = {}
    has_primary = False
    for _, name, is_unique, origin, is_partial, *_ in await pragma("index_list", table):
        if not is_unique:
            continue
        rows = [row for row in await pragma("index_xinfo", name) if row[5]]
        columns = None if any(row[2] is None for row in rows) else tuple(str(r[2]) for r in rows)
        found.append(Index(str(name), columns, is_partial=bool(is_partial)))
        if origin == "pk":
            has_primary = True
            collations = {str(row[2]): str(row[4]) for row in rows}
    if primary and not has_primary:
        found.append(Index("rowid", primary, is_partial=False))
    return tuple(found), collations


async def _references(
    session: Session, pragma: Any, quoted: str, name: str, primary: tuple[str, ...]
) -> tuple[Reference, ...]:
    # Whether they are enforced is a matter of each connection; a table is described for all.
    found: dict[tuple[str, int], tuple[list[str], str, str]] = {}
    tables = await session.execute(f"SELECT name FROM {quoted}.sqlite_master WHERE type = 'table'")
    for (other,) in tables.rows:
        for number, _, target, _, to, on_update, on_delete, *_ in await pragma(
            "foreign_key_list", other
        ):
            if str(target).lower() == name.lower():
                known = found.setdefault((str(other), int(number)), ([], on_update, on_delete))
                if to is not None:
                    known[0].append(str(to))
    return tuple(
        Reference(f"{table}#{number}", table, tuple(columns) or primary, on_update, on_delete)
        for (table, number), (columns, on_update, on_delete) in found.items()
    )


async def _triggers(session: Session, quoted: str, name: str) -> tuple[Trigger, ...]:
    found = await session.execute(
        f"SELECT name, sql FROM {quoted}.sqlite_master "
        f"WHERE type = 'trigger' AND lower(tbl_name) = {MARK}",
        (name.lower(),),
    )
    pattern = re.compile(r"\b(INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
    triggers = []
    for trigger, definition in found.rows:
        first = pattern.search(definition or "")
        events = frozenset({first.group(1).upper()} if first else {"INSERT", "UPDATE", "DELETE"})
        triggers.append(Trigger(str(trigger), events))
    return tuple(triggers)
