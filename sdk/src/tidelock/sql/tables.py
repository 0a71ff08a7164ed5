"""What is known of a table: its columns, keys, and whatever else changes when a row does."""

from __future__ import annotations

from functools import cached_property
from typing import Final, Literal

from tidelock.sql.columns import Form

Event = Literal["INSERT", "UPDATE", "DELETE"]

QUIET_RULES: Final = frozenset({"NO ACTION", "RESTRICT"})


class Column:
    """A column, and how its values are read and written exactly."""

    __slots__ = ("auto_updates", "default", "form", "generates", "is_computed", "name", "nullable")

    def __init__(
        self,
        name: str,
        form: Form,
        *,
        nullable: bool,
        default: str | None = None,
        generates: bool = False,
        auto_updates: bool = False,
        is_computed: bool = False,
    ) -> None:
        self.name = name
        self.form = form
        self.nullable = nullable
        self.default = default
        """The expression that stands for a value that is not given."""
        self.generates = generates
        """The database counts its values: AUTO_INCREMENT, serial, identity, rowid."""
        self.auto_updates = auto_updates
        """An UPDATE that does not name it may change it: ON UPDATE CURRENT_TIMESTAMP."""
        self.is_computed = is_computed
        """It follows from other columns and cannot be written."""


class Index:
    """A unique index. Of an index on expressions or parts of columns, `columns` is None."""

    __slots__ = ("columns", "is_partial", "name")

    def __init__(self, name: str, columns: tuple[str, ...] | None, *, is_partial: bool) -> None:
        self.name = name
        self.columns = columns
        self.is_partial = is_partial


class Reference:
    """A foreign key of another table, or of the same, that points here."""

    __slots__ = ("columns", "name", "on_delete", "on_update", "table")

    def __init__(
        self, name: str, table: str, columns: tuple[str, ...], on_update: str, on_delete: str
    ) -> None:
        self.name = name
        self.table = table
        self.columns = columns
        """The columns here that it refers to."""
        self.on_update = on_update
        self.on_delete = on_delete


class Trigger:
    """A trigger of the table."""

    __slots__ = ("events", "name")

    def __init__(self, name: str, events: frozenset[str]) -> None:
        self.name = name
        self.events = events


class Table:
    """A table. Its name and its columns' are spelled as the database does."""

    def __init__(
        self,
        schema: str,
        name: str,
        columns: tuple[Column, ...],
        primary_key: tuple[str, ...],
        *,
        indexes: tuple[Index, ...] = (),
        references: tuple[Reference, ...] = (),
        triggers: tuple[Trigger, ...] = (),
        unsuitable: str = "",
        number: str = "",
    ) -> None:
        self.schema = schema
        self.name = name
        self.columns = columns
        self.primary_key = primary_key
        self.indexes = indexes
        """Unique ones, the primary key's included."""
        self.references = references
        self.triggers = triggers
        self.unsuitable = unsuitable
        """Why its changes cannot be undone at all, if so: it is a view, its engine has no
        transactions.
        """
        self.number = number
        """What PostgreSQL calls it, whatever its name: its oid."""
        self.is_current = True
        """It was not read again since."""
        self._by_name = {column.name: column for column in columns}
        self._by_folded = {column.name.lower(): column for column in columns}

    @property
    def full_name(self) -> str:
        """Its name for people and for row locks: the same from every connection."""
        return f"{self.schema}.{self.name}" if self.schema else self.name

    def column(self, name: str, *, folds: bool = True) -> Column | None:
        """Return the column of a name, in any case of letters unless it is a quoted one."""
        found = self._by_name.get(name)
        if found is None and folds:
            found = self._by_folded.get(name.lower())
        return found

    @cached_property
    def key_columns(self) -> tuple[Column, ...]:
        """The columns of the primary key, in its order."""
        return tuple(self._by_name[name] for name in self.primary_key)

    @cached_property
    def written_columns(self) -> tuple[Column, ...]:
        """The columns that an image holds: all that do not follow from others, and the key."""
        key = set(self.primary_key)
        return tuple(
            column for column in self.columns if not column.is_computed or column.name in key
        )

    @cached_property
    def generated_key(self) -> Column | None:
        """The column of the primary key that the database counts, if one does."""
        return next((column for column in self.key_columns if column.generates), None)
