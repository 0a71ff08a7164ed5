"""The sequences of the use cases about nodes, step by step, on real nodes.

5.1 clocks of several nodes, 5.2 agreement on data, 6.1 a node fails and comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, ClientTimeout

from scripts.tidelock_scripts.event_source import WATCH_PATH, EventParser
from tests.integration.nodes import WITHIN_S, Nodes, running_nodes
from tests.integration.serving import CLOCK, COMMITTED, EVENT, PROPOSALS, SYNCHRONISATION

pytestmark = pytest.mark.timeout(180)

MISSES_ALLOWED = 3
CHECK_INTERVAL_S = 0.3


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    environment = {
        "TIDELOCK_HEALTH_INTERVAL_MS": f"{CHECK_INTERVAL_S * 1000:.0f}",
        "TIDELOCK_HEALTH_TIMEOUT_MS": f"{CHECK_INTERVAL_S * 1000:.0f}",
        "TIDELOCK_HEALTH_FAILURES_FAILED": str(MISSES_ALLOWED),
    }
    with running_nodes(tmp_path_factory.mktemp("nodes") / "data", environment) as nodes:
        yield nodes


@pytest.fixture
async def nodes(running: Nodes) -> Nodes:
    await running.put_right()
    return running


class Told:
    """What a watcher was told so far."""

    def __init__(self) -> None:
        self.changes: list[Any] = []

    async def until(self, kind: str, **members: object) -> Any:
        """Wait for a change of this kind with these members."""
        ends_at = time.monotonic() + WITHIN_S
        while True:
            for change in self.changes:
                if change["kind"] == kind and members.items() <= change.items():
                    return change
            assert time.monotonic() < ends_at, f"nobody told {kind} {members}"
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(nodes: Nodes, node_id: str, kinds: str) -> AsyncIterator[Told]:
    told = Told()

    async def read() -> None:
        parser = EventParser()
        url = f"{nodes.cluster.place(node_id).url}{WATCH_PATH}?kinds={kinds}"
        async with (
            ClientSession(timeout=ClientTimeout(total=None)) as session,
            session.get(url) as stream,
        ):
            assert stream.status == 200
            began.set()
            async for content in stream.content.iter_any():
                for event in parser.feed(content):
                    if event.name == "message":
                        told.changes += msgspec.json.decode(event.data)["changes"]

    began = asyncio.Event()
    task = asyncio.create_task(read())
    try:
        await began.wait()
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_use_case_5_1_clocks_of_several_nodes_are_synchronised(nodes: Nodes) -> None:
    clocks = {
        "Node1": (100, {"n1": 50, "n2": 45, "n3": 40}),
        "Node2": (98, {"n1": 48, "n2": 47, "n3": 41}),
        "Node3": (102, {"n1": 49, "n2": 46, "n3": 43}),
    }
    target = {"n1": 50, "n2": 47, "n3": 43}
    async with watching(nodes, "n3", "sync.*") as told:
        # 报告时钟状态: each reports to a node of its own.
        for at, (name, (lamport, vector)) in zip(nodes.names, clocks.items(), strict=True):
            reported = await nodes.post(
                at,
                f"{SYNCHRONISATION}/report",
                {"nodeId": name, "lamport": lamport, "vector": vector},
            )
        assert (reported["targetLamport"], reported["targetVector"]) == (102, target)

        # 分析时钟偏移, 计算同步策略.
        closed = await nodes.post("n1", f"{SYNCHRONISATION}/run", None)
        number = closed["round"]
        assert (closed["targetLamport"], closed["targetVector"]) == (102, target)
        assert not closed["synchronised"]
        lags = {node["nodeId"]: node["lag"] for node in closed["nodes"]}
        assert lags == {
            "Node1": {"lamport": 2, "vector": {"n1": 0, "n2": 2, "n3": 3}},
            "Node2": {"lamport": 4, "vector": {"n1": 2, "n2": 0, "n3": 2}},
            "Node3": {"lamport": 0, "vector": {"n1": 1, "n2": 1, "n3": 0}},
        }

        # 同步指令: every node of the cluster knows the raised clocks, and who watches is told.
        instruction = await told.until("sync.closed", round=number)
        assert instruction["targetVector"] == target
        for at in nodes.names:
            for name in clocks:
                assert (await nodes.get(at, f"{CLOCK}/{name}"))["lamportTimestamp"] == 102
                vector = await nodes.get(at, f"/api/v1/vector-clock/{name}")
                assert vector["vectorClock"] == target

        # 同步完成, one after the other; 全局同步完成 with the last.
        for at, name in zip(nodes.names, clocks, strict=True):
            done = await nodes.post(at, f"{SYNCHRONISATION}/ack", {"round": number, "nodeId": name})
            assert done["synchronised"] == (name == "Node3")
        await told.until("sync.synchronised", round=number)
    shown = await nodes.get("n2", f"{SYNCHRONISATION}/status")
    (latest,) = [each for each in shown["rounds"] if each["round"] == number]
    assert latest["synchronised"]
    assert all(node["acknowledged"] for node in latest["nodes"])


async def test_use_case_5_2_data_is_agreed_on(nodes: Nodes) -> None:
    voters = ["n1", "n2", "n3"]
    async with watching(nodes, "n1", "proposal.*") as told:
        # 数据更新提议: the primary proposes.
        answered = await nodes.call(
            "n2", "POST", PROPOSALS, {"id": 123, "data": "update_value", "timestamp": 1001}
        )
        assert answered.status == 200
        decided = answered.body
        # 投票阶段: every node says for itself; 3/3 节点同意.
        assert (decided["id"], decided["status"]) == (123, "COMMITTED")
        assert decided["votes"] == dict.fromkeys(voters, "ACCEPT")
        # 提交阶段: 应用数据更新, 提交完成 of each; 全局提交完成.
        assert decided["appliedBy"] == dict.fromkeys(voters, decided["index"])
        await told.until("proposal.proposed", id=123, proposedBy="n2")
        for voter in voters:
            await told.until("proposal.voted", id=123, nodeId=voter, vote="ACCEPT")
        await told.until("proposal.committed", id=123, timestamp=1001)
    for at in voters:
        data = await nodes.get(at, f"{COMMITTED}/123?consistency=local")
        assert (data["data"], data["timestamp"]) == ("update_value", 1001)
        assert (data["index"], data["term"]) == (decided["index"], decided["term"])


async def routes(nodes: Nodes, at: str) -> dict[str, Any]:
    found = await nodes.get(at, "/api/v1/cluster/routing")
    return {node["nodeId"]: node for node in found["nodes"]}


async def seen_as(nodes: Nodes, observers: list[str], node_id: str, state: str) -> None:
    """Wait until all observers see the node in this state."""

    async def all_see_it() -> bool:
        return all([(await routes(nodes, at))[node_id]["state"] == state for at in observers])

    await nodes.eventually(all_see_it)


async def test_use_case_6_1_a_node_fails_and_comes_back(nodes: Nodes) -> None:
    leader = await nodes.leader()
    failing = next(node_id for node_id in nodes.names if node_id != leader)
    healthy = [node_id for node_id in nodes.names if node_id != failing]
    # 正常运行: 健康检查, 200 OK.
    for node_id in nodes.names:
        await seen_as(nodes, nodes.names, node_id, "HEALTHY")
        assert (await nodes.call(node_id, "GET", "/health/live")).status == 200
    async with watching(nodes, healthy[0], "routing.changed") as told:
        # 故障发生: 超时 ❌, 连续3次检查失败.
        nodes.cluster.pause(failing)
        await seen_as(nodes, healthy, failing, "FAILED")
        for at in healthy:
            route = (await routes(nodes, at))[failing]
            assert not route["inRotation"]
            assert f"missed {MISSES_ALLOWED} checks in a row" in route["reason"]
        # 移除故障节点, 更新路由表: it is recorded for all to see.
        await told.until("routing.changed", nodeId=failing, state="FAILED")

        # 负载重分配: the others are ready and do all the work.
        for at in healthy:
            assert (await nodes.call(at, "GET", "/health/ready")).status == 200
            for _ in range(5):
                await nodes.post(at, EVENT, {"nodeId": "load", "eventType": "moved"})

        # 节点恢复: 注册恢复, 数据同步检查 against a healthy node, 添加恢复节点.
        nodes.cluster.resume(failing)

        async def has_registered() -> bool:
            # The address is asked, too: it may take a moment until it answers.
            asked = await nodes.call(
                healthy[0], "POST", "/api/v1/cluster/rejoin", {"nodeId": failing}
            )
            return asked.status == 200 and asked.body["state"] in ("RECOVERING", "HEALTHY")

        await nodes.eventually(has_registered)
        await seen_as(nodes, healthy, failing, "HEALTHY")
        await told.until("routing.changed", nodeId=failing, state="HEALTHY")
    # 同步本地时钟: it has every clock as the others have it, by itself.
    for at in healthy:
        assert (await routes(nodes, at))[failing]["inRotation"]
    own = await nodes.get(failing, f"{CLOCK}/load?consistency=local")
    assert own["lamportTimestamp"] == 10
    assert (await nodes.get(healthy[0], f"{CLOCK}/load"))["lamportTimestamp"] == 10
