"""Commands of version vectors and of versioned objects."""

from __future__ import annotations

from statemachine.commands.command import Command


class IncrementVersion(Command, frozen=True, tag=20):
    """Count a write of a participant in a key's version vector."""

    key: str
    node_id: str


class MergeVersion(Command, frozen=True, tag=21):
    """Raise a key's version vector to the maximum of each entry."""

    key: str
    node_id: str
    """Who merges. Its own entry does not move: taking over writes is none."""
    vector: dict[str, int]


class WriteObject(Command, frozen=True, tag=22):
    """Write a value of an object, which replaces what its writer had read."""

    key: str
    node_id: str
    context: dict[str, int]
    """What the writer had read: the context that came with it."""
    value: bytes
    """The client's JSON text."""
