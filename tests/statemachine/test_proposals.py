"""Data proposals: laid before all voters, voted on, and decided once by a rule."""

from __future__ import annotations

import pytest

from statemachine import keys
from statemachine.change_log import read_changes
from statemachine.changes import (
    ProposalCommitted,
    ProposalProposed,
    ProposalRejected,
    ProposalVoted,
)
from statemachine.commands import (
    Ballot,
    ProposeData,
    VoteProposals,
)
from statemachine.event_ids import format_event_id
from statemachine.outcomes import (
    Pending,
    Position,
    ProposalDecided,
    RejectionCode,
    VoteCast,
    VotesCounted,
)
from statemachine.proposals import (
    GREATEST_DATA_BYTES,
)
from statemachine.stored_proposals import (
    GREATEST_BALLOTS,
    ProposalState,
    decidable_proposals,
    get_committed,
    objection,
    owed_ballots,
)
from tests.statemachine.building import START_MS, Log, code, result
from tests.statemachine.proposing import (
    PROPOSAL_ROWS,
    VOTERS,
    ballot,
    commit,
    decide,
    decided,
    found,
    propose,
    settled,
    state,
    ticket_of,
    told,
)


def test_a_proposal_is_laid_before_all_voters_and_its_proposer_waits() -> None:
    log = Log()
    outcome = log.do(propose("p", 7, key="k"))
    assert outcome == Pending(Position(1, 0))
    row = found(log)
    assert (row.key, row.timestamp, row.voters, row.votes) == ("k", 7, VOTERS, (None,) * 3)
    assert row.state is ProposalState.PROPOSED
    assert [owed_ballots(log.store, voter, limit=9) for voter in VOTERS] == [["p"]] * 3
    assert get_committed(log.store, "k") is None
    assert told(log) == [
        ProposalProposed(id="p", key="k", timestamp=7, proposed_by="n1", voters=VOTERS)
    ]


def test_without_a_key_the_id_is_the_key() -> None:
    log = Log()
    commit(log, "p")
    value = get_committed(log.store, "p")
    assert value is not None
    assert value.data == b'"d"'


def test_without_an_id_the_proposal_is_named_by_its_position() -> None:
    log = Log()
    log.do(propose("", key="k"))
    assert state(log, format_event_id(1, 0)) == "PROPOSED"


@pytest.mark.parametrize(
    "command",
    [
        propose("x" * 480),
        propose("\0" * 240),
        propose(key="x" * 480),
        propose("p", integer_id=True),
        propose("", integer_id=True),
        propose("1" * 30, integer_id=True),
        propose("٣", integer_id=True),
        propose(data=b""),
        propose(data=b"x" * (GREATEST_DATA_BYTES + 1)),
        propose(timestamp=-1),
        propose(timestamp=2**63),
        propose(voters=()),
        propose(voters=("n2", "n1")),
        propose(voters=("n1", "n1")),
        propose(voters=("",)),
        propose(voters=("x" * 480,)),
        propose(voters=tuple(f"n{number:02}" for number in range(65))),
    ],
)
def test_what_cannot_be_proposed_is_refused_and_leaves_no_trace(command: ProposeData) -> None:
    log = Log()
    assert code(log.do(command)) is RejectionCode.INVALID_COMMAND
    assert not [row for prefix in PROPOSAL_ROWS for row in log.rows(prefix)]


def test_the_same_proposal_again_waits_for_the_same_decision_and_then_answers_it() -> None:
    log = Log()
    ticket = ticket_of(log.do(propose()))
    assert ticket_of(log.do(propose())) == ticket
    for node_id in ("n1", "n2"):
        log.do(ballot(node_id, "A"))
    first = decided(log.do(decide()))
    log.wait(5_000)
    assert decided(log.do(propose())) == first


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(
    "other", [propose(timestamp=2), propose(data=b'"e"'), propose(key="other")]
)
def test_an_id_belongs_to_one_content(other: ProposeData, ended: bool) -> None:
    log = Log()
    if ended:
        commit(log)
    else:
        log.do(propose())
    assert code(log.do(other)) is RejectionCode.PROPOSAL_ID_TAKEN
    assert found(log).timestamp == 1


def test_a_key_that_is_written_out_is_the_same_content_as_one_left_to_the_id() -> None:
    log = Log()
    ticket = ticket_of(log.do(propose("p")))
    assert ticket_of(log.do(propose("p", key="p"))) == ticket


