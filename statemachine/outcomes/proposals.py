"""Results of data proposals."""

from __future__ import annotations

import msgspec

from statemachine.outcomes.result import Result
from statemachine.positions import Position


class VoteCast(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One voter and what it said."""

    node_id: str
    vote: str
    """ACCEPT, REJECT, or PENDING while it has not voted."""
    reason: str
    """Why not; empty when it accepted or is pending."""


class ProposalDecided(Result, frozen=True, tag=43):
    """How a proposal ended, as it was known when it did."""

    proposal_id: str
    integer_id: bool
    key: str
    timestamp: int
    status: str
    """COMMITTED, REJECTED or EXPIRED."""
    reason: str
    """Why it was not committed; empty when it was."""
    decided_at: Position
    term: int
    """Of the entry that decided it."""
    votes: tuple[VoteCast, ...]


class VotesCounted(Result, frozen=True, tag=44):
    counted: int
    """Ballots that said something new."""
