"""The shipped HAProxy configuration before real nodes: who cannot serve leaves the rotation and
comes back, and nobody loses anything by it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from node.config import HttpConfig, WatchConfig
from scripts.tidelock_scripts.chaos.network import Disturbance
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.event_source import Watch
from scripts.tidelock_scripts.events import CLOCK_PATH, EVENT_PATH, list_events
from tests.integration.haproxy import CONFIGURATION, Balancer, balancing
from tests.integration.running_cluster import WITHIN_S, RunningCluster, running

pytestmark = [
    pytest.mark.haproxy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

EVERYBODY = {"n1", "n2", "n3"}


class Site:
    """A cluster and the balancer in front of it."""

    def __init__(self, cluster: RunningCluster, balancer: Balancer) -> None:
        self.cluster = cluster
        self.balancer = balancer

    async def check_history(self, load: Load) -> None:
        """See that every write was done once, and that watches told the same."""
        stored = await list_events(self.cluster.client, "n1")
        of_load = [each for each in stored if each["eventType"] == load.name]
        times = Counter(tuple(each["eventData"]) for each in of_load)
        assert times == Counter(load.written), "an event is missing, or there twice"
        last = max(each["eventId"] for each in of_load)
        ends_at = time.monotonic() + WITHIN_S
        while last not in (told := load.told()):
            assert time.monotonic() < ends_at, "the watch does not get to the last event"
            await asyncio.sleep(0.05)
        assert told == sorted(each["eventId"] for each in of_load)


class Load:
    """Clients that know the balancer only. Each repeats a request, under its key, until it is done;
    none may give up.
    """

    def __init__(self, name: str, site: Site) -> None:
        self.name = name
        self.written: list[tuple[int, int]] = []
        """What was acknowledged, as (writer, number)."""
        self.watch = Watch([site.balancer.clients], query="")
        self._address = site.balancer.clients
        self._stopping = False

    def told(self) -> list[str]:
        """Return the ids of this load's events, as the watch told them."""
        return [
            change["eventId"]
            for message in self.watch.messages
            for change in message["changes"]
            if change.get("eventType") == self.name
        ]

    async def run(self) -> None:
        async with ClusterClient({"balancer": self._address}) as client:
            await asyncio.gather(
                *(self._write(client, number) for number in range(6)),
                *(self._read(client) for _ in range(2)),
            )

    def stop(self) -> None:
        self._stopping = True

    async def _write(self, client: ClusterClient, writer: int) -> None:
        number = 0
        while not self._stopping:
            body = {
                "nodeId": f"{self.name}-{writer}",
                "eventType": self.name,
                "eventData": [writer, number],
            }
            answer = await client.post(EVENT_PATH, body, via="balancer", deadline_s=WITHIN_S)
            assert answer.ok, answer
            self.written.append((writer, number))
            number += 1

    async def _read(self, client: ClusterClient) -> None:
        before = 0
        while not self._stopping:
            path = f"{CLOCK_PATH}/{self.name}-0"
            answer = await client.get(path, via="balancer", deadline_s=WITHIN_S)
            assert answer.ok, answer
            # Whichever node answers: never older than what was read before.
            assert answer.body["lamportTimestamp"] >= before
            before = answer.body["lamportTimestamp"]
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("balanced")
    async with running(folder / "cluster", TIDELOCK_WATCH_HEARTBEAT_MS="500") as cluster:
        ports = {node: place.api_port for node, place in cluster.nodes.places.items()}
        async with balancing(ports, folder) as balancer:
            yield Site(cluster, balancer)


@asynccontextmanager
async def load_on(site: Site, name: str) -> AsyncIterator[Load]:
    """Work all the time; afterwards everybody is back in rotation, and the history is right."""
    load = Load(name, site)
    watching = asyncio.create_task(load.watch.run())
    try:
        async with asyncio.timeout(WITHIN_S):
            while not load.watch.last_id:
                await asyncio.sleep(0.01)
        working = asyncio.create_task(load.run())
        try:
            yield load
            await site.cluster.recover()
            await site.balancer.expect(EVERYBODY)
        finally:
            load.stop()
            await working
        await site.check_history(load)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await site.cluster.recover()


