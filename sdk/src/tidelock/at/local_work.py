"""What one local transaction has changed so far, and since which savepoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tidelock.at.undo_records import Change
from tidelock.client.answers import RowLockMode
from tidelock.sql.catalog import TableName
from tidelock.sql.columns import KeyPart
from tidelock.sql.resolution import Meant
from tidelock.transaction.context import Binding

Keys = dict[str, list[list[KeyPart]]]

Row = tuple[str, tuple[KeyPart, ...]]
"""A table and a key."""


class Savepoint(NamedTuple):
    """A savepoint, and how much had been done when it was set."""

    name: str
    changes: int
    rows: int
    locked: int
    begins: bool
    """It has begun the local transaction, which ends with its release: so SQLite has it."""


class Work:
    """What one local transaction has done so far."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.changes: list[Change] = []
        self.rows: list[Row] = []
        self.locked: dict[Row, RowLockMode] = {}
        """Rows that the coordinator has locked already, in the order in which it did (TXC)."""
        self.savepoints: list[Savepoint] = []
        self.meant: dict[TableName, Meant] = {}
        """What names of tables are known to mean."""
        self.spoiled: tuple[BaseException, int] | None = None
        """Why nothing of it may be committed, and how many savepoints there were then: going back
        to one of those mends it.
        """
        self.is_untouched = False
        """No statement was run in it, and no row looked at."""
        self.described: set[str] = set()
        """Tables whose columns were compared with what is known of them."""

    def keys(self) -> Keys:
        """Return the rows as row locks name them, each once."""
        return keys_of(self.rows)

    def set_savepoint(self, name: str, *, begins: bool) -> None:
        """Remember a savepoint."""
        self.savepoints.append(
            Savepoint(name, len(self.changes), len(self.rows), len(self.locked), begins)
        )

    def place_of(self, name: str) -> int | None:
        """Return which savepoint is meant: the last one of a name."""
        names = [each.name for each in self.savepoints]
        return len(names) - 1 - names[::-1].index(name) if name in names else None

    def go_back(self, name: str) -> list[Row]:
        """Forget what was done since a savepoint: the database has undone it. Return the rows that
        the coordinator has locked since.
        """
        at = self.place_of(name)
        if at is None:
            return []
        del self.changes[self.savepoints[at].changes :]
        locked = list(self.locked)[self.savepoints[at].locked :]
        del self.rows[self.savepoints[at].rows :]
        del self.savepoints[at + 1 :]
        if self.spoiled is not None and at < self.spoiled[1]:
            self.spoiled = None
        return locked


def keys_of(wanted: Iterable[Row]) -> Keys:
    """Return rows as row locks name them, each once."""
    found: dict[str, dict[tuple[KeyPart, ...], None]] = {}
    for table, key in wanted:
        found.setdefault(table, {})[key] = None
    return {table: [list(key) for key in rows] for table, rows in found.items()}
