"""What a chaos run finds wrong with transactions of DTM's protocol."""

from __future__ import annotations

import pytest

from scripts.tidelock_scripts.chaos.branch_effects import BranchEffects
from scripts.tidelock_scripts.chaos.dtm_clients import Wanted, judge

GID = "g"


def effects(**actions: str) -> BranchEffects:
    """Return what came of calls: names with actions, separated by blanks."""
    done = BranchEffects()
    for name, called in actions.items():
        for action in called.split():
            done.call(GID, name, action)
    return done


def rules(wanted: Wanted, status: str, done: BranchEffects) -> list[str]:
    return [found.rule for found in judge(GID, wanted, status, done)]


@pytest.mark.parametrize(
    ("wanted", "status", "done"),
    [
        (Wanted("saga", ["s0"], "submit"), "COMMITTED", effects(s0="do")),
        (Wanted("saga", ["s0"], "submit"), "ROLLED_BACK", effects(s0="do undo")),
        (Wanted("tcc", ["b0"], "submit"), "COMMITTED", effects(b0="do commit")),
        (Wanted("tcc", ["b0"], "abort"), "ROLLED_BACK", effects(b0="do undo")),
        (Wanted("tcc", ["b0"]), "TIMEOUT_ROLLED_BACK", effects(b0="undo")),
        (Wanted("msg", ["local", "d0"], "submit"), "COMMITTED", effects(local="do", d0="do")),
        (Wanted("msg", ["local", "d0"]), "", effects()),
    ],
)
def test_what_belongs_together_is_right(wanted: Wanted, status: str, done: BranchEffects) -> None:
    assert rules(wanted, status, done) == []


@pytest.mark.parametrize(
    ("wanted", "status", "done", "rule"),
    [
        (Wanted("saga", ["s0"], "submit"), "", effects(), "what was accepted is there"),
        (
            Wanted("tcc", ["b0"], "submit"),
            "ROLLED_BACK",
            effects(b0="do undo"),
            "a decision that was accepted stands",
        ),
        (
            Wanted("msg", ["local"], "abort"),
            "COMMITTED",
            effects(local="do"),
            "a decision that was accepted stands",
        ),
        (
            Wanted("saga", ["s0", "s1"], "submit"),
            "COMMITTED",
            effects(s0="do"),
            "done or undone as a whole",
        ),
        (Wanted("saga", ["s0"]), "ROLLED_BACK", effects(s0="do"), "done or undone as a whole"),
        (
            Wanted("tcc", ["b0"], "submit"),
            "COMMITTED",
            effects(b0="do"),
            "done or undone as a whole",
        ),
    ],
)
def test_what_does_not_is_found(
    wanted: Wanted, status: str, done: BranchEffects, rule: str
) -> None:
    assert rules(wanted, status, done) == [rule]
