"""The moments in the driver's work at which a process may die, by name.

A node passes none of this on: `nowhere` does nothing. A test gives the driver a function of its own
that ends the process at one of them, and then sees whether what was under way is done or undone as
a whole.
"""

from __future__ import annotations

import enum
from collections.abc import Callable


class CrashPoint(enum.StrEnum):
    """Where the driver is. What is called, and what it came to, is named beside it."""

    ACCEDED = "acceded"
    """It leads and has read nothing yet."""
    FOUND_RECORDED = "found recorded"
    """What the last leader left is on its way into the log."""
    LOOKED_AT = "looked at"
    """A transaction's rows are read, and no call of it has begun."""
    CALL_BEGUN = "call begun"
    """A slot is taken; nothing is sent."""
    CALL_SENT = "call sent"
    ANSWERED = "answered"
    """The participant has done what it was asked, or not; only this process knows."""
    REPORT_GATHERED = "report gathered"
    """It waits for others that go into the log with it."""
    PROPOSED = "proposed"
    """It is on its way into the log."""
    TAKEN = "taken"
    """It is applied here, and nothing that follows from it has begun."""
    WAITING = "waiting"
    """Nothing is due before a certain time."""
    CONFIRMING = "confirming"
    """A quorum is asked whether this node still leads."""
    RESIGNED = "resigned"
    """Another leads, and the calls under way are given up."""


Reach = Callable[[CrashPoint, str, str], None]
"""Called with the point, what is called or proposed, and what that came to."""


def nowhere(point: CrashPoint, what: str = "", outcome: str = "") -> None:
    """Go on."""
