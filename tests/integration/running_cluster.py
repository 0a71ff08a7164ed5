"""Three nodes as processes, for tests that nothing less can serve."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from scripts.tidelock_scripts.chaos.nemesis import Scene
from scripts.tidelock_scripts.chaos.network import Network
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import bring_up, find_leader
from scripts.tidelock_scripts.local_cluster import LocalCluster, free_base_port
from scripts.tidelock_scripts.terminal import Terminal

WITHIN_S = 30.0


class RunningCluster:
    """The processes, a client of them, and what is done to them and to the links between them."""

    def __init__(self, scene: Scene) -> None:
        self.nodes = scene.cluster
        self.client = scene.client
        self.scene = scene

    async def leader(self) -> str:
        ends_at = time.monotonic() + WITHIN_S
        while (leader := await find_leader(self.client, self.nodes)) is None:
            assert time.monotonic() < ends_at, "no node leads"
            await asyncio.sleep(0.02)
        return leader

    async def follower(self) -> str:
        return self.others(await self.leader())[0]

    def others(self, node_id: str) -> list[str]:
        return self.scene.others(node_id)

    async def recover(self) -> None:
        """Take back what was done, and return when all nodes are ready."""
        await self.scene.recover()


@asynccontextmanager
async def running(data_dir: Path, **settings: str) -> AsyncIterator[RunningCluster]:
    """Give a fresh cluster of three. `settings` are environment variables of every node."""
    plan = LocalCluster(data_dir, nodes=3, base_port=free_base_port())
    async with AsyncExitStack() as opened:
        network = await opened.enter_async_context(Network(plan.places.values()))
        environment = {node: {**settings, **network.environment(node)} for node in plan.places}
        nodes = LocalCluster(data_dir, nodes=3, base_port=plan.base_port, environment=environment)
        client = await opened.enter_async_context(ClusterClient(nodes.addresses))
        try:
            await bring_up(nodes, Terminal(io.StringIO()))
            chance = random.Random(0)
            yield RunningCluster(Scene(nodes, network, client, chance))
        finally:
            nodes.stop()
            nodes.remove()
