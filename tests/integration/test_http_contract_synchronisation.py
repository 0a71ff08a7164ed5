"""Synchronisation rounds over HTTP, row by row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from statemachine import sync_rounds
from statemachine.sync_rounds import GREATEST_ENTRIES, GREATEST_TARGET, ROUNDS_KEPT
from tests.integration.local_cluster import START_MS
from tests.integration.serving import CLOCK, SYNCHRONISATION, Api, serving

REPORT = f"{SYNCHRONISATION}/report"
RUN = f"{SYNCHRONISATION}/run"
ACK = f"{SYNCHRONISATION}/ack"
STATUS = f"{SYNCHRONISATION}/status"
VECTOR = "/api/v1/vector-clock"

GREATEST = 2**63 - 1
INTERVAL_MS = 10_000

EXAMPLE = {
    "node-1": (100, {"n1": 50, "n2": 45, "n3": 40}),
    "node-2": (98, {"n1": 48, "n2": 47, "n3": 41}),
    "node-3": (102, {"n1": 49, "n2": 46, "n3": 43}),
}
TARGET = {"n1": 50, "n2": 47, "n3": 43}
LAGS = {
    "node-1": {"lamport": 2, "vector": {"n1": 0, "n2": 2, "n3": 3}},
    "node-2": {"lamport": 4, "vector": {"n1": 2, "n2": 0, "n3": 2}},
    "node-3": {"lamport": 0, "vector": {"n1": 1, "n2": 1, "n3": 0}},
}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def report(
    api: Api, node_id: str, lamport: int, vector: Mapping[str, int] | None = None
) -> Any:
    answered = await api.post(
        REPORT, {"nodeId": node_id, "lamport": lamport, "vector": dict(vector or {})}
    )
    assert answered.status == 202, answered.content
    return answered.body


async def report_example(api: Api) -> list[Any]:
    return [await report(api, node_id, *clocks) for node_id, clocks in EXAMPLE.items()]


async def run(api: Api) -> Any:
    answered = await api.call("POST", RUN)
    assert answered.status == 200, answered.content
    return answered.body


async def acknowledge(api: Api, number: int, node_id: str) -> Any:
    answered = await api.post(ACK, {"round": number, "nodeId": node_id})
    assert answered.status == 200, answered.content
    return answered.body


async def status(api: Api) -> Any:
    return (await api.get(STATUS)).body


# POST /api/v1/sync/report


async def test_a_report_is_accepted_and_told_the_target_so_far(api: Api) -> None:
    answers = await report_example(api)
    assert answers[0] == {
        "round": 1,
        "targetLamport": 100,
        "targetVector": {"n1": 50, "n2": 45, "n3": 40},
    }
    assert answers[2] == {"round": 1, "targetLamport": 102, "targetVector": TARGET}


async def test_a_participant_may_have_one_kind_of_clock_only(api: Api) -> None:
    assert (await api.post(REPORT, {"nodeId": "a", "lamport": 5})).status == 202
    answered = await api.post(REPORT, {"nodeId": "b", "vector": {"b": 2, "c": 0}})
    assert answered.body == {"round": 1, "targetLamport": 5, "targetVector": {"b": 2}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nodeId": ...}, "nodeId"),
        ({"nodeId": ""}, "nodeId"),
        ({"nodeId": "汉" * 43}, "nodeId"),
        ({"lamport": -1}, "lamport"),
        ({"lamport": GREATEST}, "lamport"),
        ({"lamport": "5"}, "lamport"),
        ({"lamport": 5.0}, "lamport"),
        ({"vector": []}, "vector"),
        ({"vector": {"b": -1}}, "vector.b"),
        ({"vector": {"b": True}}, "vector.b"),
        ({"vector": {"b": None}}, "vector.b"),
        ({"vector": {"b": 1.5}}, "vector.b"),
        ({"vector": {"b": GREATEST}}, "vector.b"),
        ({"vector": {"": 1}}, "vector."),
        ({"vector": {f"n{at}": 1 for at in range(GREATEST_ENTRIES + 1)}}, "vector"),
        ({"round": 1}, "round"),
    ],
)
async def test_a_report_that_is_wrong_is_refused_by_name(
    api: Api, change: dict[str, object], field: str
) -> None:
    body = {"nodeId": "a", "lamport": 1, "vector": {"a": 1}, **change}
    sent = {name: value for name, value in body.items() if value is not ...}
    assert (await api.post(REPORT, sent)).refused == (422, "INVALID_FIELD", [field])
    assert (await status(api))["open"]["nodes"] == []


async def test_all_vectors_together_have_a_bounded_number_of_names(api: Api) -> None:
    for first in range(0, GREATEST_TARGET, GREATEST_ENTRIES):
        await report(api, f"p{first}", 0, {f"n{first + at}": 1 for at in range(GREATEST_ENTRIES)})
    answered = await api.post(REPORT, {"nodeId": "q", "vector": {"more": 1}})
    assert answered.refused == (409, "VECTOR_TOO_LARGE", [])


async def test_too_many_reporters_are_refused_for_now(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_rounds, "GREATEST_REPORTERS", 1)
    await report(api, "a", 1)
    answered = await api.post(REPORT, {"nodeId": "b", "lamport": 1})
    assert answered.refused == (429, "SYNC_REPORTERS_FULL", [])
    api.cluster.let_pass(3 * INTERVAL_MS)
    await report(api, "b", 1)


async def test_a_report_that_is_sent_again_under_its_key_is_the_same(api: Api) -> None:
    body = {"nodeId": "a", "lamport": 5}
    first = await api.post(REPORT, body, Idempotency_Key="k-1")
    await report(api, "b", 9)
    again = await api.post(REPORT, body, Idempotency_Key="k-1")
    assert (again.status, again.content) == (202, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"


# POST /api/v1/sync/run


async def test_run_closes_the_round_with_the_maximum_of_each_entry(api: Api) -> None:
    await report_example(api)
    closed = await run(api)
    assert closed == {
        "round": 1,
        "targetLamport": 102,
        "targetVector": TARGET,
        "nodes": [
            {"nodeId": node_id, "lamport": lamport, "vector": vector, "lag": LAGS[node_id]}
            for node_id, (lamport, vector) in EXAMPLE.items()
        ],
        "synchronised": False,
    }


async def test_run_raises_the_cluster_s_copies_of_the_reporters_clocks(api: Api) -> None:
    await report_example(api)
    await run(api)
    for node_id in EXAMPLE:
        assert (await api.get(f"{CLOCK}/{node_id}")).body["lamportTimestamp"] == 102
        assert (await api.get(f"{VECTOR}/{node_id}")).body["vectorClock"] == TARGET
    assert (await api.record("node-2"))["lamportTimestamp"] == 103


async def test_a_clock_never_decreases(api: Api) -> None:
    for _ in range(5):
        await api.record("a")
    await report(api, "a", 2)
    await run(api)
    assert (await api.get(f"{CLOCK}/a")).body["lamportTimestamp"] == 5


async def test_rounds_are_numbered_and_reporters_stay(api: Api) -> None:
    await report_example(api)
    assert [(await run(api))["round"] for _ in range(3)] == [1, 2, 3]
    assert [node["nodeId"] for node in (await run(api))["nodes"]] == list(EXAMPLE)


async def test_a_silent_reporter_counts_no_more_after_three_intervals(api: Api) -> None:
    await report_example(api)
    api.cluster.let_pass(2 * INTERVAL_MS)
    await report(api, "node-1", 101)
    api.cluster.let_pass(INTERVAL_MS)
    closed = await run(api)
    assert [node["nodeId"] for node in closed["nodes"]] == ["node-1"]
    assert closed["targetLamport"] == 101


async def test_a_round_of_nobody_is_synchronised(api: Api) -> None:
    assert await run(api) == {
        "round": 1,
        "targetLamport": 0,
        "targetVector": {},
        "nodes": [],
        "synchronised": True,
    }


@pytest.mark.parametrize("raw", [None, b"{}"])
async def test_run_needs_no_body(api: Api, raw: bytes | None) -> None:
    assert (await api.call("POST", RUN, raw=raw)).status == 200


async def test_run_takes_no_field(api: Api) -> None:
    assert (await api.post(RUN, {"round": 1})).refused == (422, "INVALID_FIELD", ["round"])
    assert (await api.call("POST", RUN, raw=b"[")).code == "MALFORMED_JSON"


async def test_a_run_that_is_sent_again_under_its_key_closes_no_other_round(api: Api) -> None:
    await report_example(api)
    first = await api.call("POST", RUN, headers={"Idempotency-Key": "k-1"})
    again = await api.call("POST", RUN, headers={"Idempotency-Key": "k-1"})
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    for _ in range(ROUNDS_KEPT):
        await run(api)
    late = await api.call("POST", RUN, headers={"Idempotency-Key": "k-1"})
    assert late.refused == (404, "SYNC_ROUND_NOT_FOUND", [])


# POST /api/v1/sync/ack


async def test_a_round_is_synchronised_when_all_have_acknowledged(api: Api) -> None:
    await report_example(api)
    await run(api)
    answers = [await acknowledge(api, 1, node_id) for node_id in EXAMPLE]
    assert answers[0] == {"round": 1, "nodeId": "node-1", "synchronised": False}
    assert [answer["synchronised"] for answer in answers] == [False, False, True]
    assert (await acknowledge(api, 1, "node-1"))["synchronised"]


@pytest.mark.parametrize(
    ("number", "node_id", "expected"),
    [
        (2, "a", (409, "SYNC_ROUND_OPEN", [])),
        (3, "a", (404, "SYNC_ROUND_NOT_FOUND", [])),
        (GREATEST, "a", (404, "SYNC_ROUND_NOT_FOUND", [])),
        (1, "b", (409, "NOT_A_REPORTER", [])),
        (0, "a", (422, "INVALID_FIELD", ["round"])),
        (2**63, "a", (422, "INVALID_FIELD", ["round"])),
        ("1", "a", (422, "INVALID_FIELD", ["round"])),
        (1, "", (422, "INVALID_FIELD", ["nodeId"])),
        (1, "x" * 129, (422, "INVALID_FIELD", ["nodeId"])),
    ],
)
async def test_what_cannot_be_acknowledged_is_refused(
    api: Api, number: object, node_id: str, expected: tuple[int, str, list[str]]
) -> None:
    await report(api, "a", 1)
    await run(api)
    assert (await api.post(ACK, {"round": number, "nodeId": node_id})).refused == expected


# GET /api/v1/sync/status


async def test_the_status_shows_who_is_behind_and_who_has_acknowledged(api: Api) -> None:
    await report_example(api)
    await run(api)
    api.cluster.let_pass(500)
    await acknowledge(api, 1, "node-2")
    shown = await status(api)
    assert shown["intervalMs"] == INTERVAL_MS
    (closed,) = shown["rounds"]
    nodes = {node.pop("nodeId"): node for node in closed.pop("nodes")}
    assert closed == {
        "round": 1,
        "targetLamport": 102,
        "targetVector": TARGET,
        "index": 4,
        "closedAt": START_MS,
        "synchronised": False,
        "synchronisedAt": None,
    }
    assert {node_id: node["lag"] for node_id, node in nodes.items()} == LAGS
    assert nodes["node-2"]["acknowledged"] is True
    assert nodes["node-2"]["acknowledgedAt"] == START_MS + 500
    assert (nodes["node-1"]["acknowledged"], nodes["node-1"]["acknowledgedAt"]) == (False, None)
    assert (shown["open"]["round"], shown["open"]["targetVector"]) == (2, TARGET)
    open_nodes = {node["nodeId"]: node for node in shown["open"]["nodes"]}
    assert open_nodes["node-1"]["lag"] == LAGS["node-1"]
    assert open_nodes["node-2"]["lag"] == {"lamport": 0, "vector": dict.fromkeys(TARGET, 0)}
    assert open_nodes["node-2"]["reportedAt"] == START_MS + 500


async def test_the_status_shows_the_last_rounds_the_newest_first(api: Api) -> None:
    await report(api, "a", 1)
    for _ in range(12):
        await run(api)
    assert [each["round"] for each in (await status(api))["rounds"]] == list(range(12, 2, -1))
    shown = (await api.get(f"{STATUS}?limit=2")).body
    assert [each["round"] for each in shown["rounds"]] == [12, 11]
    assert shown["rounds"][0]["synchronised"] is False


@pytest.mark.parametrize("limit", ["0", str(ROUNDS_KEPT + 1), "x"])
async def test_a_limit_that_is_wrong_is_refused(api: Api, limit: str) -> None:
    answered = await api.get(f"{STATUS}?limit={limit}")
    assert answered.refused == (422, "INVALID_FIELD", ["limit"])


async def test_the_status_is_linearizable_unless_asked_otherwise(api: Api) -> None:
    await status(api)
    await api.get(f"{STATUS}?consistency=local")
    assert [each.value for each in api.cluster.consistencies] == ["linearizable", "local"]
