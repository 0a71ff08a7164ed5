"""Rows of data proposals, and what is read from them.

A proposal has one row with all its votes. Beside it stand, for as long as they matter: its data
until it is decided; a row for each voter that owes it a ballot, so that a node finds its work by
one scan however long it was away; a row while its votes would decide it and nobody did; and its
place among the decided ones, in which they are forgotten. Committed data has a row of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from statemachine import keys
from statemachine.outcomes import ProposalDecided, VoteCast
from statemachine.positions import Position
from statemachine.store import Reader

GREATEST_UNDECIDED: Final = 1_000

GREATEST_BALLOTS: Final = 256
"""Ballots that one command may hold."""


class ProposalState(enum.IntEnum):
    """A number is never reused; names are what clients see."""

    PROPOSED = 1
    COMMITTED = 2
    REJECTED = 3
    EXPIRED = 4


class Vote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    accept: bool
    reason: str
    applied: bool
    """The voter has applied the decision to commit."""


class ProposalRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A proposal without its data."""

    integer_id: bool
    key: str
    key_given: bool
    """The client named the key; else it is the id."""
    timestamp: int
    digest: bytes
    """Of the data."""
    proposer: str
    voters: tuple[str, ...]
    above: int | None
    """The key's committed timestamp when it was proposed, which it has to exceed; None: there was
    none."""
    proposed_at: Position
    """Also its ticket, for which whoever proposed it waits."""
    proposed_ms: int
    """Wall time, as all that follow but `kept_until_ms`."""
    votes: tuple[Vote | None, ...]
    """In the order of `voters`."""
    state: ProposalState = ProposalState.PROPOSED
    reason: str = ""
    decided_at: Position = Position(0, 0)
    decided_term: int = 0
    decided_ms: int = 0
    kept_until_ms: int = 0
    """In elapsed time."""


class ValueRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The committed data of a key."""

    proposal_id: str
    integer_id: bool
    lasting: bool
    """A client named this key once, so the data outlives the proposals that wrote it."""
    timestamp: int
    committed_at: Position
    term: int
    committed_ms: int
    data: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_proposals: Final = msgspec.msgpack.Decoder(ProposalRow)
_values: Final = msgspec.msgpack.Decoder(ValueRow)
_decidable: Final = msgspec.msgpack.Decoder(tuple[str, str])


def encode_row(row: ProposalRow | ValueRow) -> bytes:
    return _encode(row)


# Keys


def name_of_row(name: str) -> bytes | None:
    """Return the terminated name of a proposal or a key, None when no row can have it."""
    terminated = keys.terminated(name)
    return terminated if name and len(terminated) <= keys.GREATEST_NAME_BYTES else None


def owed_key(node_id: str, proposed_at: Position) -> bytes:
    """Return the key of the row that says: this node owes this proposal a ballot."""
    return keys.OWED_BALLOT + keys.terminated(node_id) + _packed(proposed_at)


def decidable_key(proposed_at: Position) -> bytes:
    return keys.DECIDABLE_PROPOSAL + _packed(proposed_at)


def decided_key(row: ProposalRow) -> bytes:
    """Several may be decided by one command, when they expire."""
    return keys.DECIDED_PROPOSAL + _packed(row.decided_at) + _packed(row.proposed_at)


def _packed(position: Position) -> bytes:
    return keys.pack_event(position.entry, position.place)


# Reading


def read_proposal(reader: Reader, name: bytes) -> ProposalRow | None:
    row = reader.get(keys.PROPOSAL + name)
    return None if row is None else _proposals.decode(row)


def read_value(reader: Reader, name: bytes) -> ValueRow | None:
    row = reader.get(keys.COMMITTED_DATA + name)
    return None if row is None else _values.decode(row)


def get_proposal(reader: Reader, proposal_id: str) -> ProposalRow | None:
    """Return the proposal, or None when there is none or no more."""
    name = name_of_row(proposal_id)
    return None if name is None else read_proposal(reader, name)


def get_committed(reader: Reader, key: str) -> ValueRow | None:
    """Return the committed data of a key, or None when there is none or no more."""
    name = name_of_row(key)
    return None if name is None else read_value(reader, name)


def owed_ballots(reader: Reader, node_id: str, *, limit: int) -> list[str]:
    """Return the ids of proposals that wait for a ballot of this node, the oldest first."""
    prefix = keys.OWED_BALLOT + keys.terminated(node_id)
    # Positions are below 2**63, so nothing of this prefix follows 0x80.
    rows = reader.scan(prefix, prefix + b"\x80", limit=limit)
    return [value.decode() for _, value in rows]


def decidable_proposals(reader: Reader) -> list[tuple[str, str]]:
    """Return proposer and id of the proposals whose votes suffice for a decision, oldest first."""
    stop = keys.stop_of(keys.DECIDABLE_PROPOSAL)
    rows = reader.scan(keys.DECIDABLE_PROPOSAL, stop, limit=GREATEST_UNDECIDED)
    return [_decidable.decode(value) for _, value in rows]


def encode_decidable(proposer: str, proposal_id: str) -> bytes:
    """Return the value of the row at `decidable_key`."""
    return _encode((proposer, proposal_id))


# Rules


def majority(voters: Sequence[str]) -> int:
    return len(voters) // 2 + 1


def verdict(row: ProposalRow) -> ProposalState | None:
    """Return what the votes come to: COMMITTED, REJECTED, or None while they do not suffice.

    It is rejected once a majority of ACCEPT cannot come together any more.
    """
    accepted = sum([vote is not None and vote.accept for vote in row.votes])
    refused = sum([vote is not None and not vote.accept for vote in row.votes])
    needed = majority(row.voters)
    if accepted >= needed:
        return ProposalState.COMMITTED
    if refused > len(row.voters) - needed:
        return ProposalState.REJECTED
    return None


def objection(row: ProposalRow) -> str:
    """Return why a voter refuses the proposal; empty when it accepts.

    It depends on nothing but the log up to the proposal, so a node that votes late judges as the
    others did.
    """
    if row.above is None or row.timestamp > row.above:
        return ""
    return (
        f"The timestamp {row.timestamp} is not above {row.above}, which was the committed one of "
        "the key when this was proposed."
    )


def why_not_committed(row: ProposalRow, result: ProposalState) -> str:
    """Return the reason of a proposal that is REJECTED by its votes, or EXPIRED."""
    if result is ProposalState.REJECTED:
        refusals = [vote.reason for vote in row.votes if vote is not None and not vote.accept]
        return f"{len(refusals)} of {len(row.voters)} nodes refused it. {refusals[0]}"
    missing = [voter for voter, vote in zip(row.voters, row.votes, strict=True) if vote is None]
    return (
        f"{len(missing)} of {len(row.voters)} nodes did not vote in time, too many for a decision: "
        f"{', '.join(missing)}."
    )


def decision(proposal_id: str, row: ProposalRow) -> ProposalDecided:
    """Return how a decided proposal ended."""
    return ProposalDecided(
        proposal_id=proposal_id,
        integer_id=row.integer_id,
        key=row.key,
        timestamp=row.timestamp,
        status=row.state.name,
        reason=row.reason,
        decided_at=row.decided_at,
        term=row.decided_term,
        votes=tuple(
            [
                VoteCast(voter, vote_name(vote), "" if vote is None else vote.reason)
                for voter, vote in zip(row.voters, row.votes, strict=True)
            ]
        ),
    )


def written_id(proposal_id: str, row: ProposalRow | ValueRow | ProposalDecided) -> int | str:
    """Return the id as the client wrote it."""
    return int(proposal_id) if row.integer_id else proposal_id


def vote_name(vote: Vote | None) -> str:
    if vote is None:
        return "PENDING"
    return "ACCEPT" if vote.accept else "REJECT"
