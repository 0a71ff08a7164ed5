"""Holders of locks stand still beyond their leases, and write on as if nothing had happened.

The holders are processes that are stopped by a signal, the nodes are processes too. The resource to
which they write asks the cluster about each token. It must take nothing from a holder whose lock is
another's by then.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from scripts.tidelock_scripts.cluster_command import bring_up
from scripts.tidelock_scripts.local_cluster import ROOT, LocalCluster, free_base_port
from scripts.tidelock_scripts.terminal import Terminal

PAUSE_S = 5.0
HOLDERS = 4
PAUSES = 8
LONG_HOLDERS = 20
LONG_PAUSES = 1_000
WITHIN_S = 30.0

PROGRAM = (sys.executable, "-P", "-m", "scripts.tidelock_scripts.chaos.lock_holder")


class Resource:
    """Takes a write when the cluster calls its token valid; remembers what it took and refused."""

    def __init__(self, session: ClientSession, urls: list[str]) -> None:
        self._session = session
        self._urls = urls
        self._granted: dict[str, int] = {}
        """The greatest token of each lock that is known to have been granted."""
        self.accepted: Counter[tuple[str, int]] = Counter()
        self.refused: Counter[tuple[str, int]] = Counter()
        self.wrong: list[tuple[str, int, int]] = []
        """Lock, token, and the greater one that was granted before the write began."""

    def grant(self, lock: str, token: int) -> None:
        self._granted[lock] = max(token, self._granted.get(lock, 0))

    async def write(self, request: web.Request) -> web.Response:
        asked = await request.json()
        lock, token = asked["lock"], asked["fencingToken"]
        known = self._granted.get(lock, 0)
        url = self._urls[token % len(self._urls)]
        async with self._session.post(
            f"{url}/api/v1/locks/{lock}/verify", json={"fencingToken": token}
        ) as answered:
            verdict: Any = await answered.json()
        valid = answered.status == 200 and verdict["valid"]
        (self.accepted if valid else self.refused)[(lock, token)] += 1
        if valid and token < known:
            self.wrong.append((lock, token, known))
        if valid:
            self.grant(lock, token)
        return web.json_response({"written": valid}, status=200 if valid else 409)

    async def until(self, counted: Counter[tuple[str, int]], lock: str, after: int) -> int:
        """Wait until a token of the lock above `after` is counted; return it."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = [token for name, token in counted if name == lock and token > after]
                if found:
                    return max(found)
                await asyncio.sleep(0.01)


@asynccontextmanager
async def served(resource: Resource) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/write", resource.write)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def holder(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *arguments,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def pause_one(
    cluster: LocalCluster, resource: Resource, address: str, at: int, times: int
) -> int:
    """Stop a holder of a lock again and again; return how often it wrote with a stale token."""
    lock = f"lock-{at}"
    nodes = [cluster.place(f"n{1 + (at + turn) % 3}") for turn in range(3)]
    stale = 0
    async with holder(nodes[0].api_address, address, lock, "paused") as process:
        last = 0
        for _ in range(times):
            token = await resource.until(resource.accepted, lock, last)
            process.send_signal(signal.SIGSTOP)
            try:
                last = await succeed(resource, nodes[1].url, lock, token)
            finally:
                process.send_signal(signal.SIGCONT)
            refused = Counter(resource.refused)
            async with asyncio.timeout(WITHIN_S):
                while resource.refused[(lock, token)] == refused[(lock, token)]:
                    assert resource.wrong == []
                    await asyncio.sleep(0.01)
            stale += 1
            await give_back(resource, nodes[2].url, lock, last)
    return stale


async def succeed(resource: Resource, url: str, lock: str, before: int) -> int:
    """Get the lock after one who stands still, and hold it until the pause is over."""
    begun = asyncio.get_running_loop().time()
    body = {"owner": "successor", "ttlMs": 60_000, "waitMs": 60_000}
    async with (
        ClientSession() as session,
        session.post(f"{url}/api/v1/locks/{lock}/acquire", json=body) as answered,
    ):
        lease = await answered.json()
    assert answered.status == 200, lease
    token = int(lease["fencingToken"])
    assert token > before
    resource.grant(lock, token)
    waited_s = asyncio.get_running_loop().time() - begun
    await asyncio.sleep(max(0.0, PAUSE_S - waited_s))
    return token


async def give_back(resource: Resource, url: str, lock: str, token: int) -> None:
    body = {"owner": "successor", "fencingToken": token}
    async with (
        ClientSession() as session,
        session.post(f"{url}/api/v1/locks/{lock}/release", json=body) as answered,
    ):
        assert answered.status == 200, await answered.text()


async def pause_holders(data_dir: Path, *, holders: int, pauses: int) -> None:
    cluster = LocalCluster(data_dir, base_port=free_base_port())
    try:
        await bring_up(cluster, Terminal(io.StringIO()))
        async with ClientSession() as session:
            resource = Resource(session, [place.url for place in cluster.places.values()])
            async with served(resource) as address:
                paused = await asyncio.gather(
                    *(
                        pause_one(cluster, resource, address, at, pauses // holders)
                        for at in range(holders)
                    )
                )
    finally:
        cluster.stop()
    assert resource.wrong == []
    assert sum(paused) == pauses
    assert sum(resource.accepted.values()) >= pauses


@pytest.mark.timeout(240)
async def test_no_write_of_a_holder_is_taken_that_stood_still_beyond_its_lease(
    tmp_path: Path,
) -> None:
    await pause_holders(tmp_path / "cluster", holders=HOLDERS, pauses=PAUSES)


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_the_same_holds_over_a_thousand_pauses(tmp_path: Path) -> None:
    await pause_holders(tmp_path / "cluster", holders=LONG_HOLDERS, pauses=LONG_PAUSES)
