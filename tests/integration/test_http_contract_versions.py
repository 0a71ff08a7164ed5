"""Version vectors and versioned objects over HTTP, row by row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from statemachine.commands import TrimEvents
from statemachine.vector_histories import GREATEST_PARTICIPANTS
from tests.integration.local_cluster import START_MS
from tests.integration.serving import EVENT, EVENTS, PARTICIPANTS, VERSION, Api, serving

INCREMENT = f"{VERSION}/increment"
MERGE = f"{VERSION}/merge"
COMPARE = f"{VERSION}/compare"
VERSION_EVENTS = f"{VERSION}/events"
OBJECTS = f"{VERSION}/objects"
GREATEST = 2**63 - 1


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def increment(api: Api, key: str = "cart", node_id: str = "node-a") -> Any:
    answered = await api.post(INCREMENT, {"key": key, "nodeId": node_id})
    assert answered.status == 200
    return answered.body


async def merge(api: Api, vector: dict[str, int], key: str = "cart") -> Any:
    answered = await api.post(MERGE, {"key": key, "versionVector": vector})
    assert answered.status == 200
    return answered.body


async def vector(api: Api, key: str = "cart") -> Any:
    return (await api.get(f"{VERSION}/{key}")).body["versionVector"]


# POST /api/v1/version/increment


async def test_an_increment_counts_a_write_of_a_participant(api: Api) -> None:
    first = await increment(api)
    assert len(first.pop("eventId")) == 24
    assert first == {"key": "cart", "versionVector": {"node-a": 1}}
    await increment(api, node_id="node-b")
    assert (await increment(api))["versionVector"] == {"node-a": 2, "node-b": 1}
    assert (await increment(api, "other"))["versionVector"] == {"node-a": 1}


async def test_the_serving_node_is_the_key_when_none_is_named(api: Api) -> None:
    for body in ({"nodeId": "a"}, {"nodeId": "a", "key": None}):
        answered = await api.post(INCREMENT, body)
        assert answered.body["key"] == "n1"
    assert await vector(api, "n1") == {"a": 2}


async def test_concurrent_increments_count_each(api: Api) -> None:
    answers = await asyncio.gather(*(increment(api) for _ in range(50)))
    counts = sorted(answer["versionVector"]["node-a"] for answer in answers)
    assert counts == list(range(1, 51))


async def test_an_answer_is_the_vector_of_its_own_event_whatever_came_after(api: Api) -> None:
    body = {"key": "cart", "nodeId": "node-a"}
    first = await api.post(INCREMENT, body, Idempotency_Key="k")
    for _ in range(100):
        await increment(api, node_id="node-b")
    api.cluster.node_id = "n2"
    again = await api.post(INCREMENT, body, Idempotency_Key="k")
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await vector(api) == {"node-a": 1, "node-b": 100}


async def test_a_retry_through_another_node_has_the_key_of_the_first(api: Api) -> None:
    await api.post(INCREMENT, {"nodeId": "a"}, Idempotency_Key="k")
    api.cluster.node_id = "n2"
    again = await api.post(INCREMENT, {"nodeId": "a"}, Idempotency_Key="k")
    assert (again.body["key"], again.body["versionVector"]) == ("n1", {"a": 1})


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "nodeId"),
        ({"nodeId": None}, "nodeId"),
        ({"nodeId": ""}, "nodeId"),
        ({"nodeId": "x" * 129}, "nodeId"),
        ({"nodeId": "a\n"}, "nodeId"),
        ({"nodeId": 3}, "nodeId"),
        ({"nodeId": "a", "key": ""}, "key"),
        ({"nodeId": "a", "key": "汉" * 100}, "key"),
        ({"nodeId": "a", "colour": "red"}, "colour"),
        *[({"nodeId": "a", "key": name}, "key") for name in ("events", "increment", "merge")],
        ({"nodeId": "a", "key": "compare"}, "key"),
    ],
)
async def test_an_increment_that_is_wrong_is_refused_by_name(
    api: Api, body: object, path: str
) -> None:
    digest = api.cluster.digest
    assert (await api.post(INCREMENT, body)).refused == (422, "INVALID_FIELD", [path])
    assert api.cluster.digest == digest


async def test_an_entry_that_cannot_go_on_refuses_and_stays(api: Api) -> None:
    await merge(api, {"node-a": GREATEST})
    answered = await api.post(INCREMENT, {"key": "cart", "nodeId": "node-a"})
    assert answered.refused == (409, "CLOCK_OVERFLOW", [])
    raw = (await api.get(f"{VERSION}/cart")).content
    assert b'{"node-a":9223372036854775807}' in raw


async def test_who_writes_takes_part(api: Api) -> None:
    await increment(api)
    listed = (await api.get(PARTICIPANTS)).body["items"]
    assert listed == [
        {"nodeId": "node-a", "active": True, "lamportTimestamp": 0, "since": START_MS}
    ]


# POST /api/v1/version/merge


async def test_a_merge_takes_the_maximum_of_each_entry(api: Api) -> None:
    """2.2 of the use cases."""
    await merge(api, {"node-a": 4, "node-b": 4})
    answered = await api.post(MERGE, {"key": "cart", "versionVector": {"node-a": 5, "node-b": 3}})
    assert answered.body == {
        "key": "cart",
        "relation": "CONCURRENT",
        "versionVector": {"node-a": 5, "node-b": 4},
    }


@pytest.mark.parametrize(
    ("received", "relation"),
    [
        ({"a": 1, "b": 1}, "EQUAL"),
        ({"a": 1, "b": 1, "c": 0}, "EQUAL"),
        ({"a": 2, "b": 1}, "BEFORE"),
        ({"a": 1}, "AFTER"),
        ({}, "AFTER"),
        ({"a": 2}, "CONCURRENT"),
        ({"c": 1}, "CONCURRENT"),
    ],
)
async def test_a_merge_tells_the_relation_of_the_stored_vector_before_it(
    api: Api, received: dict[str, int], relation: str
) -> None:
    await merge(api, {"a": 1, "b": 1})
    assert (await merge(api, received))["relation"] == relation


async def test_the_serving_node_merges_its_own_when_nothing_else_is_named(api: Api) -> None:
    answered = await api.post(MERGE, {"versionVector": {"a": 3}})
    assert answered.body == {"key": "n1", "relation": "BEFORE", "versionVector": {"a": 3}}
    (event,) = (await api.get(f"{VERSION_EVENTS}?nodeId=n1")).body["items"]
    assert event["nodeId"] == "n1"
    named: dict[str, object] = {"versionVector": {}, "nodeId": "b", "key": None}
    assert (await api.post(MERGE, named)).body["versionVector"] == {"a": 3}
    assert len((await api.get(f"{VERSION_EVENTS}?nodeId=b")).body["items"]) == 1


WRONG_VECTORS: list[tuple[Any, str]] = [
    (None, ""),
    ([], ""),
    ("a", ""),
    ({"a": -1}, ".a"),
    ({"a": GREATEST + 1}, ".a"),
    ({"a": 1.5}, ".a"),
    ({"a": 1.0}, ".a"),
    ({"a": True}, ".a"),
    ({"a": None}, ".a"),
    ({"a": "1"}, ".a"),
    ({"a": {}}, ".a"),
    ({"b": 1, "a": []}, ".a"),
    ({"": 1}, "."),
    ({"a\n": 1}, ".a\n"),
    ({"x" * 129: 1}, "." + "x" * 128),
    ({f"p{number}": 1 for number in range(GREATEST_PARTICIPANTS + 1)}, ""),
]


@pytest.mark.parametrize(("wrong", "where"), WRONG_VECTORS)
async def test_a_vector_that_is_wrong_is_refused_by_name(
    api: Api, wrong: object, where: str
) -> None:
    answered = await api.post(MERGE, {"versionVector": wrong})
    assert answered.refused == (422, "INVALID_FIELD", [f"versionVector{where}"])
    for body, path in (
        ({"vector1": wrong, "vector2": {}}, "vector1"),
        ({"vector1": {}, "vector2": wrong}, "vector2"),
    ):
        answered = await api.post(COMPARE, body)
        assert answered.refused == (422, "INVALID_FIELD", [f"{path}{where}"])


async def test_a_vector_that_names_an_entry_twice_is_refused(api: Api) -> None:
    raw = b'{"versionVector":{"a":1,"a":2}}'
    answered = await api.call("POST", MERGE, raw=raw)
    assert answered.refused == (400, "DUPLICATE_KEY", ["versionVector.a"])


async def test_a_vector_holds_no_more_than_its_participants(api: Api) -> None:
    full = {f"p{number}": 1 for number in range(GREATEST_PARTICIPANTS)}
    await merge(api, full)
    answered = await api.post(MERGE, {"key": "cart", "versionVector": {"one-more": 1}})
    assert answered.refused == (409, "VECTOR_TOO_LARGE", [])
    answered = await api.post(INCREMENT, {"key": "cart", "nodeId": "one-more"})
    assert answered.refused == (409, "VECTOR_TOO_LARGE", [])
    assert (await increment(api, node_id="p7"))["versionVector"]["p7"] == 2


# POST /api/v1/version/compare


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ({}, {}, "EQUAL"),
        ({"a": 0}, {}, "EQUAL"),
        ({"a": 1}, {"a": 1}, "EQUAL"),
        ({"a": 1}, {"a": 2}, "BEFORE"),
        ({}, {"a": 2}, "BEFORE"),
        ({"a": 2, "b": 1}, {"a": 2}, "AFTER"),
        ({"a": 3, "b": 2}, {"a": 2, "b": 3}, "CONCURRENT"),
        ({"a": 1}, {"b": 1}, "CONCURRENT"),
        ({"a": GREATEST}, {"a": GREATEST - 1}, "AFTER"),
    ],
)
async def test_two_vectors_are_compared_and_nothing_is_written(
    api: Api, first: dict[str, int], second: dict[str, int], relation: str
) -> None:
    answered = await api.post(COMPARE, {"vector1": first, "vector2": second})
    assert (answered.status, answered.body) == (200, {"relation": relation})
    assert api.cluster.timeouts_ms == []


@pytest.mark.parametrize("body", [{"vector1": {}}, {"vector2": {}}, {}])
async def test_a_comparison_needs_two_vectors(api: Api, body: object) -> None:
    assert (await api.post(COMPARE, body)).code == "INVALID_FIELD"


# GET /api/v1/version/{key}


async def test_a_key_never_seen_has_an_empty_vector(api: Api) -> None:
    answered = await api.get(f"{VERSION}/nothing")
    assert (answered.status, answered.body) == (200, {"key": "nothing", "versionVector": {}})


@pytest.mark.parametrize("key", ["a", "x" * 128, "购物车", "with space", "a/b?c#d%", "objects"])
async def test_a_key_may_have_any_printable_name_that_is_no_path(api: Api, key: str) -> None:
    assert (await increment(api, key))["key"] == key
    quoted = "".join(f"%{byte:02X}" for byte in key.encode())
    answered = await api.get(f"{VERSION}/{quoted}")
    assert answered.body == {"key": key, "versionVector": {"node-a": 1}}


async def test_paths_that_are_words_are_not_keys(api: Api) -> None:
    assert set((await api.get(VERSION_EVENTS)).body) == {"items", "nextCursor"}
    for word in ("increment", "merge", "compare"):
        answered = await api.get(f"{VERSION}/{word}")
        assert (answered.status, answered.headers["Allow"]) == (405, "POST")


async def test_a_key_of_an_impossible_name_is_refused(api: Api) -> None:
    for name in ("x" * 129, "%0A"):
        assert (await api.get(f"{VERSION}/{name}")).refused == (422, "INVALID_FIELD", ["key"])
        refused = (await api.get(f"{OBJECTS}/{name}")).refused
        assert refused == (422, "INVALID_FIELD", ["key"])


# GET /api/v1/version/events


async def test_events_are_listed_with_their_vectors(api: Api) -> None:
    incremented = await increment(api)
    await merge(api, {"node-a": 1, "node-b": 3})
    written = await api.post(
        f"{OBJECTS}/cart", {"nodeId": "node-a", "context": {"node-b": 2}, "value": [1]}
    )
    listed = (await api.get(VERSION_EVENTS)).body
    assert listed["nextCursor"] is None
    first, second, third = listed["items"]
    assert first == {
        "eventId": incremented["eventId"],
        "type": "INCREMENT",
        "key": "cart",
        "nodeId": "node-a",
        "versionVector": {"node-a": 1},
        "createdAt": START_MS,
    }
    assert second["type"] == "MERGE"
    assert second["relation"] == "BEFORE"
    assert second["versionVector"] == {"node-a": 1, "node-b": 3}
    assert third == {
        "eventId": written.body["eventId"],
        "type": "WRITE",
        "key": "cart",
        "nodeId": "node-a",
        "context": {"node-b": 2},
        "count": 1,
        "siblings": 1,
        "createdAt": START_MS,
    }
    for event in listed["items"]:
        assert (await api.get(f"{VERSION_EVENTS}/{event['eventId']}")).body == event


async def test_events_are_found_by_key_and_by_participant(api: Api) -> None:
    for key, node_id in (("x", "a"), ("x", "b"), ("y", "a"), ("x", "a")):
        await increment(api, key, node_id)

    async def found(query: str) -> list[tuple[str, str, dict[str, int]]]:
        items = (await api.get(f"{VERSION_EVENTS}?{query}")).body["items"]
        return [(each["key"], each["nodeId"], each["versionVector"]) for each in items]

    assert await found("key=y") == [("y", "a", {"a": 1})]
    assert await found("nodeId=b") == [("x", "b", {"a": 1, "b": 1})]
    assert await found("key=x&nodeId=a") == [("x", "a", {"a": 1}), ("x", "a", {"a": 2, "b": 1})]
    assert await found("key=nothing") == []
    assert len(await found("")) == 4


async def test_events_are_listed_by_pages(api: Api) -> None:
    for _ in range(5):
        await increment(api)
    counts: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(f"{VERSION_EVENTS}?key=cart&limit=2{cursor}")).body
        counts += [event["versionVector"]["node-a"] for event in page["items"]]
        cursor = page["nextCursor"] and f"&cursor={page['nextCursor']}"
    assert counts == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("key=", "key"),
        ("nodeId=%0A", "nodeId"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("cursor=x", "cursor"),
        ("consistency=weak", "consistency"),
        ("type=MERGE", "type"),
    ],
)
async def test_a_filter_that_is_wrong_is_refused_by_name(api: Api, query: str, field: str) -> None:
    answered = await api.get(f"{VERSION_EVENTS}?{query}")
    assert answered.refused == (422, "INVALID_FIELD", [field])


@pytest.mark.parametrize("event_id", ["f" * 24, "7", "x" * 200])
async def test_an_event_that_is_not_stored_is_404(api: Api, event_id: str) -> None:
    answered = await api.get(f"{VERSION_EVENTS}/{event_id}")
    assert answered.refused == (404, "EVENT_NOT_FOUND", [])


async def test_events_of_other_kinds_are_not_mistaken_for_each_other(api: Api) -> None:
    timestamp = (await api.record())["eventId"]
    version = (await increment(api))["eventId"]
    assert (await api.get(f"{VERSION_EVENTS}/{timestamp}")).code == "EVENT_NOT_FOUND"
    assert (await api.get(f"{EVENTS}/{version}")).code == "EVENT_NOT_FOUND"
    assert len((await api.get(EVENTS)).body["items"]) == 1


async def test_reads_are_as_fresh_as_they_are_asked_for(api: Api) -> None:
    paths = ("cart", "events", "events/" + "0" * 24, "objects/cart")
    for path in paths:
        await api.get(f"{VERSION}/{path}?consistency=local")
        await api.get(f"{VERSION}/{path}")
    assert [each.value for each in api.cluster.consistencies] == ["local", "linearizable"] * 4


async def test_an_answer_that_can_no_longer_be_made_says_so(api: Api) -> None:
    """It takes a key that outlives the time for which its event was promised to be kept."""
    body = {"key": "cart", "nodeId": "a"}
    await api.post(INCREMENT, body, Idempotency_Key="k")
    api.cluster.elapsed_ms += 30 * 24 * 3_600_000
    trim = TrimEvents(before_wall_ms=START_MS + 1, limit=10)
    await api.cluster.propose((trim,), timeout_ms=1)
    again = await api.post(INCREMENT, body, Idempotency_Key="k")
    assert again.refused == (410, "ANSWER_NOT_KEPT", [])
    assert await vector(api) == {"a": 1}


# POST and GET /api/v1/version/objects/{key}


async def write(api: Api, value: object, context: object = None, node_id: str = "s1") -> Any:
    body = {"nodeId": node_id, "context": context, "value": value}
    answered = await api.post(f"{OBJECTS}/cart", body)
    assert answered.status == 200
    return answered.body


async def test_a_first_write_makes_an_object(api: Api) -> None:
    written = await write(api, {"items": [1]}, {})
    assert len(written.pop("eventId")) == 24
    assert written == {
        "key": "cart",
        "siblings": [{"value": {"items": [1]}, "nodeId": "s1", "count": 1}],
        "context": {"s1": 1},
    }
    assert (await api.get(f"{OBJECTS}/cart")).body == written


async def test_writers_who_read_the_same_are_both_kept_and_resolved_by_who_reads_both(
    api: Api,
) -> None:
    context = (await write(api, "old"))["context"]
    await write(api, "mine", context)
    both = await write(api, "yours", context, "s2")
    assert [sibling["value"] for sibling in both["siblings"]] == ["mine", "yours"]
    one = await write(api, "ours", both["context"], "s2")
    assert one["siblings"] == [{"value": "ours", "nodeId": "s2", "count": 2}]
    assert one["context"] == {"s1": 2, "s2": 2}


async def test_an_object_never_written_has_no_siblings(api: Api) -> None:
    answered = await api.get(f"{OBJECTS}/nothing")
    assert answered.body == {"key": "nothing", "siblings": [], "context": {}}


async def test_a_write_under_a_key_is_done_once_and_answered_alike(api: Api) -> None:
    body = {"nodeId": "a", "context": {}, "value": 1}
    first = await api.post(f"{OBJECTS}/cart", body, Idempotency_Key="k")
    await write(api, 2, {"a": 1})
    again = await api.post(f"{OBJECTS}/cart", body, Idempotency_Key="k")
    assert again.content == first.content
    current = (await api.get(f"{OBJECTS}/cart")).body["siblings"]
    assert [sibling["value"] for sibling in current] == [2]


@pytest.mark.parametrize("key", ["events", "objects", "a/b", "购物车"])
async def test_an_object_may_have_any_printable_name(api: Api, key: str) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in key.encode())
    answered = await api.post(f"{OBJECTS}/{quoted}", {"nodeId": "a", "context": {}, "value": 1})
    assert answered.body["key"] == key
    assert len((await api.get(f"{OBJECTS}/{quoted}")).body["siblings"]) == 1


@pytest.mark.parametrize(
    "value", ["null", "true", "-0.5", '"text: \\u00fc"', "[]", '{"price": 1.10,  "a":[{}]}']
)
async def test_a_value_comes_back_as_it_was_written(api: Api, value: str) -> None:
    raw = f'{{"nodeId":"a","value":{value}}}'.encode()
    answered = await api.call("POST", f"{OBJECTS}/cart", raw=raw)
    assert f'"value":{value},'.encode() in answered.content
    assert f'"value":{value},'.encode() in (await api.get(f"{OBJECTS}/cart")).content


async def test_a_value_has_up_to_64_kib(api: Api) -> None:
    fits = json.dumps("x" * (65_536 - 2)).encode()
    raw = b'{"nodeId":"a","value":' + fits + b"}"
    assert (await api.call("POST", f"{OBJECTS}/cart", raw=raw)).status == 200
    raw = b'{"nodeId":"a","value":' + fits[:-1] + b'x"}'
    answered = await api.call("POST", f"{OBJECTS}/cart", raw=raw)
    assert answered.refused == (413, "REQUEST_TOO_LARGE", ["value"])


async def test_an_object_has_so_many_siblings_and_no_more(api: Api) -> None:
    for _ in range(100):
        await write(api, 1)
    answered = await api.post(f"{OBJECTS}/cart", {"nodeId": "a", "value": 1})
    assert answered.refused == (409, "TOO_MANY_SIBLINGS", [])
    assert "context of the read" in answered.body["detail"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"context": {}, "value": 1}, "nodeId"),
        ({"nodeId": "a", "context": {}}, "value"),
        ({"nodeId": "\t", "value": 1}, "nodeId"),
        ({"nodeId": "a", "value": 1, "context": {"a": -1}}, "context.a"),
        ({"nodeId": "a", "value": 1, "context": []}, "context"),
        ({"nodeId": "a", "value": 1, "key": "k"}, "key"),
    ],
)
async def test_a_write_that_is_wrong_is_refused_by_name(api: Api, body: object, path: str) -> None:
    answered = await api.post(f"{OBJECTS}/cart", body)
    assert answered.refused == (422, "INVALID_FIELD", [path])


async def test_a_context_that_cannot_go_on_refuses(api: Api) -> None:
    body = {"nodeId": "a", "context": {"a": GREATEST}, "value": 1}
    assert (await api.post(f"{OBJECTS}/cart", body)).refused == (409, "CLOCK_OVERFLOW", [])


# What every write has in common


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INCREMENT, {"nodeId": "a"}),
        (MERGE, {"versionVector": {}}),
        (f"{OBJECTS}/cart", {"nodeId": "a", "value": 1}),
    ],
)
async def test_writes_are_refused_and_unknown_as_all_others(
    api: Api, path: str, body: object
) -> None:
    api.cluster.lifetime_ms = -1
    assert (await api.post(path, body)).refused == (503, "REQUEST_EXPIRED", [])
    api.cluster.lifetime_ms = None
    answered = await api.post(path, body, Tidelock_Timeout_Ms="x")
    assert answered.refused == (422, "INVALID_FIELD", ["Tidelock-Timeout-Ms"])
    await api.post(path, body, Idempotency_Key="k")
    other = await api.post(path, {**body, "nodeId": "z"}, Idempotency_Key="k")  # type: ignore[dict-item]
    assert other.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])
    answered = await api.call("POST", path, raw=b"{")
    assert answered.refused == (400, "MALFORMED_JSON", [])
    answered = await api.call("POST", path, raw=b"{}", headers={"Content-Type": "text/plain"})
    assert answered.refused == (415, "NOT_JSON", [])


async def test_a_lamport_event_and_a_version_of_one_name_do_not_meet(api: Api) -> None:
    await api.post(EVENT, {"nodeId": "cart", "eventType": "e"})
    assert await vector(api) == {}
