"""What a statement of an application does, as far as it must be known to undo it.

`tidelock.sql.reading` finds it out. Parts of a statement are taken over as they stand, by position,
never written anew from a parse tree.
"""

from __future__ import annotations

import enum

import msgspec

from tidelock.sql.catalog import TableName
from tidelock.sql.placeholders import Fragment, Key


class Kind(enum.Enum):
    """What a statement is to a transaction."""

    READ = enum.auto()
    """It changes and locks nothing."""
    READ_LOCKING = enum.auto()
    """SELECT … FOR UPDATE, FOR SHARE."""
    UPDATE = enum.auto()
    DELETE = enum.auto()
    INSERT = enum.auto()
    SETTING = enum.auto()
    """SET, which may change where tables are looked for."""
    BEGIN = enum.auto()
    COMMIT = enum.auto()
    ROLLBACK = enum.auto()
    SAVEPOINT = enum.auto()
    ROLLBACK_TO = enum.auto()
    RELEASE = enum.auto()


class CellKind(enum.Enum):
    """Where a value of an inserted row comes from."""

    GIVEN = enum.auto()
    """It stands in the text, or is a placeholder."""
    DEFAULT = enum.auto()
    """DEFAULT, or NULL: an AUTO_INCREMENT column makes a value of both."""
    COMPUTED = enum.auto()
    """An expression, which may be another the next time."""


class Cell(msgspec.Struct, frozen=True):
    """One value of a row to insert."""

    kind: CellKind
    fragment: Fragment
    """The expression as it stands."""
    is_null: bool = False


class Conflict(msgspec.Struct, frozen=True):
    """What an INSERT does with rows that are there already."""

    updates: tuple[str, ...] = ()
    """The columns that it then sets; none when it leaves such rows alone."""


class Name(msgspec.Struct, frozen=True):
    """A column as a statement names it."""

    name: str
    is_quoted: bool = False


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One statement, understood."""

    kind: Kind
    text: str
    table: TableName | None = None
    target: Fragment = Fragment("")
    """The table with its alias, as it stands."""
    alias: str = ""
    """What columns of the table can be qualified with, quoted."""
    columns: tuple[Name, ...] = ()
    """What an UPDATE sets, or an INSERT gives; empty in an INSERT of all columns."""
    where: Fragment = Fragment("")
    """`WHERE …`, or nothing."""
    matches: tuple[tuple[Name, Key], ...] = ()
    """Columns that WHERE wants to equal a placeholder, all of them at once, and of which value."""
    order: Fragment = Fragment("")
    """`ORDER BY … LIMIT …` of an UPDATE or a DELETE, or nothing."""
    order_columns: tuple[Name, ...] | None = ()
    """By what it is ordered; None when not by columns alone."""
    rows: tuple[tuple[Cell, ...], ...] = ()
    """What an INSERT gives; none when it unfolds arrays, whose rows what is returned tells."""
    conflict: Conflict | None = None
    returning: tuple[Name, ...] | None = None
    """Columns that it returns, `*` for all; None when it returns none."""
    source: Fragment = Fragment("")
    """Of a locking read: `FROM … WHERE …` up to its locks."""
    shares: bool = False
    """Of a locking read: it keeps others from changing its rows, and not from reading them."""
    savepoint: str = ""
