"""What `scripts/purchase` takes for a fault: anything between all and nothing, and leftovers."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from scripts.tidelock_scripts.purchase.books import Stand
from scripts.tidelock_scripts.purchase.purchases import Plan, Purchase
from scripts.tidelock_scripts.purchase.report import show
from scripts.tidelock_scripts.terminal import Terminal

BEFORE = Stand(stock=50, set_aside=0, orders=0, pending=0, money=1000, held=0)
BOUGHT = Stand(stock=48, set_aside=0, orders=1, pending=0, money=800, held=0)


def purchase(
    status: str, after: Stand, *, fails: bool = False, victim: str = "", **left: int
) -> Purchase:
    begun = {"hlc": {"wallMs": 1}, "event": "BEGIN", "branchId": None, "detail": "purchase"}
    transaction: dict[str, Any] = {
        "xid": "shop:1", "status": status, "reason": "", "branches": [], "timeline": [begun],
    }  # fmt: skip
    return Purchase(
        plan=Plan("AT", fails=fails, victim=victim),
        before=BEFORE,
        after=after,
        answer="",
        calls=[],
        events=[],
        transaction=transaction,
        left_behind={what.replace("_", " "): count for what, count in left.items()},
        was_killed=False,
    )


def test_all_of_it_is_right_and_so_is_nothing_where_it_failed() -> None:
    assert not purchase("COMMITTED", BOUGHT).faults()
    assert not purchase("ROLLED_BACK", BEFORE, fails=True, undo_rows=0).faults()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (purchase("COMMITTED", BEFORE), "0 goods, 0 orders and 0 of money"),
        (purchase("COMMITTED", replace(BOUGHT, money=1000)), "2 goods, 1 orders and 0 of money"),
        (purchase("ROLLED_BACK", BOUGHT, fails=True), "2 goods, 1 orders and 200 of money"),
        (purchase("ROLLED_BACK", BEFORE), "it was not bought"),
        (purchase("COMMITTED", replace(BOUGHT, set_aside=2)), "still reserved"),
        (purchase("COMMITTED", replace(BOUGHT, pending=1)), "still reserved"),
        (purchase("COMMITTED", BOUGHT, undo_rows=3), "3 undo rows are left behind"),
        (purchase("COMMITTED", BOUGHT, row_locks=1), "1 row locks are left behind"),
        (purchase("COMMITTED", BOUGHT, victim="order"), "never came to at.after-local-commit"),
        (
            purchase("COMMITTED", Stand(30, 0, 1, 0, -1000, 0), fails=True),
            "without enough money",
        ),
    ],
)
def test_whatever_else_is_found_is_a_fault_and_fails_the_script(
    wrong: Purchase, words: str
) -> None:
    assert words in " ".join(wrong.faults())
    shown = io.StringIO()
    assert not show(wrong, Terminal(shown))
    assert words in shown.getvalue()
