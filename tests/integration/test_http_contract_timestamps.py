"""Lamport timestamps and participants over HTTP, row by row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from api.settings import GREATEST_EVENT_DATA_BYTES
from tests.integration.local_cluster import START_MS
from tests.integration.serving import CLOCK, EVENT, EVENTS, PARTICIPANTS, SYNC, Api, serving

GREATEST = 2**63 - 1


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def clock(api: Api, node_id: str) -> int:
    return int((await api.get(f"{CLOCK}/{node_id}")).body["lamportTimestamp"])


# POST /api/v1/timestamp/event


async def test_an_event_ticks_the_clock_of_its_participant(api: Api) -> None:
    answered = await api.post(
        EVENT, {"nodeId": "orders", "eventType": "created", "eventData": {"id": 7}}
    )
    assert answered.status == 200
    event = answered.body
    assert len(event.pop("eventId")) == 24
    assert event == {
        "nodeId": "orders",
        "eventType": "created",
        "eventData": {"id": 7},
        "lamportTimestamp": 1,
        "hlc": {"wallMs": START_MS, "logical": 0},
        "createdAt": START_MS,
    }
    assert (await api.record("orders"))["lamportTimestamp"] == 2
    assert (await api.record("payments"))["lamportTimestamp"] == 1


async def test_the_serving_node_is_the_participant_when_none_is_named(api: Api) -> None:
    for body in ({"eventType": "e"}, {"eventType": "e", "nodeId": None}):
        assert (await api.post(EVENT, body)).body["nodeId"] == "n1"
    assert await clock(api, "n1") == 2


async def test_event_ids_sort_in_the_order_of_commit(api: Api) -> None:
    ids = [(await api.record(f"p{at % 3}"))["eventId"] for at in range(20)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 20


async def test_concurrent_events_of_one_participant_get_one_timestamp_each(api: Api) -> None:
    events = await asyncio.gather(*(api.record("orders") for _ in range(50)))
    assert sorted(event["lamportTimestamp"] for event in events) == list(range(1, 51))


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "true",
        "-0.5",
        "18446744073709551615",
        '"text: with a colon"',
        "[]",
        "{}",
        '{"at":"2024-01-01T10:00:00Z","nested":{"deep":[1,2,{"a":"b"}]}}',
        '{"price": 1.10,  "zeichen": "\\u00fc 汉字 \\ud83d\\ude00"}',
        "[" * 60 + "]" * 60,
    ],
)
async def test_event_data_comes_back_as_it_was_written(api: Api, data: str) -> None:
    raw = f'{{"eventType":"e","eventData":{data}}}'.encode()
    answered = await api.call("POST", EVENT, raw=raw)
    assert answered.status == 200
    assert f'"eventData":{data},'.encode() in answered.content
    stored = await api.get(f"{EVENTS}/{answered.body['eventId']}")
    assert f'"eventData":{data},'.encode() in stored.content


async def test_event_data_that_is_left_out_is_null(api: Api) -> None:
    event = await api.record()
    assert event["eventData"] is None
    assert (await api.get(f"{EVENTS}/{event['eventId']}")).body == event


async def test_event_data_has_up_to_64_kib(api: Api) -> None:
    fits = json.dumps("x" * (GREATEST_EVENT_DATA_BYTES - 2)).encode()
    answered = await api.call("POST", EVENT, raw=b'{"eventType":"e","eventData":' + fits + b"}")
    assert answered.status == 200
    exceeds = fits[:-1] + b'x"'
    answered = await api.call("POST", EVENT, raw=b'{"eventType":"e","eventData":' + exceeds + b"}")
    assert answered.refused == (413, "REQUEST_TOO_LARGE", ["eventData"])
    assert await clock(api, "n1") == 1


@pytest.mark.parametrize("name", ["a", "x" * 128, "订单服务", "with space", "a/b?c#d%", "汉" * 42])
async def test_a_participant_may_have_any_printable_name(api: Api, name: str) -> None:
    assert (await api.record(name, name))["nodeId"] == name
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    assert (await api.get(f"{CLOCK}/{quoted}")).body == {"nodeId": name, "lamportTimestamp": 1}


# POST /api/v1/timestamp/sync


async def test_sync_raises_the_clock_above_both_timestamps(api: Api) -> None:
    for received, expected in ((10, 11), (3, 12), (12, 13), (0, 14)):
        answered = await api.post(SYNC, {"nodeId": "b", "sourceNodeId": "a", "timestamp": received})
        assert answered.status == 200
        assert set(answered.body) == {"syncedEventId", "nodeId", "lamportTimestamp"}
        assert answered.body["nodeId"] == "b"
        assert answered.body["lamportTimestamp"] == expected


async def test_a_synchronisation_is_stored_as_an_event_that_names_its_source(api: Api) -> None:
    synced = await api.post(
        SYNC,
        {
            "sourceNodeId": "a",
            "sourceEventId": "e-17",
            "timestamp": 41,
            "eventType": "received",
            "eventData": [1],
        },
    )
    event = (await api.get(f"{EVENTS}/{synced.body['syncedEventId']}")).body
    assert event["nodeId"] == "n1"
    assert event["lamportTimestamp"] == 42
    assert event["eventType"] == "received"
    assert event["eventData"] == [1]
    assert event["sourceNodeId"] == "a"
    assert event["sourceEventId"] == "e-17"
    assert event["sourceTimestamp"] == 41


async def test_a_synchronisation_has_a_type_of_its_own_when_none_is_given(api: Api) -> None:
    synced = await api.post(SYNC, {"sourceNodeId": "a", "timestamp": 1})
    event = (await api.get(f"{EVENTS}/{synced.body['syncedEventId']}")).body
    assert event["eventType"] == "sync"
    assert "sourceEventId" not in event


async def test_an_event_of_its_own_names_no_source(api: Api) -> None:
    event = await api.record()
    assert "sourceNodeId" not in (await api.get(f"{EVENTS}/{event['eventId']}")).body


async def test_a_clock_that_cannot_go_on_refuses_and_stays(api: Api) -> None:
    at_the_end = {"nodeId": "b", "sourceNodeId": "a", "timestamp": GREATEST}
    assert (await api.post(SYNC, at_the_end)).refused == (409, "CLOCK_OVERFLOW", [])
    assert await clock(api, "b") == 0
    answered = await api.post(SYNC, {**at_the_end, "timestamp": GREATEST - 1})
    assert answered.body["lamportTimestamp"] == GREATEST
    assert b'"lamportTimestamp":9223372036854775807}' in answered.content
    exhausted = await api.post(EVENT, {"nodeId": "b", "eventType": "e"})
    assert exhausted.refused == (409, "CLOCK_OVERFLOW", [])


# Clocks and events


async def test_a_clock_never_seen_stands_at_0(api: Api) -> None:
    answered = await api.get(f"{CLOCK}/nobody")
    assert answered.status == 200
    assert answered.body == {"nodeId": "nobody", "lamportTimestamp": 0}


async def test_an_event_is_found_by_its_id(api: Api) -> None:
    events = [await api.record() for _ in range(3)]
    assert (await api.get(f"{EVENTS}/{events[1]['eventId']}")).body == events[1]


@pytest.mark.parametrize("event_id", ["f" * 24, "7", "..", "%00", "x" * 2000, "%FF", "0" * 23])
async def test_an_event_that_is_not_stored_is_404(api: Api, event_id: str) -> None:
    await api.record()
    answered = await api.get(f"{EVENTS}/{event_id}")
    assert answered.status == 404
    assert answered.code in ("EVENT_NOT_FOUND", "NOT_FOUND")


async def test_events_are_listed_in_lamport_order_ties_by_node_id(api: Api) -> None:
    for node_id in ("b", "b", "a", "c", "a"):
        await api.record(node_id)
    listed = (await api.get(EVENTS)).body
    assert listed["nextCursor"] is None
    order = [(event["lamportTimestamp"], event["nodeId"]) for event in listed["items"]]
    assert order == [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "b")]


async def test_events_are_listed_by_participant_type_and_time(api: Api) -> None:
    for node_id, event_type in (("a", "x"), ("a", "y"), ("b", "x"), ("a", "x")):
        await api.record(node_id, event_type)

    async def found(query: str) -> list[tuple[str, int]]:
        items = (await api.get(f"{EVENTS}?{query}")).body["items"]
        return [(event["nodeId"], event["lamportTimestamp"]) for event in items]

    assert await found("nodeId=a") == [("a", 1), ("a", 2), ("a", 3)]
    assert await found("eventType=x") == [("a", 1), ("b", 1), ("a", 3)]
    assert await found("nodeId=a&eventType=x&afterLamport=1") == [("a", 3)]
    assert await found("afterLamport=2") == [("a", 3)]
    assert await found(f"afterLamport={GREATEST}") == []
    assert await found("nodeId=nobody") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("afterLamport=-1", "afterLamport"),
        ("afterLamport=1.5", "afterLamport"),
        (f"afterLamport={GREATEST + 1}", "afterLamport"),
        ("afterLamport=" + "9" * 5000, "afterLamport"),
        ("nodeId=", "nodeId"),
        ("nodeId=" + "x" * 129, "nodeId"),
        ("eventType=%0A", "eventType"),
    ],
)
async def test_a_filter_that_is_wrong_is_refused_by_name(api: Api, query: str, field: str) -> None:
    assert (await api.get(f"{EVENTS}?{query}")).refused == (422, "INVALID_FIELD", [field])


async def test_a_clock_of_an_impossible_name_is_refused(api: Api) -> None:
    for name in ("x" * 129, "%0A", "%E2%80%A8"):
        assert (await api.get(f"{CLOCK}/{name}")).refused == (422, "INVALID_FIELD", ["nodeId"])


# Participants


async def test_a_participant_joins_and_leaves(api: Api) -> None:
    joined = await api.post(PARTICIPANTS, {"nodeId": "orders"})
    assert (joined.status, joined.body) == (
        200,
        {"nodeId": "orders", "active": True, "changed": True},
    )
    assert (await api.post(PARTICIPANTS, {"nodeId": "orders"})).body["changed"] is False
    left = await api.call("DELETE", f"{PARTICIPANTS}/orders")
    assert (left.status, left.body) == (
        200,
        {"nodeId": "orders", "active": False, "changed": True},
    )
    assert (await api.call("DELETE", f"{PARTICIPANTS}/orders")).body["changed"] is False


async def test_a_participant_that_left_keeps_its_clock_and_returns_with_an_event(api: Api) -> None:
    await api.record("orders")
    await api.call("DELETE", f"{PARTICIPANTS}/orders")
    assert await clock(api, "orders") == 1
    assert (await api.record("orders"))["lamportTimestamp"] == 2
    assert (await api.get(PARTICIPANTS)).body["items"] == [
        {"nodeId": "orders", "active": True, "lamportTimestamp": 2, "since": START_MS}
    ]


async def test_participants_are_listed_by_name(api: Api) -> None:
    for name in ("b", "a", "订单"):
        await api.record(name)
    await api.call("DELETE", f"{PARTICIPANTS}/b")
    listed = (await api.get(PARTICIPANTS)).body
    assert listed["nextCursor"] is None
    states = [(item["nodeId"], item["active"]) for item in listed["items"]]
    assert states == [("a", True), ("b", False), ("订单", True)]


async def test_a_participant_never_seen_cannot_leave(api: Api) -> None:
    answered = await api.call("DELETE", f"{PARTICIPANTS}/nobody")
    assert answered.refused == (404, "PARTICIPANT_NOT_FOUND", [])
