"""Results of steps in the payloads of later ones."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from statemachine.transactions.references import (
    GREATEST_REFERENCES,
    FeedError,
    references_in,
    resolve,
)
from statemachine.transactions.rows import Branch, Calls, RetryRule
from statemachine.transactions.statuses import BranchStatus, Mode


def branch(name: str, *, payload: object = None, result: object = None, **more: Any) -> Branch:
    made = Branch(
        branch_id=len(name),
        name=name,
        mode=Mode.SAGA,
        status=BranchStatus.PHASE_ONE_DONE,
        resource_id="",
        application_id="",
        unit_id="",
        session_id=0,
        application_data=b"",
        calls=Calls("u", "", "u"),
        payload=b"" if payload is None else json.dumps(payload).encode(),
        depends_on=(),
        timeout_ms=0,
        retry=RetryRule(),
        result=b"" if result is None else json.dumps(result).encode(),
    )
    return msgspec.structs.replace(made, **more)


def ref(text: object) -> dict[str, object]:
    return {"$ref": text}


A = branch("a", result={"id": 7, "items": [{"sku": "x"}, None], "a b": {"1": True}})
BB = branch("bb", result=[1.5, "名"])
NOTHING = branch("ccc")


def resolved(payload: object) -> object:
    mine = branch("mine", payload=payload)
    return json.loads(resolve(mine, [A, BB, NOTHING, mine]))


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("a", {"id": 7, "items": [{"sku": "x"}, None], "a b": {"1": True}}),
        ("a.id", 7),
        ("a.items.0.sku", "x"),
        ("a.items.1", None),
        ("a.a b.1", True),
        ("bb", [1.5, "名"]),
        ("bb.1", "名"),
        ("ccc", None),
    ],
)
def test_a_reference_stands_for_what_was_answered(reference: str, value: object) -> None:
    payload = {"deep": [1, {"er": ref(reference)}], "beside": "$ref"}
    assert resolved(payload) == {"deep": [1, {"er": value}], "beside": "$ref"}
    assert resolved(ref(reference)) == value


@pytest.mark.parametrize(
    "reference", ["b", "a.x", "a.items.2", "a.items.-1", "a.id.x", "ccc.x", "a.", "", "mine"]
)
def test_nothing_is_where_it_leads(reference: str) -> None:
    with pytest.raises(FeedError, match=r"\$ref"):
        resolved(ref(reference))


def test_a_payload_without_references_goes_out_as_it_came() -> None:
    text = b'{"a" : 1.0e2, "ref" : "\\u0041"}'
    mine = branch("mine", payload=None)
    mine = msgspec.structs.replace(mine, payload=text.replace(b"\\u0041", b"A"))
    assert resolve(mine, [mine]) == mine.payload
    tcc = branch("mine", payload=ref("a"), mode=Mode.TCC)
    assert resolve(tcc, [A, tcc]) == tcc.payload


def test_an_escaped_reference_is_one_too() -> None:
    mine = msgspec.structs.replace(branch("mine"), payload=b'{"\\u0024ref": "a.id"}')
    assert references_in(mine.payload) == ["a.id"]
    assert resolve(mine, [A, mine]) == b"7"


@pytest.mark.parametrize("odd", [{"$ref": 1}, {"$ref": "a", "b": 1}, [{"$ref": None}]])
def test_a_reference_is_a_text_and_stands_alone(odd: object) -> None:
    with pytest.raises(FeedError, match="only member"):
        references_in(json.dumps(odd).encode())


def test_references_are_bounded() -> None:
    references_in(json.dumps([ref("a")] * GREATEST_REFERENCES).encode())
    with pytest.raises(FeedError, match="at most 100"):
        references_in(json.dumps([ref("a")] * (GREATEST_REFERENCES + 1)).encode())


def test_what_becomes_too_large_is_not_sent() -> None:
    large = branch("a", result="x" * 60_000)
    mine = branch("mine", payload=[ref("a")] * 20)
    with pytest.raises(FeedError, match="at most 1048576"):
        resolve(mine, [large, mine])
