"""Data proposals: who votes, what a majority is, and the one rule that decides."""

from __future__ import annotations

import pytest

from statemachine import keys, proposals
from statemachine.change_log import read_changes
from statemachine.changes import (
    AnyChange,
    ProposalCommitted,
    ProposalProposed,
    ProposalRejected,
    ProposalVoted,
)
from statemachine.commands import (
    Ballot,
    CancelWait,
    DecideProposal,
    ProposeData,
    VoteProposals,
)
from statemachine.event_ids import format_event_id
from statemachine.outcomes import (
    Applied,
    Outcome,
    Pending,
    Position,
    ProposalDecided,
    RejectionCode,
    VoteCast,
    VotesCounted,
    WaitCancelled,
)
from statemachine.proposals import (
    GREATEST_DATA_BYTES,
    GREATEST_WINDOW_MS,
    KEPT_MS,
)
from statemachine.stored_proposals import (
    GREATEST_BALLOTS,
    ProposalRow,
    ProposalState,
    decidable_proposals,
    get_committed,
    get_proposal,
    objection,
    owed_ballots,
)
from statemachine.tickets import get_ticket
from tests.statemachine.building import START_MS, Log, code, result

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


# Proposing


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


# Votes

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


# Decisions


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


# The rule


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


# Deadlines


def test_a_proposal_without_a_majority_expires_at_its_deadline_and_says_who_is_missing() -> None:
    log = Log()
    ticket = ticket_of(log.do(propose(window_ms=1_000)))
    log.do(ballot("n1", "A"))
    log.wait(999)
    log.fire_due()
    assert state(log) == "PROPOSED"
    log.wait(1)
    log.fire_due()
    assert state(log) == "EXPIRED"
    outcome = settled(log, ticket)
    assert outcome is not None
    assert decided(outcome).status == "EXPIRED"
    assert decided(outcome).reason.startswith("2 of 3 nodes did not vote in time")
    assert decided(outcome).reason.endswith("n2, n3.")
    change = told(log)[-1]
    assert isinstance(change, ProposalRejected)
    assert change.status == "EXPIRED"
    assert decided(log.do(propose())).status == "EXPIRED"
    assert get_committed(log.store, "p") is None


def test_votes_that_suffice_count_at_the_deadline_though_nobody_decided() -> None:
    log = Log()
    ticket = ticket_of(log.do(propose()))
    for node_id in ("n1", "n2"):
        log.do(ballot(node_id, "A"))
    log.wait(1_000)
    log.fire_due()
    outcome = settled(log, ticket)
    assert outcome is not None
    assert decided(outcome).status == "COMMITTED"


def test_a_decided_proposal_has_no_deadline_any_more() -> None:
    log = Log()
    commit(log)
    log.wait(GREATEST_WINDOW_MS)
    log.fire_due()
    assert state(log) == "COMMITTED"


def test_many_may_expire_at_once() -> None:
    log = Log()
    for number in range(20):
        log.do(propose(f"p{number}"))
    log.wait(1_000)
    log.fire_due()
    assert {state(log, f"p{number}") for number in range(20)} == {"EXPIRED"}
    assert len(log.rows(keys.DECIDED_PROPOSAL)) == 20


@pytest.mark.parametrize(("asked_ms", "given_ms"), [(-5, 50), (2**63, GREATEST_WINDOW_MS)])
def test_the_time_to_decide_is_bounded(asked_ms: int, given_ms: int) -> None:
    log = Log()
    log.do(propose(window_ms=asked_ms))
    log.wait(given_ms - 1)
    log.fire_due()
    assert state(log) == "PROPOSED"
    log.wait(1)
    log.fire_due()
    assert state(log) == "EXPIRED"


def test_a_client_that_goes_away_does_not_end_its_proposal() -> None:
    log = Log()
    ticket = ticket_of(log.do(propose()))
    assert result(log.do(CancelWait(ticket=ticket))) == WaitCancelled(cancelled=False)
    assert state(log) == "PROPOSED"


# Reports


def test_a_node_that_voted_still_owes_the_report_of_the_commit() -> None:
    log = Log()
    commit(log)
    assert [owed_ballots(log.store, voter, limit=9) for voter in VOTERS] == [["p"]] * 3
    log.do(ballot("n2", "a"))
    assert [owed_ballots(log.store, voter, limit=9) for voter in VOTERS] == [["p"], [], ["p"]]
    assert [vote is not None and vote.applied for vote in found(log).votes] == [False, True, False]


