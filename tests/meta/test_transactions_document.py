"""docs/TRANSACTIONS.md says what the program does: its diagrams and tables are drawn from it."""

from __future__ import annotations

import re

import pytest

from scripts.tidelock_scripts.transactions_document import (
    DOCUMENT,
    INPUTS,
    PARTS,
    branch_diagram,
    global_diagram,
    operator_table,
    rewritten,
)
from statemachine.transactions.statuses import BranchStatus, GlobalStatus, Mode
from statemachine.transactions.transitions import BRANCH_TRANSITIONS, BranchInput


def test_its_parts_are_what_the_program_draws() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert rewritten(text) == text, (
        "write it anew: python -m scripts.tidelock_scripts.transactions_document"
    )


def test_every_part_stands_in_it_once() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert sorted(re.findall(r"<!-- begin ([a-z-]+) -->", text)) == sorted(PARTS)
    assert text.count("<!-- end -->") == len(PARTS)


def test_every_status_of_a_transaction_is_in_the_diagram_and_in_the_table_of_operators() -> None:
    for status in GlobalStatus:
        assert status.value in global_diagram()
        assert f"`{status.value}`" in operator_table()


@pytest.mark.parametrize("mode", Mode)
def test_a_branch_of_every_mode_can_come_to_an_end(mode: Mode) -> None:
    assert "--> [*]" in branch_diagram(mode)


def test_everything_that_can_happen_to_a_branch_happens_in_some_mode() -> None:
    drawn = "".join(branch_diagram(mode) for mode in Mode)
    assert set[BranchInput]().union(*INPUTS.values()) == {each for _, each in BRANCH_TRANSITIONS}
    for status in BranchStatus:
        if any(status in (before, then) for (before, _), then in BRANCH_TRANSITIONS.items()):
            assert status.value in drawn
