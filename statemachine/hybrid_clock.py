"""The cluster's hybrid logical clock: one value, which every event, tick and receipt raises.

It is the clock of `tidelock.clocks.hybrid`, kept as one encoded integer; the stamp of the entry is
its physical time.
"""

from __future__ import annotations

from typing import Final

from statemachine.commands import ObserveHybridTime
from statemachine.outcomes import Applied, HybridClockTicked, Outcome, Rejected, RejectionCode
from statemachine.rejections import CLOCK_OVERFLOW
from statemachine.state import MachineState

LOGICAL_BITS: Final = 18
"""Bits of the counter in an encoded hybrid timestamp, below the milliseconds."""

GREATEST_ENCODED: Final = 2**63 - 1
"""The greatest encoded timestamp that is given, of the year 3084: it fits a signed column."""

_TIMESTAMP_NEGATIVE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "The observed timestamp is negative. Send the hybrid timestamp that was received.",
)


def next_timestamp(state: MachineState) -> int:
    """Return the successor of the last timestamp at the entry's time; it may be too great."""
    following, physical = state.hlc + 1, state.wall_ms << LOGICAL_BITS
    return following if following > physical else physical


def tick(state: MachineState) -> Outcome:
    """Give the next timestamp."""
    return _advance(state, next_timestamp(state))


def observe(state: MachineState, command: ObserveHybridTime) -> Outcome:
    """Give a timestamp above the last one and the received one, unless that is from the future."""
    received = command.timestamp
    if received < 0:
        return _TIMESTAMP_NEGATIVE
    ahead_ms = (received >> LOGICAL_BITS) - state.wall_ms
    if ahead_ms > command.max_skew_ms:
        return Rejected(
            RejectionCode.CLOCK_SKEW_TOO_LARGE,
            f"The timestamp is {ahead_ms} ms ahead of the cluster's clock, more than the "
            f"{command.max_skew_ms} ms that are accepted. Check the sender's clock.",
        )
    return _advance(state, max(next_timestamp(state), received + 1))


def _advance(state: MachineState, hlc: int) -> Outcome:
    if hlc > GREATEST_ENCODED:
        return CLOCK_OVERFLOW
    state.hlc = hlc
    return Applied(HybridClockTicked(hlc=hlc))
