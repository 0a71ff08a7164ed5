"""Values of columns as bytes: what comes out is what went in, to the last digit and type."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidelock.sql.values import ValueFormatError, Written, decode, encode, same

ZONES = st.none() | st.timezones() | st.integers(-86_399, 86_399).map(
    lambda seconds: timezone(timedelta(seconds=seconds))
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.decimals()
    | st.dates()
    | st.times(timezones=st.none() | st.just(UTC))
    | st.datetimes(timezones=ZONES, allow_imaginary=True)
    | st.timedeltas()
    | st.uuids()
    | st.builds(
        Written, st.sampled_from(["date", "json", "array"]), st.text("abc{}'\n", max_size=9)
    )
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=10)


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    back = decode(encode(value))
    assert same(back, value)
    assert repr(back) == repr(value)


@given(VALUES, VALUES)
def test_two_values_are_the_same_when_their_bytes_are(one: Any, other: Any) -> None:
    assert same(one, other) == (encode(one) == encode(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (True, 1),
        (Decimal("1.0"), Decimal("1.00")),
        (0.0, -0.0),
        ("1", 1),
        (b"a", "a"),
        (Written("json", "1"), "1"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1)),  # noqa: DTZ001
        (
            datetime(2026, 1, 1, 12, tzinfo=UTC),
            datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),
        ),
    ],
)
def test_values_that_python_calls_equal_are_told_apart(one: Any, other: Any) -> None:
    assert not same(one, other)


def test_nan_is_itself() -> None:
    assert same(math.nan, math.nan)
    assert same(Decimal("NaN"), Decimal("NaN"))


def test_a_zone_keeps_its_name_and_the_hour_that_comes_twice() -> None:
    late = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    back = decode(encode(late))
    assert isinstance(back, datetime)
    assert back.tzinfo is ZoneInfo("Europe/Berlin")
    assert back.utcoffset() == timedelta(hours=1)


def test_what_cannot_be_kept_is_refused_by_its_type() -> None:
    with pytest.raises(ValueFormatError, match="complex"):
        encode(1j)  # type: ignore[arg-type]
    with pytest.raises(ValueFormatError, match="no Unicode"):
        encode("\ud800")


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xc7\x01\x63x", b"\xd6\x02abcd"])
def test_bytes_that_are_no_value_are_refused(body: bytes) -> None:
    with pytest.raises(ValueFormatError):
        decode(body)


def test_the_format_is_what_it_was() -> None:
    values = [
        None, True, -1, 2**70, 1.5, "é", b"\0", Decimal("-1.50"), date(2026, 1, 2),
        time(3, 4, 5, 6),
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), timedelta(1, 2, 3), UUID(int=7),
        Written("json", "{}"), [1, []],
    ]  # fmt: skip
    assert encode(values).hex() == (  # type: ignore[arg-type]
        "9fc0c3ffc7160131313830353931363230373137343131333033343234cb3ff8000000000000a2c3a9c40100"
        "c705022d312e3530c70a03323032362d30312d3032c7120430333a30343a30352e3030303030367c307c"
        "c71e05323032362d30312d30325430333a30343a30352e3030303030367c307c30c70506317c327c33"
        "d80700000000000000000000000000000007c7090892a46a736f6ea27b7d920190"
    )
