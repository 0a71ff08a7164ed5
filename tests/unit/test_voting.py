"""What a node says to proposals follows from the state alone, whenever it looks."""

from __future__ import annotations

import pytest

from node.voting import GREATEST_DECISIONS, TAKE_OVER_S, Voter
from statemachine import keys
from statemachine.commands import AnyCommand, Ballot, DecideProposal, ProposeData, VoteProposals
from statemachine.store import DamagedStateError
from statemachine.stored_proposals import GREATEST_BALLOTS, ProposalState, get_proposal
from tests.statemachine.building import Log

VOTERS = ("n1", "n2", "n3")


def propose(log: Log, proposal_id: str, timestamp: int = 1, *, key: str = "") -> None:
    log.do(
        ProposeData(
            proposal_id=proposal_id,
            integer_id=False,
            key=key,
            data=b"1",
            timestamp=timestamp,
            proposer="n1",
            voters=VOTERS,
            window_ms=1_000,
        )
    )


def state(log: Log, proposal_id: str) -> ProposalState:
    row = get_proposal(log.store, proposal_id)
    assert row is not None
    return row.state


def step(log: Log, voter: Voter, now: float = 0.0, *, leads: bool = False) -> list[AnyCommand]:
    """Take a step and have what it says applied."""
    commands = voter.step(now, leads=leads)
    if commands:
        log.send(*commands)
    return commands


def all_vote(log: Log) -> None:
    """Let the nodes that did not propose vote: a majority."""
    for node_id in ("n2", "n3"):
        step(log, Voter(node_id, log.store))


def test_a_node_votes_on_what_it_owes_and_then_has_nothing_to_say() -> None:
    log = Log()
    voter = Voter("n2", log.store)
    assert step(log, voter) == []
    propose(log, "p")
    ballot = Ballot("p", True, "", False)
    assert step(log, voter) == [VoteProposals(node_id="n2", ballots=(ballot,))]
    assert step(log, voter) == []


def test_a_node_that_is_no_voter_says_nothing() -> None:
    log = Log()
    propose(log, "p")
    assert step(log, Voter("n4", log.store)) == []
    # The rows of names that begin alike are not mixed up.
    assert step(log, Voter("n", log.store)) == []


def test_a_node_refuses_an_old_timestamp_and_says_why() -> None:
    log = Log()
    propose(log, "p", 5, key="k")
    all_vote(log)
    step(log, Voter("n1", log.store))
    step(log, Voter("n1", log.store))
    propose(log, "q", 5, key="k")
    (vote,) = step(log, Voter("n2", log.store))
    assert isinstance(vote, VoteProposals)
    refused = next(ballot for ballot in vote.ballots if ballot.proposal_id == "q")
    assert not refused.accept
    assert "5 is not above 5" in refused.reason


def test_the_node_that_holds_the_request_decides_at_once() -> None:
    log = Log()
    propose(log, "p")
    all_vote(log)
    commands = step(log, Voter("n1", log.store))
    assert DecideProposal(proposal_id="p") in commands
    assert state(log, "p") is ProposalState.COMMITTED


def test_the_leader_decides_in_its_place_after_a_while() -> None:
    log = Log()
    propose(log, "p")
    all_vote(log)
    leader = Voter("n3", log.store)
    assert step(log, leader, 10.0, leads=True) == []
    assert leader.pause_s(10.1) == pytest.approx(TAKE_OVER_S - 0.1)
    assert step(log, leader, 10.0 + TAKE_OVER_S, leads=True) == [DecideProposal(proposal_id="p")]
    # Of its own commit it has to report; then nothing is left, and nothing to wait for.
    step(log, leader, 11.0, leads=True)
    assert step(log, leader, 11.0, leads=True) == []
    assert leader.pause_s(11.0) is None


def test_a_node_that_neither_leads_nor_holds_the_request_leaves_the_decision_alone() -> None:
    log = Log()
    propose(log, "p")
    all_vote(log)
    bystander = Voter("n3", log.store)
    for now in (0.0, 100.0):
        assert step(log, bystander, now) == []
    assert bystander.pause_s(100.0) is None


def test_a_new_leader_waits_from_when_it_first_saw_the_votes() -> None:
    log = Log()
    propose(log, "p")
    all_vote(log)
    voter = Voter("n3", log.store)
    assert step(log, voter, 0.0) == []
    assert step(log, voter, 100.0, leads=True) == []
    assert step(log, voter, 100.0 + TAKE_OVER_S, leads=True) != []


def test_a_node_reports_a_commit_once_it_has_applied_it() -> None:
    log = Log()
    propose(log, "p")
    all_vote(log)
    step(log, Voter("n1", log.store))
    report = VoteProposals(node_id="n2", ballots=(Ballot("p", True, "", True),))
    assert step(log, Voter("n2", log.store)) == [report]
    assert step(log, Voter("n2", log.store)) == []


def test_a_node_that_was_away_says_everything_in_parts_of_a_bounded_size() -> None:
    log = Log()
    count = GREATEST_BALLOTS + 10
    for number in range(count):
        propose(log, f"p{number}")
    returned = Voter("n2", log.store)
    sizes = []
    while commands := step(log, returned):
        (votes,) = commands
        assert isinstance(votes, VoteProposals)
        sizes.append(len(votes.ballots))
    assert sizes == [GREATEST_BALLOTS, 10]


def test_decisions_are_made_in_parts_of_a_bounded_size() -> None:
    log = Log()
    count = GREATEST_DECISIONS + 5
    for number in range(count):
        propose(log, f"p{number}")
    all_vote(log)
    holder = Voter("n1", log.store)
    sizes = []
    while commands := step(log, holder):
        sizes.append(sum(isinstance(each, DecideProposal) for each in commands))
    assert sizes[:2] == [GREATEST_DECISIONS, 5]
    assert all(state(log, f"p{n}") is ProposalState.COMMITTED for n in range(count))


def test_a_state_in_which_an_owed_proposal_is_missing_is_damaged() -> None:
    log = Log()
    propose(log, "p")
    log.store.delete(keys.PROPOSAL + keys.terminated("p"))
    with pytest.raises(DamagedStateError, match="'p' is missing"):
        Voter("n1", log.store).step(0.0, leads=False)