def test_a_node_that_was_away_votes_and_reports_in_one() -> None:
    log = Log()
    log.do(propose())
    for node_id in ("n1", "n2"):
        log.do(ballot(node_id, "A"))
    log.do(decide())
    log.do(ballot("n3", "a"))
    vote = found(log).votes[2]
    assert vote is not None
    assert (vote.accept, vote.applied) == (True, True)
    assert owed_ballots(log.store, "n3", limit=9) == []


def test_nobody_can_have_applied_what_is_not_committed() -> None:
    log = Log()
    log.do(propose())
    log.do(ballot("n1", "a"))
    vote = found(log).votes[0]
    assert vote is not None
    assert not vote.applied


def test_a_late_vote_on_a_rejected_proposal_is_shown_and_owes_nothing() -> None:
    log = Log()
    log.do(propose())
    for node_id in ("n1", "n2"):
        log.do(ballot(node_id, "R"))
    log.do(decide())
    assert owed_ballots(log.store, "n3", limit=9) == ["p"]
    log.do(ballot("n3", "A"))
    assert found(log).votes[2] is not None
    assert owed_ballots(log.store, "n3", limit=9) == []
    assert state(log) == "REJECTED"


# Bounds


def test_too_many_undecided_proposals_are_refused_until_some_are_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proposals, "GREATEST_UNDECIDED", 2)
    log = Log()
    log.do(propose("a"))
    log.do(propose("b"))
    assert code(log.do(propose("c"))) is RejectionCode.PROPOSALS_FULL
    assert isinstance(log.do(propose("a")), Pending)
    log.wait(1_000)
    log.fire_due()
    assert isinstance(log.do(propose("c")), Pending)


def test_when_too_many_keys_have_data_only_those_are_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proposals, "GREATEST_KEYS", 1)
    log = Log()
    commit(log, "a", 1, key="k")
    assert code(log.do(propose("b", key="other"))) is RejectionCode.COMMITTED_KEYS_FULL
    commit(log, "c", 2, key="k")


def test_a_decided_proposal_is_kept_for_its_time() -> None:
    log = Log()
    commit(log, key="k")
    log.wait(KEPT_MS - 1)
    log.fire_due()
    assert state(log) == "COMMITTED"
    log.wait(1)
    log.fire_due()
    assert get_proposal(log.store, "p") is None
    assert [prefix for prefix in PROPOSAL_ROWS if log.rows(prefix)] == [keys.COMMITTED_DATA]


def test_beyond_a_number_the_oldest_decided_proposal_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proposals, "GREATEST_KEPT", 2)
    log = Log()
    log.do(propose("undecided", window_ms=GREATEST_WINDOW_MS))
    for proposal_id in ("a", "b", "c"):
        commit(log, proposal_id)
    assert get_proposal(log.store, "a") is None
    assert [state(log, each) for each in ("undecided", "b", "c")] == [
        "PROPOSED",
        "COMMITTED",
        "COMMITTED",
    ]
    for _ in range(2):
        log.wait(KEPT_MS)
        log.fire_due()
    assert log.rows(keys.PROPOSAL) == []


def test_data_under_a_proposal_s_own_id_is_forgotten_with_it_and_other_data_stays() -> None:
    log = Log()
    commit(log, "own")
    commit(log, "p", key="named")
    log.wait(KEPT_MS)
    log.fire_due()
    assert get_committed(log.store, "own") is None
    assert get_committed(log.store, "named") is not None
    assert isinstance(log.do(propose("own")), Pending)


def test_a_key_that_was_named_once_stays_though_a_proposal_of_its_name_wrote_it_last() -> None:
    log = Log()
    commit(log, "p", 1, key="k")
    commit(log, "k", 2)
    log.wait(KEPT_MS)
    log.fire_due()
    value = get_committed(log.store, "k")
    assert value is not None
    assert value.timestamp == 2


def test_a_proposal_outlives_the_node_that_proposed_it_and_needs_no_more_than_rows() -> None:
    """What is to be done is found in the rows by a machine that has just started."""
    log = Log()
    log.do(propose())
    log.machine.reload()
    log.do(ballot("n1", "A"))
    log.machine.reload()
    log.do(ballot("n2", "A"))
    log.machine.reload()
    assert isinstance(log.do(decide()), Applied)
    assert state(log) == "COMMITTED"
