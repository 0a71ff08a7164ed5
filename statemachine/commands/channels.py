"""Commands of resource managers' channels, and of what is told over them."""

from __future__ import annotations

import msgspec

from statemachine.commands.command import Command


class RegisterChannel(Command, frozen=True, tag=76):
    """A resource manager's process says who it is and what it has."""

    session_id: int
    """The session that it had before; 0, or one that has ended: it gets a new one."""
    application_id: str
    host: str
    instance: str
    """Empty: it succeeds nobody."""
    resources: tuple[str, ...]
    modes: tuple[str, ...]
    clean_batch: int
    grace_ms: int
    node_id: str
    """The node where its channel is open."""
    connection: int
    """A number that the node gives to no other connection, not even after a restart."""
    modes_of: tuple[tuple[str, ...], ...] = ()
    """Of each of `resources` its modes; empty: each has all of `modes`."""


class AttachChannel(Command, frozen=True, tag=77):
    """A node still has the connection of a session that was taken for lost."""

    session_id: int
    node_id: str
    connection: int


class DetachChannels(Command, frozen=True, tag=78):
    """Connections of a node are gone; their resource managers may come back."""

    node_id: str
    connections: tuple[tuple[int, int], ...]
    """Sessions with the number of their connection."""


class EndChannel(Command, frozen=True, tag=79):
    """A resource manager leaves for good."""

    session_id: int
    connection: int


class CleanedBranch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A branch whose resource manager has let go of all that it kept for it."""

    resource_id: str
    ended_ms: int
    xid: str
    branch_id: int


class RecordCleaned(Command, frozen=True, tag=80):
    """These need not be cleaned again."""

    branches: tuple[CleanedBranch, ...]


class RecordSwept(Command, frozen=True, tag=101):
    """A manager has let go of all that is over among what branches of a mode left at a place."""

    resource_id: str
    host: str
    """Empty, unless the resource is a file of one host."""
    mode: str
    upto_ms: int
    """What had ended by then, in elapsed time, was over when it looked."""


class RecordBranchAnswer(Command, frozen=True, tag=81):
    """What a resource manager said of a branch when recovery asked."""

    epoch: int
    """The term in which the driver asked."""
    xid: str
    branch_id: int
    answer: str
