"""The leader dies wherever a resource manager writes or is asked: it ends as it was decided."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from statemachine.commands import EndChannel
from statemachine.transactions.channel_rows import get_session
from tests.integration.engines import eventually, loop_cluster
from tests.integration.services.dying_manager import Ledger
from tests.sdk.deaths import CHANNELS, assert_all_is_over, dying_leader
from tidelock import Application
from tidelock.client import Client
from tidelock.crash_points import POINTS, watched

pytestmark = pytest.mark.timeout(120)

OF_A_LOST_SESSION = ("rm.before-lost", "rm.after-lost")
QUICK = ("rm.after-call", "rm.before-lost")


@pytest.mark.parametrize("dies", ["leader"])
@pytest.mark.parametrize(
    "point",
    [
        pytest.param(name, marks=() if name in QUICK else (pytest.mark.long,))
        for name in POINTS
        if name.startswith("rm.")
    ],
)
async def test_what_was_decided_is_done(tmp_path: Path, dies: str, point: str) -> None:
    assert dies == "leader"
    is_lost = point in OF_A_LOST_SESSION
    ledger = Ledger(str(tmp_path / "ledger"), "LCN" if is_lost else "AT")
    async with loop_cluster(tmp_path / "nodes", 3, channels=CHANNELS) as cluster:
        dying, stopping = await dying_leader(cluster, point)
        application = Application(
            [node.url for node in cluster.nodes], application_id="orders", discover=False
        )
        looking = Application(
            [node.url for node in cluster.nodes], application_id="looking", discover=False
        )
        numbers: list[int] = []

        async def begin(client: Client) -> str:
            xid = (await client.transactions.begin(timeout_ms=60_000)).xid
            branch = await client.branches.register(
                xid, ledger.mode, "ledger", session_id=numbers[0], application_id="orders"
            )
            ledger.begin(xid)
            await client.branches.report(xid, branch.branch_id, "PHASE_ONE_DONE")
            return xid

        with watched(dying):
            application.attach(ledger)
            numbers.append(await application.session_id(application.awaiting, timeout_ms=30_000))
            xid = await application.awaiting(begin)
            if is_lost:
                leader = await cluster.leader()
                session = get_session(leader.engine.machine_store, numbers[0])
                assert session is not None
                ending = EndChannel(session_id=numbers[0], connection=session.connection)
                await cluster.do(ending)
                await cluster.until(xid, "ROLLED_BACK")
                await eventually(lambda: ledger.lost == numbers, "it is told of its lost session")
            else:
                await application.awaiting(
                    lambda client: client.transactions.commit(xid, wait_ms=0)
                )
                await cluster.until(xid, "COMMITTED")
                await eventually(lambda: xid in ledger.cleaned, "it is cleaned")
                assert ledger.states() == {xid: "committed"}
                assert ledger.guards() == []
            await assert_all_is_over(cluster, looking)
            await application.aclose(drain_ms=1_000)
        assert dying.has_died.is_set()
        await looking.aclose(drain_ms=1_000)
        await asyncio.gather(*stopping)
