"""What a barrier finds."""

from __future__ import annotations

import enum

from tidelock.errors import TidelockError


class BarrierError(TidelockError):
    """The barrier cannot do its work here; nothing was done."""


class Outcome(enum.Enum):
    """Whether the business was to be run, and why not."""

    FIRST = "FIRST"
    """Nobody came before: it is to be run, or was."""
    REPEATED = "REPEATED"
    """It was done already. Nothing ran."""
    EMPTY = "EMPTY"
    """It undoes what never was done, and now never will be. Nothing ran."""
    LATE = "LATE"
    """It was undone before it came. Nothing ran."""

    @property
    def status(self) -> int:
        """The status of HTTP with which the call is to be answered, by both protocols."""
        return 409 if self is Outcome.LATE else 200


class Fate(enum.Enum):
    """What became of the work that a message tells of."""

    DONE = "DONE"
    """It is committed: the message is to be delivered."""
    GIVEN_UP = "GIVEN_UP"
    """It was not committed, and now never can be."""

    @property
    def status(self) -> int:
        """The status of HTTP with which who asks is to be answered, by both protocols."""
        return 200 if self is Fate.DONE else 409
