"""What nodes answer, as values. Members that are added later are left out, not refused."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from tidelock.clocks import Relation
from tidelock.errors import Holder

T = TypeVar("T")

Vector = dict[str, int]
"""A counter for each participant; a missing one counts 0."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A JSON object with members in camel case."""


class Page(Answer, Generic[T], frozen=True, kw_only=True):
    """A part of a list."""

    items: list[T]
    next_cursor: str | None
    """Where the next part begins; None at the end."""


class Hlc(Answer, frozen=True, kw_only=True):
    """A hybrid timestamp."""

    wall_ms: int
    logical: int


class HybridTime(Answer, frozen=True, kw_only=True):
    """A hybrid timestamp, also as one sortable integer."""

    hlc: Hlc
    encoded: int


class Event(Answer, frozen=True, kw_only=True):
    """A stored event of a participant."""

    event_id: str
    node_id: str
    event_type: str
    event_data: Any  # whatever JSON was recorded
    lamport_timestamp: int
    hlc: Hlc
    created_at: int
    source_node_id: str | None = None
    source_event_id: str | None = None
    source_timestamp: int | None = None


class Synced(Answer, frozen=True, kw_only=True):
    """The event that a received timestamp made."""

    synced_event_id: str
    node_id: str
    lamport_timestamp: int


class LamportTime(Answer, frozen=True, kw_only=True):
    """How far a participant's clock has got; 0 for one never seen."""

    node_id: str
    lamport_timestamp: int


class Membership(Answer, frozen=True, kw_only=True):
    """Whether a participant takes part."""

    node_id: str
    active: bool
    changed: bool


class Participant(Answer, frozen=True, kw_only=True):
    """A participant and its clock."""

    node_id: str
    active: bool
    lamport_timestamp: int
    since: int


class Drawn(Answer, frozen=True, kw_only=True):
    """Timestamps in a row that nobody else has."""

    first: int
    last: int
    count: int


class Taken(Answer, frozen=True, kw_only=True):
    """Numbers of a sequence, both ends included."""

    first: int
    last: int


class SequenceState(Answer, frozen=True, kw_only=True):
    """How far a sequence has got."""

    name: str
    last: int


class KeyVersion(Answer, frozen=True, kw_only=True):
    """The version vector of a key."""

    key: str
    version_vector: Vector


class IncrementedVersion(KeyVersion, frozen=True, kw_only=True):
    """A version vector after an increment."""

    event_id: str


class MergedVersion(KeyVersion, frozen=True, kw_only=True):
    """A version vector after a merge; `relation` is of the stored one, before, to the received."""

    relation: Relation


class Comparison(Answer, frozen=True, kw_only=True):
    """The relation of the first to the second."""

    relation: Relation


class VersionEvent(Answer, frozen=True, kw_only=True):
    """A stored change of a version."""

    event_id: str
    type: str
    key: str
    node_id: str | None = None
    version_vector: Vector | None = None
    relation: Relation | None = None
    context: Vector | None = None
    count: int | None = None
    siblings: int | None = None
    created_at: int


class Sibling(Answer, frozen=True, kw_only=True):
    """One of the concurrent values of an object."""

    value: Any  # whatever JSON was written
    node_id: str
    count: int


class VersionedObject(Answer, frozen=True, kw_only=True):
    """An object's concurrent values; who writes with `context` resolves them."""

    key: str
    siblings: list[Sibling]
    context: Vector
    event_id: str | None = None


class ParticipantClock(Answer, frozen=True, kw_only=True):
    """A participant's vector clock."""

    node_id: str
    vector_clock: Vector


class SentMessage(ParticipantClock, frozen=True, kw_only=True):
    """The clock to send along with a message."""

    message_id: str


class ReceivedMessage(ParticipantClock, frozen=True, kw_only=True):
    """The clock after a message."""

    relation: Relation


class VectorEvent(ParticipantClock, frozen=True, kw_only=True):
    """A stored tick, send or receive."""

    event_id: str
    type: str
    message_id: str | None = None
    message: Any = None  # whatever JSON was sent
    relation: Relation | None = None
    created_at: int


class LockLease(Answer, frozen=True, kw_only=True):
    """A lock that is held."""

    name: str
    owner: str
    mode: str
    fencing_token: int
    expires_at: int
    """Milliseconds since the epoch, for display."""


class LockRelease(Answer, frozen=True, kw_only=True):
    """A lock that was given back; `released` is false when it had been before."""

    name: str
    owner: str
    fencing_token: int
    released: bool


class LockVerdict(Answer, frozen=True, kw_only=True):
    """Whether a token is that of a lease which runs."""

    valid: bool


class Waiter(Answer, frozen=True, kw_only=True):
    """Who waits for a lock."""

    owner: str
    mode: str


class LockSummary(Answer, frozen=True, kw_only=True):
    """A lock, and who has held it longest; no holder when it is free."""

    name: str
    holder: Holder | None
    fencing_token: int | None
    holder_count: int
    queue_length: int


class LockView(LockSummary, frozen=True, kw_only=True):
    """A lock with those who have it, and those who wait in the order of their turns."""

    holders: list[Holder]
    queue: list[Waiter]


class Proposal(Answer, frozen=True, kw_only=True):
    """A proposal, its votes, and who has applied it."""

    id: int | str
    key: str
    timestamp: int
    status: str
    index: int | None
    term: int | None
    votes: dict[str, str]
    reasons: dict[str, str]
    applied_by: dict[str, int]
    reason: str = ""
    proposed_by: str | None = None
    proposed_at: int | None = None
    decided_at: int | None = None


class CommittedData(Answer, frozen=True, kw_only=True):
    """What is committed under a key."""

    key: str
    data: Any  # whatever JSON was proposed
    timestamp: int
    index: int
    term: int
    proposal_id: int | str
    committed_at: int


class Node(Answer, frozen=True, kw_only=True):
    """A node as the asked one knows it."""

    node_id: str
    role: str
    state: str
    api_address: str
    peer_address: str
    match_index: int | None = None
    lag: int | None = None
    last_contact_ms: int | None = None


class Topology(Answer, frozen=True, kw_only=True):
    """The cluster as one node knows it."""

    cluster_id: str | None
    leader: str | None
    term: int
    commit_index: int
    nodes: list[Node]


class Route(Answer, frozen=True, kw_only=True):
    """Whether a node is in rotation, why and since when."""

    node_id: str
    in_rotation: bool
    state: str
    reason: str
    since: int


class Routes(Answer, frozen=True, kw_only=True):
    """The nodes in and out of rotation."""

    nodes: list[Route]


class Transferred(Answer, frozen=True, kw_only=True):
    """Who leads after a transfer."""

    leader: str


class BatchResults(Answer, frozen=True, kw_only=True):
    """One result for each operation, in order; `status` is what the operation alone would say."""

    results: list[dict[str, Any]]  # each as its operation answers
