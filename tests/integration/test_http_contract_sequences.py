"""Sequences over HTTP, row by row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.cluster import Consistency, NoQuorumError, OutcomeUnknownError
from statemachine import keys
from tests.integration.serving import SEQUENCES, Answered, Api, serving

INVOICES = f"{SEQUENCES}/invoices"
NEXT = f"{INVOICES}/next"
GREATEST = 2**63 - 1


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def take(api: Api, count: int) -> Answered:
    return await api.post(NEXT, {"count": count})


# POST /api/v1/sequences/{name}/next


async def test_a_sequence_begins_at_1_and_leaves_nothing_out(api: Api) -> None:
    first = await api.post(NEXT, None)
    assert (first.status, first.body) == (200, {"first": 1, "last": 1})
    assert (await take(api, 1_000_000)).body == {"first": 2, "last": 1_000_001}
    assert (await api.post(NEXT, {})).body == {"first": 1_000_002, "last": 1_000_002}


async def test_numbers_that_are_taken_at_once_are_each_taken_by_one(api: Api) -> None:
    answers = await asyncio.gather(*(take(api, 1 + at % 3) for at in range(40)))
    taken = [
        number
        for answered in answers
        for number in range(answered.body["first"], answered.body["last"] + 1)
    ]
    assert sorted(taken) == list(range(1, len(taken) + 1))


async def test_a_retry_under_its_key_gets_the_same_numbers(api: Api) -> None:
    first = await api.post(NEXT, {"count": 3}, Idempotency_Key="k")
    again = await api.post(NEXT, {"count": 3}, Idempotency_Key="k")
    assert again.body == first.body == {"first": 1, "last": 3}
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await take(api, 1)).body == {"first": 4, "last": 4}


async def test_a_key_belongs_to_one_sequence_and_one_count(api: Api) -> None:
    await api.post(NEXT, {"count": 3}, Idempotency_Key="k")
    for path, body in ((NEXT, {"count": 4}), (f"{SEQUENCES}/others/next", {"count": 3})):
        answered = await api.post(path, body, Idempotency_Key="k")
        assert answered.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])


async def test_an_answer_that_was_lost_is_found_under_its_key(api: Api) -> None:
    api.cluster.fault, api.cluster.lose_answers = OutcomeUnknownError(), True
    answered = await api.post(NEXT, {"count": 3}, Idempotency_Key="k")
    assert answered.refused == (503, "OUTCOME_UNKNOWN", [])
    api.cluster.fault = None
    again = await api.post(NEXT, {"count": 3}, Idempotency_Key="k")
    assert again.body == {"first": 1, "last": 3}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"count": 0}, "count"),
        ({"count": -1}, "count"),
        ({"count": 1_000_001}, "count"),
        ({"count": "3"}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": None}, "count"),
        ({"size": 3}, "size"),
        ([], ""),
    ],
)
async def test_a_count_that_cannot_be_is_refused_by_name(api: Api, body: object, path: str) -> None:
    assert (await api.post(NEXT, body)).refused == (422, "INVALID_FIELD", [path])


@pytest.mark.parametrize("name", ["x" * 129, "%C3%A9" * 65, "a%0Ab", "a%00"])
async def test_a_name_that_cannot_be_is_refused(api: Api, name: str) -> None:
    for method, path in (("POST", f"{SEQUENCES}/{name}/next"), ("GET", f"{SEQUENCES}/{name}")):
        assert (await api.call(method, path)).refused == (422, "INVALID_FIELD", ["name"])


async def test_sequences_do_not_touch_each_other(api: Api) -> None:
    for name in ("a", "A", "%C3%A9", "a%20b", "next"):
        answered = await api.post(f"{SEQUENCES}/{name}/next", None)
        assert answered.body == {"first": 1, "last": 1}


async def test_a_sequence_ends_before_2_to_the_63(api: Api) -> None:
    api.cluster.store.put(b"Qinvoices\0", keys.pack_number(GREATEST - 2))
    assert (await take(api, 3)).refused == (409, "SEQUENCE_EXHAUSTED", [])
    assert (await take(api, 2)).body == {"first": GREATEST - 1, "last": GREATEST}


# GET /api/v1/sequences/{name}


async def test_a_sequence_shows_how_far_it_has_got(api: Api) -> None:
    assert (await api.get(INVOICES)).body == {"name": "invoices", "last": 0}
    await take(api, 7)
    answered = await api.get(INVOICES)
    assert (answered.status, answered.body) == (200, {"name": "invoices", "last": 7})
    await api.get(f"{INVOICES}?consistency=local")
    assert api.cluster.consistencies == [
        Consistency.LINEARIZABLE,
        Consistency.LINEARIZABLE,
        Consistency.LOCAL,
    ]


async def test_without_a_majority_nothing_is_taken_or_shown(api: Api) -> None:
    api.cluster.fault = NoQuorumError()
    assert (await api.post(NEXT, None)).refused == (503, "NO_QUORUM", [])
    assert (await api.get(INVOICES)).refused == (503, "NO_QUORUM", [])
