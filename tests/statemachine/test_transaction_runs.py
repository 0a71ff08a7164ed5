"""Sagas and other programs that the cluster runs by itself."""

from __future__ import annotations

from statemachine.outcomes import (
    RejectionCode,
)
from statemachine.transactions.rows import (
    get_global,
)
from tests.statemachine.building import code
from tests.statemachine.transacting import Transactions, status, step


def test_a_saga_of_empty_steps_ends_within_its_own_entry() -> None:
    log = Transactions()
    empty = [step("one", url=""), step("two", 0, url="")]
    assert status(log.saga(*empty, wait_ms=1_000)) == "COMMITTED"
    assert log.row().branches == 2
    assert not log.is_due()
    assert log.machine.applied_index == 1


def test_a_saga_goes_forward_step_by_step() -> None:
    log = Transactions()
    pending = log.saga(step("a"), step("b", 0), step("c", 0), step("d", 1, 2), wait_ms=10_000)
    assert log.calls() == [(1, "FORWARD")]
    log.told("a")
    assert log.calls() == [(2, "FORWARD"), (3, "FORWARD")]
    log.told("c")
    assert log.calls() == [(2, "FORWARD")]
    log.told("b")
    assert log.calls() == [(4, "FORWARD")]
    log.told("d")
    settled = log.settled(pending)
    assert settled is not None
    assert status(settled) == "COMMITTED"


def test_a_refused_step_rolls_back_what_was_done_and_not_itself() -> None:
    log = Transactions()
    log.saga(step("a"), step("b", 0), step("c", 1))
    log.told("a")
    log.told("b", "FAILED")
    assert log.row().status == "ROLLING_BACK"
    assert log.row().reason == "step b failed: no stock"
    assert log.statuses() == ["PHASE_ONE_DONE", "WITHDRAWN", "WITHDRAWN"]
    assert log.calls() == [(1, "ROLLBACK")]
    log.told("a")
    assert log.row().status == "ROLLED_BACK"


def test_a_refused_step_is_compensated_where_that_is_the_custom() -> None:
    log = Transactions()
    log.saga(step("a"), step("b", 0), compensate_failed=True)
    log.told("a")
    log.told("b", "FAILED")
    assert log.calls() == [(2, "ROLLBACK")]


def test_a_step_of_unknown_outcome_is_compensated() -> None:
    log = Transactions()
    log.saga(step("a"), step("b"), step("c", 1, limit=0))
    log.told("b")
    log.told("c", "RETRY")
    assert log.row().status == "ROLLING_BACK"
    # Of "a" nobody knows whether it was called, and of "c" what it did: both may have had effects.
    assert log.calls() == [(1, "ROLLBACK"), (3, "ROLLBACK")]
    log.told("c")
    assert log.calls() == [(1, "ROLLBACK"), (2, "ROLLBACK")]


def test_a_saga_that_recovers_forward_never_rolls_back() -> None:
    log = Transactions()
    log.saga(step("a", limit=0), forward=True)
    log.told("a", "FAILED")
    log.told("a", "RETRY")
    assert log.row().status == "BEGIN"
    log.told("a")
    assert log.row().status == "COMMITTED"


def test_a_saga_times_out_where_it_was_asked_to() -> None:
    log = Transactions()
    log.saga(step("a"), timeout_ms=1_000)
    log.wait(1_000)
    log.fire_due()
    assert log.row().status == "TIMEOUT_ROLLING_BACK"
    assert log.calls() == [(1, "ROLLBACK")]


def test_steps_that_stand_on_later_ones_or_are_none_are_refused() -> None:
    log = Transactions()
    for steps in ([], [step("a", 0)], [step("a", 1), step("b")], [step("a", -1)]):
        assert code(log.saga(*steps)) is RejectionCode.INVALID_COMMAND
    assert get_global(log.store, "x") is None


def test_a_program_that_the_cluster_does_not_run_is_refused() -> None:
    log = Transactions()
    for program in ("CLIENT", "WORKFLOW", ""):
        assert code(log.saga(step("a"), program=program)) is RejectionCode.INVALID_COMMAND
