"""The hybrid clock over HTTP, row by row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.cluster import NoQuorumError, OutcomeUnknownError
from api.settings import ApiSettings
from statemachine.commands import ObserveHybridTime
from tests.integration.local_cluster import START_MS, LocalCluster
from tests.integration.serving import HLC, Api, serving

NOW = f"{HLC}/now"
OBSERVE = f"{HLC}/observe"
SKEW_MS = ApiSettings().max_skew_ms


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


def at(wall_ms: int, logical: int = 0) -> dict[str, Any]:
    return {"hlc": {"wallMs": wall_ms, "logical": logical}}


# POST /api/v1/hlc/now


async def test_now_gives_the_time_and_one_integer_that_sorts_alike(api: Api) -> None:
    first = await api.post(NOW, None)
    assert first.status == 200
    assert first.body == {**at(START_MS), "encoded": START_MS << 18}
    assert first.headers["Tidelock-Index"] == "1.0"
    assert (await api.post(NOW, {})).body == {**at(START_MS, 1), "encoded": (START_MS << 18) + 1}


async def test_timestamps_of_events_and_of_the_clock_form_one_order(api: Api) -> None:
    given = []
    for _ in range(3):
        event = await api.record()
        given.append((event["hlc"]["wallMs"], event["hlc"]["logical"]))
        now = (await api.post(NOW, None)).body
        given.append((now["hlc"]["wallMs"], now["hlc"]["logical"]))
    assert given == sorted(set(given))


async def test_everybody_who_asks_at_once_gets_another_timestamp(api: Api) -> None:
    answers = await asyncio.gather(*(api.post(NOW, None) for _ in range(50)))
    assert len({answered.body["encoded"] for answered in answers}) == 50


@pytest.mark.parametrize("key", ["again", "k" * 500, "not visible ascii"])
async def test_a_retry_of_now_gets_a_greater_timestamp_whatever_its_key(api: Api, key: str) -> None:
    first = await api.post(NOW, None, Idempotency_Key=key)
    again = await api.post(NOW, None, Idempotency_Key=key)
    assert again.body["encoded"] > first.body["encoded"]
    assert "Idempotency-Replayed" not in again.headers
    assert api.cluster.machine.idempotency_count == 0


@pytest.mark.parametrize("body", [{"count": 2}, {"hlc": {}}])
async def test_now_takes_nothing(api: Api, body: object) -> None:
    assert (await api.post(NOW, body)).refused == (422, "INVALID_FIELD", list(body))  # type: ignore[call-overload]


async def test_what_is_sent_to_now_is_json_or_nothing(api: Api) -> None:
    assert (await api.call("POST", NOW, raw=b"")).status == 200
    assert (await api.call("POST", NOW, raw=b"nope")).refused == (400, "MALFORMED_JSON", [])
    headers = {"Content-Type": "text/plain"}
    answered = await api.call("POST", NOW, raw=b"{}", headers=headers)
    assert answered.refused == (415, "NOT_JSON", [])


async def test_at_the_end_of_time_there_is_no_now(api: Api) -> None:
    await api.cluster.propose(
        [ObserveHybridTime(timestamp=2**63 - 2, max_skew_ms=2**45)], timeout_ms=1_000
    )
    assert (await api.post(NOW, None)).refused == (409, "CLOCK_OVERFLOW", [])


@pytest.mark.parametrize(
    ("fault", "code"),
    [(OutcomeUnknownError(), "OUTCOME_UNKNOWN"), (NoQuorumError(), "NO_QUORUM")],
)
async def test_without_an_outcome_there_is_no_timestamp(
    api: Api, fault: Exception, code: str
) -> None:
    api.cluster.fault = fault
    for path, body in ((NOW, None), (OBSERVE, at(START_MS))):
        answered = await api.post(path, body)
        assert answered.refused == (503, code, [])
        assert answered.headers["Retry-After"] == "1"


async def test_the_deadline_is_the_request_s(api: Api) -> None:
    await api.post(NOW, None, Tidelock_Timeout_Ms="700")
    assert api.cluster.timeouts_ms[-1] == 700
    answered = await api.post(NOW, None, Tidelock_Timeout_Ms="soon")
    assert answered.refused == (422, "INVALID_FIELD", ["Tidelock-Timeout-Ms"])


# POST /api/v1/hlc/observe


@pytest.mark.parametrize(
    ("received", "given"),
    [
        (at(0), at(START_MS)),
        (at(START_MS, 7), at(START_MS, 8)),
        (at(START_MS + 3, 2**18 - 1), at(START_MS + 4)),
        (at(START_MS + SKEW_MS), at(START_MS + SKEW_MS, 1)),
    ],
)
async def test_what_is_observed_is_overtaken(
    api: Api, received: dict[str, Any], given: dict[str, Any]
) -> None:
    answered = await api.post(OBSERVE, received)
    assert answered.status == 200
    wall_ms, logical = given["hlc"]["wallMs"], given["hlc"]["logical"]
    assert answered.body == {**given, "encoded": wall_ms << 18 | logical}
    assert (await api.post(NOW, None)).body["encoded"] == (wall_ms << 18 | logical) + 1


@pytest.mark.parametrize("wall_ms", [START_MS + SKEW_MS + 1, 2**46 - 1])
async def test_a_timestamp_from_the_future_is_refused_and_changes_nothing(
    api: Api, wall_ms: int
) -> None:
    answered = await api.post(OBSERVE, at(wall_ms))
    assert answered.refused == (422, "CLOCK_SKEW_TOO_LARGE", [])
    assert str(SKEW_MS) in answered.body["detail"]
    assert api.cluster.machine.hlc == 0


async def test_the_bound_is_configured() -> None:
    async with serving(settings=ApiSettings(max_skew_ms=5)) as api:
        assert (await api.post(OBSERVE, at(START_MS + 5))).status == 200
        answered = await api.post(OBSERVE, at(START_MS + 6))
        assert answered.refused == (422, "CLOCK_SKEW_TOO_LARGE", [])


async def test_an_observation_under_the_same_key_is_made_once(api: Api) -> None:
    first = await api.post(OBSERVE, at(START_MS), Idempotency_Key="k")
    again = await api.post(OBSERVE, at(START_MS), Idempotency_Key="k")
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await api.post(OBSERVE, at(START_MS + 1), Idempotency_Key="k")
    assert other.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "hlc"),
        ({"hlc": None}, "hlc"),
        ({"hlc": START_MS << 18}, "hlc"),
        ({"hlc": {"wallMs": START_MS}}, "hlc.logical"),
        ({"hlc": {"logical": 0}}, "hlc.wallMs"),
        (at(-1), "hlc.wallMs"),
        (at(2**46), "hlc.wallMs"),
        (at(START_MS, -1), "hlc.logical"),
        (at(START_MS, 2**18), "hlc.logical"),
        ({"hlc": {"wallMs": "0", "logical": 0}}, "hlc.wallMs"),
        ({"hlc": {"wallMs": 0.5, "logical": 0}}, "hlc.wallMs"),
        ({"hlc": {"wallMs": 0, "logical": 0, "encoded": 0}}, "hlc.encoded"),
        ({**at(START_MS), "maxSkewMs": 10**9}, "maxSkewMs"),
    ],
)
async def test_what_is_no_timestamp_is_refused_by_name(api: Api, body: object, path: str) -> None:
    assert (await api.post(OBSERVE, body)).refused == (422, "INVALID_FIELD", [path])


async def test_an_observation_needs_a_body(api: Api) -> None:
    assert (await api.post(OBSERVE, None)).refused == (415, "NOT_JSON", [])


async def test_a_get_is_not_how_a_clock_ticks(api: Api) -> None:
    for path in (NOW, OBSERVE):
        answered = await api.get(path)
        assert answered.refused == (405, "METHOD_NOT_ALLOWED", [])
        assert answered.headers["Allow"] == "POST"


async def test_the_clock_never_runs_backwards_with_the_machine_s() -> None:
    cluster = LocalCluster()
    async with serving(cluster) as api:
        first = (await api.post(NOW, None)).body["encoded"]
        cluster.wall_ms -= 60_000
        assert (await api.post(NOW, None)).body["encoded"] == first + 1
