"""The cluster, its health and its metrics over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.cluster import MembershipError, NoQuorumError
from api.routing import NodeState
from tests.integration.local_cluster import START_MS
from tests.integration.serving import CLOCK, CLUSTER, EVENT, Api, serving

NEW_MEMBER = {
    "nodeId": "n4",
    "peerAddress": "127.0.0.1:7204",
    "apiAddress": "127.0.0.1:7104",
}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def test_the_cluster_shows_its_nodes(api: Api) -> None:
    await api.record()
    api.routing.fail("n3")
    answered = await api.get(CLUSTER)
    assert answered.status == 200
    cluster = answered.body
    nodes = cluster.pop("nodes")
    assert cluster == {"clusterId": "c0ffee", "leader": "n1", "term": 3, "commitIndex": 1}
    assert nodes[0] == {
        "nodeId": "n1",
        "role": "LEADER",
        "state": "HEALTHY",
        "apiAddress": "127.0.0.1:7101",
        "peerAddress": "127.0.0.1:7201",
        "matchIndex": 1,
        "lag": 0,
        "lastContactMs": 0,
    }
    assert [node["state"] for node in nodes] == ["HEALTHY", "HEALTHY", "FAILED"]


async def test_only_the_leader_knows_how_far_behind_the_others_are(api: Api) -> None:
    api.cluster.leader = "n2"
    nodes = (await api.get(CLUSTER)).body["nodes"]
    assert [node["matchIndex"] for node in nodes] == [None] * 3
    assert [node["lag"] for node in nodes] == [None] * 3


async def test_the_routing_table_says_who_is_out_why_and_since_when(api: Api) -> None:
    api.routing.fail("n2")
    healthy, failed, _ = (await api.get(f"{CLUSTER}/routing")).body["nodes"]
    assert healthy["inRotation"] is True
    assert failed == {
        "nodeId": "n2",
        "inRotation": False,
        "state": "FAILED",
        "reason": "Three checks in a row were missed.",
        "since": START_MS + 3_000,
    }


async def test_a_returning_node_asks_to_be_let_in(api: Api) -> None:
    api.routing.fail("n2")
    answered = await api.post(f"{CLUSTER}/rejoin", {"nodeId": "n2"})
    assert (answered.status, answered.body) == (200, {"nodeId": "n2", "state": "RECOVERING"})
    for body in (None, {}, {"nodeId": None}):
        answered = await api.post(f"{CLUSTER}/rejoin", body)
        assert (answered.status, answered.body) == (200, {"nodeId": "n1", "state": "HEALTHY"})


async def test_a_stranger_cannot_rejoin(api: Api) -> None:
    answered = await api.post(f"{CLUSTER}/rejoin", {"nodeId": "n9"})
    assert answered.refused == (404, "NOT_A_MEMBER", [])


async def test_a_node_that_may_not_come_back_yet_is_told_why(api: Api) -> None:
    api.routing.fail("n2")
    api.routing.suspect("n2")
    answered = await api.post(f"{CLUSTER}/rejoin", {"nodeId": "n2"})
    assert answered.refused == (409, "REJOIN_REFUSED", [])
    assert answered.body["detail"] == "The node has not failed."


async def test_leadership_is_handed_over(api: Api) -> None:
    for body, leader in (({"target": "n3"}, "n3"), ({}, "n2"), (None, "n2")):
        answered = await api.post(f"{CLUSTER}/leader/transfer", body)
        assert (answered.status, answered.body) == (200, {"leader": leader})
    answered = await api.post(f"{CLUSTER}/leader/transfer", {"target": "n9"})
    assert answered.refused == (404, "NOT_A_MEMBER", [])


async def test_a_member_is_admitted_and_removed(api: Api) -> None:
    admitted = await api.post(f"{CLUSTER}/members", NEW_MEMBER)
    assert (admitted.status, admitted.body) == (201, NEW_MEMBER)
    names = [node["nodeId"] for node in (await api.get(CLUSTER)).body["nodes"]]
    assert names == ["n1", "n2", "n3", "n4"]
    removed = await api.call("DELETE", f"{CLUSTER}/members/n4")
    assert (removed.status, removed.body) == (200, {"nodeId": "n4"})
    again = await api.call("DELETE", f"{CLUSTER}/members/n4")
    assert again.refused == (404, "NOT_A_MEMBER", [])


async def test_a_refused_change_of_members_says_why(api: Api) -> None:
    api.cluster.fault = MembershipError("CHANGE_IN_PROGRESS", "Another change is under way.")
    for answered in (
        await api.post(f"{CLUSTER}/members", NEW_MEMBER),
        await api.call("DELETE", f"{CLUSTER}/members/n2"),
        await api.post(f"{CLUSTER}/leader/transfer", {}),
    ):
        assert answered.refused == (409, "CHANGE_IN_PROGRESS", [])
        assert answered.body["detail"] == "Another change is under way."


async def test_a_change_of_members_needs_a_quorum(api: Api) -> None:
    api.cluster.fault = NoQuorumError()
    answered = await api.post(f"{CLUSTER}/members", NEW_MEMBER)
    assert answered.refused == (503, "NO_QUORUM", [])


@pytest.mark.parametrize(
    "address", ["a:1", "10.0.0.4:65535", "n4.example.org:7200", "[::1]:7200", "[fe80::1]:59999"]
)
async def test_a_member_has_any_address_that_can_be_dialled(api: Api, address: str) -> None:
    member = {**NEW_MEMBER, "peerAddress": address, "apiAddress": address}
    assert (await api.post(f"{CLUSTER}/members", member)).status == 201


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nodeId", ""),
        ("nodeId", "a\nb"),
        ("peerAddress", "no-port"),
        ("apiAddress", "host:port"),
        ("apiAddress", "host:123456"),
        ("apiAddress", "host:1\n"),
        ("apiAddress", "host:0"),
        ("apiAddress", "host:65536"),
        ("apiAddress", "host:١"),
        ("peerAddress", "http://host:1"),
        ("peerAddress", "user@host:1"),
        ("peerAddress", "-host:1"),
        ("peerAddress", "a..b:1"),
        ("peerAddress", f"{'a' * 64}:1"),
        ("peerAddress", "::1:7200"),
        ("peerAddress", "[host]:7200"),
    ],
)
async def test_a_member_with_an_impossible_field_is_refused(
    api: Api, field: str, value: str
) -> None:
    answered = await api.post(f"{CLUSTER}/members", {**NEW_MEMBER, field: value})
    assert answered.refused == (422, "INVALID_FIELD", [field])
    assert len(api.cluster.members) == 3


async def test_operations_on_the_cluster_take_an_idempotency_key(api: Api) -> None:
    for path, body in ((f"{CLUSTER}/rejoin", None), (f"{CLUSTER}/leader/transfer", {})):
        assert (await api.post(path, body, Idempotency_Key="k-1")).status == 200
        refused = await api.post(path, body, Idempotency_Key="not one")
        assert refused.refused == (422, "INVALID_FIELD", ["Idempotency-Key"])


# Health


async def test_a_node_is_live_whatever_its_cluster_does(api: Api) -> None:
    api.cluster.leader = None
    api.cluster.fault = NoQuorumError()
    answered = await api.get("/health/live")
    assert (answered.status, answered.body["status"]) == (200, "live")


async def test_a_node_is_ready_while_a_confirmed_leader_is_known_and_it_keeps_up(
    api: Api,
) -> None:
    for leader in ("n1", "n2"):
        api.cluster.leader = leader
        answered = await api.get("/health/ready")
        assert answered.status == 200
        assert answered.body == {"status": "ready", "nodeId": "n1", "leader": leader}


@pytest.mark.parametrize(
    ("what", "value", "reason"),
    [
        ("leader", None, "No leader is known"),
        ("quorum_confirmed_ms", None, "No quorum has confirmed"),
        ("quorum_confirmed_ms", 1_001, "1001 ms ago"),
        ("caught_up", False, "still far behind"),
    ],
)
async def test_a_node_that_cannot_serve_says_why(
    api: Api, what: str, value: object, reason: str
) -> None:
    setattr(api.cluster, what, value)
    answered = await api.get("/health/ready")
    assert answered.refused == (503, "NOT_READY", [])
    assert reason in answered.body["detail"]
    assert answered.headers["Retry-After"] == "1"


async def test_only_a_leader_that_a_quorum_confirmed_lately_says_so(api: Api) -> None:
    api.cluster.quorum_confirmed_ms = 1_000
    assert (await api.get("/health/leader")).status == 200
    for confirmed_ms in (1_001, None):
        api.cluster.quorum_confirmed_ms = confirmed_ms
        assert (await api.get("/health/leader")).refused == (503, "NOT_LEADER", [])
    api.cluster.quorum_confirmed_ms = 0
    for leader in ("n2", None):
        api.cluster.leader = leader
        assert (await api.get("/health/leader")).refused == (503, "NOT_LEADER", [])


async def test_health_never_reads_the_state(api: Api) -> None:
    for question in ("live", "ready", "leader"):
        await api.get(f"/health/{question}")
    assert api.cluster.consistencies == []


# Metrics


async def scrape(api: Api) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    answered = await api.get("/metrics")
    assert answered.headers["Content-Type"].startswith("text/plain; version=")
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answered.content.decode()):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


async def test_requests_are_counted_by_route_method_and_status(api: Api) -> None:
    for at in range(3):
        await api.get(f"{CLOCK}/p{at}")
    await api.post(EVENT, {})
    await api.get("/nowhere/1")
    await api.get("/nowhere/2")
    await api.get(EVENT)
    counts = (await scrape(api))["tidelock_http_request_duration_seconds_count"]

    def count(route: str, method: str, status: int) -> float:
        return counts[(("method", method), ("route", route), ("status", str(status)))]

    assert count("/api/v1/timestamp/clock/{nodeId}", "GET", 200) == 3
    assert count(EVENT, "POST", 422) == 1
    assert count("*", "*", 404) == 2
    assert count(EVENT, "*", 405) == 1
    assert not any("nowhere" in str(labels) for labels in counts)


async def test_durations_fall_into_cumulative_buckets(api: Api) -> None:
    await api.get("/health/live")
    buckets = (await scrape(api))["tidelock_http_request_duration_seconds_bucket"]
    counts = [count for _, count in sorted(buckets.items(), key=_upper_bound)]
    assert counts == sorted(counts)
    assert counts[-1] == 1


def _upper_bound(bucket: tuple[tuple[tuple[str, str], ...], float]) -> float:
    return float(dict(bucket[0])["le"])


async def test_the_state_of_raft_is_shown(api: Api) -> None:
    await api.record()
    api.cluster.quorum_confirmed_ms = 250
    samples = await scrape(api)
    assert samples["tidelock_raft_term"][()] == 3
    assert samples["tidelock_raft_leader"][()] == 1
    assert samples["tidelock_raft_commit_index"][()] == 1
    assert samples["tidelock_raft_quorum_age_seconds"][()] == 0.25
    assert samples["tidelock_raft_match_index"][(("node", "n2"),)] == 1
    assert samples["tidelock_raft_contact_age_seconds"][(("node", "n2"),)] == 0.012


async def test_metrics_are_shown_without_a_leader(api: Api) -> None:
    api.cluster.leader = None
    api.cluster.quorum_confirmed_ms = None
    samples = await scrape(api)
    assert samples["tidelock_raft_has_leader"][()] == 0
    assert "tidelock_raft_quorum_age_seconds" not in samples


def test_every_state_of_a_node_has_a_name_of_its_own() -> None:
    assert {state.value for state in NodeState} == {"HEALTHY", "SUSPECT", "FAILED", "RECOVERING"}
