"""Resource managers at three node processes of which one is killed: their sessions live on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.nodes import Nodes, running_nodes
from tests.integration.resource_manager import ResourceManager, agree, connected

pytestmark = pytest.mark.timeout(240)

TRANSACTIONS = "/api/v1/transactions"
SESSIONS = "/api/v1/rm/sessions"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    environment = {
        "TIDELOCK_CHANNELS_GRACE_MS": "3000",
        "TIDELOCK_CHANNELS_LEADERLESS_MS": "5000",
    }
    with running_nodes(tmp_path_factory.mktemp("managers"), environment) as nodes:
        yield nodes


@pytest.fixture
async def nodes(processes: Nodes) -> Nodes:
    await processes.put_right()
    return processes


def url(nodes: Nodes, node_id: str) -> str:
    return nodes.cluster.place(node_id).url


async def followers(nodes: Nodes) -> list[str]:
    leader = await nodes.leader()
    return [name for name in nodes.names if name != leader]


async def begin(nodes: Nodes, node_id: str) -> str:
    begun = await nodes.post(node_id, TRANSACTIONS, {"name": "order"})
    return str(begun["xid"])


async def join(nodes: Nodes, node_id: str, xid: str, manager: ResourceManager, mode: str) -> int:
    """Register a branch of a manager, whose phase one is done."""
    body = {
        "mode": mode,
        "resourceId": "db",
        "applicationId": "orders",
        "sessionId": manager.session_id,
        "applicationData": {"orderId": 7},
    }
    branch = await nodes.post(node_id, f"{TRANSACTIONS}/{xid}/branches", body)
    path = f"{TRANSACTIONS}/{xid}/branches/{branch['branchId']}/report"
    await nodes.post(node_id, path, {"status": "PHASE_ONE_DONE"})
    return int(branch["branchId"])


async def status(nodes: Nodes, node_id: str, xid: str, *wanted: str) -> Any:
    """Return the transaction once it stands so."""

    async def stands() -> Any:
        response = await nodes.call(node_id, "GET", f"{TRANSACTIONS}/{xid}")
        found = response.status == 200 and response.body["status"] in wanted
        return response.body if found else None

    return await nodes.eventually(stands)


async def test_phase_two_arrives_at_a_follower_though_the_leader_is_killed(nodes: Nodes) -> None:
    leader = await nodes.leader()
    one, other = await followers(nodes)
    async with connected(url(nodes, one), host="f1") as manager:
        xid = await begin(nodes, other)
        branch_id = await join(nodes, other, xid, manager, "XA")
        await nodes.post(other, f"{TRANSACTIONS}/{xid}/commit", {"waitMs": 0})
        first = await manager.called()
        assert (first["xid"], first["branchId"]) == (xid, branch_id)
        assert first["applicationData"] == {"orderId": 7}
        nodes.cluster.kill(leader)
        manager.answer = agree
        await status(nodes, other, xid, "COMMITTED")
        again = [call for call in manager.calls if call["type"] == "branch-commit"][-1]
        assert again["epoch"] > first["epoch"]


async def test_a_manager_takes_its_session_from_a_killed_node_to_another(nodes: Nodes) -> None:
    one, other = await followers(nodes)
    async with connected(url(nodes, one), host="f2", graceMs=60_000) as manager:
        xid = await begin(nodes, other)
        branch_id = await join(nodes, other, xid, manager, "LCN")
        nodes.cluster.kill(one)
        await manager.ended()
        await nodes.post(other, f"{TRANSACTIONS}/{xid}/commit", {"waitMs": 0})
        async with connected(url(nodes, other), registers=False) as again:
            again.answer = agree
            welcome = await again.register(sessionId=manager.session_id, host="f2")
            assert welcome["resumed"]
            await status(nodes, other, xid, "COMMITTED")
            assert again.calls[0]["branchId"] == branch_id


async def test_the_group_of_a_manager_whose_node_is_killed_rolls_back_without_it(
    nodes: Nodes,
) -> None:
    one, other = await followers(nodes)
    async with (
        connected(url(nodes, one), host="f3", graceMs=1_000) as lost,
        connected(url(nodes, other), host="f4") as left,
    ):
        left.answer = agree
        xid = await begin(nodes, other)
        await join(nodes, other, xid, lost, "LCN")
        await join(nodes, other, xid, left, "LCN")
        nodes.cluster.kill(one)
        shown = await status(nodes, other, xid, "ROLLED_BACK")
        assert f"session {lost.session_id}" in shown["reason"]
        assert [call["type"] for call in left.calls][:1] == ["branch-rollback"]
        refused = await nodes.call(other, "POST", f"{TRANSACTIONS}/{xid}/commit", {})
        assert refused.status == 409


async def test_a_node_without_a_majority_sends_its_managers_elsewhere(nodes: Nodes) -> None:
    one, other = await followers(nodes)
    leader = await nodes.leader()
    async with connected(url(nodes, one), host="f5") as manager:
        nodes.cluster.pause(leader)
        nodes.cluster.pause(other)
        assert await manager.ended() == 4503
        assert manager.heard[-1]["type"] == "go-elsewhere"


async def test_a_session_whose_manager_does_not_come_back_takes_no_branches(nodes: Nodes) -> None:
    one, other = await followers(nodes)
    async with connected(url(nodes, one), host="f6", graceMs=1_000) as manager:
        session_id = manager.session_id
        await manager.hang_up()

        async def gone() -> bool:
            listed = await nodes.get(other, f"{SESSIONS}?limit=1000")
            return session_id not in [each["sessionId"] for each in listed["items"]]

        await nodes.eventually(gone)
        xid = await begin(nodes, other)
        refused = await nodes.call(
            other,
            "POST",
            f"{TRANSACTIONS}/{xid}/branches",
            {"mode": "LCN", "resourceId": "db", "sessionId": session_id},
        )
        assert (refused.status, refused.body["code"]) == (409, "CHANNEL_SESSION_ENDED")


async def test_a_crowd_of_managers_is_reached_through_one_node(nodes: Nodes) -> None:
    one, other = await followers(nodes)
    async with asyncio.TaskGroup() as group:
        held = asyncio.Event()
        ready: list[ResourceManager] = []

        async def hold() -> None:
            async with connected(url(nodes, one), host="crowd", resources=["crowd"]) as manager:
                manager.answer = agree
                ready.append(manager)
                await held.wait()

        for _ in range(20):
            for _ in range(15):
                group.create_task(hold())
            await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            while len(ready) < 300:
                await asyncio.sleep(0.05)
        xid = await begin(nodes, other)
        for manager in ready[::30]:
            await join(nodes, other, xid, manager, "LCN")
        await nodes.post(other, f"{TRANSACTIONS}/{xid}/commit", {"waitMs": 0})
        await status(nodes, other, xid, "COMMITTED")
        held.set()
