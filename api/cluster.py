"""The cluster as the HTTP layer sees it. A node implements it; tests may too."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

from statemachine.change_log import Recorded
from statemachine.commands import AnyCommand, IdempotencyKey
from statemachine.outcomes import Outcome, Position, RequestOutcome
from statemachine.store import DamagedStateError, Reader


class OutcomeUnknownError(Exception):
    """The deadline passed, or leadership was lost, before the outcome was learnt.

    The request may have been applied or may still be; only a retry under the same idempotency key
    tells.
    """


class NoQuorumError(Exception):
    """No majority confirmed a leader in time; nothing was proposed, or nothing was read."""


class RequestTooLargeError(Exception):
    """The encoded request exceeds the greatest entry; it was not proposed."""


class OverloadedError(Exception):
    """The node's queue of unproposed requests is full; it was not proposed."""


class TimestampsExhaustedError(Exception):
    """The oracle has fewer timestamps left than were asked for."""


class StorageFullError(Exception):
    """State or disk has passed its limit, so the leader refuses what would grow it."""


class Consistency(enum.StrEnum):
    LINEARIZABLE = "linearizable"
    LOCAL = "local"


class View(msgspec.Struct, frozen=True):
    """A consistent state to read. Use it up before the next `await`."""

    reader: Reader
    position: Position
    """The last command applied to it."""
    term: int


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One member as the answering node knows it."""

    node_id: str
    role: str
    """LEADER, FOLLOWER, CANDIDATE, LEARNER or UNKNOWN."""
    api_address: str
    peer_address: str
    match_index: int | None
    """Known at the leader, None elsewhere."""
    last_contact_ms: int | None
    """Milliseconds since this node last heard from it; None when never, 0 for itself."""


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    cluster_id: str | None
    node_id: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    voters: tuple[str, ...]
    nodes: tuple[NodeStatus, ...]
    quorum_confirmed_ms: int | None
    """Milliseconds since a quorum confirmed the leader, and the leader heard this node; as far as
    this node knows.
    """
    caught_up: bool
    """Applied is close behind what the leader is known to have committed."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    node_id: str
    peer_address: str
    api_address: str
    disk_uuid: str = ""
    """Empty in a request to admit: whichever disk is found there, when it is an empty one."""


class MembershipError(Exception):
    """A membership change was refused; nothing changed. `code` is machine-readable."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class ChangePage(msgspec.Struct, frozen=True):
    """The next part of the change log."""

    changes: tuple[Recorded, ...]
    upto: Position
    """Where to go on: everything up to it is in this page or an earlier one."""


class Changes(Protocol):
    """The change log, read as this node applies it."""

    def read(self, after: Position) -> ChangePage:
        """Return what changed after a position, at once; empty at the end of what is applied here.

        Raises:
            CompactedError: something after it has been trimmed.
            DamagedStateError: a row of it is damaged.
        """

    async def wait(self, after: Position) -> None:
        """Return once this node has applied a command after `after`."""

    async def settled(self, ticket: Position) -> Outcome:
        """Return what a wait came to, once this node has applied its end.

        Raises:
            LookupError: no wait has this ticket; its outcome may have been forgotten.
        """


class Cluster(Protocol):
    """Propose, read, status: all that a resource needs."""

    @property
    def node_id(self) -> str: ...

    def propose(
        self,
        commands: Sequence[AnyCommand],
        *,
        timeout_ms: int,
        idempotency: IdempotencyKey | None = None,
    ) -> Awaitable[RequestOutcome]:
        """Replicate the commands as one request; await their outcomes.

        Raises:
            OutcomeUnknownError, NoQuorumError, RequestTooLargeError, OverloadedError,
            StorageFullError
        """

    async def read(self, consistency: Consistency, *, timeout_ms: int) -> View:
        """Return a state at least as new as every write acknowledged before the call.

        With `Consistency.LOCAL`: the node's own state, at once.

        Raises:
            NoQuorumError
        """

    def draw_timestamps(self, count: int, *, timeout_ms: int) -> Awaitable[int]:
        """Return the first of `count` timestamps of the oracle that follow each other.

        They are greater than all that anybody was given before the call.

        Raises:
            NoQuorumError, OverloadedError, TimestampsExhaustedError
        """

    def applied_position(self) -> Position:
        """The last command that this node applied."""

    @property
    def changes(self) -> Changes: ...

    @property
    def term(self) -> int: ...

    def status(self) -> ClusterStatus: ...

    def report_damage(self, error: DamagedStateError) -> None:
        """A read met a damaged row: this node cannot be trusted until it has rebuilt its state."""

    async def transfer_leadership(self, target: str | None, *, timeout_ms: int) -> str:
        """Hand leadership to `target`, or to the most advanced voter; return the new leader.

        Raises:
            MembershipError, NoQuorumError
        """

    async def add_member(self, member: Member, *, timeout_ms: int) -> None:
        """Admit a node with an empty disk as learner, and promote it once it has caught up.

        Raises:
            MembershipError, NoQuorumError
        """

    async def remove_member(self, node_id: str, *, timeout_ms: int) -> None:
        """Raises: MembershipError, NoQuorumError"""
