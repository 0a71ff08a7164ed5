"""Real engines with their drivers in the test's own loop: files, sockets and HTTP, no processes."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from pysyncobj import monotonic as library_monotonic
from pysyncobj import syncobj as library

from api.app import build_app
from api.connections import ApiRunner
from api.metrics import Metrics
from api.settings import ApiSettings
from node.cluster import EngineCluster
from node.config import (
    ChannelsConfig,
    DeliveryConfig,
    EventsConfig,
    SyncConfig,
    TransactionsConfig,
    WatchConfig,
)
from node.consensus.disk import FileDisk
from node.consensus.engine import Engine
from node.consensus.foundation import Identity
from node.consensus.runtime import AsyncioRuntime
from node.consensus.settings import EngineSettings
from node.consensus.tcp_links import TcpLinks
from node.delivery.connected_managers import ConnectedManagers
from node.delivery.delivery import Delivery
from node.delivery.destinations import Destinations
from node.housekeeping import Housekeeping
from node.state_files import StateFiles
from scripts.tidelock_scripts.local_cluster import free_base_port
from statemachine.commands import AnyCommand
from statemachine.outcomes import Outcome
from statemachine.store import DamagedStateError
from statemachine.transactions.rows import Branch, Global, get_branches, get_global
from tests.integration.local_cluster import LocalRouting

WITHIN_S = 30.0


async def eventually(holds: Callable[[], bool], what: str) -> None:
    """Return once `holds()`; fail when it does not in time."""
    ends_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends_at, f"not in time: {what}"
        await asyncio.sleep(0.005)


def live_in_real_time() -> None:
    """Take back the clock and the chance that simulations of the same process gave the library."""
    library.monotonicTime = library_monotonic.monotonic
    library.random = random


class LoopNode:
    """One node; health checks and what else a process does by itself are left out."""

    def __init__(
        self,
        number: int,
        addresses: dict[str, str],
        path: Path,
        delivery: DeliveryConfig,
        channels: ChannelsConfig,
        settings: EngineSettings | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.name = f"n{number}"
        self._at = addresses[self.name]
        (path / "journal").mkdir(parents=True)
        (path / "state").mkdir()
        self._storage = StateFiles.open(
            path / "state",
            map_size_bytes=16 << 20,
            max_map_size_bytes=64 << 20,
            checkpoint_interval_ms=50,
        )
        self._storage.loop = loop
        self._disk = FileDisk(path / "journal", loop.call_soon_threadsafe)
        self._links = TcpLinks(loop, {})
        runtime = AsyncioRuntime(loop)
        self.engine = Engine(
            Identity(
                node_id=self.name,
                disk_uuid=os.urandom(16),
                peer_address=self._at,
                api_address=f"127.0.0.1:{number}",
            ),
            {name: at for name, at in addresses.items() if name != self.name},
            runtime,
            self._disk,
            self._storage,
            self._links,
            settings,
            bootstrap=number == 1,
        )
        self.cluster = EngineCluster(self.engine, self._storage, loop)
        host, _, port = self._at.rpartition(":")
        self.destinations = destinations = Destinations(delivery.allowed_hosts, [(host, int(port))])
        api_settings = ApiSettings(
            channel_leaderless_s=channels.leaderless_ms / 1000,
            channel_grace_s=channels.grace_ms / 1000,
            channel_clean_after_s=channels.clean_after_ms / 1000,
            channel_heartbeat_s=channels.heartbeat_ms / 1000,
            channel_drain_s=0.1,
            destinations=destinations,
        )
        self.managers = ConnectedManagers(
            self.engine, self.cluster, self._storage, runtime, api_settings, channels
        )
        self.delivery = Delivery(
            self.engine, runtime, delivery, destinations, _fail, channel=self.managers.calls
        )
        self.managers.calls.on_wake = self.delivery.driver.wake
        app = build_app(
            self.cluster, api_settings, LocalRouting(), Metrics(), self.managers.channels
        )
        self._runner = ApiRunner(app)
        self.url = ""
        self._housekeeping = Housekeeping(
            self.engine,
            self.cluster,
            self._storage,
            EventsConfig(),
            WatchConfig(),
            SyncConfig(),
            TransactionsConfig(),
        )
        self.up = True

    async def start(self) -> None:
        self.engine.start()
        host, _, port = self._at.rpartition(":")
        await self._links.listen(host, int(port))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._housekeeping.start()
        self.managers.start()
        self.delivery.start()

    def cut_off(self) -> None:
        """Let it hear and tell the other nodes nothing more; its API goes on."""
        self._links.close()

    async def stop(self) -> None:
        if not self.up:
            return
        self.up = False
        await self.delivery.close()
        await self.managers.close()
        await self._housekeeping.close()
        await self._runner.cleanup()
        self.managers.stop()
        self.engine.stop()
        self._disk.close()
        self._storage.close()


def _fail(error: DamagedStateError) -> None:
    raise AssertionError(f"the state is damaged: {error}")


class LoopCluster:
    def __init__(self, nodes: list[LoopNode]) -> None:
        self.nodes = nodes

    @property
    def alive(self) -> list[LoopNode]:
        return [node for node in self.nodes if node.up]

    async def leader(self) -> LoopNode:
        await eventually(lambda: self._leader() is not None, "a leader is ready")
        leader = self._leader()
        assert leader is not None
        return leader

    def _leader(self) -> LoopNode | None:
        ready = [node for node in self.alive if node.engine.leader_ready]
        return max(ready, key=lambda node: node.engine.raft.term, default=None)

    async def do(self, *commands: AnyCommand) -> Sequence[Outcome]:
        """Propose through the leader."""
        answer = await (await self.leader()).cluster.propose(commands, timeout_ms=10_000)
        return answer.outcomes

    def row(self, xid: str) -> Global | None:
        leader = self._leader()
        return None if leader is None else get_global(leader.engine.machine_store, xid)

    def branches(self, xid: str) -> list[Branch]:
        leader = self._leader()
        return [] if leader is None else get_branches(leader.engine.machine_store, xid)

    def attempts(self, xid: str) -> int:
        """How often the first branch was called in vain."""
        return max((branch.attempts for branch in self.branches(xid)[:1]), default=0)

    async def until(self, xid: str, *statuses: str) -> Global:
        """Wait until a transaction stands so."""

        def stands() -> bool:
            row = self.row(xid)
            return row is not None and row.status in statuses

        await eventually(stands, f"{xid} is {' or '.join(statuses)}")
        row = self.row(xid)
        assert row is not None
        return row


@asynccontextmanager
async def loop_cluster(
    path: Path,
    count: int = 1,
    delivery: DeliveryConfig | None = None,
    channels: ChannelsConfig | None = None,
    settings: EngineSettings | None = None,
) -> AsyncIterator[LoopCluster]:
    live_in_real_time()
    base = free_base_port()
    addresses = {f"n{number}": f"127.0.0.1:{base + number}" for number in range(1, count + 1)}
    config = DeliveryConfig() if delivery is None else delivery
    nodes = [
        LoopNode(
            number, addresses, path / f"n{number}", config, channels or ChannelsConfig(), settings
        )
        for number in range(1, count + 1)
    ]
    try:
        for node in nodes:
            await node.start()
        yield LoopCluster(nodes)
    finally:
        for node in nodes:
            await node.stop()
