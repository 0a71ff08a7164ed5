"""Many operations in one request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.cluster import OutcomeUnknownError
from statemachine.vector_histories import GREATEST_ANSWERED
from tests.integration.serving import BATCH, CLOCK, EVENT, EVENTS, VERSION, Api, serving


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


def event(node_id: str = "orders", **fields: object) -> dict[str, Any]:
    return {"op": "timestamp.event", "nodeId": node_id, "eventType": "e", **fields}


async def test_every_operation_gets_its_result_in_order(api: Api) -> None:
    answered = await api.post(
        BATCH,
        {
            "operations": [
                event(eventData={"id": 1}),
                {"op": "timestamp.sync", "nodeId": "b", "sourceNodeId": "orders", "timestamp": 5},
                {"op": "participant.join", "nodeId": "c"},
                {"op": "participant.leave", "nodeId": "c"},
                {"eventType": "e", "op": "timestamp.event"},
            ]
        },
    )
    assert answered.status == 200
    results = answered.body["results"]
    assert [result["status"] for result in results] == [200] * 5
    assert results[0]["nodeId"] == "orders"
    assert results[0]["eventData"] == {"id": 1}
    assert results[0]["lamportTimestamp"] == 1
    assert results[1]["lamportTimestamp"] == 6
    assert set(results[1]) == {"status", "syncedEventId", "nodeId", "lamportTimestamp"}
    assert results[2] == {"status": 200, "nodeId": "c", "active": True, "changed": True}
    assert results[3] == {"status": 200, "nodeId": "c", "active": False, "changed": True}
    assert results[4]["nodeId"] == "n1"


async def test_vectors_advance_in_a_batch_as_they_do_alone(api: Api) -> None:
    received = {"op": "vector.receive", "nodeId": "b", "vectorClock": {"a": 2}, "messageId": "m"}
    answered = await api.post(
        BATCH,
        {
            "operations": [
                {"op": "version.increment", "key": "k", "nodeId": "a"},
                {"op": "version.merge", "key": "k", "versionVector": {"b": 2}},
                {"op": "version.increment", "nodeId": "a"},
                {"op": "vector.tick", "nodeId": "a"},
                {"op": "vector.send", "nodeId": "a", "message": {"x": 1}},
                received,
                {"op": "vector.tick", "nodeId": "b"},
                received,
            ]
        },
    )
    results = answered.body["results"]
    assert [result.pop("status") for result in results] == [200] * 8
    listed = (await api.get(f"{VERSION}/events?limit=1")).body["items"]
    assert results[0].pop("eventId") == listed[0]["eventId"]
    assert results[0] == {"key": "k", "versionVector": {"a": 1}}
    assert results[1] == {
        "key": "k",
        "relation": "CONCURRENT",
        "versionVector": {"a": 1, "b": 2},
    }
    assert (results[2]["key"], results[2]["versionVector"]) == ("n1", {"a": 1})
    assert results[3] == {"nodeId": "a", "vectorClock": {"a": 1}}
    assert results[4] == {
        "nodeId": "a",
        "messageId": "000000000000000100000004",
        "vectorClock": {"a": 2},
    }
    assert results[5] == {"nodeId": "b", "vectorClock": {"a": 2, "b": 1}, "relation": "BEFORE"}
    assert results[6] == {"nodeId": "b", "vectorClock": {"a": 2, "b": 2}}
    assert results[7] == results[5]


async def test_a_batch_is_not_answered_more_than_its_share_of_vectors(api: Api) -> None:
    size = 4_000
    full = {f"p{number}": 1 for number in range(size)}
    operations: list[object] = [{"op": "version.merge", "key": "k", "versionVector": full}]
    operations += [{"op": "version.increment", "key": "k", "nodeId": "p1"}] * 99
    results = (await api.post(BATCH, {"operations": operations})).body["results"]
    done = [result for result in results if result["status"] == 200]
    assert len(done) == 1 + GREATEST_ANSWERED // size
    assert done[-1]["versionVector"]["p1"] == len(done)
    assert {result["code"] for result in results[len(done) :]} == {"ANSWER_TOO_LARGE"}
    assert {result["status"] for result in results[len(done) :]} == {413}


async def test_the_results_are_what_is_stored(api: Api) -> None:
    answered = await api.post(BATCH, {"operations": [event(f"p{at}") for at in range(100)]})
    results = answered.body["results"]
    ids = [result["eventId"] for result in results]
    assert ids == sorted(ids)
    for result in (results[0], results[50], results[99]):
        stored = (await api.get(f"{EVENTS}/{result['eventId']}")).body
        assert {**stored, "status": 200} == result


async def test_a_batch_is_one_entry_of_the_log(api: Api) -> None:
    answered = await api.post(BATCH, {"operations": [event() for _ in range(10)]})
    assert answered.headers["Tidelock-Index"] == "1.9"
    assert [result["lamportTimestamp"] for result in answered.body["results"]] == [*range(1, 11)]


async def test_a_batch_under_a_key_is_done_once(api: Api) -> None:
    batch = {"operations": [event(), event("b")]}
    first = await api.post(BATCH, batch, Idempotency_Key="k")
    again = await api.post(BATCH, batch, Idempotency_Key="k")
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await api.post(BATCH, {"operations": [event()]}, Idempotency_Key="k")
    assert other.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])
    assert (await api.get(f"{CLOCK}/orders")).body["lamportTimestamp"] == 1


async def test_what_the_state_rejects_is_rejected_alone(api: Api) -> None:
    answered = await api.post(
        BATCH,
        {
            "operations": [
                {"op": "participant.leave", "nodeId": "nobody"},
                event(),
                {"op": "timestamp.sync", "sourceNodeId": "a", "timestamp": 2**63 - 1},
            ]
        },
    )
    assert answered.status == 200
    left, recorded, synced = answered.body["results"]
    assert (left["status"], left["code"]) == (404, "PARTICIPANT_NOT_FOUND")
    assert left["detail"]
    assert (recorded["status"], recorded["lamportTimestamp"]) == (200, 1)
    assert (synced["status"], synced["code"]) == (409, "CLOCK_OVERFLOW")


async def test_an_expired_batch_is_refused_as_a_whole(api: Api) -> None:
    api.cluster.lifetime_ms = -1
    answered = await api.post(BATCH, {"operations": [event(), event()]})
    assert answered.refused == (503, "REQUEST_EXPIRED", [])


async def test_an_unknown_outcome_is_that_of_the_whole_batch(api: Api) -> None:
    api.cluster.fault = OutcomeUnknownError()
    answered = await api.post(BATCH, {"operations": [event()]})
    assert answered.refused == (503, "OUTCOME_UNKNOWN", [])


async def test_a_batch_has_1_to_1000_operations(api: Api) -> None:
    full = await api.post(BATCH, {"operations": [event() for _ in range(1000)]})
    assert len(full.body["results"]) == 1000
    for operations in ([], [event() for _ in range(1001)]):
        answered = await api.post(BATCH, {"operations": operations})
        assert answered.refused == (422, "INVALID_FIELD", ["operations"])
    assert (await api.get(f"{CLOCK}/orders")).body["lamportTimestamp"] == 1000


async def test_a_batch_that_encodes_to_more_than_1_mib_is_413_and_changes_nothing(
    api: Api,
) -> None:
    large = event(eventData="x" * 60_000)
    answered = await api.post(BATCH, {"operations": [large] * 17})
    assert answered.status == 200
    digest = api.cluster.digest
    answered = await api.post(BATCH, {"operations": [large] * 18})
    assert answered.refused == (413, "REQUEST_TOO_LARGE", [])
    assert api.cluster.digest == digest


@pytest.mark.parametrize(
    ("wrong", "status", "path"),
    [
        ({"op": "timestamp.event"}, 422, "operations[3].eventType"),
        (event(nodeId=""), 422, "operations[3].nodeId"),
        (event(nodeId=5), 422, "operations[3].nodeId"),
        (event(nodeId="x" * 129), 422, "operations[3].nodeId"),
        (event(nodeId="汉" * 100), 422, "operations[3].nodeId"),
        (event(nodeId="line\nfeed"), 422, "operations[3].nodeId"),
        (event(eventType="\x07"), 422, "operations[3].eventType"),
        (event(colour="red"), 422, "operations[3].colour"),
        (event(eventData="x" * 65_536), 413, "operations[3].eventData"),
        (event(op="timestamp.rewind"), 422, "operations[3].op"),
        (event(op=3), 422, "operations[3].op"),
        ({"nodeId": "a"}, 422, "operations[3].op"),
        ({"op": "participant.join"}, 422, "operations[3].nodeId"),
        ({"op": "participant.leave", "nodeId": "\t"}, 422, "operations[3].nodeId"),
        (
            {"op": "timestamp.sync", "sourceNodeId": "a", "timestamp": -1},
            422,
            "operations[3].timestamp",
        ),
        ({"op": "version.increment", "key": "events"}, 422, "operations[3].nodeId"),
        ({"op": "version.increment", "nodeId": "a", "key": "merge"}, 422, "operations[3].key"),
        (
            {"op": "version.merge", "versionVector": {"a": -1}},
            422,
            "operations[3].versionVector.a",
        ),
        ({"op": "vector.tick", "nodeId": "events"}, 422, "operations[3].nodeId"),
        (
            {"op": "vector.send", "nodeId": "a", "message": "x" * 65_536},
            413,
            "operations[3].message",
        ),
        (
            {"op": "vector.receive", "nodeId": "a", "vectorClock": {"a": "1"}},
            422,
            "operations[3].vectorClock.a",
        ),
        (7, 422, "operations[3]"),
        (event(eventData=[2**64]), 422, "operations[3].eventData[0]"),
    ],
)
async def test_an_invalid_operation_is_named_and_nothing_is_applied(
    api: Api, wrong: object, status: int, path: str
) -> None:
    await api.post(EVENT, {"eventType": "e"})
    digest = api.cluster.digest
    answered = await api.post(BATCH, {"operations": [event(), event(), event(), wrong, event()]})
    assert answered.status == status
    assert answered.refused[2] == [path]
    assert path in answered.body["detail"]
    assert api.cluster.digest == digest
