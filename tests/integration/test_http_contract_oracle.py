"""The timestamp oracle over HTTP, row by row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.cluster import NoQuorumError, OverloadedError, TimestampsExhaustedError
from tests.integration.local_cluster import START_MS, LocalCluster
from tests.integration.serving import TSO, Api, serving

NOW = START_MS << 18


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


# POST /api/v1/tso


async def test_one_timestamp_is_drawn_unless_more_are_asked_for(api: Api) -> None:
    for at, body in enumerate((None, {}, {"count": 1})):
        answered = await api.post(TSO, body)
        assert answered.status == 200
        assert answered.body == {"first": NOW + at, "last": NOW + at, "count": 1}
        assert answered.headers["Tidelock-Node"] == "n1"


@pytest.mark.parametrize("count", [2, 1_000, 1_000_000])
async def test_many_are_drawn_in_a_row(api: Api, count: int) -> None:
    first = (await api.post(TSO, {"count": count})).body
    assert first == {"first": NOW, "last": NOW + count - 1, "count": count}
    assert (await api.post(TSO, None)).body["first"] == first["last"] + 1


async def test_everybody_gets_timestamps_of_their_own(api: Api) -> None:
    answers = await asyncio.gather(*(api.post(TSO, {"count": 1 + at % 5}) for at in range(50)))
    drawn = [
        timestamp
        for answered in answers
        for timestamp in range(answered.body["first"], answered.body["last"] + 1)
    ]
    assert len(drawn) == len(set(drawn)) == sum(1 + at % 5 for at in range(50))


@pytest.mark.parametrize("key", ["again", "k" * 500, "not visible ascii"])
async def test_a_retry_gets_greater_timestamps_whatever_its_key(api: Api, key: str) -> None:
    first = await api.post(TSO, {"count": 5}, Idempotency_Key=key)
    again = await api.post(TSO, {"count": 7}, Idempotency_Key=key)
    assert again.body["first"] > first.body["last"]
    assert "Idempotency-Replayed" not in again.headers
    assert api.cluster.machine.idempotency_count == 0


async def test_timestamps_stay_above_a_clock_that_was_set_back() -> None:
    cluster = LocalCluster()
    async with serving(cluster) as api:
        first = (await api.post(TSO, None)).body["first"]
        cluster.wall_ms -= 60_000
        assert (await api.post(TSO, None)).body["first"] == first + 1


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"count": 0}, "count"),
        ({"count": -1}, "count"),
        ({"count": 1_000_001}, "count"),
        ({"count": "1"}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": None}, "count"),
        ({"size": 3}, "size"),
        ([], ""),
    ],
)
async def test_a_count_that_cannot_be_is_refused_by_name(api: Api, body: object, path: str) -> None:
    assert (await api.post(TSO, body)).refused == (422, "INVALID_FIELD", [path])
    assert api.cluster.machine.reserved_upto == 0


async def test_what_is_sent_is_json_or_nothing(api: Api) -> None:
    assert (await api.call("POST", TSO, raw=b"")).status == 200
    assert (await api.call("POST", TSO, raw=b"7x")).refused == (400, "MALFORMED_JSON", [])
    headers = {"Content-Type": "text/plain"}
    answered = await api.call("POST", TSO, raw=b"{}", headers=headers)
    assert answered.refused == (415, "NOT_JSON", [])


async def test_the_deadline_is_the_request_s(api: Api) -> None:
    await api.post(TSO, None, Tidelock_Timeout_Ms="700")
    assert api.cluster.timeouts_ms[0] == 700
    answered = await api.post(TSO, None, Tidelock_Timeout_Ms="soon")
    assert answered.refused == (422, "INVALID_FIELD", ["Tidelock-Timeout-Ms"])


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (NoQuorumError(), 503, "NO_QUORUM"),
        (OverloadedError(), 429, "OVERLOADED"),
        (TimestampsExhaustedError(), 409, "CLOCK_OVERFLOW"),
    ],
)
async def test_without_timestamps_there_is_a_reason(
    api: Api, fault: Exception, status: int, code: str
) -> None:
    api.cluster.fault = fault
    answered = await api.post(TSO, None)
    assert answered.refused == (status, code, [])
    assert ("Retry-After" in answered.headers) == (status in (429, 503))


async def test_timestamps_are_not_read(api: Api) -> None:
    answered = await api.get(TSO)
    assert answered.refused == (405, "METHOD_NOT_ALLOWED", [])
    assert answered.headers["Allow"] == "POST"
