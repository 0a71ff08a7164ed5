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

from scripts.tidelock_scripts.chaos.numbered_events import NumberedWatcher, NumberedWriter
from scripts.tidelock_scripts.chaos.watch_checks import position_of
from scripts.tidelock_scripts.chaos.watch_clients import mark
from scripts.tidelock_scripts.event_source import Event, Watch
from scripts.tidelock_scripts.events import EVENT_PATH, list_events
from scripts.tidelock_scripts.processes import anonymous_memory_bytes
from tests.integration.running_cluster import WITHIN_S, RunningCluster, running

WATCHERS = 12
FAILOVERS = 2
LONG_WATCHERS = 100
LONG_FAILOVERS = 40
WRITERS = 6
FULL_RATE_PER_S = 2_000
RATE_PER_S = 400
SLOW_WATCHERS = 8
MIB = 1 << 20
GREATEST_GROWTH_MIB = 96
"""Of a node's memory while watchers read nothing: what they do not take would be more."""
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
        await (pause_leader if number % 2 else kill_leader)(cluster, chance)
        await asyncio.sleep(BETWEEN_S)


async def kill_leader(cluster: RunningCluster, chance: random.Random) -> None:
    await kill(cluster, await cluster.leader(), chance)


async def kill(cluster: RunningCluster, node_id: str, chance: random.Random) -> None:
    await cluster.scene.kill([node_id])
    await asyncio.sleep(chance.uniform(0.1, 1.0))
    await cluster.recover()


async def pause_leader(cluster: RunningCluster, chance: random.Random) -> None:
    leader = await cluster.leader()
    cluster.nodes.pause(leader)
    await asyncio.sleep(chance.uniform(0.5, LONGEST_STANDSTILL_S))
    cluster.nodes.resume(leader)
    await cluster.recover()


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


# --- at a steady rate, all watchers at one node, some of which read nothing


class Memory:
    """What the nodes' memory came to; a node that was started again begins anew."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster
        self._first: dict[int, float] = {}
        self.greatest_growth_mib = 0.0

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for node_id in self._cluster.nodes.places:
                process = self._cluster.nodes.process(node_id)
                if process is not None:
                    self._look_at(process.pid)

    def _look_at(self, pid: int) -> None:
        try:
            mib = anonymous_memory_bytes(pid) / MIB
        except OSError:
            return  # it was killed just now
        growth_mib = mib - self._first.setdefault(pid, mib)
        self.greatest_growth_mib = max(self.greatest_growth_mib, growth_mib)


async def watch_at_a_rate(
    data_dir: Path, *, watchers: int, per_second: int, failovers: int, calm_s: float
) -> None:
    chance = random.Random(secrets.randbelow(1 << 31))
    async with running(data_dir, TIDELOCK_WATCH_HEARTBEAT_MS="500") as cluster:
        leader = await cluster.leader()
        # All of them at one follower; when that is gone, all at the next one.
        order = [*cluster.others(leader), leader]
        ports = [cluster.nodes.place(node_id).api_port for node_id in order]
        readers = [NumberedWatcher(ports) for _ in range(watchers)]
        slow = [NumberedWatcher(ports, reads=False) for _ in range(SLOW_WATCHERS)]
        for each in (*readers, *slow):
            await each.start()
        writer = NumberedWriter(cluster.client, order, per_second)
        memory = Memory(cluster)
        begun = time.monotonic()
        writing = asyncio.create_task(writer.run())
        watching = asyncio.create_task(memory.watch())
        for number in range(failovers):
            await asyncio.sleep(calm_s)
            if number % 3 == 2:
                # All who watch go on at another node, at once.
                await kill(cluster, order[ports.index(readers[0].port)], chance)
            else:
                await (pause_leader if number % 3 else kill_leader)(cluster, chance)
        await asyncio.sleep(calm_s)
        writer.end()
        await writing
        elapsed_s = time.monotonic() - begun
        watching.cancel()
        for each in slow:
            each.begin_to_read()
        await told_all([*readers, *slow], writer.sent)
        for each in (*readers, *slow):
            each.close()
    print(
        f"{watchers} watchers of one node and {SLOW_WATCHERS} that did not read: {writer.sent} "
        f"events in {elapsed_s:.0f} s, {writer.sent / elapsed_s:.0f} a second, {failovers} "
        f"failovers, {sum(each.connections for each in readers)} connections, memory of a node "
        f"grew by {memory.greatest_growth_mib:.0f} MiB"
    )
    assert [wrong for each in (*readers, *slow) for wrong in each.wrong] == []
    assert all(each.connections > 1 for each in readers)
    assert memory.greatest_growth_mib < GREATEST_GROWTH_MIB


async def told_all(watchers: Sequence[NumberedWatcher], sent: int) -> None:
    ends_at = time.monotonic() + 4 * WITHIN_S
    while any(watcher.seen < sent and not watcher.wrong for watcher in watchers):
        assert time.monotonic() < ends_at, sorted({watcher.seen for watcher in watchers})
        await asyncio.sleep(0.05)


@pytest.mark.timeout(240)
async def test_watchers_of_one_node_miss_and_repeat_nothing_at_a_steady_rate(
    tmp_path: Path,
) -> None:
    await watch_at_a_rate(
        tmp_path / "cluster", watchers=20, per_second=RATE_PER_S, failovers=3, calm_s=1.0
    )


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_a_hundred_watchers_of_one_node_at_two_thousand_events_a_second_through_failovers(
    tmp_path: Path,
) -> None:
    await watch_at_a_rate(
        tmp_path / "cluster",
        watchers=LONG_WATCHERS,
        per_second=FULL_RATE_PER_S,
        failovers=LONG_FAILOVERS // 2,
        calm_s=5.0,
    )
