"""What a run of the bank would find, if it were there."""

from __future__ import annotations

from scripts.tidelock_scripts.accounts.bank import told_otherwise
from scripts.tidelock_scripts.accounts.ledger import ACCOUNTS, OPENED_WITH, Transfer, expected


def test_balances_follow_from_transfers() -> None:
    found = expected([Transfer("a", 0, 1, 30), Transfer("b", 1, 2, 5)])
    assert sum(found.values()) == ACCOUNTS * OPENED_WITH
    assert [found[account] - OPENED_WITH for account in range(4)] == [-30, 25, 5, 0]


def test_a_worker_that_was_told_something_else_than_the_cluster_has_is_found() -> None:
    transfers = [
        Transfer("a", 0, 1, 1, told="committed"),
        Transfer("b", 0, 1, 1, told="committed"),
        Transfer("c", 0, 1, 1, told="rolled back"),
        Transfer("d", 0, 1, 1, told="rolled back"),
        Transfer("e", 0, 1, 1, told="unknown"),
        Transfer("", 0, 1, 1, told="unknown"),
    ]
    statuses = {"a": "COMMITTED", "b": "ROLLED_BACK", "c": "COMMITTED", "d": "ROLLED_BACK"}
    assert [line.split()[0] for line in told_otherwise(transfers, statuses)] == ["b", "c"]
