"""Leaders die and stand still while clients draw timestamps through every node."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts.tidelock_scripts.chaos.checkers import check_draws
from scripts.tidelock_scripts.chaos.history import Draw
from scripts.tidelock_scripts.chaos.oracle_clients import draw_timestamps
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import bring_up, find_leader
from scripts.tidelock_scripts.local_cluster import LocalCluster, free_base_port
from scripts.tidelock_scripts.terminal import Terminal

CLIENTS_A_NODE = 3
FAILOVERS = 4
LONG_FAILOVERS = 200
ATTEMPT_TIMEOUT_S = 1.0
WITHIN_S = 30.0
LONGEST_STANDSTILL_S = 2.5
"""Behind its successor's election, within the time that a leader reserves ahead."""


@dataclass
class Scene:
    cluster: LocalCluster
    client: ClusterClient
    draws: list[Draw] = field(default_factory=list)
    unexpected: list[object] = field(default_factory=list)

    async def draw(self, via: str) -> None:
        """A client of one node, for as long as it lets us."""
        chance = random.Random(via)
        while True:
            drawn = await draw_timestamps(self.client, via, chance.choice((1, 1, 1_000)))
            if isinstance(drawn, Draw):
                self.draws.append(drawn)
            elif drawn is None:
                await asyncio.sleep(0.02)
            else:
                self.unexpected.append(drawn)

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[None]:
        drawing = [
            asyncio.create_task(self.draw(node_id))
            for node_id in self.cluster.places
            for _ in range(CLIENTS_A_NODE)
        ]
        try:
            yield
        finally:
            for task in drawing:
                task.cancel()
            await asyncio.gather(*drawing, return_exceptions=True)

    async def leader(self, *, but: str | None = None) -> str:
        """Wait for a leader that a quorum confirms, other than the one named."""
        ends_at = time.monotonic() + WITHIN_S
        while time.monotonic() < ends_at:
            leader = await find_leader(self.client, self.cluster)
            if leader not in (None, but):
                return str(leader)
            await asyncio.sleep(0.02)
        raise AssertionError(f"no leader but {but} within {WITHIN_S} s")

    async def draws_through(self, node_ids: set[str]) -> None:
        """Wait until each of these nodes has given timestamps that were asked for from now on."""
        begun_ns, ends_at = time.monotonic_ns(), time.monotonic() + WITHIN_S
        while time.monotonic() < ends_at:
            later = {draw.via for draw in reversed(self.draws) if draw.begun_ns > begun_ns}
            if node_ids <= later:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"no timestamps through all of {sorted(node_ids)}")

    async def kill_leader(self) -> None:
        leader = await self.leader()
        self.cluster.kill(leader)
        await self.draws_through(set(self.cluster.places) - {leader})
        self.cluster.start(leader)

    async def pause_leader(self, standstill_s: float) -> None:
        leader = await self.leader()
        self.cluster.pause(leader)
        await self.leader(but=leader)
        await self.draws_through(set(self.cluster.places) - {leader})
        await asyncio.sleep(standstill_s)
        self.cluster.resume(leader)


@contextlib.asynccontextmanager
async def scene(data_dir: Path) -> AsyncIterator[Scene]:
    cluster = LocalCluster(data_dir, base_port=free_base_port())
    try:
        await bring_up(cluster, Terminal(io.StringIO()))
        async with ClusterClient(cluster.addresses, attempt_timeout_s=ATTEMPT_TIMEOUT_S) as client:
            yield Scene(cluster, client)
    finally:
        cluster.stop()


async def fail_over(times: int, data_dir: Path) -> None:
    seed = secrets.randbelow(1 << 31)
    chance = random.Random(seed)
    async with scene(data_dir) as running, running.clients():
        for number in range(times):
            if number % 2:
                await running.pause_leader(chance.uniform(0.0, LONGEST_STANDSTILL_S))
            else:
                await running.kill_leader()
            await running.draws_through(set(running.cluster.places))
    findings = check_draws(running.draws)
    assert findings == [], f"seed {seed}, data in {data_dir}"
    assert running.unexpected == []
    assert len(running.draws) > 20 * times


@pytest.mark.timeout(240)
async def test_no_timestamp_comes_twice_or_too_late_when_leaders_die_and_stand_still(
    tmp_path: Path,
) -> None:
    await fail_over(FAILOVERS, tmp_path / "cluster")


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_the_same_holds_over_two_hundred_failovers(tmp_path: Path) -> None:
    await fail_over(LONG_FAILOVERS, tmp_path / "cluster")
