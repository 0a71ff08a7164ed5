"""Watching a cluster whose nodes are killed and paused: every watcher is told the log, exactly."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from api.watch_messages import KINDS
from scripts.tidelock_scripts.event_source import WATCH_PATH, EventParser, Watch
from scripts.tidelock_scripts.events import EVENT_PATH, list_events
from tests.integration.running_cluster import WITHIN_S, RunningCluster, running

CALM_S = 0.7
"""How long the cluster is left alone between two faults: long enough for some hundred events."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RunningCluster]:
    async with running(tmp_path / "cluster", TIDELOCK_WATCH_HEARTBEAT_MS="500") as made:
        yield made


class Writers:
    """Clients that write through every node until they are told to stop, and repeat what is
    unknown.
    """

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster
        self._stopping = False
        self.acknowledged: list[str] = []
        """Ids of events."""

    async def write(self, node_id: str, number: int) -> None:
        while not self._stopping:
            body = {"nodeId": f"p{number}", "eventType": f"through-{node_id}"}
            answer = await self._cluster.client.post(
                EVENT_PATH, body, via=node_id, deadline_s=WITHIN_S
            )
            assert answer.ok, answer
            self.acknowledged.append(answer.body["eventId"])

    def stop(self) -> None:
        self._stopping = True


@asynccontextmanager
async def watched(cluster: RunningCluster, queries: Sequence[str]) -> AsyncIterator[list[Watch]]:
    """Give watches that begin at different nodes and go on at the others when they are cut."""
    addresses = list(cluster.nodes.addresses.values())
    watches = [
        Watch([*addresses[at % 3 :], *addresses[: at % 3]], query=query)
        for at, query in enumerate(queries)
    ]
    running = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        yield watches
    finally:
        for task in running:
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


def last_position(watch: Watch) -> tuple[int, int]:
    entry, _, place = watch.last_id.partition(".")
    return int(entry or 0), int(place or 0)


async def caught_up(watches: Sequence[Watch], index: str) -> None:
    entry, _, place = index.partition(".")
    ends_at = time.monotonic() + WITHIN_S
    while min(map(last_position, watches)) < (int(entry), int(place)):
        assert time.monotonic() < ends_at, [watch.last_id for watch in watches]
        await asyncio.sleep(0.02)


async def each_connected(watches: Sequence[Watch], times: int) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while min(watch.connections for watch in watches) < times:
        assert time.monotonic() < ends_at, [watch.connections for watch in watches]
        await asyncio.sleep(0.02)


async def cut_at_random(watches: Sequence[Watch]) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.02, 0.3))
        random.choice(watches).cut()


async def disturb(cluster: RunningCluster) -> None:
    """Kill the leader, pause a follower, stop another node in order; always a minority."""
    nodes = cluster.nodes
    await asyncio.sleep(CALM_S)
    await cluster.scene.kill([await cluster.leader()])
    await asyncio.sleep(CALM_S)
    await cluster.recover()
    paused = await cluster.follower()
    nodes.pause(paused)
    await asyncio.sleep(3 * CALM_S)
    nodes.resume(paused)
    await asyncio.sleep(CALM_S)
    stopped = await cluster.follower()
    await cluster.scene.stop([stopped])
    await asyncio.sleep(CALM_S)
    await cluster.recover()
    await asyncio.sleep(CALM_S)


def of_kind(watch: Watch, kind: str) -> list[dict[str, Any]]:
    return [
        change
        for message in watch.messages
        for change in message["changes"]
        if change["kind"] == kind
    ]


