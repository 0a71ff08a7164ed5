"""A resource manager that dies anywhere leaves nothing half done, and nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node.config import ChannelsConfig
from statemachine.commands import EndChannel
from statemachine.transactions.channel_rows import get_session, sessions_of_node
from statemachine.transactions.cleaning_rows import resources_to_clean
from tests.integration.engines import LoopCluster, eventually, loop_cluster
from tests.integration.services.dying_manager import Ledger
from tests.integration.services.running import ROOT
from tidelock import Application
from tidelock.crash_points import POINTS, VARIABLE

pytestmark = pytest.mark.timeout(120)

CHANNELS = ChannelsConfig(grace_ms=1_000, leaderless_ms=60_000, clean_after_ms=0)

OF_A_LOST_SESSION = ["rm.before-lost", "rm.after-lost"]
OF_THE_RUNTIME = [name for name in POINTS if name.startswith("rm.")]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LoopCluster]:
    async with loop_cluster(tmp_path / "nodes", 1, channels=CHANNELS) as found:
        await found.leader()
        yield found


@asynccontextmanager
async def running(
    cluster: LoopCluster, path: Path, point: str, mode: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.services.dying_manager"),
        *(cluster.nodes[0].url, str(path), mode),
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            VARIABLE: point,
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode().split()


async def go_on(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    try:
        await process.stdin.drain()
    except ConnectionError:
        # It has died already.
        return


async def died(process: asyncio.subprocess.Process, point: str) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(60):
        said = await process.stderr.read()
        assert await process.wait() == -signal.SIGKILL, said
    assert f"killed at {point}\n".encode() in said


@asynccontextmanager
async def another(cluster: LoopCluster, ledger: Ledger) -> AsyncIterator[Application]:
    """Give another process of the application, in place of the one that died."""
    application = Application(
        [cluster.nodes[0].url], application_id="orders", host="h1", discover=False
    )
    application.attach(ledger)
    try:
        yield application
    finally:
        await application.aclose(drain_ms=1_000)


async def nothing_is_left(cluster: LoopCluster, ledger: Ledger) -> None:
    """Wait until no guard, no branch to clean and no session of the dead is there."""
    leader = await cluster.leader()
    store = leader.engine.machine_store
    await eventually(lambda: resources_to_clean(store, "", 10) == [], "nothing is to be cleaned")
    assert ledger.guards() == []
    await eventually(lambda: len(sessions_of_node(store, "n1", 10)) == 1, "one session is left")


@pytest.mark.parametrize(
    "point", [point for point in OF_THE_RUNTIME if point not in OF_A_LOST_SESSION]
)
async def test_what_was_decided_is_done_by_another_process(
    cluster: LoopCluster, tmp_path: Path, point: str
) -> None:
    path = tmp_path / "ledger"
    async with running(cluster, path, point, "AT") as process:
        ready = await line_of(process)
        if ready:
            await go_on(process)
            if await line_of(process) == ["cleaned"]:
                await go_on(process)
        await died(process, point)
    ledger = Ledger(str(path), "AT")
    async with another(cluster, ledger):
        if ready:
            xid = ready[2]
            await cluster.until(xid, "COMMITTED")
            assert ledger.states() == {xid: "committed"}
        else:
            assert ledger.states() == {}
        await nothing_is_left(cluster, ledger)


@pytest.mark.parametrize("point", OF_A_LOST_SESSION)
async def test_what_ended_with_a_session_is_rolled_back_whoever_dies_of_it(
    cluster: LoopCluster, tmp_path: Path, point: str
) -> None:
    path = tmp_path / "ledger"
    async with running(cluster, path, point, "LCN") as process:
        _, number, xid = await line_of(process)
        leader = await cluster.leader()
        session = get_session(leader.engine.machine_store, int(number))
        assert session is not None
        await cluster.do(EndChannel(session_id=int(number), connection=session.connection))
        await died(process, point)
    await cluster.until(xid, "ROLLED_BACK")


async def test_a_process_in_which_no_point_is_armed_goes_through_them_all(
    cluster: LoopCluster, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    async with running(cluster, path, "rm.before-lost", "AT") as process:
        _, _, xid = await line_of(process)
        await go_on(process)
        assert await line_of(process) == ["cleaned"]
        await go_on(process)
        async with asyncio.timeout(60):
            _, said = await process.communicate()
        assert process.returncode == 0, said
    ledger = Ledger(str(path), "AT")
    assert ledger.states() == {xid: "committed"}
    assert ledger.guards() == []
    leader = await cluster.leader()
    assert sessions_of_node(leader.engine.machine_store, "n1", 10) == []
