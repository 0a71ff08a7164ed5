"""Which tables can take part at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NoReturn

from tidelock.sql.errors import StatementRefusedError
from tidelock.sql.statements import Kind, Name, Statement
from tidelock.sql.tables import QUIET_RULES, Column, Event, Table

_EVENTS: dict[Kind, Event] = {Kind.INSERT: "INSERT", Kind.UPDATE: "UPDATE", Kind.DELETE: "DELETE"}


def refuse(statement: Statement, why: str) -> NoReturn:
    """Raises: StatementRefusedError"""
    shown = " ".join(statement.text.split())
    shown = shown if len(shown) <= 200 else f"{shown[:199]}…"
    raise StatementRefusedError(
        f"this statement cannot take part in a global transaction: {why}. It was: {shown}",
        statement.text,
    )


def check_table(statement: Statement, table: Table, allowed: Collection[str]) -> None:
    """Refuse tables whose changes cannot be seen or undone. `allowed` are exempt from what only
    their owner can judge: what cascades and what triggers do.

    Raises:
        StatementRefusedError
    """
    name = table.full_name
    if table.unsuitable:
        refuse(statement, f"{name} is unsuitable: {table.unsuitable}")
    if not table.primary_key:
        refuse(statement, f"{name} has no primary key, by which its rows could be found; add one")
    for column in table.key_columns:
        if not column.form.identifies and column.form.key is None:
            refuse(
                statement,
                f"the key {column.name} of {name} is of type {column.form.kind}, by which rows "
                "cannot be told apart for sure; use another key or collation",
            )
    if name in allowed or table.name in allowed:
        return
    event = _EVENTS.get(statement.kind)
    events = {event} if event is not None else set()
    if statement.conflict is not None and statement.conflict.updates:
        events.add("UPDATE")
    for trigger in table.triggers:
        if events & trigger.events:
            refuse(
                statement,
                f"the trigger {trigger.name} of {name} may change what no image sees; if it "
                f"writes to no other table, allow it: allow={{{name!r}}}",
            )
    _check_references(statement, table, events)


def _check_references(statement: Statement, table: Table, events: Collection[str]) -> None:
    changed = {each.name.lower() for each in statement.columns}
    if statement.conflict is not None:
        changed |= {each.lower() for each in statement.conflict.updates}
    for reference in table.references:
        if "DELETE" in events and reference.on_delete.upper() not in QUIET_RULES:
            rule = f"ON DELETE {reference.on_delete}"
        elif (
            "UPDATE" in events
            and reference.on_update.upper() not in QUIET_RULES
            and changed & {each.lower() for each in reference.columns}
        ):
            rule = f"ON UPDATE {reference.on_update}"
        else:
            continue
        refuse(
            statement,
            f"{reference.table} follows {table.full_name} by {rule} ({reference.name}), which no "
            f"image sees; change {reference.table} by statements of its own, or allow it: "
            f"allow={{{table.full_name!r}}}",
        )


def columns_of(statement: Statement, table: Table, names: Iterable[Name]) -> tuple[Column, ...]:
    """Return the columns that a statement names.

    Raises:
        StatementRefusedError: the table has no such column.
    """
    found = []
    for name in names:
        column = table.column(name.name)
        if column is None:
            refuse(statement, f"{table.full_name} has no column {name.name}")
        found.append(column)
    return tuple(found)


def check_key_stays(statement: Statement, table: Table, changed: Iterable[Column]) -> None:
    """Refuse to change primary keys.

    Raises:
        StatementRefusedError
    """
    for column in changed:
        if column.name in table.primary_key:
            refuse(
                statement,
                f"it changes {column.name}, which is part of the primary key of "
                f"{table.full_name}; DELETE the row and INSERT it under its new key",
            )
