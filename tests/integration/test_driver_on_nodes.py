"""Real nodes run transactions: whichever leader is killed or paused, all are carried out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.integration.nodes import Nodes, running_nodes
from tests.integration.participant import Participant, participating

pytestmark = pytest.mark.timeout(180)

SAGAS = "/api/v1/sagas"
IN_FLIGHT = 100


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("nodes") / "data") as nodes:
        yield nodes


@pytest.fixture
async def nodes(running: Nodes) -> Nodes:
    await running.put_right()
    return running


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with participating() as found:
        yield found


def saga(at: Participant, xid: str, *names: str) -> dict[str, object]:
    steps = [
        {
            "name": name,
            "action": at.url(f"{name}/do"),
            "compensation": at.url(f"{name}/undo"),
            "payload": {"of": name},
        }
        for name in names
    ]
    return {"xid": xid, "steps": steps, "waitMs": 0}


async def status(nodes: Nodes, node_id: str, xid: str) -> Any:
    return (await nodes.get(node_id, f"{SAGAS}/{xid}"))["status"]


async def until_all(nodes: Nodes, node_id: str, xids: list[str], wanted: str) -> None:
    left = list(xids)

    async def none_left() -> bool:
        while left and await status(nodes, node_id, left[-1]) == wanted:
            left.pop()
        return not left

    await nodes.eventually(none_left)


async def test_a_saga_runs_through_any_node(nodes: Nodes, participant: Participant) -> None:
    for node_id in nodes.names:
        xid = f"any-{node_id}"
        await nodes.post(node_id, SAGAS, saga(participant, xid, "a", "b"))
        await until_all(nodes, node_id, [xid], "COMMITTED")
        assert participant.paths(xid) == ["a/do", "b/do"]


async def test_a_hundred_sagas_under_way_survive_the_death_of_the_leader(
    nodes: Nodes, participant: Participant
) -> None:
    participant.latency_s = 0.2
    leader = await nodes.leader()
    others = [node_id for node_id in nodes.names if node_id != leader]
    xids = [f"killed-{number}" for number in range(IN_FLIGHT)]
    await asyncio.gather(
        *(nodes.post(others[0], SAGAS, saga(participant, xid, "a", "b", "c")) for xid in xids)
    )

    async def all_under_way() -> bool:
        return len({call.xid for call in participant.calls}) == IN_FLIGHT

    await nodes.eventually(all_under_way)
    before = len(participant.calls)
    nodes.cluster.kill(leader)
    await until_all(nodes, others[1], xids, "COMMITTED")
    assert len(participant.calls) > before
    # Steps are called once, or again when the leader died before it had reported them: no more.
    calls = Counter((call.xid, call.step) for call in participant.calls)
    assert set(calls) == {(xid, step) for xid in xids for step in ("a", "b", "c")}
    assert max(calls.values()) <= 2
    found = (await nodes.get(others[0], "/api/v1/recovery?limit=1000"))["items"]
    recovered = {item["xid"] for item in found if item["xid"].startswith("killed-")}
    assert recovered
    assert all(item["finishedAt"] for item in found if item["xid"] in recovered)


async def test_a_leader_that_was_paused_calls_nobody_when_it_wakes(
    nodes: Nodes, participant: Participant
) -> None:
    """It has retries to make that were due while it slept; whoever leads now makes them."""
    participant.answers["a/do"] = [503]
    leader = await nodes.leader()
    others = [node_id for node_id in nodes.names if node_id != leader]
    xids = [f"paused-{number}" for number in range(30)]
    await asyncio.gather(*(nodes.post(leader, SAGAS, saga(participant, xid, "a")) for xid in xids))

    async def all_called() -> bool:
        return {call.xid for call in participant.calls} == set(xids)

    await nodes.eventually(all_called)
    nodes.cluster.pause(leader)

    async def another_calls() -> bool:
        return len({call.epoch for call in participant.calls}) == 2

    await nodes.eventually(another_calls)
    asleep = len(participant.calls)
    nodes.cluster.resume(leader)
    await nodes.leader()
    participant.answers["a/do"] = [200]
    await until_all(nodes, others[0], xids, "COMMITTED")
    assert len({call.epoch for call in participant.calls[asleep:]}) == 1


async def test_a_step_that_refuses_rolls_back_though_the_leader_dies_meanwhile(
    nodes: Nodes, participant: Participant
) -> None:
    participant.answers["c/do"] = [409]
    participant.latency_s = 0.1
    leader = await nodes.leader()
    others = [node_id for node_id in nodes.names if node_id != leader]
    xids = [f"refused-{number}" for number in range(20)]
    await asyncio.gather(
        *(nodes.post(others[0], SAGAS, saga(participant, xid, "a", "b", "c")) for xid in xids)
    )

    async def undoing() -> bool:
        return "b/undo" in participant.paths()

    await nodes.eventually(undoing)
    nodes.cluster.kill(leader)
    await until_all(nodes, others[0], xids, "ROLLED_BACK")
    for xid in xids:
        undone = [path for path in participant.paths(xid) if path.endswith("undo")]
        assert list(dict.fromkeys(undone)) == ["b/undo", "a/undo"]


async def test_a_url_that_leads_to_the_cluster_is_refused_at_once(nodes: Nodes) -> None:
    own = f"{nodes.cluster.place('n2').url}/api/v1/transactions"
    body = {"xid": "inward", "steps": [{"name": "a", "action": own}]}
    refused = await nodes.call("n1", "POST", SAGAS, body)
    assert (refused.status, refused.body["code"]) == (422, "INVALID_FIELD")
    (error,) = refused.body["errors"]
    assert error["path"] == "steps[0].action"
    assert "cluster itself" in error["message"]
