"""Proposals of data and ballots on them, as tests speak of them."""

from __future__ import annotations

from statemachine import keys
from statemachine.change_log import read_changes
from statemachine.changes import (
    AnyChange,
)
from statemachine.commands import (
    Ballot,
    DecideProposal,
    ProposeData,
    VoteProposals,
)
from statemachine.outcomes import (
    Outcome,
    Pending,
    Position,
    ProposalDecided,
)
from statemachine.stored_proposals import (
    ProposalRow,
    get_proposal,
)
from statemachine.tickets import get_ticket
from tests.statemachine.building import Log, result

VOTERS = ("n1", "n2", "n3")


PROPOSAL_ROWS = (
    keys.PROPOSAL,
    keys.PROPOSED_DATA,
    keys.OWED_BALLOT,
    keys.DECIDABLE_PROPOSAL,
    keys.DECIDED_PROPOSAL,
    keys.COMMITTED_DATA,
)


def propose(
    proposal_id: str = "p",
    timestamp: int = 1,
    data: bytes = b'"d"',
    *,
    key: str = "",
    voters: tuple[str, ...] = VOTERS,
    window_ms: int = 1_000,
    integer_id: bool = False,
) -> ProposeData:
    return ProposeData(
        proposal_id=proposal_id,
        integer_id=integer_id,
        key=key,
        data=data,
        timestamp=timestamp,
        proposer="n1",
        voters=voters,
        window_ms=window_ms,
    )


def ballot(node_id: str, vote: str, proposal_id: str = "p") -> VoteProposals:
    """Make a vote of A or R; in small letters when the node says that it has applied the commit."""
    accept = vote.upper() == "A"
    cast = Ballot(proposal_id, accept, "" if accept else "no", vote.islower())
    return VoteProposals(node_id=node_id, ballots=(cast,))


def decide(proposal_id: str = "p") -> DecideProposal:
    return DecideProposal(proposal_id=proposal_id)


def decided(outcome: Outcome) -> ProposalDecided:
    found = result(outcome)
    assert isinstance(found, ProposalDecided)
    return found


def found(log: Log, proposal_id: str = "p") -> ProposalRow:
    row = get_proposal(log.store, proposal_id)
    assert row is not None
    return row


def state(log: Log, proposal_id: str = "p") -> str:
    return found(log, proposal_id).state.name


def ticket_of(outcome: Outcome) -> Position:
    assert isinstance(outcome, Pending)
    return outcome.ticket


def settled(log: Log, ticket: Position) -> Outcome | None:
    ticket_row = get_ticket(log.store, ticket)
    assert ticket_row is not None
    return ticket_row.outcome


def commit(log: Log, proposal_id: str = "p", timestamp: int = 1, **more: object) -> None:
    """Have a proposal of these fields committed by all."""
    log.do(propose(proposal_id, timestamp, **more))  # type: ignore[arg-type]  # the fields' own
    for node_id in VOTERS:
        log.do(ballot(node_id, "A", proposal_id))
    assert decided(log.do(decide(proposal_id))).status == "COMMITTED"


def told(log: Log) -> list[AnyChange]:
    return [
        change
        for each in read_changes(log.store, Position(0, 0), limit=500)
        for change in each.changes
    ]
