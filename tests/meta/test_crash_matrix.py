"""The table of deaths counts what tests are parametrised by."""

from __future__ import annotations

from fnmatch import fnmatch

from tests.crash_matrix import ABSENT, cells_of, missing, reason_of, table
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


def test_what_no_test_tries_is_missing_unless_it_cannot_be() -> None:
    left = missing([("inbox.after-row", "mysql", "process")])
    assert ("inbox.after-row", "mysql", "process") not in left
    assert ("inbox.after-row", "mysql", "connection") in left
    assert {point for point, _, _ in left} == POINTS.keys()
    assert ("rm.after-call", "", "leader") in left
    for cell in (("inbox.after-row", "mysql", "leader"), ("xa.after-start", "sqlite", "process")):
        assert cell not in left
        assert reason_of(cell)


def test_every_reason_is_about_points_that_there_are() -> None:
    for absence in ABSENT:
        assert any(fnmatch(point, absence.point) for point in POINTS), absence
