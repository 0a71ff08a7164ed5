"""DTM's protocol while nodes die and clients repeat themselves: three real engines in one loop."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from api.settings import ApiSettings
from node.config import DeliveryConfig
from tests.integration.dtm import (
    EMPTY,
    SUCCESS,
    Dtm,
    Participant,
    gateway,
    participating,
    running,
    saga,
    step,
)
from tests.integration.engines import LoopCluster, eventually, loop_cluster

pytestmark = pytest.mark.timeout(120)


class Three:
    """A cluster of three, each node with its gateway."""

    def __init__(self, cluster: LoopCluster, gateways: dict[str, Dtm], at: Participant) -> None:
        self.cluster = cluster
        self.gateways = gateways
        self.at = at

    def any_other(self, name: str) -> Dtm:
        return next(found for node, found in self.gateways.items() if node != name)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Three]:
    async with AsyncExitStack() as opened:
        at = await opened.enter_async_context(participating())
        cluster = await opened.enter_async_context(loop_cluster(tmp_path, 3))
        await cluster.leader()
        await eventually(
            lambda: all(len(node.engine.membership.in_force.voters) == 3 for node in cluster.nodes
                        if node.engine.membership.in_force is not None),
            "all are voters",
        )  # fmt: skip
        gateways = {}
        for node in cluster.nodes:
            settings = ApiSettings(destinations=node.destinations)
            served = gateway(node.cluster, settings)
            gateways[node.name] = await opened.enter_async_context(served)
        yield Three(cluster, gateways, at)


async def test_submissions_of_one_gid_at_all_nodes_at_once_are_one_saga(three: Three) -> None:
    body = saga("g", step(three.at, "a"), step(three.at, "b"), wait_result=True)
    found = await asyncio.gather(
        *(dtm.said("/submit", body) for dtm in three.gateways.values() for _ in range(8))
    )
    # Whoever comes after its end is told that it has ended; nobody does it again.
    statuses = Counter(status for status, _ in found)
    assert statuses[200] >= 1
    assert statuses[200] + statuses[409] == 24
    ended = [said["message"] for status, said in found if status == 409]
    assert set(ended) <= {"current status 'succeed', cannot sumbmit. FAILURE"}
    assert three.at.heard == ["a/do action", "b/do action"]


async def test_a_submission_and_an_abort_at_once_are_one_decision(three: Three) -> None:
    first, second, third = three.gateways.values()
    for number in range(10):
        body = {"gid": f"g{number}", "trans_type": "tcc"}
        await first.post("/prepare", body)
        urls = {"confirm": three.at.url("yes"), "cancel": three.at.url("no")}
        branch = {**body, "branch_id": "01", **urls}
        assert await second.said("/registerBranch", branch) == SUCCESS
        (submitted, _), (aborted, _) = await asyncio.gather(
            second.said("/submit", body), third.said("/abort", body)
        )
        assert sorted((submitted, aborted)) == [200, 409]
        await first.until(f"g{number}", "succeed" if submitted == 200 else "failed")
    for number in range(10):
        ops = {call.op for call in three.at.calls if call.query["gid"] == f"g{number}"}
        assert ops in ({"confirm"}, {"cancel"})


async def test_sagas_go_on_when_the_leader_dies(three: Three) -> None:
    at, cluster = three.at, three.cluster
    held = asyncio.Event()

    async def holds(_: web.Request) -> web.StreamResponse:
        await held.wait()
        return web.Response()

    at.answers["b/do"] = [holds]
    leader = await cluster.leader()
    dtm = three.gateways[leader.name]
    for number in range(20):
        body = saga(f"g{number}", step(at, "a"), step(at, "b"), step(at, "c"))
        assert await dtm.said("/submit", body) == SUCCESS
    await eventually(lambda: at.heard.count("b/do action") == 20, "all are at their second step")
    await leader.stop()
    at.answers["b/do"] = [200]
    held.set()
    other = three.any_other(leader.name)
    for number in range(20):
        await other.until(f"g{number}", "succeed")
    done = Counter((call.query["gid"], call.path) for call in at.calls)
    # What was answered before is not called again; only what nobody had heard of is.
    assert all(done[f"g{number}", "a/do"] == 1 for number in range(20))
    assert all(done[f"g{number}", "c/do"] == 1 for number in range(20))
    assert all(done[f"g{number}", "b/do"] in (1, 2) for number in range(20))
    assert not any(call.op == "compensate" for call in at.calls)


async def test_compensation_goes_on_when_the_leader_dies(three: Three) -> None:
    at, cluster = three.at, three.cluster
    held = asyncio.Event()

    async def holds(_: web.Request) -> web.StreamResponse:
        await held.wait()
        return web.Response()

    at.answers["b/do"] = [409]
    at.answers["b/undo"] = [holds]
    leader = await cluster.leader()
    body = saga("g", step(at, "a"), step(at, "b"))
    await three.gateways[leader.name].post("/submit", body)
    await eventually(lambda: "b/undo compensate" in at.heard, "it compensates")
    await leader.stop()
    at.answers["b/undo"] = [200]
    held.set()
    other = three.any_other(leader.name)
    await other.until("g", "failed")
    assert at.heard[:2] == ["a/do action", "b/do action"]
    assert at.heard[-1] == "a/undo compensate"
    assert at.heard.count("a/undo compensate") == 1


async def test_who_waits_at_a_follower_while_the_leader_dies_hears_the_end(three: Three) -> None:
    at, cluster = three.at, three.cluster
    held = asyncio.Event()

    async def holds(_: web.Request) -> web.StreamResponse:
        await held.wait()
        return web.Response()

    at.answers["a/do"] = [holds, 200]
    leader = await cluster.leader()
    other = three.any_other(leader.name)
    body = saga("g", step(at, "a"), wait_result=True, request_timeout=20)
    waiting = asyncio.create_task(other.said("/submit", body))
    await eventually(lambda: len(at.calls) == 1, "the first call")
    await leader.stop()
    held.set()
    assert await waiting == SUCCESS


async def test_a_branch_that_fails_again_and_again_is_told_of_in_dtms_words(
    tmp_path: Path,
) -> None:
    async with participating() as told:
        delivery = DeliveryConfig(alert_url=told.url("alert"))
        async with running(tmp_path, delivery) as node:
            at = node.participant
            at.answers["a/do"] = [500]
            body = saga(node.gid, step(at, "a"), retry_interval=1)
            await node.dtm.post("/submit", body)
            await eventually(lambda: len(told.calls) > 0, "an alert")
        sent = json.loads(told.calls[0].content)
    assert told.calls[0].method == "POST"
    assert sent == {
        "gid": node.gid,
        "status": "submitted",
        "branch": "01",
        "error": sent["error"],
        "retry_count": 4,
    }
    assert sent["error"].startswith("STATUS_500")


async def test_many_sagas_at_once_all_end(three: Three) -> None:
    async def submit(number: int) -> None:
        dtm = list(three.gateways.values())[number % 3]
        steps = [EMPTY] if number % 2 else [step(three.at, "a")]
        assert await dtm.said("/submit", saga(f"g{number}", *steps, wait_result=True)) == SUCCESS

    await asyncio.gather(*(submit(number) for number in range(120)))
    assert three.at.heard == ["a/do action"] * 60