@pytest.mark.timeout(180)
async def test_watchers_that_change_nodes_under_faults_are_told_the_log_exactly(
    cluster: RunningCluster,
) -> None:
    everything = ["?from=0"] * 6
    filtered = ["?from=0&kinds=timestamp.*"] * 3
    writers = Writers(cluster)
    async with watched(cluster, [*everything, *filtered]) as watches:
        cutting = asyncio.create_task(cut_at_random(watches))
        writing = [
            asyncio.create_task(writers.write(node_id, number))
            for number, node_id in enumerate([*cluster.nodes.places] * 2)
        ]
        await disturb(cluster)
        # A run in which nobody had to go on elsewhere would mean nothing.
        await each_connected(watches, 4)
        writers.stop()
        await asyncio.gather(*writing)
        cutting.cancel()
        last = await cluster.client.post(
            EVENT_PATH, {"nodeId": "last", "eventType": "last"}, via="n1", deadline_s=WITHIN_S
        )
        event_id = last.body["eventId"]
        await caught_up(watches, f"{int(event_id[:16], 16)}.{int(event_id[16:], 16)}")

    # The log as the state keeps it, found over another path.
    stored = await list_events(cluster.client, "n2")
    by_commit = sorted(stored, key=lambda event: str(event["eventId"]))
    assert len(by_commit) >= len(writers.acknowledged) >= 300
    assert {*writers.acknowledged} <= {event["eventId"] for event in by_commit}
    for watch in watches:
        told = of_kind(watch, "timestamp.event")
        assert [{"kind": "timestamp.event", **event} for event in by_commit] == told
    first, *others = watches[: len(everything)]
    for watch in others:
        assert watch.messages == first.messages
    positions = [message["id"] for message in first.messages]
    assert len({*positions}) == len(positions)


@pytest.mark.timeout(120)
async def test_a_node_that_is_watched_ends_when_it_is_asked_to(cluster: RunningCluster) -> None:
    """A server waits for its handlers for a minute, and a watch has no end of its own."""
    async with watched(cluster, [""] * 9) as watches:
        async with asyncio.timeout(WITHIN_S):
            while not all(watch.last_id for watch in watches):
                await asyncio.sleep(0.02)
        process = cluster.nodes.process("n1")
        assert process is not None
        process.send(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait_until_gone, WITHIN_S)


def anonymous_bytes(pid: int) -> int:
    """Return the memory that is the process's own: what it maps of the state is not."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", status)
    return int(kilobytes) << 10


@pytest.mark.timeout(180)
async def test_clients_that_do_not_read_cost_a_node_little_and_get_everything_later(
    cluster: RunningCluster,
) -> None:
    place = cluster.nodes.place("n2")
    process = cluster.nodes.process("n2")
    assert process is not None
    # Each with a filter of its own, or all would be given the same bytes, which cost once.
    others = [kind for kind in KINDS if not kind.startswith("timestamp")]
    filters = [f"timestamp.*,{a},{b}" for a, b in combinations(others, 2)][:20]
    unread = [_connect_unread(place.api_port, kinds) for kinds in filters]
    before = anonymous_bytes(process.pid)
    operation = {
        "op": "timestamp.event",
        "nodeId": "a",
        "eventType": "e",
        "eventData": "x" * 50_000,
    }
    count = 0
    for _ in range(80):
        answer = await cluster.client.post(
            "/api/v1/batch", {"operations": [operation] * 10}, via="n2", deadline_s=WITHIN_S
        )
        assert answer.ok
        count += len(answer.body["results"])
    # Kept for each of them it would be 800 MB. What a node keeps in memory anyway is some tens.
    assert anonymous_bytes(process.pid) - before < 200 << 20
    for each in unread[:2]:
        told = await asyncio.to_thread(_read_events, each, count)
        assert len({*told}) == count == len(told)
        assert told == sorted(told)
    for each in unread:
        each.close()


def _connect_unread(port: int, kinds: str) -> socket.socket:
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connected.connect(("127.0.0.1", port))
    path = f"{WATCH_PATH}?from=0&kinds={kinds}"
    connected.sendall(f"GET {path} HTTP/1.1\r\nHost: n\r\n\r\n".encode())
    connected.settimeout(WITHIN_S)
    return connected


def _read_events(connected: socket.socket, count: int) -> list[tuple[int, int]]:
    """Return the positions of the next so many messages that tell of events."""
    parser = EventParser()
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connected.recv(1)
    found: list[tuple[int, int]] = []
    while len(found) < count:
        content = connected.recv(1 << 16)
        assert content, "the stream ended"
        for event in parser.feed(content):
            if event.name == "message" and '"timestamp.event"' in event.data:
                entry, _, place = event.last_id.partition(".")
                found.append((int(entry), int(place)))
    return found
