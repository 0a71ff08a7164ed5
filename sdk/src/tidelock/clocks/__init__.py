"""Logical clocks as pure value types: no I/O, no randomness, no physical clock read inside.

A clock is an immutable value; every step returns the next one. Physical time, where a clock needs
it, is an argument, so the same steps give the same values on every machine and in every replay.

    LamportClock      one integer that respects causality (Lamport 1978)
    HybridTimestamp   milliseconds and a counter; sortable, also as one 64-bit integer
    HybridClock       a Lamport clock that stays close to physical time (Kulkarni et al. 2014)

What can go wrong is drawn in `tidelock.clocks.errors`.
"""

from tidelock.clocks.errors import (
    ClockError,
    ClockOverflowError,
    ClockSkewError,
    ClockValueError,
)
from tidelock.clocks.hybrid import HybridClock, HybridTimestamp
from tidelock.clocks.lamport import LamportClock

__all__ = [
    "ClockError",
    "ClockOverflowError",
    "ClockSkewError",
    "ClockValueError",
    "HybridClock",
    "HybridTimestamp",
    "LamportClock",
]
