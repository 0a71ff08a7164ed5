"""Participants of chaos runs and simulations notice what no coordinator may do."""

from __future__ import annotations

import pytest

from scripts.tidelock_scripts.chaos.bank import ACCOUNTS, OPENED_WITH, Bank
from scripts.tidelock_scripts.chaos.branch_effects import BranchEffects


def effects(*calls: str) -> BranchEffects:
    """Make calls of one transaction, each `name action`."""
    found = BranchEffects()
    for call in calls:
        name, action = call.split()
        found.call("x", name, action)
    return found


def wrong(*calls: str, committed: bool, confirms: bool = False, names: tuple[str, ...] = ()) -> str:
    made = effects(*calls)
    assert made.broken == []
    return made.found_wrong("x", committed=committed, confirms=confirms, names=names) or ""


def test_what_belongs_together_passes() -> None:
    assert wrong("a do", "b<a do", committed=True, names=("a", "b<a")) == ""
    assert wrong("a do", "b<a do", "b<a undo", "a undo", committed=False) == ""
    assert wrong("a do", "a do", "a commit", "a commit", committed=True, confirms=True) == ""
    assert wrong(committed=False) == ""


@pytest.mark.parametrize(
    ("calls", "committed", "names"),
    [
        (("a do",), False, ()),
        (("a do", "a undo"), True, ()),
        ((), True, ("a",)),
        (("a undo",), True, ()),
        (("a do", "b do", "a undo"), False, ()),
    ],
)
def test_what_is_half_done_is_found(
    calls: tuple[str, ...], committed: bool, names: tuple[str, ...]
) -> None:
    assert " did " in wrong(*calls, committed=committed, names=names)


def test_a_branch_that_was_never_told_of_the_commit_is_found() -> None:
    assert "not confirmed" in wrong("a do", committed=True, confirms=True)


@pytest.mark.parametrize(
    ("calls", "what"),
    [
        (("a commit",), "never tried"),
        (("a do", "a undo", "a commit"), "never tried"),
        (("a do", "a commit", "a undo"), "after it was confirmed"),
        (("b<a do",), "ran before a"),
        (("a refuse", "b<a do"), "ran before a"),
        (("a do", "b<a do", "a undo"), "was undone before b<a"),
    ],
)
def test_what_should_not_have_been_asked_is_found(calls: tuple[str, ...], what: str) -> None:
    (found,) = effects(*calls).broken
    assert what in found


def test_what_comes_after_its_end_is_refused() -> None:
    made = effects("a undo", "b query")
    assert made.call("x", "a", "do") == 409
    assert made.call("x", "b", "do") == 409
    assert not made.work("x", "b")
    assert made.work("x", "c")
    assert made.call("x", "c", "query") == 200
    assert made.broken == []


def test_a_bank_knows_its_balances() -> None:
    bank = Bank()
    assert bank.transfer(("x", 1), 0, 1, 30)
    assert bank.transfer(("x", 2), 1, 2, OPENED_WITH + 30)
    assert not bank.transfer(("y", 3), 1, 0, 1)  # the money is not there
    assert bank.balances == bank.expected()
    assert sum(bank.balances.values()) == ACCOUNTS * OPENED_WITH
    assert bank.roll_back(("x", 2))
    assert bank.roll_back(("x", 1))
    assert not bank.roll_back(("x", 1))
    assert set(bank.balances.values()) == {OPENED_WITH}
    assert not bank.transfer(("x", 1), 0, 1, 1)  # it was rolled back, and comes late
    assert bank.broken == []


def test_a_bank_notices_that_somebody_wrote_what_was_locked() -> None:
    bank = Bank()
    bank.transfer(("x", 1), 0, 1, 30)
    bank.transfer(("y", 2), 1, 2, 10)
    bank.roll_back(("x", 1))
    (found,) = bank.broken
    assert "had locked" in found
    assert bank.balances != bank.expected()