TABLE = [
    # voters, votes in their order ("." has not voted), what a decision makes of them
    (1, "A", "COMMITTED"),
    (1, "R", "REJECTED"),
    (1, ".", None),
    (2, "AA", "COMMITTED"),
    (2, "A.", None),
    (2, "AR", "REJECTED"),
    (2, "R.", "REJECTED"),
    (3, "AA.", "COMMITTED"),
    (3, "A.A", "COMMITTED"),
    (3, "AAR", "COMMITTED"),
    (3, "A..", None),
    (3, "AR.", None),
    (3, "R..", None),
    (3, "RR.", "REJECTED"),
    (3, "ARR", "REJECTED"),
    (4, "AAA.", "COMMITTED"),
    (4, "AA..", None),
    (4, "AAR.", None),
    (4, "AARR", "REJECTED"),
    (4, ".RR.", "REJECTED"),
    (5, "AAA..", "COMMITTED"),
    (5, "AARR.", None),
    (5, "RRR..", "REJECTED"),
    (5, "AARRR", "REJECTED"),
]


@pytest.mark.parametrize(("count", "votes", "expected"), TABLE)
def test_a_majority_of_the_voters_decides(count: int, votes: str, expected: str | None) -> None:
    log = Log()
    voters = tuple(f"n{number}" for number in range(count))
    log.do(propose(voters=voters))
    for voter, vote in zip(voters, votes, strict=True):
        if vote != ".":
            log.do(ballot(voter, vote))
    assert decidable_proposals(log.store) == ([("n1", "p")] if expected else [])
    outcome = log.do(decide())
    if expected is None:
        assert code(outcome) is RejectionCode.PROPOSAL_UNDECIDED
        assert state(log) == "PROPOSED"
        return
    assert decided(outcome).status == expected
    assert state(log) == expected
    assert (get_committed(log.store, "p") is not None) == (expected == "COMMITTED")
    assert decidable_proposals(log.store) == []
    assert log.rows(keys.PROPOSED_DATA) == []


def test_a_node_votes_once_whatever_it_says_later() -> None:
    log = Log()
    log.do(propose())
    assert result(log.do(ballot("n1", "A"))) == VotesCounted(counted=1)
    assert result(log.do(ballot("n1", "R"))) == VotesCounted(counted=0)
    vote = found(log).votes[0]
    assert vote is not None
    assert vote.accept
    voted = [change for change in told(log) if isinstance(change, ProposalVoted)]
    assert voted == [ProposalVoted(id="p", node_id="n1", vote="ACCEPT", reason="")]


@pytest.mark.parametrize(
    ("node_id", "proposal_id"), [("n4", "p"), ("n1", "q"), ("n1", ""), ("", "p")]
)
def test_a_ballot_of_nobody_or_for_nothing_does_not_count(node_id: str, proposal_id: str) -> None:
    log = Log()
    log.do(propose())
    before = found(log)
    assert result(log.do(ballot(node_id, "A", proposal_id))) == VotesCounted(counted=0)
    assert found(log) == before


def test_a_node_may_cast_many_ballots_at_once_and_not_too_many() -> None:
    log = Log()
    ids = [f"p{number}" for number in range(5)]
    for proposal_id in ids:
        log.do(propose(proposal_id))
    cast = tuple(Ballot(proposal_id, True, "", False) for proposal_id in ids)
    assert result(log.do(VoteProposals(node_id="n1", ballots=cast))) == VotesCounted(counted=5)
    assert owed_ballots(log.store, "n1", limit=9) == []
    assert owed_ballots(log.store, "n2", limit=9) == ids
    too_many = VoteProposals(node_id="n1", ballots=cast[:1] * (GREATEST_BALLOTS + 1))
    assert code(log.do(too_many)) is RejectionCode.INVALID_COMMAND


def test_a_long_reason_is_cut() -> None:
    log = Log()
    log.do(propose())
    cast = Ballot("p", False, "x" * 10_000, False)
    log.do(VoteProposals(node_id="n1", ballots=(cast,)))
    vote = found(log).votes[0]
    assert vote is not None
    assert vote.reason == "x" * 300


