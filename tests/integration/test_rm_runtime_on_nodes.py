"""The resource manager of an application at three node processes that are killed and paused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.integration.nodes import Nodes, running_nodes
from tests.integration.recording_resource import Recording, SessionRecording, until
from tidelock import Application
from tidelock.client import Client, cluster_client
from tidelock.client.answers import BranchMode
from tidelock.errors import TidelockError
from tidelock.rm import session

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    environment = {
        "TIDELOCK_CHANNELS_GRACE_MS": "4000",
        "TIDELOCK_CHANNELS_LEADERLESS_MS": "5000",
        "TIDELOCK_CHANNELS_HEARTBEAT_MS": "1000",
        "TIDELOCK_CHANNELS_CLEAN_AFTER_MS": "0",
    }
    with running_nodes(tmp_path_factory.mktemp("managers"), environment) as nodes:
        yield nodes


@pytest.fixture
async def nodes(processes: Nodes) -> Nodes:
    await processes.put_right()
    return processes


@asynccontextmanager
async def applying(nodes: Nodes, *first: str, discover: bool = True) -> AsyncIterator[Application]:
    """Give an application that knows these nodes, or all; the others it finds by itself."""
    addresses = [nodes.cluster.place(name).url for name in first or nodes.names]
    application = Application(
        addresses, application_id="orders", host="h1", timeout_ms=20_000, discover=discover
    )
    try:
        yield application
    finally:
        await application.aclose(drain_ms=1_000)


async def begin(application: Application) -> str:
    begun = await application.awaiting(lambda client: client.transactions.begin(timeout_ms=60_000))
    return begun.xid


async def branch(application: Application, xid: str, mode: BranchMode, **more: Any) -> int:
    """Register a branch whose first phase is done."""
    session_id = await application.session_id(application.awaiting, timeout_ms=20_000)

    async def work(client: Client) -> int:
        registered = await client.branches.register(
            xid, mode, "db", application_id="orders", session_id=session_id, **more
        )
        await client.branches.report(xid, registered.branch_id, "PHASE_ONE_DONE")
        return registered.branch_id

    return await application.awaiting(work)


async def ended(application: Application, xid: str) -> str:
    """Return how a transaction ended, once it has."""
    ends_at = time.monotonic() + 60
    while True:
        shown = await application.awaiting(lambda client: client.transactions.get(xid))
        if shown.has_ended or shown.has_failed:
            return shown.status
        assert time.monotonic() < ends_at, shown
        await asyncio.sleep(0.05)


async def decide(application: Application, xid: str, *, commit: bool = True) -> None:
    async def work(client: Client) -> None:
        if commit:
            await client.transactions.commit(xid, wait_ms=0)
        else:
            await client.transactions.rollback(xid, wait_ms=0)

    await application.awaiting(work)


def reached(done: list[str], count: int) -> bool:
    return len(done) >= count


async def test_phase_two_comes_through_any_node_and_the_clean_behind_it(nodes: Nodes) -> None:
    for name in nodes.names:
        async with applying(nodes, name) as application:
            application.attach(database := Recording())
            xid = await begin(application)
            branch_id = await branch(application, xid, "AT", application_data={"order": 7})
            await decide(application, xid)
            await until(lambda: "clean" in database.asked, "clean")
            assert [(what, call.xid, call.branch_id) for what, call in database.calls] == [
                ("commit", xid, branch_id),
                ("clean", xid, branch_id),
            ]
            assert database.calls[0][1].application_data == {"order": 7}
            assert database.calls[0][1].phase_one_done


async def test_the_channel_is_at_the_node_that_leads_and_follows_the_lead(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(cluster_client, "_LOOK_EVERY_S", 0.2)
    async with applying(nodes) as application:
        application.attach(database := Recording())
        session_id = await application.session_id(application.awaiting)
        leader = await nodes.leader()
        assert application.health().node == leader
        other = next(name for name in nodes.names if name != leader)
        await nodes.post(leader, "/api/v1/cluster/leader/transfer", {"target": other})
        # Calls go on meanwhile, and none of them is lost.
        while application.health().node != other:
            xid = await begin(application)
            await branch(application, xid, "AT")
            await decide(application, xid)
            assert await ended(application, xid) == "COMMITTED"
        assert await application.session_id(application.awaiting) == session_id
        assert database.asked.count("commit") >= 1


async def test_calls_under_way_are_done_once_though_their_node_is_killed(nodes: Nodes) -> None:
    async with applying(nodes) as application:
        application.attach(Recording())
        await application.session_id(application.awaiting)
        begun: dict[str, str] = {}
        going = True

        async def work(worker: int) -> None:
            while going:
                name = f"killed-{worker}-{len(begun)}"
                answer = await application.awaiting(
                    lambda client, name=name: client.transactions.begin(name, timeout_ms=60_000)  # type: ignore[misc]  # it is bound
                )
                begun[name] = answer.xid

        workers = [asyncio.create_task(work(worker)) for worker in range(8)]
        await until(lambda: len(begun) > 20, "calls are under way")
        held_by = application.health().node
        assert held_by is not None
        nodes.cluster.kill(held_by)
        enough = len(begun) + 50
        await until(lambda: len(begun) > enough, "calls go on")
        going = False
        await asyncio.gather(*workers)

        async def names(client: Client) -> list[tuple[str, str]]:
            listed = client.transactions.list(timeout_ms=60_000, page_size=500)
            return [(each.name, each.xid) async for each in listed]

        found = [each for each in await application.awaiting(names) if "killed-" in each[0]]
        assert sorted(found) == sorted(begun.items())


async def test_a_session_outlives_the_node_that_held_it(nodes: Nodes) -> None:
    async with applying(nodes) as application:
        application.attach(bound := SessionRecording())
        xid = await begin(application)
        await branch(application, xid, "LCN")
        session_id = application.health().session_id
        held_by = application.health().node
        assert held_by is not None
        nodes.cluster.kill(held_by)
        await decide(application, xid)
        assert await ended(application, xid) == "COMMITTED"
        assert "commit" in bound.asked
        assert bound.lost == []
        health = application.health()
        assert health.session_id == session_id
        assert health.node != held_by


async def test_phase_two_goes_on_when_the_leader_is_killed_under_it(nodes: Nodes) -> None:
    leader = await nodes.leader()
    others = [name for name in nodes.names if name != leader]
    # Its channel is at a node that stays.
    async with applying(nodes, *others, discover=False) as application:
        application.attach(database := Recording("db", "XA"))
        database.waits = True
        xid = await begin(application)
        await branch(application, xid, "XA")
        await decide(application, xid)
        await until(lambda: "commit" in database.asked)
        nodes.cluster.kill(leader)
        # The next leader asks what became of it; only one thing is asked of a branch at a time.
        await until(lambda: application.health().waiting > 0 or application.health().repeated > 0)
        database.waits = False
        assert await ended(application, xid) == "COMMITTED"
        assert database.asked[0] == "commit"
        first, last = database.calls[0][1], database.calls[-1][1]
        assert last.epoch > first.epoch


async def test_a_node_that_is_paused_is_left_when_it_is_silent(nodes: Nodes) -> None:
    leader = await nodes.leader()
    others = [name for name in nodes.names if name != leader]
    async with applying(nodes, *others) as application:
        application.attach(bound := SessionRecording())
        await application.session_id(application.awaiting, timeout_ms=20_000)
        held_by = application.health().node
        assert held_by is not None
        nodes.cluster.pause(held_by)
        await until(lambda: application.health().node not in (None, held_by), "another node")
        xid = await begin(application)
        await branch(application, xid, "LCN")
        await decide(application, xid)
        assert await ended(application, xid) == "COMMITTED"
        nodes.cluster.resume(held_by)
        assert bound.lost == []


@pytest.mark.long
async def test_an_application_that_was_away_for_too_long_rolls_back_first(nodes: Nodes) -> None:
    async with applying(nodes) as application:
        application.attach(bound := SessionRecording())
        xid = await begin(application)
        await branch(application, xid, "LCN")
        session_id = application.health().session_id

        async def stall(client: Client) -> None:
            """What a paused process looks like to the cluster: it answers no ping."""
            time.sleep(9)

        await application.awaiting(stall)
        assert await ended(application, xid) == "ROLLED_BACK"
        await until(lambda: bound.lost == [session_id], "the resource is told")
        new = await application.session_id(application.awaiting, timeout_ms=20_000)
        assert new != session_id
        with pytest.raises(TidelockError, match="TRANSACTION"):
            await branch(application, xid, "LCN")


@pytest.mark.long
async def test_every_transaction_ends_while_nodes_die_in_turn(nodes: Nodes) -> None:
    async with applying(nodes) as one, applying(nodes) as other:
        databases = [Recording(), Recording()]
        for application, database in zip((one, other), databases, strict=True):
            application.attach(database)
            await application.session_id(application.awaiting, timeout_ms=20_000)
        xids: list[str] = []
        going = True

        async def work(application: Application) -> None:
            while going:
                try:
                    xid = await begin(application)
                    for each in (one, other):
                        await branch(each, xid, "AT")
                    await decide(application, xid, commit=len(xids) % 2 == 0)
                except TidelockError:
                    # Nobody decided: it times out, or it was decided and nobody said so.
                    continue
                xids.append(xid)

        workers = [asyncio.create_task(work(each)) for each in (one, other) for _ in range(3)]
        for name in nodes.names:
            enough = len(xids) + 5
            nodes.cluster.kill(name)
            await until(partial(reached, xids, enough), f"work goes on without {name}")
            nodes.cluster.start(name)
            await nodes.cluster.wait_until_ready()
        going = False
        await asyncio.gather(*workers)
        for xid in xids:
            assert await ended(one, xid) in ("COMMITTED", "ROLLED_BACK")
        asked = [call for database in databases for call in database.calls]
        committed = {call.xid for what, call in asked if what == "commit"}
        assert not committed & {call.xid for what, call in asked if what == "rollback"}
