"""Logical clocks as pure value types: no I/O, no randomness, no physical clock read inside.

A clock is an immutable value; every step returns the next one. Physical time, where a clock needs
it, is an argument, so the same steps give the same values on every machine and in every replay.

    LamportClock      one integer that respects causality (Lamport 1978)
    HybridTimestamp   milliseconds and a counter; sortable, also as one 64-bit integer
    HybridClock       a Lamport clock that stays close to physical time (Kulkarni et al. 2014)
    VectorClock       tells ordered from concurrent events (Fidge 1988, Mattern 1989)
    VersionVector     the same for copies of an object (Parker et al. 1983)
    DottedVersionVector, DottedVersionVectorSet
                      versions that clients write through servers (Preguiça et al. 2010, 2012)
    IntervalTreeClock tells ordered from concurrent among participants that come and go, without
                      names (Almeida et al. 2008)
    Retirements       takes departed participants out of vectors, as `Pruned` ones

Those that can tell answer `compare` with a `Relation`. The functions `compare`, `merge` and
`covers` do the arithmetic of vectors on plain mappings from participant to counter.

`tidelock.clocks.wire` writes and reads all of them. What can go wrong is drawn in
`tidelock.clocks.errors`.
"""

from tidelock.clocks.counters import compare, covers, merge
from tidelock.clocks.dotted import Dot, DottedVersionVector
from tidelock.clocks.errors import (
    ClockError,
    ClockOverflowError,
    ClockSkewError,
    ClockValueError,
    UndecidedError,
    WireFormatError,
)
from tidelock.clocks.hybrid import HybridClock, HybridTimestamp
from tidelock.clocks.interval_tree import IntervalTreeClock
from tidelock.clocks.lamport import LamportClock
from tidelock.clocks.pruning import Floor, Pruned, Retirements
from tidelock.clocks.relation import Relation
from tidelock.clocks.siblings import DottedVersionVectorSet
from tidelock.clocks.vector import VectorClock
from tidelock.clocks.version import VersionVector

__all__ = [
    "ClockError",
    "ClockOverflowError",
    "ClockSkewError",
    "ClockValueError",
    "Dot",
    "DottedVersionVector",
    "DottedVersionVectorSet",
    "Floor",
    "HybridClock",
    "HybridTimestamp",
    "IntervalTreeClock",
    "LamportClock",
    "Pruned",
    "Relation",
    "Retirements",
    "UndecidedError",
    "VectorClock",
    "VersionVector",
    "WireFormatError",
    "compare",
    "covers",
    "merge",
]
