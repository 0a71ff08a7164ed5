"""Proposals in time: their deadlines, the reports that are owed, and how long they are kept."""

from __future__ import annotations

import pytest

from statemachine import keys, proposals
from statemachine.changes import (
    ProposalRejected,
)
from statemachine.commands import (
    CancelWait,
)
from statemachine.outcomes import (
    Applied,
    Pending,
    RejectionCode,
    WaitCancelled,
)
from statemachine.proposals import (
    GREATEST_WINDOW_MS,
    KEPT_MS,
)
from statemachine.stored_proposals import (
    get_committed,
    get_proposal,
    owed_ballots,
)
from tests.statemachine.building import Log, code, result
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
