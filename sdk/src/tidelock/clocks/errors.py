"""What a clock refuses. A refused step returns nothing and changes nothing.

Exception
└── ClockError                     anything below
    ├── ClockValueError            an argument is not a value that the clock can hold
    │   (also a ValueError)
    ├── ClockOverflowError         the step would leave the clock's range
    │   (also an OverflowError)
    ├── ClockSkewError             a received timestamp is too far ahead of physical time
    ├── UndecidedError             what is known here does not tell how two clocks stand
    └── WireFormatError            received bytes or text are not an encoded clock
        (also a ValueError)
"""

from __future__ import annotations


class ClockError(Exception):
    """The base of all errors of `tidelock.clocks`."""


class ClockValueError(ClockError, ValueError):
    """An argument is not an integer, or not one between 0 and the greatest the clock can hold."""


class ClockOverflowError(ClockError, OverflowError):
    """The clock stands at the greatest value it can hold, so no later one exists."""


class ClockSkewError(ClockError):
    """A received timestamp is further ahead of physical time than the clock accepts.

    Taking it would drag every clock that hears from this one into the future, where they stay.
    """

    def __init__(self, ahead_ms: int, max_skew_ms: int) -> None:
        super().__init__(ahead_ms, max_skew_ms)
        self.ahead_ms = ahead_ms
        """How far the received wall time is ahead of the physical time, in milliseconds."""
        self.max_skew_ms = max_skew_ms
        """The clock's bound, in milliseconds."""

    def __str__(self) -> str:
        return (
            f"the received timestamp is {self.ahead_ms} ms ahead of physical time, more than the "
            f"accepted {self.max_skew_ms} ms; check the sender's clock synchronisation"
        )


class UndecidedError(ClockError):
    """Clocks were pruned at floors of which too little is known here to compare or merge them.

    Their relation exists; who knows the retirements can tell it. See `tidelock.clocks.pruning`.
    """


class WireFormatError(ClockError, ValueError):
    """Bytes, text or JSON are not a clock in the form of `tidelock.clocks.wire`."""


def require_integer(name: str, value: int, greatest: int) -> None:
    """Refuse what is not an integer from 0 to `greatest`; booleans are not integers here.

    Raises:
        ClockValueError: with `name`, the value and the range in its message.
    """
    if type(value) is not int or not 0 <= value <= greatest:
        raise ClockValueError(f"{name} must be an integer from 0 to {greatest}, got {shown(value)}")


def shown(value: object) -> str:
    """Show a wrong value in a message: shortly, and whatever it is."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):  # an integer of thousands of digits; endless nesting
        return f"a {type(value).__name__} too large to show"
