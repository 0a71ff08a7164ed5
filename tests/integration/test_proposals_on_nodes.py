"""Votes are real: real nodes, some of them paused or killed while the others decide."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.nodes import Nodes, running_nodes
from tests.integration.serving import COMMITTED, PROPOSALS

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("nodes") / "data") as nodes:
        yield nodes


@pytest.fixture
async def nodes(running: Nodes) -> Nodes:
    await running.put_right()
    return running


def proposal(proposal_id: object, timestamp: int = 1, **more: object) -> dict[str, object]:
    return {"id": proposal_id, "data": {"of": proposal_id}, "timestamp": timestamp, **more}


async def shown(nodes: Nodes, node_id: str, proposal_id: str) -> Any:
    return await nodes.get(node_id, f"{PROPOSALS}/{proposal_id}")


def has_said_all(found: Any, node_id: str) -> bool:
    """Tell whether a node accepted and applied what is committed."""
    accepted: bool = found["votes"][node_id] == "ACCEPT"
    return accepted and found["appliedBy"].get(node_id) == found["index"]


async def test_any_node_takes_proposals_and_all_vote(nodes: Nodes) -> None:
    for node_id in nodes.names:
        decided = await nodes.post(node_id, PROPOSALS, proposal(f"by-{node_id}"))
        assert decided["votes"] == dict.fromkeys(nodes.names, "ACCEPT")
        assert (await shown(nodes, "n1", f"by-{node_id}"))["proposedBy"] == node_id


async def test_an_old_timestamp_is_refused_by_every_node(nodes: Nodes) -> None:
    await nodes.post("n1", PROPOSALS, proposal("newer", 5, key="old-timestamps"))
    refused = await nodes.call("n3", "POST", PROPOSALS, proposal("older", 5, key="old-timestamps"))
    assert (refused.status, refused.body["code"]) == (409, "REJECTED")
    assert refused.body["votes"] == dict.fromkeys(nodes.names, "REJECT")


@pytest.mark.parametrize("paused_role", ["leader", "follower"])
async def test_a_paused_node_is_pending_and_votes_when_it_goes_on(
    nodes: Nodes, paused_role: str
) -> None:
    leader = await nodes.leader()
    followers = [node_id for node_id in nodes.names if node_id != leader]
    paused = leader if paused_role == "leader" else followers[0]
    well = [node_id for node_id in nodes.names if node_id != paused]
    nodes.cluster.pause(paused)
    decided = await nodes.post(well[0], PROPOSALS, proposal(f"paused-{paused_role}"))
    assert decided["votes"] == {**dict.fromkeys(well, "ACCEPT"), paused: "PENDING"}
    assert decided["appliedBy"] == dict.fromkeys(well, decided["index"])
    nodes.cluster.resume(paused)

    async def has_voted() -> bool:
        found = await shown(nodes, well[0], f"paused-{paused_role}")
        return has_said_all(found, paused)

    await nodes.eventually(has_voted)


async def test_without_a_majority_there_is_no_answer_that_pretends_one(nodes: Nodes) -> None:
    for node_id in ("n2", "n3"):
        nodes.cluster.pause(node_id)
    answered = await nodes.call("n1", "POST", PROPOSALS, proposal("alone"), timeout_ms=2_000)
    assert answered.status == 503
    assert answered.body["code"] in ("NO_QUORUM", "OUTCOME_UNKNOWN")
    assert "votes" not in answered.body
    for node_id in ("n2", "n3"):
        nodes.cluster.resume(node_id)
    await nodes.put_right()
    # What was left of it ends by itself, one way or the other; asked again it answers that.
    again = await nodes.call("n2", "POST", PROPOSALS, proposal("alone"))
    assert (again.status, again.body.get("code")) in ((200, None), (409, "PROPOSAL_EXPIRED"))


async def test_a_killed_node_votes_on_what_it_missed_once_it_is_back(nodes: Nodes) -> None:
    nodes.cluster.kill("n3")
    for number in range(20):
        decided = await nodes.post("n1", PROPOSALS, proposal(f"missed-{number}"))
        assert decided["votes"]["n3"] == "PENDING"
    nodes.cluster.start("n3")
    await nodes.cluster.wait_until_ready(["n3"])

    async def has_caught_up() -> bool:
        found = [await shown(nodes, "n1", f"missed-{number}") for number in range(20)]
        return all(has_said_all(each, "n3") for each in found)

    await nodes.eventually(has_caught_up)


async def test_a_proposal_is_decided_though_the_node_that_took_it_dies(nodes: Nodes) -> None:
    """Whatever came of it before the kill, it is decided soon or was never there."""
    leader = await nodes.leader()
    taker = next(node_id for node_id in nodes.names if node_id != leader)
    other = next(node_id for node_id in nodes.names if node_id not in (leader, taker))
    ids = [f"orphan-{number}" for number in range(10)]
    tasks = [
        asyncio.create_task(nodes.call(taker, "POST", PROPOSALS, proposal(proposal_id)))
        for proposal_id in ids
    ]

    async def is_proposed() -> bool:
        found = await nodes.call(other, "GET", f"{PROPOSALS}/{ids[0]}")
        return found.status == 200

    await nodes.eventually(is_proposed)
    nodes.cluster.kill(taker)
    await asyncio.gather(*tasks, return_exceptions=True)

    async def all_decided() -> bool:
        found = [await nodes.call(other, "GET", f"{PROPOSALS}/{each}") for each in ids]
        return all(each.status == 404 or each.body["status"] != "PROPOSED" for each in found)

    await nodes.eventually(all_decided)


async def test_concurrent_proposals_for_a_key_leave_the_greatest_that_was_committed(
    nodes: Nodes,
) -> None:
    answers = await asyncio.gather(
        *(
            nodes.call(
                nodes.names[at % 3], "POST", PROPOSALS, proposal(f"race-{at}", at, key="race")
            )
            for at in range(30)
        )
    )
    assert {answered.status for answered in answers} <= {200, 409}
    committed = [at for at, answered in enumerate(answers) if answered.status == 200]
    for node_id in nodes.names:
        assert (await nodes.get(node_id, f"{COMMITTED}/race"))["timestamp"] == max(committed)
