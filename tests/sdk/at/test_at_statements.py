"""What a global transaction changed through AT is kept by its commit and undone by its rollback."""

from __future__ import annotations

from typing import Any

import pytest

import tidelock
from tests.sdk.at_sources import Shop, Step, undone
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

DIALECTS = ["mysql", "postgresql", "sqlite"]
ON_ALL = pytest.mark.parametrize("database", DIALECTS, indirect=True)

BEFORE = [(1, 10, "one"), (2, 20, "two"), (3, 30, "three")]


def kept(shop: Shop, *statements: Step) -> list[tuple[Any, ...]]:
    with tidelock.transaction(application=shop.source.application):
        shop.execute(*statements)
    return shop.rows()


STATEMENTS: dict[str, tuple[list[Step], list[tuple[Any, ...]]]] = {
    "update by key": (
        [("UPDATE t SET v = v - ? WHERE id = ?", (3, 2))],
        [(1, 10, "one"), (2, 17, "two"), (3, 30, "three")],
    ),
    "update of many": (
        [("UPDATE t SET v = v + 1, name = ? WHERE v >= ?", ("more", 20))],
        [(1, 10, "one"), (2, 21, "more"), (3, 31, "more")],
    ),
    "delete": (
        [("DELETE FROM t WHERE id <> ?", (2,))],
        [(2, 20, "two")],
    ),
    "insert": (
        [("INSERT INTO t (id, v, name) VALUES (?, ?, ?)", (4, None, "four"))],
        [*BEFORE, (4, None, "four")],
    ),
    "insert of several": (
        [("INSERT INTO t VALUES (4, ?, 'four'), (?, 50, 'five')", (40, 5))],
        [*BEFORE, (4, 40, "four"), (5, 50, "five")],
    ),
    "several of one row": (
        [
            ("UPDATE t SET v = v + 1 WHERE id = ?", (1,)),
            ("UPDATE t SET v = v * 2, name = 'x' WHERE id = ?", (1,)),
            ("DELETE FROM t WHERE id = ?", (1,)),
            ("INSERT INTO t VALUES (?, 7, 'again')", (1,)),
        ],
        [(1, 7, "again"), *BEFORE[1:]],
    ),
    "insert, change and delete": (
        ["INSERT INTO t VALUES (9, 9, 'nine')", "UPDATE t SET v = 8 WHERE id = 9",
         "DELETE FROM t WHERE id = 9"],
        BEFORE,
    ),
}  # fmt: skip


@ON_ALL
@pytest.mark.parametrize("case", STATEMENTS)
def test_a_rollback_undoes_it(shop: Shop, case: str) -> None:
    statements, made = STATEMENTS[case]
    assert undone(shop, *statements) == made
    assert shop.rows() == BEFORE


@ON_ALL
@pytest.mark.parametrize("case", STATEMENTS)
def test_a_commit_keeps_it_and_nothing_else(
    shop: Shop, case: str, tidelock_coordinator: Coordinator
) -> None:
    statements, made = STATEMENTS[case]
    assert kept(shop, *statements) == made
    tidelock_coordinator.assert_clean()
    assert shop.undo_rows() == []


@ON_ALL
def test_nothing_is_left_behind_by_a_rollback(
    shop: Shop, tidelock_coordinator: Coordinator
) -> None:
    undone(shop, "UPDATE t SET v = 0")
    tidelock_coordinator.assert_clean()
    assert shop.undo_rows() == []


@ON_ALL
def test_what_changes_nothing_is_no_branch(shop: Shop, tidelock_coordinator: Coordinator) -> None:
    with tidelock.transaction(application=shop.source.application) as transaction:
        shop.execute("UPDATE t SET v = 10 WHERE id = 1", "DELETE FROM t WHERE id = 99", "SELECT 1")
        found = tidelock_coordinator.client.run(
            lambda client: client.transactions.get(transaction.xid)
        )
        assert found.branches == []


@ON_ALL
def test_outside_of_global_transactions_everything_is_as_ever(shop: Shop) -> None:
    shop.execute("UPDATE t SET v = 11 WHERE id = 1", "CREATE TABLE u (a INT)", "DROP TABLE u")
    assert shop.rows()[0] == (1, 11, "one")
    assert shop.undo_rows() == []
