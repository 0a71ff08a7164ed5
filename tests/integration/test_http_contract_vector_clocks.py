"""Vector clocks over HTTP, row by row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from statemachine.vector_histories import GREATEST_PARTICIPANTS
from statemachine.vectors import MESSAGE_KEPT_MS
from tests.integration.local_cluster import START_MS
from tests.integration.serving import PARTICIPANTS, VECTOR_CLOCK, Api, serving
from tests.integration.test_http_contract_versions import WRONG_VECTORS

COMPARE = f"{VECTOR_CLOCK}/compare"
TICK = f"{VECTOR_CLOCK}/tick"
SEND = f"{VECTOR_CLOCK}/send"
RECEIVE = f"{VECTOR_CLOCK}/receive"
VECTOR_EVENTS = f"{VECTOR_CLOCK}/events"
GREATEST = 2**63 - 1


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def tick(api: Api, node_id: str = "a") -> Any:
    answered = await api.post(TICK, {"nodeId": node_id})
    assert answered.status == 200
    return answered.body["vectorClock"]


async def send(api: Api, node_id: str = "a", **fields: object) -> Any:
    answered = await api.post(SEND, {"nodeId": node_id, **fields})
    assert answered.status == 200
    return answered.body


async def receive(api: Api, node_id: str, vector: dict[str, int], **fields: object) -> Any:
    answered = await api.post(RECEIVE, {"nodeId": node_id, "vectorClock": vector, **fields})
    assert answered.status == 200
    return answered.body


async def clock(api: Api, node_id: str) -> Any:
    return (await api.get(f"{VECTOR_CLOCK}/{node_id}")).body["vectorClock"]


# POST /api/v1/vector-clock/compare


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        # 3.1 of the use cases.
        ({"node-a": 3, "node-b": 2}, {"node-a": 2, "node-b": 3}, "CONCURRENT"),
        ({"a": 1}, {"a": 1, "b": 1}, "BEFORE"),
        ({"a": 1, "b": 1}, {"b": 1}, "AFTER"),
        ({"a": 0}, {"b": 0}, "EQUAL"),
        ({}, {}, "EQUAL"),
    ],
)
async def test_two_clocks_are_compared(
    api: Api, first: dict[str, int], second: dict[str, int], relation: str
) -> None:
    answered = await api.post(COMPARE, {"clock1": first, "clock2": second})
    assert (answered.status, answered.body) == (200, {"relation": relation})


@pytest.mark.parametrize(("wrong", "where"), WRONG_VECTORS)
async def test_a_clock_that_is_wrong_is_refused_by_name(
    api: Api, wrong: object, where: str
) -> None:
    for path, body, field in (
        (COMPARE, {"clock1": wrong, "clock2": {}}, "clock1"),
        (COMPARE, {"clock1": {}, "clock2": wrong}, "clock2"),
        (RECEIVE, {"nodeId": "a", "vectorClock": wrong}, "vectorClock"),
    ):
        answered = await api.post(path, body)
        assert answered.refused == (422, "INVALID_FIELD", [f"{field}{where}"])


async def test_large_clocks_are_compared(api: Api) -> None:
    first = {f"p{number}": number for number in range(GREATEST_PARTICIPANTS)}
    answered = await api.post(COMPARE, {"clock1": first, "clock2": {**first, "p1": 2}})
    assert answered.body == {"relation": "BEFORE"}


# POST /api/v1/vector-clock/tick


async def test_a_tick_counts_an_event_of_its_participant_alone(api: Api) -> None:
    answered = await api.post(TICK, {"nodeId": "a"})
    assert answered.body == {"nodeId": "a", "vectorClock": {"a": 1}}
    assert await tick(api) == {"a": 2}
    assert await tick(api, "b") == {"b": 1}


async def test_concurrent_ticks_count_each(api: Api) -> None:
    ticks = await asyncio.gather(*(tick(api) for _ in range(50)))
    assert sorted(each["a"] for each in ticks) == list(range(1, 51))


async def test_who_ticks_takes_part(api: Api) -> None:
    await tick(api, "orders")
    assert (await api.get(PARTICIPANTS)).body["items"] == [
        {"nodeId": "orders", "active": True, "lamportTimestamp": 0, "since": START_MS}
    ]


# POST /api/v1/vector-clock/send


async def test_a_send_ticks_and_names_the_message(api: Api) -> None:
    await tick(api)
    sent = await send(api, message={"to": "b"})
    assert set(sent) == {"nodeId", "messageId", "vectorClock"}
    assert (sent["nodeId"], sent["vectorClock"]) == ("a", {"a": 2})
    (_, event) = (await api.get(VECTOR_EVENTS)).body["items"]
    assert event["eventId"] == event["messageId"] == sent["messageId"]
    assert event["message"] == {"to": "b"}


async def test_a_send_under_a_key_sends_one_message(api: Api) -> None:
    body = {"nodeId": "a", "message": 1}
    first = await api.post(SEND, body, Idempotency_Key="k")
    await tick(api)
    again = await api.post(SEND, body, Idempotency_Key="k")
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await clock(api, "a") == {"a": 2}


# POST /api/v1/vector-clock/receive


async def test_a_receipt_merges_and_ticks_the_receiver(api: Api) -> None:
    """3.2 of the use cases."""
    await receive(api, "node-a", {"node-a": 3, "node-b": 2})
    assert await tick(api, "node-a") == {"node-a": 5, "node-b": 2}
    await receive(api, "node-b", {"node-a": 3, "node-b": 2})
    assert await clock(api, "node-b") == {"node-a": 3, "node-b": 3}
    assert await receive(api, "node-b", {"node-a": 5, "node-b": 2}) == {
        "nodeId": "node-b",
        "vectorClock": {"node-a": 5, "node-b": 4},
        "relation": "CONCURRENT",
    }


async def test_messages_carry_knowledge_from_one_to_the_next(api: Api) -> None:
    first = await send(api, "a")
    second = await receive(api, "b", first["vectorClock"], messageId=first["messageId"])
    forwarded = await send(api, "b")
    third = await receive(api, "c", forwarded["vectorClock"], messageId=forwarded["messageId"])
    assert second["vectorClock"] == {"a": 1, "b": 1}
    assert third["vectorClock"] == {"a": 1, "b": 2, "c": 1}
    assert [second["relation"], third["relation"]] == ["BEFORE", "BEFORE"]


async def test_a_repeated_message_changes_nothing_and_answers_the_same(api: Api) -> None:
    first = await receive(api, "b", {"a": 5}, messageId="m-1")
    await tick(api, "b")
    for repeated in ({"a": 5}, {"a": 9}, {}):
        assert await receive(api, "b", repeated, messageId="m-1") == first
    assert await clock(api, "b") == {"a": 5, "b": 2}
    assert len((await api.get(VECTOR_EVENTS)).body["items"]) == 2
    assert (await receive(api, "c", {"a": 5}, messageId="m-1"))["vectorClock"] == {"a": 5, "c": 1}


async def test_a_message_is_remembered_for_a_day(api: Api) -> None:
    await receive(api, "b", {"a": 5}, messageId="m")
    api.cluster.elapsed_ms += MESSAGE_KEPT_MS - 1
    assert (await receive(api, "b", {"a": 5}, messageId="m"))["vectorClock"]["b"] == 1


async def test_a_message_without_an_id_is_a_new_one_each_time(api: Api) -> None:
    for number in (1, 2):
        found = await receive(api, "b", {"a": 5}, messageId=None)
        assert found["vectorClock"] == {"a": 5, "b": number}


async def test_a_clock_that_cannot_go_on_refuses_and_stays(api: Api) -> None:
    answered = await api.post(RECEIVE, {"nodeId": "a", "vectorClock": {"a": GREATEST}})
    assert answered.refused == (409, "CLOCK_OVERFLOW", [])
    assert await clock(api, "a") == {}
    await receive(api, "a", {"a": GREATEST - 1})
    for path in (TICK, SEND):
        assert (await api.post(path, {"nodeId": "a"})).refused == (409, "CLOCK_OVERFLOW", [])


async def test_a_clock_holds_no_more_than_its_participants(api: Api) -> None:
    full = {f"p{number}": 1 for number in range(GREATEST_PARTICIPANTS)}
    answered = await api.post(RECEIVE, {"nodeId": "one-more", "vectorClock": full})
    assert answered.refused == (409, "VECTOR_TOO_LARGE", [])
    await receive(api, "p1", full)
    assert len(await tick(api, "p1")) == GREATEST_PARTICIPANTS


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (TICK, {}, "nodeId"),
        (TICK, {"nodeId": ""}, "nodeId"),
        (TICK, {"nodeId": "a", "message": 1}, "message"),
        (SEND, {"nodeId": "x" * 129}, "nodeId"),
        (SEND, {"message": 1}, "nodeId"),
        (RECEIVE, {"nodeId": "a"}, "vectorClock"),
        (RECEIVE, {"vectorClock": {}}, "nodeId"),
        (RECEIVE, {"nodeId": "a", "vectorClock": {}, "messageId": ""}, "messageId"),
        (RECEIVE, {"nodeId": "a", "vectorClock": {}, "messageId": "m\n"}, "messageId"),
        (RECEIVE, {"nodeId": "a", "vectorClock": {}, "messageId": "x" * 129}, "messageId"),
        (RECEIVE, {"nodeId": "a", "vectorClock": {}, "messageId": 7}, "messageId"),
        *[(TICK, {"nodeId": name}, "nodeId") for name in ("tick", "send", "receive", "events")],
        (SEND, {"nodeId": "compare"}, "nodeId"),
    ],
)
async def test_what_is_wrong_is_refused_by_name(
    api: Api, path: str, body: object, field: str
) -> None:
    digest = api.cluster.digest
    assert (await api.post(path, body)).refused == (422, "INVALID_FIELD", [field])
    assert api.cluster.digest == digest


@pytest.mark.parametrize("path", [SEND, RECEIVE])
async def test_a_message_has_up_to_64_kib_and_comes_back_as_it_was_written(
    api: Api, path: str
) -> None:
    head = b'{"nodeId":"a",' + (b'"vectorClock":{},' if path == RECEIVE else b"") + b'"message":'
    fits = b'{"a":  1.10,"b":' + json.dumps("x" * (65_536 - 19)).encode() + b"}"
    assert len(fits) == 65_536
    assert (await api.call("POST", path, raw=head + fits + b"}")).status == 200
    assert fits in (await api.get(VECTOR_EVENTS)).content
    answered = await api.call("POST", path, raw=head + fits[:-1] + b" }}")
    assert answered.refused == (413, "REQUEST_TOO_LARGE", ["message"])


# GET /api/v1/vector-clock/{nodeId}


async def test_a_clock_never_seen_is_empty(api: Api) -> None:
    answered = await api.get(f"{VECTOR_CLOCK}/nobody")
    assert (answered.status, answered.body) == (200, {"nodeId": "nobody", "vectorClock": {}})


@pytest.mark.parametrize("name", ["a", "x" * 128, "订单服务", "with space", "a/b?c#d%"])
async def test_a_participant_may_have_any_printable_name_that_is_no_path(
    api: Api, name: str
) -> None:
    assert await tick(api, name) == {name: 1}
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    answered = await api.get(f"{VECTOR_CLOCK}/{quoted}")
    assert answered.body == {"nodeId": name, "vectorClock": {name: 1}}


async def test_paths_that_are_words_are_not_participants(api: Api) -> None:
    assert set((await api.get(VECTOR_EVENTS)).body) == {"items", "nextCursor"}
    for path in (TICK, SEND, RECEIVE, COMPARE):
        answered = await api.get(path)
        assert (answered.status, answered.headers["Allow"]) == (405, "POST")


async def test_a_clock_of_an_impossible_name_is_refused(api: Api) -> None:
    for name in ("x" * 129, "%0A"):
        answered = await api.get(f"{VECTOR_CLOCK}/{name}")
        assert answered.refused == (422, "INVALID_FIELD", ["nodeId"])


# GET /api/v1/vector-clock/events


async def test_events_tell_who_caused_what(api: Api) -> None:
    await tick(api, "b")
    sent = await send(api, "a", message="hello")
    await receive(api, "b", sent["vectorClock"], messageId=sent["messageId"], message="hello")
    listed = (await api.get(VECTOR_EVENTS)).body
    assert listed["nextCursor"] is None
    ticked, sending, received = listed["items"]
    for event in listed["items"]:
        assert (await api.get(f"{VECTOR_EVENTS}/{event['eventId']}")).body == event
        assert len(event.pop("eventId")) == 24
        assert event.pop("createdAt") == START_MS
    assert ticked == {
        "type": "TICK",
        "nodeId": "b",
        "vectorClock": {"b": 1},
        "messageId": None,
        "message": None,
        "relation": None,
    }
    assert sending == {
        "type": "SEND",
        "nodeId": "a",
        "vectorClock": {"a": 1},
        "messageId": sent["messageId"],
        "message": "hello",
        "relation": None,
    }
    assert received == {
        "type": "RECEIVE",
        "nodeId": "b",
        "vectorClock": {"a": 1, "b": 2},
        "messageId": sent["messageId"],
        "message": "hello",
        "relation": "CONCURRENT",
    }


async def test_events_are_listed_by_participant_and_by_pages(api: Api) -> None:
    for number in range(5):
        await tick(api, "a")
        await tick(api, f"b{number}")
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(f"{VECTOR_EVENTS}?nodeId=a&limit=2{cursor}")).body
        found += [event["vectorClock"] for event in page["items"]]
        cursor = page["nextCursor"] and f"&cursor={page['nextCursor']}"
    assert found == [{"a": number} for number in range(1, 6)]
    assert len((await api.get(f"{VECTOR_EVENTS}?limit=1000")).body["items"]) == 10


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nodeId=", "nodeId"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("consistency=weak", "consistency"),
        ("type=TICK", "type"),
    ],
)
async def test_a_filter_that_is_wrong_is_refused_by_name(api: Api, query: str, field: str) -> None:
    answered = await api.get(f"{VECTOR_EVENTS}?{query}")
    assert answered.refused == (422, "INVALID_FIELD", [field])


@pytest.mark.parametrize("event_id", ["f" * 24, "7", "x" * 200])
async def test_an_event_that_is_not_stored_is_404(api: Api, event_id: str) -> None:
    answered = await api.get(f"{VECTOR_EVENTS}/{event_id}")
    assert answered.refused == (404, "EVENT_NOT_FOUND", [])


async def test_a_lamport_event_is_no_vector_event(api: Api) -> None:
    event_id = (await api.record())["eventId"]
    assert (await api.get(f"{VECTOR_EVENTS}/{event_id}")).code == "EVENT_NOT_FOUND"
    assert await clock(api, "orders") == {}


async def test_reads_are_as_fresh_as_they_are_asked_for(api: Api) -> None:
    for path in ("a", "events", "events/" + "0" * 24):
        await api.get(f"{VECTOR_CLOCK}/{path}?consistency=local")
        await api.get(f"{VECTOR_CLOCK}/{path}")
    assert [each.value for each in api.cluster.consistencies] == ["local", "linearizable"] * 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TICK, {"nodeId": "a"}),
        (SEND, {"nodeId": "a"}),
        (RECEIVE, {"nodeId": "a", "vectorClock": {}}),
    ],
)
async def test_writes_are_refused_and_unknown_as_all_others(
    api: Api, path: str, body: dict[str, object]
) -> None:
    api.cluster.lifetime_ms = -1
    assert (await api.post(path, body)).refused == (503, "REQUEST_EXPIRED", [])
    api.cluster.lifetime_ms = None
    await api.post(path, body, Idempotency_Key="k")
    other = await api.post(path, {**body, "nodeId": "z"}, Idempotency_Key="k")
    assert other.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])
    answered = await api.call("POST", path, raw=b"{")
    assert answered.refused == (400, "MALFORMED_JSON", [])
    answered = await api.call("POST", path, raw=b"{}", headers={"Content-Type": "text/plain"})
    assert answered.refused == (415, "NOT_JSON", [])
