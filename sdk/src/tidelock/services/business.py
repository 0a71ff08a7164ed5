"""What business is written against: two data sources in one transaction, and who is told of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

ENTRY_POINTS: Final = "tidelock.business"
"""The group of entry points whose names are business types and whose objects are `Business`."""


class JtaStatus(enum.StrEnum):
    """Where the transaction of an execution stands."""

    ACTIVE = "ACTIVE"
    PREPARING = "PREPARING"
    COMMITTING = "COMMITTING"
    COMMITTED = "COMMITTED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    MARKED_ROLLBACK = "MARKED_ROLLBACK"
    """It fails, and can only be rolled back."""
    UNKNOWN = "UNKNOWN"
    """Nobody confirmed its end in time; the coordinator goes on with it."""


class BusinessError(Exception):
    """The business does not want it: everything is rolled back, and the client is told why."""


class BatchFailedError(BusinessError):
    """Some of many items failed, each of which the client is told."""

    def __init__(self, message: str, failures: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(message)
        self.failures = list(failures)


class Synchronization(Protocol):
    """Somebody who is told of the end of a transaction; what JTA calls by this name."""

    def before_completion(self) -> None:
        """The business is done, nothing is prepared yet. What it raises rolls everything back."""

    def after_completion(self, status: JtaStatus) -> None:
        """COMMITTED, ROLLED_BACK or UNKNOWN. What it raises is logged."""


class DataSource(Protocol):
    """One of the two databases, on the connection of its branch."""

    name: str
    """`primary` or `secondary`."""
    dialect: str
    """`mysql` (MariaDB too) or `postgresql`."""

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows. Placeholders are `%s` in both dialects, a percent sign is `%%`."""

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Execute a statement that returns no rows; return how many it changed."""

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement for each row of parameters."""

    def quote(self, name: str) -> str:
        """Return an identifier in the dialect's quotes."""


class Work(Protocol):
    """An execution as its business sees it."""

    transaction_id: str
    xid: str
    primary: DataSource
    secondary: DataSource

    def source(self, name: str) -> DataSource:
        """Return `primary` or `secondary`. Raises: BusinessError: there is no other."""

    def progress(self, *, read: int, written: int, total: int, batch: int) -> None:
        """Have the status of the execution say how far it is."""

    def register(self, synchronization: Synchronization) -> None:
        """Have somebody told of the end of the transaction."""

    def set_rollback_only(self, reason: str) -> None:
        """Have it rolled back though nothing is raised."""


class Business(Protocol):
    """A business type: `def business(work, data)`, with what is done to data definitions before.

    `data` is the JSON object that the client sent. What it returns is answered as `result`, and
    must be JSON when it is encoded by msgspec. It may be done again, in another transaction, after
    the process died in which it was done first; so what it does outside of its two connections is
    done at least once.

    Raises: BusinessError: it is to be rolled back. So is what raises anything else.
    """

    def __call__(self, work: Work, data: Mapping[str, Any]) -> Any: ...
