"""Each rule of data proposals is broken once in a history, and found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.proposal_checks import (
    DataRead,
    Decided,
    Proposing,
    check_decisions,
    check_proposals,
)

ALL = {"n1": "ACCEPT", "n2": "ACCEPT", "n3": "ACCEPT"}
NONE = dict.fromkeys(ALL, "REJECT")


def rules(violations: Sequence[Violation]) -> set[str]:
    return {violation.rule for violation in violations}


def proposed(
    name: str, timestamp: int, begun: int, ended: int, status: str = "COMMITTED"
) -> Proposing:
    ending = {"COMMITTED": Ending.ACKNOWLEDGED, "": Ending.UNKNOWN}.get(status, Ending.REFUSED)
    return Proposing(name, "k", timestamp, begun, ended, ending, status)


def decided(name: str, status: str = "COMMITTED") -> Decided:
    votes = ALL if status == "COMMITTED" else NONE
    return Decided(name, status, votes, frozenset(ALL if status == "COMMITTED" else ()))


def read(name: str, begun: int, ended: int) -> DataRead:
    return DataRead("k", begun, ended, name)


FIRST = proposed("p1", 10, 0, 10)
SECOND = proposed("p2", 20, 20, 30)
LOW = proposed("p3", 15, 40, 50, "REJECTED")
FINAL = {
    "p1": decided("p1"),
    "p2": decided("p2"),
    "p3": decided("p3", "REJECTED"),
}


def found(
    *proposals: Proposing, reads: Sequence[DataRead] = (), final: dict[str, Decided] | None = None
) -> set[str]:
    shown = FINAL if final is None else final
    return rules(check_proposals(proposals, reads, {"n1": shown, "n2": shown}))


def test_a_clean_history_has_no_violation() -> None:
    reads = [read("", 0, 5), read("p1", 12, 18), read("p2", 55, 60)]
    assert found(FIRST, SECOND, LOW, reads=reads) == set()


def test_a_timestamp_that_falls_is_found() -> None:
    assert found(FIRST, replace(SECOND, timestamp=9)) == {"linearizable by search"}


def test_a_refusal_without_a_reason_is_found() -> None:
    assert found(FIRST, SECOND, replace(LOW, timestamp=25)) == {"linearizable by search"}


def test_a_stale_read_is_found() -> None:
    assert found(FIRST, SECOND, reads=[read("p1", 40, 50)]) == {"linearizable by search"}


def test_what_was_never_told_may_be_committed_late() -> None:
    unknown = replace(proposed("p2", 20, 20, 30, ""), timestamp=20)
    assert found(FIRST, unknown, reads=[read("p1", 40, 50), read("p2", 60, 70)]) == set()


def test_a_decision_that_changed_is_found() -> None:
    final = {**FINAL, "p1": decided("p1", "REJECTED")}
    assert "a decision is final" in found(FIRST, final=final)


def test_a_decision_that_is_lost_is_found() -> None:
    assert "no decision is lost" in found(FIRST, final={"p2": decided("p2")})


def test_a_vote_that_changed_is_found() -> None:
    told = replace(FIRST, votes={"n1": "REJECT", "n2": "PENDING"})
    assert rules(check_decisions([told], FINAL)) == {"a vote is final"}


@pytest.mark.parametrize(
    "wrong",
    [
        replace(decided("p1"), votes={**NONE, "n1": "ACCEPT"}),
        replace(decided("p1", "REJECTED"), applied_by=frozenset({"n1"})),
        replace(decided("p1", "EXPIRED"), applied_by=frozenset({"n1"})),
        replace(decided("p1"), status="PROPOSED"),
    ],
)
def test_a_decision_against_its_votes_is_found(wrong: Decided) -> None:
    assert "decided by the votes" in rules(check_decisions([FIRST], {"p1": wrong}))


def test_a_node_that_never_says_that_it_applied_a_commit_is_found() -> None:
    silent = replace(decided("p1"), applied_by=frozenset({"n1", "n2"}))
    assert rules(check_decisions([FIRST], {"p1": silent})) == {"every node says that it applied it"}


def test_nodes_that_show_different_proposals_are_found() -> None:
    shown = {"n1": FINAL, "n2": {**FINAL, "p1": decided("p1", "EXPIRED")}}
    assert "nodes agree" in rules(check_proposals([FIRST], [], shown))
