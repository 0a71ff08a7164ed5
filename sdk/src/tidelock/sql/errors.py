"""What the SQL floor raises.

::

    TidelockError
    ├── StatementRefusedError      the statement cannot be undone; the message says what to write
    ├── AutocommitError            there is no local transaction to commit together with undo data
    └── DatabaseUnsuitableError    the connection or the table is set up in a way that does not do
        └── TableMissingError      a table that Tidelock needs is not there
"""

from __future__ import annotations

from tidelock.errors import TidelockError


class StatementRefusedError(TidelockError):
    """A statement was not executed, since its effect could not be undone.

    `statement` is what was refused; the message says what to write instead.
    """

    def __init__(self, message: str, statement: str = "") -> None:
        super().__init__(message)
        self.statement = statement

    def __reduce__(self) -> tuple[type[StatementRefusedError], tuple[str, str]]:
        """So that it survives the way from one process to another."""
        return type(self), (str(self), self.statement)


class AutocommitError(TidelockError):
    """The connection commits each statement by itself, so there is nothing to take part with."""


class DatabaseUnsuitableError(TidelockError):
    """A connection, a table or a column is set up in a way that exact images cannot live with."""


class TableMissingError(DatabaseUnsuitableError):
    """A table is not there in which Tidelock keeps something; the message says what makes it."""
