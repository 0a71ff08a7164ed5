"""Commands of data proposals: what a client proposes, how each node votes, and the decision."""

from __future__ import annotations

import msgspec

from statemachine.commands.command import Command


class ProposeData(Command, frozen=True, tag=43):
    """Lay data before the voters. It waits for their decision, at most `window_ms`."""

    proposal_id: str
    """Empty: the proposal gets the id of its position."""
    integer_id: bool
    """The client wrote the id as an integer and is answered so."""
    key: str
    """What the data is to be found under. Empty: under the proposal's id."""
    data: bytes
    """The client's JSON text."""
    timestamp: int
    proposer: str
    """The cluster node that holds the client's request."""
    voters: tuple[str, ...]
    """Who votes: the cluster's voters, as the proposer knows them, in order of node id."""
    window_ms: int


class Ballot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one node says of one proposal."""

    proposal_id: str
    accept: bool
    reason: str
    """Why not; empty when it accepts."""
    applied: bool
    """The node has applied the decision to commit."""


class VoteProposals(Command, frozen=True, tag=44):
    """A node's votes and reports on the proposals that wait for them. The first vote counts."""

    node_id: str
    ballots: tuple[Ballot, ...]


class DecideProposal(Command, frozen=True, tag=45):
    """Commit or reject, as the votes have it. Decided already: the same answer again."""

    proposal_id: str
