"""Placeholders of five kinds, found as the drivers and databases find them."""

# ruff: noqa: E501 (one case a line)
from __future__ import annotations

import pytest

from tidelock.sql.placeholders import (
    MARK,
    Style,
    as_values,
    normalise,
    picked,
    rendered,
)

FORMAT, QMARK, DOLLAR = Style.FORMAT, Style.QMARK, Style.NUMERIC_DOLLAR


@pytest.mark.parametrize(
    ("style", "dialect", "text", "normal", "keys"),
    [
        (FORMAT, "mysql", "a = %s AND b = %s", "a = :b0 AND b = :b1", [0, 1]),
        (FORMAT, "postgresql", "a = %(x)s, b = %(y)s, %(x)s", "a = :b0, b = :b1, :b2", ["x", "y", "x"]),
        (FORMAT, "mysql", "a LIKE 'x%%' AND b = %s", "a LIKE 'x%' AND b = :b0", [0]),
        (FORMAT, "mysql", "'%s'", "':b0'", [0]),
        (FORMAT, "postgresql", "%b %t", ":b0 :b1", [0, 1]),
        (QMARK, "sqlite", "a = ? AND b = '?' AND c = ?", "a = :b0 AND b = '?' AND c = :b1", [0, 1]),
        (QMARK, "sqlite", "a = ?2 AND b = ?1 AND c = ?", "a = :b0 AND b = :b1 AND c = :b2", [1, 0, 2]),
        (QMARK, "sqlite", ":x, @y, $z, [?], `?`, \"?\" -- ?\n", ":b0, :b1, :b2, [?], `?`, \"?\" -- ?\n", ["x", "y", "z"]),
        (DOLLAR, "postgresql", "$2::int, $1, '$3', $$ $4 $$, $q$ $5 $q$, $1", ":b0::int, :b1, '$3', $$ $4 $$, $q$ $5 $q$, :b2", [1, 0, 0]),
        (DOLLAR, "postgresql", r"E'\'$1', /* $1 */ $1 -- $1", r"E'\'$1', /* $1 */ :b0 -- $1", [0]),
    ],
)  # fmt: skip
def test_placeholders_are_made_alike(
    style: Style, dialect: str, text: str, normal: str, keys: list[int | str]
) -> None:
    found = normalise(text, style, dialect, has_values=True)
    assert found.text == normal
    assert [mark.key for mark in found.marks] == keys


def test_a_per_cent_sign_is_one_when_no_values_are_given() -> None:
    found = normalise("a LIKE '%s%%'", FORMAT, "mysql", has_values=False)
    assert found.text == "a LIKE '%s%%'"
    assert found.marks == ()


def test_a_part_is_taken_over_with_its_values() -> None:
    found = normalise(
        "UPDATE t SET a = %s WHERE b = %s AND c = %s", FORMAT, "mysql", has_values=True
    )
    part = found.fragment(found.text.index("WHERE"), len(found.text))
    assert part.text == f"WHERE b = {MARK} AND c = {MARK}"
    assert picked(part.keys, ("a", "b", "c")) == ("b", "c")


@pytest.mark.parametrize(
    ("style", "text"),
    [(FORMAT, "a LIKE 'x%%' AND b = %s, %s"), (QMARK, "a LIKE 'x%' AND b = ?, ?"),
     (DOLLAR, "a LIKE 'x%' AND b = $1, $2")],
)  # fmt: skip
def test_a_canonical_statement_is_written_as_each_driver_wants_it(style: Style, text: str) -> None:
    assert rendered(f"a LIKE 'x%' AND b = {MARK}, {MARK}", style, has_values=True) == text


def test_without_values_a_per_cent_sign_is_not_doubled() -> None:
    assert rendered("a LIKE 'x%'", FORMAT, has_values=False) == "a LIKE 'x%'"


def test_values_are_picked_by_position_and_by_name() -> None:
    assert picked((1, 0, 1), ["a", "b"]) == ("b", "a", "b")
    assert picked(("x",), {"x": 1, "y": 2}) == (1,)
    with pytest.raises(LookupError, match="no values were given"):
        picked((0,), None)


@pytest.mark.parametrize(
    ("given", "values"),
    [(None, None), ([1], [1]), ((1, 2), (1, 2)), ({"a": 1}, {"a": 1}), ("text", ("text",)), (7, (7,))],
)  # fmt: skip
def test_a_lone_value_is_one(given: object, values: object) -> None:
    assert as_values(given) == values
