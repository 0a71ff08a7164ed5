"""Results of version vectors, versioned objects and vector clocks.

Vectors are not part of them: a vector may have thousands of entries, and outcomes are kept for
retries. They name the stored event instead, from which the vector after it is made again.
"""

from __future__ import annotations

import msgspec

from statemachine.outcomes.result import Result
from statemachine.positions import Position


class VersionAdvanced(Result, frozen=True, tag=20):
    """Answer of IncrementVersion and MergeVersion."""

    key: str
    event: Position


class VectorAdvanced(Result, frozen=True, tag=21):
    """Answer of TickVector, SendMessage and ReceiveMessage."""

    node_id: str
    event: Position
    """Of a message that was received before, that of its first receipt."""


class Sibling(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A current value of an object."""

    node_id: str
    count: int
    """It is the participant's `count`-th write of the object."""
    value: bytes
    """The client's JSON text."""


class ObjectWritten(Result, frozen=True, tag=22):
    """Answer of WriteObject: the object as it was right after."""

    key: str
    context: dict[str, int]
    siblings: tuple[Sibling, ...]
