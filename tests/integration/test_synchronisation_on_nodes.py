"""Synchronisation rounds of real nodes: they close by themselves, and outlive whoever led."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.nodes import Nodes, running_nodes
from tests.integration.serving import CLOCK, EVENT, SYNCHRONISATION

pytestmark = pytest.mark.timeout(180)

INTERVAL_MS = 400
REPORT = f"{SYNCHRONISATION}/report"
RUN = f"{SYNCHRONISATION}/run"
ACK = f"{SYNCHRONISATION}/ack"
STATUS = f"{SYNCHRONISATION}/status"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    environment = {"TIDELOCK_SYNC_INTERVAL_MS": str(INTERVAL_MS)}
    with running_nodes(tmp_path_factory.mktemp("nodes") / "data", environment) as nodes:
        yield nodes


@pytest.fixture
async def nodes(running: Nodes) -> Nodes:
    """Let reporters of earlier tests expire, so that each test is alone in its rounds."""
    await running.put_right()

    async def is_silent() -> bool:
        shown = await status(running)
        return not shown["open"]["nodes"] and bool(shown["intervalMs"] == INTERVAL_MS)

    await running.eventually(is_silent)
    return running


async def status(nodes: Nodes, node_id: str = "n1") -> Any:
    return await nodes.get(node_id, STATUS)


async def closed_with(nodes: Nodes, *reporters: str) -> Any:
    """Wait for a round of exactly these participants."""

    async def closed() -> Any:
        rounds = (await status(nodes))["rounds"]
        found = [
            each for each in rounds if [node["nodeId"] for node in each["nodes"]] == [*reporters]
        ]
        return found[0] if found else None

    return await nodes.eventually(closed)


async def test_a_round_closes_by_itself_when_somebody_is_behind(nodes: Nodes) -> None:
    await nodes.post("n1", REPORT, {"nodeId": "ahead", "lamport": 50, "vector": {"a": 4}})
    await nodes.post("n2", REPORT, {"nodeId": "behind", "lamport": 40, "vector": {"a": 1}})
    closed = await closed_with(nodes, "ahead", "behind")
    assert (closed["targetLamport"], closed["targetVector"]) == (50, {"a": 4})
    assert closed["nodes"][1]["lag"] == {"lamport": 10, "vector": {"a": 3}}
    for node_id in nodes.names:
        clock = await nodes.get(node_id, f"{CLOCK}/behind")
        assert clock["lamportTimestamp"] == 50


async def test_silent_reporters_expire_and_rounds_end_with_them(nodes: Nodes) -> None:
    await nodes.post("n1", REPORT, {"nodeId": "silent", "lamport": 5})

    async def is_gone() -> bool:
        return not (await status(nodes))["open"]["nodes"]

    await nodes.eventually(is_gone)
    closed = await nodes.post("n3", RUN, None)
    assert closed["nodes"] == []


async def test_a_round_goes_on_under_another_leader(nodes: Nodes) -> None:
    reports = {"nodeId": "survivor", "lamport": 70}
    reported = await nodes.post("n1", REPORT, reports)
    leader = await nodes.leader()
    other = next(node_id for node_id in nodes.names if node_id != leader)
    nodes.cluster.kill(leader)
    closed = await nodes.post(other, RUN, None)
    assert closed["round"] >= reported["round"]
    assert [node["nodeId"] for node in closed["nodes"]] == ["survivor"]
    answered = await nodes.post(other, ACK, {"round": closed["round"], "nodeId": "survivor"})
    assert answered["synchronised"]


async def test_a_cluster_node_reports_and_acknowledges_for_itself(nodes: Nodes) -> None:
    event = await nodes.post("n2", EVENT, {"eventType": "own"})
    assert event["nodeId"] == "n2"

    async def has_reported() -> bool:
        return "n2" in [node["nodeId"] for node in (await status(nodes))["open"]["nodes"]]

    await nodes.eventually(has_reported)
    closed = await nodes.post("n1", RUN, None)
    mine = next(node for node in closed["nodes"] if node["nodeId"] == "n2")
    assert mine["lamport"] == event["lamportTimestamp"]

    async def is_synchronised() -> bool:
        rounds = (await status(nodes, "n3"))["rounds"]
        return any(each["round"] == closed["round"] and each["synchronised"] for each in rounds)

    await nodes.eventually(is_synchronised)


async def test_what_others_report_under_a_node_s_name_is_theirs_to_acknowledge(
    nodes: Nodes,
) -> None:
    """A test, or an application, may call its participants as the nodes are called."""
    for node_id in nodes.names:
        await nodes.post(node_id, REPORT, {"nodeId": node_id, "lamport": 1_000})
    closed = await nodes.post("n1", RUN, None)
    assert [node["lamport"] for node in closed["nodes"]] == [1_000] * 3

    async def is_synchronised() -> bool:
        rounds = {each["round"]: each for each in (await status(nodes, "n2"))["rounds"]}
        return bool(rounds[closed["round"]]["synchronised"])

    for node_id in nodes.names:
        assert not await is_synchronised()
        await nodes.post(node_id, ACK, {"round": closed["round"], "nodeId": node_id})
    assert await is_synchronised()
