"""The logical clock of L. Lamport, "Time, Clocks, and the Ordering of Events in a Distributed
System", Communications of the ACM 21(7), 1978.

If event *a* happened before event *b*, then C(a) < C(b): the paper's Clock Condition. The converse
does not hold; use a vector clock to tell concurrent events from ordered ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from tidelock.clocks.errors import ClockOverflowError, require_integer

# Signed 64-bit integers are what databases, JSON parsers and other languages agree on.
_GREATEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, order=True)
class LamportClock:
    """One process's clock as a value: the time of its latest event, 0 before the first.

    Raises:
        ClockValueError: `time` is not an integer from 0 to `GREATEST`.
    """

    GREATEST: ClassVar[int] = _GREATEST
    """The greatest time a clock can hold, 2**63 - 1."""

    time: int = 0

    def __post_init__(self) -> None:
        require_integer("time", self.time, _GREATEST)

    def tick(self) -> LamportClock:
        """Return the clock after a local event or a send: time + 1 (rule IR1 of the paper).

        Raises:
            ClockOverflowError: the clock stands at `GREATEST`.
        """
        return self._after(self.time)

    def receive(self, received: int) -> LamportClock:
        """Return the clock after receiving a message that carries the time `received`.

        The receipt is an event of its own, later than both: max(time, received) + 1. That is rule
        IR2 of the paper with IR1 applied to the receipt.

        Raises:
            ClockValueError: `received` is not an integer from 0 to `GREATEST`.
            ClockOverflowError: one of both times is `GREATEST`.
        """
        require_integer("received", received, _GREATEST)
        return self._after(max(self.time, received))

    def _after(self, time: int) -> LamportClock:
        if time >= _GREATEST:
            raise ClockOverflowError(f"no Lamport time follows {time}")
        return LamportClock(time + 1)
