"""Expressions of the state language: what they are worth, and what none is."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.transactions.state_language import values
from statemachine.transactions.state_language.expressions import (
    GREATEST_HEIGHT,
    GREATEST_LENGTH,
    GREATEST_NESTING,
    Budget,
    EvaluationError,
    ExpressionSyntaxError,
    Scope,
    evaluate,
    parse,
)
from statemachine.transactions.state_language.templates import compile_template, fill
from statemachine.transactions.state_language.values import UnusableValueError

CONTEXT: dict[str, Any] = {
    "n": 7,
    "price": Decimal("19.50"),
    "text": "it's",
    "yes": True,
    "nothing": None,
    "list": [3, 1, 2],
    "people": [{"name": "Li", "age": 30}, {"name": "Bo", "age": None}],
    "a b": {"deep": {"er": 1}},
    "0": "zero",
}

WORTH: list[tuple[str, Any]] = [
    ("$.1", 1),
    ("007", 7),
    ("1.50", Decimal("1.50")),
    ("'it''s'", "it's"),
    ('"x"', "x"),
    ("true", True),
    ("NULL", None),
    ("$.[n]", 7),
    ("n", 7),
    ("['n']", 7),
    ("#root.n", 7),
    ("$.#root[n]", 7),
    ("#xid", "x"),
    ("#error", None),
    ("[absent]", None),
    ("['a b'].deep.er", 1),
    ("[nothing]?.deep", None),
    ("[list][0]", 3),
    ("[list].[1]", 1),
    ("[people][0].name", "Li"),
    ("[0]", "zero"),
    ("[list].size()", 3),
    ("[text].length()", 4),
    ("[list].isEmpty()", False),
    ("[list].contains(2)", True),
    ("[text].contains('t')", True),
    ("#root.contains('n')", True),
    ("[people].?[#this[age] == null].size()", 1),
    ("[people].?[age != null and age > 18][0].name", "Li"),
    ("1 + 2 * 3", 7),
    ("(1 + 2) * 3", 9),
    ("7 / 2", Decimal("3.5")),
    ("6 / 2", 3),
    ("-7 % 3", -1),
    ("7 mod 4", 3),
    ("8 div 2", 4),
    ("1 / 3", Decimal("0.3333333333333333333333333333333333")),
    ("[price] * 2", Decimal("39.00")),
    ("0.1 + 0.2 == 0.3", True),
    ("-[n]", -7),
    ("- -1", 1),
    ("'a' + 'b'", "ab"),
    ("1 == 1.0", True),
    ("1 == true", False),
    ("'1' == 1", False),
    ("[list] == [list]", True),
    ("'a' < 'b'", True),
    ("2 >= 2 and not (1 > 2)", True),
    ("1 gt 0 && 1 le 1 || false", True),
    ("true or [absent].x", True),
    ("false and [absent].x", False),
    ("!true", False),
]


def value(text: str, budget: Budget | None = None) -> Any:
    variables = {"xid": "x", "error": None}
    return evaluate(parse(text), Scope(CONTEXT, variables, budget or Budget()))


@pytest.mark.parametrize(("text", "expected"), WORTH)
def test_what_an_expression_is_worth(text: str, expected: Any) -> None:
    found = value(text)
    assert values.equal(found, expected), found
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        "[absent].x",
        "[list][3]",
        "[list][-1]",
        "[list].x",
        "[n].x",
        "[n][0]",
        "1 + 'a'",
        "true + 1",
        "1 < 'a'",
        "true < false",
        "[n] and true",
        "not [n]",
        "-'a'",
        "1 / 0",
        "1 % 0",
        "1.5 / 0",
        "9223372036854775807 + 1",
        "[n].size()",
        "[nothing].isEmpty()",
        "[n].?[true]",
        "[list].?[#this]",
        "[text].contains(1)",
    ],
)
def test_what_has_no_value_says_so(text: str) -> None:
    with pytest.raises(EvaluationError):
        value(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$.",
        "1 +",
        "(1",
        "[n",
        "1 2",
        "a b",
        "#unknown",
        "T(java.lang.Runtime)",
        "[n].getClass()",
        "[n].size(1)",
        "[n].contains()",
        "a.",
        "a..b",
        "1 = 1",
        "a ? b : c",
        "new String()",
        "@bean.x",
        "'open",
        "{1, 2}",
        "1 == 1 == 1",
        "(" * (GREATEST_NESTING + 1) + "1" + ")" * (GREATEST_NESTING + 1),
        "!" * (GREATEST_NESTING + 1) + "true",
        "+".join("1" * (GREATEST_HEIGHT + 2)),
        "a" + ".a" * (GREATEST_HEIGHT + 2),
        "1" * (GREATEST_LENGTH + 1),
        "9" * 101 + ".5",
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionSyntaxError):
        parse(text)


def test_an_evaluation_is_bounded() -> None:
    text = "[list].?[[list].?[true].size() > 0].size()"
    assert values.equal(evaluate(parse(text.replace("[list]", "#root")), Scope([1, 2])), 2)
    with pytest.raises(EvaluationError, match="steps"):
        evaluate(parse("#root.?[#root.?[true].size() > 0]"), Scope(list(range(300))))


@given(st.text(alphabet="$.#[]()'\"?!=<>&|+-*/%,ab1 nottrue", max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        node = parse(text)
    except ExpressionSyntaxError:
        return
    try:
        evaluate(node, Scope(CONTEXT))
    except EvaluationError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_what_is_read_and_written_stays_the_same(tree: Any) -> None:
    try:
        read = values.decode(json.dumps(tree).encode())
        written = values.encode(read, 1 << 20)
    except UnusableValueError:
        return
    again = values.decode(written)
    assert values.equal(again, read)
    assert values.encode(again, 1 << 20) == written


@pytest.mark.parametrize(
    "text", ["[" * 65 + "]" * 65, "1e9999", "1" * 101, "1e99999999999999999999", "{", "\xff"]
)
def test_values_that_are_too_deep_or_too_great_are_refused(text: str) -> None:
    with pytest.raises(UnusableValueError):
        values.decode(text.encode("latin-1"))


def test_integers_beyond_64_bits_become_decimals() -> None:
    assert values.encode(values.decode(b"18446744073709551616"), 100) == b"18446744073709551616"


def test_a_template_is_json_with_expressions_in_it() -> None:
    faults: list[tuple[str, str]] = []
    tree = {"a": ["$.[n]", "$$.[n]", "n"], "b": {"c": "$.[n] + 1"}, "d": 5}
    template = compile_template(tree, "Input", lambda *fault: faults.append(fault))
    assert faults == []
    assert fill(template, Scope(CONTEXT)) == {"a": [7, "$.[n]", "n"], "b": {"c": 8}, "d": 5}


def test_what_is_wrong_in_a_template_is_said_with_its_path() -> None:
    faults: list[tuple[str, str]] = []
    tree = {"a": ["$.[n", "$Sequence.X"], "b": {"c": "$.1 +"}}
    compile_template(tree, "Input", lambda *fault: faults.append(fault))
    assert [path for path, _ in faults] == ["Input.a[0]", "Input.a[1]", "Input.b.c"]
