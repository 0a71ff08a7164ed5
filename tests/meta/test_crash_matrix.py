"""The table of deaths counts what tests are parametrised by."""

from __future__ import annotations

from tests.crash_matrix import cells_of, missing, table
from tidelock.crash_points import POINTS


def test_a_test_says_where_what_dies_at_which_point() -> None:
    found = list(cells_of("test_a", {"database": "psycopg", "point": "at.before-report:2"}))
    assert found == [("at.before-report", "postgresql", "process")]
    found = list(cells_of("test_xa_crashes", {"dies": "leader", "point": "xa.after-start"}))
    assert found == [("xa.after-start", name, "leader") for name in ("mysql", "postgresql")]
    assert list(cells_of("test_a", {"database": "mysql", "case": "delete"})) == []


def test_the_table_counts_points_of_each_mode() -> None:
    cells = [("inbox.after-row", "mysql", "process"), ("inbox.after-row", "mysql", "leader")]
    (row,) = [line for line in table(cells) if line.startswith("| inbox ")]
    assert row == "| inbox | 1 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 0 | 1 of 4 |"
    assert missing(cells) == [name for name in POINTS if name != "inbox.after-row"]
