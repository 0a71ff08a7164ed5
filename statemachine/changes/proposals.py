"""Changes of data proposals."""

from __future__ import annotations

from typing import ClassVar

from statemachine.changes.change import Change


class ProposalProposed(Change, frozen=True, tag=43):
    kind: ClassVar[str] = "proposal.proposed"

    id: int | str
    key: str
    timestamp: int
    proposed_by: str
    """The cluster node that holds the client's request."""
    voters: tuple[str, ...]


class ProposalVoted(Change, frozen=True, tag=44):
    kind: ClassVar[str] = "proposal.voted"

    id: int | str
    node_id: str
    vote: str
    """ACCEPT or REJECT."""
    reason: str


class ProposalCommitted(Change, frozen=True, tag=45):
    kind: ClassVar[str] = "proposal.committed"

    id: int | str
    key: str
    timestamp: int


class ProposalRejected(Change, frozen=True, tag=46):
    kind: ClassVar[str] = "proposal.rejected"

    id: int | str
    key: str
    timestamp: int
    status: str
    """REJECTED, or EXPIRED when the votes did not suffice in time."""
    reason: str
