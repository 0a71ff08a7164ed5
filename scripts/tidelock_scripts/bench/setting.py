"""What the cases work on: a fresh cluster, the echo server beside it, and the requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from scripts.tidelock_scripts.bench import echo
from scripts.tidelock_scripts.bench.figures import Figure
from scripts.tidelock_scripts.bench.load import Measured, Target, build_request, measure
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import bring_up, find_leader
from scripts.tidelock_scripts.events import CLOCK_PATH, EVENT_PATH, TSO_PATH
from scripts.tidelock_scripts.local_cluster import (
    DEFAULT_DATA_DIR,
    NODE_PROGRAM,
    ROOT,
    ClusterError,
    LocalCluster,
    free_base_port,
)
from scripts.tidelock_scripts.terminal import Terminal

CONNECTIONS = 64
EVENTS_A_BATCH = 100
BATCH_PATH = "/api/v1/batch"

_LEADER_WITHIN_S = 15.0
_SETTLED_S = 1.0
_EVENT_DATA = {"orderId": 48213, "amountCents": 12990, "currency": "EUR", "channel": "web"}


@dataclass(slots=True)
class Bench:
    """One run of the bench: its settings, its figures so far, and its clusters."""

    seconds: float
    """How long each rate is measured."""
    events: int
    """How many events the growth case stores."""
    kills: int
    """How often the failover case kills the leader."""
    transactions: int
    """How many finished transactions, or locked rows, the cases of a full cluster store."""
    echo_port: int
    terminal: Terminal
    figures: list[Figure]
    _clusters: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)

    def say(self, text: str) -> None:
        self.terminal.progress(text)

    @contextlib.asynccontextmanager
    async def cluster(self, program: Sequence[str] = NODE_PROGRAM) -> AsyncIterator[BenchCluster]:
        """Give an empty cluster of three; stop and delete it afterwards."""
        data_dir = DEFAULT_DATA_DIR / f"bench-{os.getpid()}-{next(self._clusters)}"
        cluster = LocalCluster(data_dir, base_port=free_base_port(), program=program)
        try:
            await bring_up(cluster, self.terminal)
            async with ClusterClient(cluster.addresses) as client:
                yield BenchCluster(cluster, client)
        finally:
            cluster.stop()
            cluster.remove()

    async def echo_rate(self, seconds: float) -> Measured:
        request = build_request("POST", echo.PATH, event_body("participant-0"))
        target = Target("127.0.0.1", self.echo_port, CONNECTIONS, [request])
        return await measure([target], seconds=seconds)


@dataclass(slots=True)
class BenchCluster:
    cluster: LocalCluster
    client: ClusterClient

    async def leader(self) -> str:
        """Raises ClusterError when nobody leads for long."""
        ends_at = time.monotonic() + _LEADER_WITHIN_S
        while time.monotonic() < ends_at:
            leader = await find_leader(self.client, self.cluster)
            if leader is not None:
                return leader
            await asyncio.sleep(0.01)
        raise ClusterError(f"no node leads after {_LEADER_WITHIN_S:.0f} s")

    async def roles(self) -> dict[str, str]:
        """Return a node id for `leader` and one for `follower`."""
        leader = await self.leader()
        follower = next(node for node in self.cluster.places if node != leader)
        return {"leader": leader, "follower": follower}

    def followers(self, leader: str) -> list[str]:
        return [node for node in self.cluster.places if node != leader]

    def processor_s(self, node_id: str) -> float:
        """Return how much processor time a node has used."""
        process = self.cluster.process(node_id)
        return 0.0 if process is None else process.processor_s()

    async def recover(self) -> None:
        """Start and resume what is down, and return when all are ready and have settled."""
        for node_id in self.cluster.places:
            if not self.cluster.start(node_id) and self.cluster.is_paused(node_id):
                self.cluster.resume(node_id)
        await self.cluster.wait_until_ready()
        await asyncio.sleep(_SETTLED_S)

    def event_target(self, node_id: str, connections: int = CONNECTIONS) -> Target:
        requests = [
            build_request("POST", EVENT_PATH, event_body(f"participant-{number}"))
            for number in range(connections)
        ]
        return Target("127.0.0.1", self.cluster.places[node_id].api_port, connections, requests)

    def clock_target(self, node_id: str, connections: int = CONNECTIONS) -> Target:
        requests = [
            build_request("GET", f"{CLOCK_PATH}/participant-{number}")
            for number in range(connections)
        ]
        return Target("127.0.0.1", self.cluster.places[node_id].api_port, connections, requests)

    def tso_target(self, node_id: str, count: int) -> Target:
        request = build_request("POST", TSO_PATH, msgspec.json.encode({"count": count}))
        return Target("127.0.0.1", self.cluster.places[node_id].api_port, CONNECTIONS, [request])

    def sequence_target(self, node_id: str) -> Target:
        requests = [
            build_request("POST", f"/api/v1/sequences/sequence-{number}/next")
            for number in range(CONNECTIONS)
        ]
        return Target("127.0.0.1", self.cluster.places[node_id].api_port, CONNECTIONS, requests)

    def batch_target(self, node_id: str, connections: int) -> Target:
        requests = [
            build_request("POST", BATCH_PATH, batch_body(f"participant-{number}"))
            for number in range(connections)
        ]
        return Target("127.0.0.1", self.cluster.places[node_id].api_port, connections, requests)


def event_body(participant: str) -> bytes:
    return msgspec.json.encode(_event(participant))


def batch_body(participant: str) -> bytes:
    operation = {"op": "timestamp.event", **_event(participant)}
    return msgspec.json.encode({"operations": [operation] * EVENTS_A_BATCH})


def _event(participant: str) -> dict[str, object]:
    return {"nodeId": participant, "eventType": "ORDER_PAID", "eventData": _EVENT_DATA}


def echo_server() -> contextlib.AbstractAsyncContextManager[int]:
    """Run the yardstick in a process of its own and give its port."""
    return side_server(echo.__name__)


@contextlib.asynccontextmanager
async def side_server(module: str) -> AsyncIterator[int]:
    """Run a server that prints its port and ends with its standard input; give the port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", module),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()