async def progress(load: Load, count: int = 20) -> None:
    """Wait until so many more writes are done."""
    wanted = len(load.written) + count
    ends_at = time.monotonic() + WITHIN_S
    while len(load.written) < wanted:
        assert time.monotonic() < ends_at, "nothing is written any more"
        await asyncio.sleep(0.01)


LEADER_AT_LENGTH = ["follower", pytest.param("leader", marks=pytest.mark.long)]
FOLLOWER_AT_LENGTH = ["leader", pytest.param("follower", marks=pytest.mark.long)]


@pytest.mark.parametrize("role", FOLLOWER_AT_LENGTH)
async def test_a_killed_node_leaves_and_comes_back(site: Site, role: str) -> None:
    async with load_on(site, f"kill-{role}") as load:
        await progress(load)
        victim = await victim_of(site, role)
        await site.cluster.scene.kill([victim])
        await site.balancer.expect(EVERYBODY - {victim})
        await progress(load)


@pytest.mark.parametrize("role", LEADER_AT_LENGTH)
async def test_a_paused_node_leaves_and_comes_back(site: Site, role: str) -> None:
    """It takes connections and answers nothing: only its checks tell."""
    async with load_on(site, f"pause-{role}") as load:
        await progress(load)
        victim = await victim_of(site, role)
        site.cluster.nodes.pause(victim)
        await site.balancer.expect(EVERYBODY - {victim})
        await progress(load)


@pytest.mark.parametrize("role", LEADER_AT_LENGTH)
@pytest.mark.parametrize("how", ["both ways", "not heard"])
async def test_a_node_that_is_cut_off_leaves_and_comes_back(
    site: Site, role: str, how: str
) -> None:
    """It answers its checks in time and says that it cannot serve, also when it only is not heard
    by the others.
    """
    async with load_on(site, f"{how}-{role}") as load:
        await progress(load)
        victim = await victim_of(site, role)
        others = site.cluster.others(victim)
        network = site.cluster.scene.network
        pairs = [(victim, other) for other in others]
        if how == "both ways":
            pairs += [(other, victim) for other in others]
        await network.disturb(pairs, Disturbance.STALL)
        await site.balancer.expect(EVERYBODY - {victim})
        await progress(load)


async def victim_of(site: Site, role: str) -> str:
    return await (site.cluster.leader() if role == "leader" else site.cluster.follower())


async def test_the_way_to_the_leader_leads_to_the_new_one(site: Site) -> None:
    async with ClusterClient({"balancer": site.balancer.writers}) as client:
        for _ in range(2):
            leader = await site.cluster.leader()
            await site.balancer.expect({leader}, "leader")
            answer = await client.post(
                EVENT_PATH, {"eventType": "e"}, via="balancer", deadline_s=WITHIN_S
            )
            # Without a `nodeId` it is the serving node's event.
            assert answer.body["nodeId"] == leader
            await site.cluster.scene.kill([leader])
            after = await client.post(
                EVENT_PATH, {"eventType": "e"}, via="balancer", deadline_s=WITHIN_S
            )
            assert after.ok
            await site.cluster.recover()


async def test_a_watch_is_passed_on_as_it_comes(site: Site) -> None:
    """One event at a time: each must come through before the next one is written."""
    watch = Watch([site.balancer.clients], query="?kinds=timestamp.event")
    watching = asyncio.create_task(watch.run())
    try:
        for count in range(5):
            async with asyncio.timeout(WITHIN_S):
                while not watch.last_id or len(watch.messages) < count:
                    await asyncio.sleep(0.01)
            await site.cluster.client.post(EVENT_PATH, {"eventType": "e"}, via="n1")
        assert watch.connections == 1
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def timeouts() -> dict[str, float]:
    """Return those of the configuration, in seconds."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    found = re.findall(
        r"^ +timeout ([\w-]+) (\d+)(ms|s|m|h)$", CONFIGURATION.read_text(), re.MULTILINE
    )
    return {name: int(count) * units[unit] for name, count, unit in found}


async def test_no_timeout_cuts_what_may_take_long() -> None:
    longest_s = max(HttpConfig().max_timeout_ms, WatchConfig().heartbeat_ms) / 1000
    for name in ("client", "server", "tunnel"):
        assert timeouts()[name] > longest_s + 10
