"""A hundred watchers follow a cluster whose leaders die and stand still: all are told the log."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.tidelock_scripts.chaos.watch_checks import position_of
from scripts.tidelock_scripts.chaos.watch_clients import mark
from scripts.tidelock_scripts.event_source import Event, Watch
from scripts.tidelock_scripts.events import EVENT_PATH, list_events
from tests.integration.running_cluster import WITHIN_S, RunningCluster, running

WATCHERS = 12
FAILOVERS = 2
LONG_WATCHERS = 100
LONG_FAILOVERS = 40
WRITERS = 6
BETWEEN_S = 1.0
LONGEST_STANDSTILL_S = 2.5


class Digest(Watch):
    """A watch that remembers of what it was told only whether it is the same as another's."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(addresses)
        self._digest = hashlib.sha256()
        self._lately: deque[tuple[str, str]] = deque(maxlen=1_000)

    def told(self, event: Event) -> None:
        self._digest.update(f"{event.last_id} {event.data}\n".encode())
        self._lately.append((event.last_id, self._digest.hexdigest()))

    def upto(self, position: str) -> str:
        """Return the digest of all messages up to a position of late."""
        return dict(self._lately)[position]


class Whole(Digest):
    """One that remembers everything as well."""

    def told(self, event: Event) -> None:
        super().told(event)
        Watch.told(self, event)


async def write(cluster: RunningCluster, number: int, acknowledged: list[str]) -> None:
    """Record events through one node for as long as it lets us, each until it is known."""
    via = f"n{1 + number % 3}"
    while True:
        body = {"nodeId": f"p{number}", "eventType": "WATCHED"}
        answer = await cluster.client.post(EVENT_PATH, body, via=via, deadline_s=WITHIN_S)
        assert answer.ok, answer
        acknowledged.append(answer.body["eventId"])
        await asyncio.sleep(0.01)


async def fail_over(cluster: RunningCluster, times: int, chance: random.Random) -> None:
    for number in range(times):
        leader = await cluster.leader()
        if number % 2:
            cluster.nodes.pause(leader)
            await asyncio.sleep(chance.uniform(0.5, LONGEST_STANDSTILL_S))
            cluster.nodes.resume(leader)
        else:
            await cluster.scene.kill([leader])
            await asyncio.sleep(chance.uniform(0.1, 1.0))
        await cluster.recover()
        await asyncio.sleep(BETWEEN_S)


async def all_have_reached(watches: Sequence[Watch], position: str) -> None:
    ends_at = time.monotonic() + 2 * WITHIN_S
    while any(position_of(watch.last_id) < position_of(position) for watch in watches):
        assert time.monotonic() < ends_at, sorted({watch.last_id for watch in watches})
        await asyncio.sleep(0.05)


async def watch_failovers(data_dir: Path, *, watchers: int, failovers: int) -> None:
    seed = secrets.randbelow(1 << 31)
    acknowledged: list[str] = []
    async with running(data_dir, TIDELOCK_WATCH_HEARTBEAT_MS="500") as cluster:
        addresses = list(cluster.nodes.addresses.values())
        whole = Whole(addresses)
        others = [
            Digest([*addresses[at % 3 :], *addresses[: at % 3]]) for at in range(watchers - 1)
        ]
        watches: list[Digest] = [whole, *others]
        watching = [asyncio.create_task(watch.run()) for watch in watches]
        writing = [
            asyncio.create_task(write(cluster, number, acknowledged)) for number in range(WRITERS)
        ]
        await fail_over(cluster, failovers, random.Random(seed))
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
        last = await mark(cluster.client, "n1", "last")
        await all_have_reached(watches, last)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        stored = sorted(event["eventId"] for event in await list_events(cluster.client, "n2"))
    told = [
        change["eventId"]
        for message in whole.messages
        for change in message["changes"]
        if change["kind"] == "timestamp.event"
    ]
    assert told == stored, f"seed {seed}"
    assert {*acknowledged} <= {*told}
    assert {watch.upto(last) for watch in others} == {whole.upto(last)}, f"seed {seed}"
    # A run in which few had to go on elsewhere would mean little.
    assert sum(watch.connections - 1 for watch in watches) >= failovers * watchers // 12
    assert len(acknowledged) > 20 * failovers


@pytest.mark.timeout(240)
async def test_watchers_are_told_the_log_exactly_when_leaders_die_and_stand_still(
    tmp_path: Path,
) -> None:
    await watch_failovers(tmp_path / "cluster", watchers=WATCHERS, failovers=FAILOVERS)


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_a_hundred_watchers_are_told_the_same_over_forty_failovers(tmp_path: Path) -> None:
    await watch_failovers(tmp_path / "cluster", watchers=LONG_WATCHERS, failovers=LONG_FAILOVERS)
