"""Strict JSON: equal to what any other reader would understand, or refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import Problem
from api.json_text import GREATEST_DEPTH, decode

ANYTHING = msgspec.json.Decoder[Any]()

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(value=JSON, escaped=st.booleans())
def test_what_is_sound_is_accepted_and_unchanged(value: object, escaped: bool) -> None:
    assert decode(json.dumps(value, ensure_ascii=escaped).encode(), ANYTHING) == value


@given(inner=JSON, text=st.text())
def test_a_key_named_twice_is_found_at_any_place(inner: object, text: str) -> None:
    key = json.dumps(text)
    body = f'{{"list":[{json.dumps(inner)},{{{key}:1,"other":":",{key}:2}}]}}'
    if text == "other":
        return
    with pytest.raises(Problem) as caught:
        decode(body.encode(), ANYTHING)
    assert caught.value.code == "DUPLICATE_KEY"
    assert caught.value.errors[0].path.startswith("list[1].")


@pytest.mark.parametrize(
    "body",
    [
        rb'{"a":"b:c","a":1}',
        rb'{"a" :1,"a":":"}',
        rb'{"a" :1,"a":"x:"}',
        b'{"a"\n:1,"b":"c:d","a"\t :2}',
        rb'{"a" :1,"b":"\":","a":2}',
        rb'{"\":":1,"b" :":","\":":2}',
    ],
)
def test_neither_colons_in_texts_nor_space_before_colons_hide_a_repetition(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        decode(body, ANYTHING)
    assert caught.value.code == "DUPLICATE_KEY"


@pytest.mark.parametrize(
    "body", [rb'{"a":"mysql://h/db","b" :"\":","c":{"a":":"}}', rb'{"\":":"x","b":"n1:8"}']
)
def test_colons_in_texts_are_no_keys(body: bytes) -> None:
    assert decode(body, ANYTHING) == json.loads(body)


def test_the_same_key_in_different_objects_is_no_repetition() -> None:
    body = b'[{"a":{"a":1}},{"a":[{"a":":"},{"a":2}]}]'
    assert decode(body, ANYTHING) == json.loads(body)


@pytest.mark.parametrize("depth", [1, GREATEST_DEPTH])
def test_nesting_is_accepted_up_to_the_limit(depth: int) -> None:
    assert decode(b"[" * depth + b"]" * depth, ANYTHING) is not None
    assert decode(b'{"a":' * depth + b"1" + b"}" * depth, ANYTHING) is not None


@pytest.mark.parametrize("depth", [GREATEST_DEPTH + 1, 990, 1_010, 200_000])
def test_nesting_beyond_the_limit_is_refused(depth: int) -> None:
    for body in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        with pytest.raises(Problem) as caught:
            decode(body, ANYTHING)
        assert caught.value.code == "INVALID_FIELD"
        assert "nested" in caught.value.detail


@pytest.mark.parametrize("number", ["-9223372036854775808", "18446744073709551615", "1e308", "-0"])
def test_a_number_of_64_bits_is_accepted(number: str) -> None:
    assert decode(f"[{number}]".encode(), ANYTHING) == json.loads(f"[{number}]")


@pytest.mark.parametrize(
    "number", ["-9223372036854775809", "18446744073709551616", "1e309", "-1e309", "9" * 5_000]
)
def test_a_number_beyond_64_bits_is_refused_where_it_stands(number: str) -> None:
    with pytest.raises(Problem) as caught:
        decode(f'{{"a":"1e999","b":[0,{number}]}}'.encode(), ANYTHING)
    assert caught.value.code == "INVALID_FIELD"
    assert caught.value.errors[0].path == "b[1]"
    with pytest.raises(Problem) as caught:
        decode(f'{{"b":[{"0," * 99}{number}]}}'.encode(), ANYTHING)
    assert caught.value.errors[0].path == "b[99]"
