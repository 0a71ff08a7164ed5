"""Names: what may be one is spelled out, and means the same on every release of Python."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest

from api.errors import Problem
from api.requests import name
from api.shapes import PRINTABLE

EVERY_CHARACTER = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


def test_what_python_calls_printable_may_be_in_a_name() -> None:
    """The check relies on it: printable text is not looked at again."""
    printable = "".join(filter(str.isprintable, EVERY_CHARACTER))
    assert re.match(PRINTABLE, printable)


def test_no_control_and_no_blank_but_the_space_is_in_a_name() -> None:
    for character in EVERY_CHARACTER:
        if unicodedata.category(character) in ("Cc", "Zs", "Zl", "Zp") and character != " ":
            assert not re.match(PRINTABLE, character), hex(ord(character))


@pytest.mark.parametrize(
    "text",
    ["", "a\n", "a\u00ad", "\u200ba", "a\u202eb", "\ufeffa", "a\u2066", "\U000e0041", "\uffff"],
)
def test_what_nobody_sees_is_not_in_a_name(text: str) -> None:
    with pytest.raises(Problem, match="nodeId: must be 1 or more printable characters"):
        name("nodeId", text)


@pytest.mark.parametrize("text", ["a b", "订单", "\ufffd", "\U0001f600", "\ue000", "\U000323bf"])
def test_what_can_be_seen_or_is_not_assigned_yet_is(text: str) -> None:
    assert name("nodeId", text) == text


@pytest.mark.parametrize("text", ["x" * 129, "é" * 65, "汉" * 43])
def test_a_name_has_128_bytes(text: str) -> None:
    with pytest.raises(Problem, match="at most 128 bytes of UTF-8"):
        name("nodeId", text)
