"""The fence that the cluster keeps for TCC: the table of docs/TRANSACTIONS.md, cell by cell."""

from __future__ import annotations

import pytest

from statemachine.commands import PassFence
from statemachine.outcomes import FencePassed, Outcome, Rejected, RejectionCode
from tests.statemachine.building import code, result
from tests.statemachine.transacting import Transactions

Passage = tuple[str, str]
"""A step and its phase."""

TRY, CONFIRM, CANCEL = (("TRY", "ENTER"), ("CONFIRM", "ENTER"), ("CANCEL", "ENTER"))
TRIED, CONFIRMED, CANCELLED = (("TRY", "DONE"), ("CONFIRM", "DONE"), ("CANCEL", "DONE"))

NO_ROW: tuple[Passage, ...] = ()


class Fence(Transactions):
    def passes(self, passage: Passage, branch_id: int = 1, xid: str = "x") -> Outcome:
        step, phase = passage
        return self.do(PassFence(xid=xid, branch_id=branch_id, step=step, phase=phase))

    def verdict(self, passage: Passage) -> str:
        passed = self.passes(passage)
        if isinstance(passed, Rejected):
            return passed.code.value
        found = result(passed)
        assert isinstance(found, FencePassed)
        return found.verdict


@pytest.fixture
def log() -> Fence:
    log = Fence()
    log.begin()
    log.branch(mode="TCC", done=False)
    return log


@pytest.mark.parametrize(
    ("before", "passage", "verdict"),
    [
        (NO_ROW, TRY, "PROCEED"),
        (NO_ROW, TRIED, "BRANCH_NOT_TRIED"),
        (NO_ROW, CONFIRM, "BRANCH_NOT_TRIED"),
        (NO_ROW, CONFIRMED, "BRANCH_NOT_TRIED"),
        (NO_ROW, CANCEL, "DONE_ALREADY"),
        (NO_ROW, CANCELLED, "BRANCH_NOT_TRIED"),
        ((TRY,), TRY, "PROCEED"),
        ((TRY,), TRIED, "PROCEED"),
        ((TRY,), CONFIRM, "PROCEED"),
        ((TRY,), CONFIRMED, "REFUSE"),
        ((TRY,), CANCEL, "PROCEED"),
        ((TRY,), CANCELLED, "REFUSE"),
        ((TRY, TRIED), TRY, "DONE_ALREADY"),
        ((TRY, TRIED), TRIED, "DONE_ALREADY"),
        ((TRY, TRIED), CONFIRM, "PROCEED"),
        ((TRY, TRIED), CANCEL, "PROCEED"),
        ((TRY, TRIED, CONFIRM), TRY, "REFUSE"),
        ((TRY, TRIED, CONFIRM), CONFIRM, "PROCEED"),
        ((TRY, TRIED, CONFIRM), CONFIRMED, "PROCEED"),
        ((TRY, TRIED, CONFIRM), CANCEL, "REFUSE"),
        ((TRY, TRIED, CONFIRM, CONFIRMED), TRY, "REFUSE"),
        ((TRY, TRIED, CONFIRM, CONFIRMED), CONFIRM, "DONE_ALREADY"),
        ((TRY, TRIED, CONFIRM, CONFIRMED), CONFIRMED, "DONE_ALREADY"),
        ((TRY, TRIED, CONFIRM, CONFIRMED), CANCEL, "REFUSE"),
        ((TRY, CANCEL), TRY, "REFUSE"),
        ((TRY, CANCEL), TRIED, "REFUSE"),
        ((TRY, CANCEL), CANCEL, "PROCEED"),
        ((TRY, CANCEL), CANCELLED, "PROCEED"),
        ((TRY, CANCEL), CONFIRM, "REFUSE"),
        ((TRY, CANCEL, CANCELLED), TRY, "REFUSE"),
        ((TRY, CANCEL, CANCELLED), CANCEL, "DONE_ALREADY"),
        ((TRY, CANCEL, CANCELLED), CANCELLED, "DONE_ALREADY"),
        ((TRY, CANCEL, CANCELLED), CONFIRM, "REFUSE"),
        ((CANCEL,), TRY, "REFUSE"),
        ((CANCEL,), CANCEL, "DONE_ALREADY"),
        ((CANCEL,), CONFIRM, "REFUSE"),
    ],
)
def test_a_step_after_others(
    log: Fence, before: tuple[Passage, ...], passage: Passage, verdict: str
) -> None:
    for earlier in before:
        log.passes(earlier)
    assert log.verdict(passage) == verdict


def test_a_try_after_the_decision_is_late(log: Fence) -> None:
    log.roll_back()
    assert log.verdict(TRY) == "REFUSE"
    assert log.verdict(CANCEL) == "DONE_ALREADY"


def test_a_try_of_a_withdrawn_branch_is_late(log: Fence) -> None:
    log.report(1, "WITHDRAWN")
    assert log.verdict(TRY) == "REFUSE"


def test_branches_have_fences_of_their_own(log: Fence) -> None:
    second = log.branch(mode="TCC", done=False)
    log.passes(CANCEL)
    assert result(log.passes(TRY, second)) == FencePassed(verdict="PROCEED")


def test_what_is_unknown_passes_no_fence(log: Fence) -> None:
    assert code(log.passes(TRY, 9)) is RejectionCode.BRANCH_NOT_FOUND
    assert code(log.passes(TRY, xid="y")) is RejectionCode.TRANSACTION_NOT_FOUND
    for passage in (("TRIED", "ENTER"), ("TRY", "LEAVE")):
        assert code(log.passes(passage)) is RejectionCode.INVALID_COMMAND