def test_a_commit_stores_the_data_and_tells_who_waits() -> None:
    log = Log()
    ticket = ticket_of(log.do(propose("p", 7, b'{"a":1}', key="k")))
    log.wait(10)
    log.do(ballot("n1", "A"))
    log.do(ballot("n3", "A"))
    outcome = log.do(decide())
    assert decided(outcome) == ProposalDecided(
        proposal_id="p",
        integer_id=False,
        key="k",
        timestamp=7,
        status="COMMITTED",
        reason="",
        decided_at=Position(4, 0),
        term=1,
        votes=(
            VoteCast("n1", "ACCEPT", ""),
            VoteCast("n2", "PENDING", ""),
            VoteCast("n3", "ACCEPT", ""),
        ),
    )
    assert settled(log, ticket) == outcome
    value = get_committed(log.store, "k")
    assert value is not None
    assert (value.data, value.timestamp, value.committed_at) == (b'{"a":1}', 7, Position(4, 0))
    assert (value.proposal_id, value.committed_ms) == ("p", START_MS + 10)
    assert told(log)[-1] == ProposalCommitted(id="p", key="k", timestamp=7)
    (last,) = read_changes(log.store, Position(3, 0), limit=9)
    assert last.settled == (ticket,)


def test_a_rejection_says_who_refused_and_why() -> None:
    log = Log()
    ticket = ticket_of(log.do(propose()))
    log.do(ballot("n1", "R"))
    log.do(ballot("n2", "R"))
    outcome = log.do(decide())
    assert decided(outcome).status == "REJECTED"
    assert decided(outcome).reason == "2 of 3 nodes refused it. no"
    assert decided(outcome).votes[1] == VoteCast("n2", "REJECT", "no")
    assert settled(log, ticket) == outcome
    assert told(log)[-1] == ProposalRejected(
        id="p",
        key="p",
        timestamp=1,
        status="REJECTED",
        reason="2 of 3 nodes refused it. no",
    )


def test_a_decision_is_made_once() -> None:
    log = Log()
    log.do(propose())
    for node_id in ("n1", "n2"):
        log.do(ballot(node_id, "A"))
    first = log.do(decide())
    log.do(ballot("n3", "R"))
    again = decided(log.do(decide()))
    assert (again.status, again.decided_at) == ("COMMITTED", decided(first).decided_at)
    assert again.votes[2] == VoteCast("n3", "REJECT", "no")
    committed = [change for change in told(log) if isinstance(change, ProposalCommitted)]
    assert len(committed) == 1


@pytest.mark.parametrize("proposal_id", ["q", "", "x" * 500])
def test_nothing_is_decided_of_a_proposal_that_is_not_there(proposal_id: str) -> None:
    assert code(Log().do(decide(proposal_id))) is RejectionCode.PROPOSAL_NOT_FOUND


@pytest.mark.parametrize(
    ("committed", "timestamp", "accepted"),
    [(None, 0, True), (5, 6, True), (5, 5, False), (5, 4, False), (0, 0, False), (0, 1, True)],
)
def test_voters_accept_only_a_timestamp_above_the_committed_one(
    committed: int | None, timestamp: int, accepted: bool
) -> None:
    log = Log()
    if committed is not None:
        commit(log, "before", committed, key="k")
    log.do(propose("p", timestamp, key="k"))
    why_not = objection(found(log))
    assert (why_not == "") == accepted
    if not accepted:
        assert f"{timestamp} is not above {committed}" in why_not


def test_a_late_voter_judges_as_the_others_did() -> None:
    """Its own state knows of the commit already, and of later ones."""
    log = Log()
    commit(log, "p", 5, key="k")
    commit(log, "q", 9, key="k")
    assert objection(found(log, "p")) == ""


CONCURRENT = [
    # timestamps in the order of decision, who of them is committed, what is stored then
    ((10, 20), (True, True), 20),
    ((20, 10), (True, False), 20),
    ((10, 10), (True, False), 10),
    ((10, 30, 20), (True, True, False), 30),
    ((30, 20, 10), (True, False, False), 30),
    ((10, 20, 30), (True, True, True), 30),
    ((20, 10, 30), (True, False, True), 30),
]


@pytest.mark.parametrize(("timestamps", "committed", "last"), CONCURRENT)
def test_of_concurrent_proposals_for_a_key_the_timestamps_decide(
    timestamps: tuple[int, ...], committed: tuple[bool, ...], last: int
) -> None:
    log = Log()
    ids = [f"p{number}" for number in range(len(timestamps))]
    for proposal_id, timestamp in zip(ids, timestamps, strict=True):
        log.do(propose(proposal_id, timestamp, key="k"))
    for proposal_id in ids:
        for node_id in VOTERS:
            log.do(ballot(node_id, "A", proposal_id))
    outcomes = [decided(log.do(decide(proposal_id))) for proposal_id in ids]
    assert tuple(each.status == "COMMITTED" for each in outcomes) == committed
    for each in outcomes:
        if each.status != "COMMITTED":
            assert "was committed for the key while this was voted on" in each.reason
    value = get_committed(log.store, "k")
    assert value is not None
    assert value.timestamp == last
