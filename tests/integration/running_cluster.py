"""Three nodes as processes, for tests that nothing less can serve."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import bring_up, find_leader
from scripts.tidelock_scripts.local_cluster import LocalCluster, free_base_port
from scripts.tidelock_scripts.terminal import Terminal

WITHIN_S = 30.0


class RunningCluster:
    """The processes, and a client of them."""

    def __init__(self, nodes: LocalCluster, client: ClusterClient) -> None:
        self.nodes = nodes
        self.client = client

    async def leader(self) -> str:
        ends_at = time.monotonic() + WITHIN_S
        while (leader := await find_leader(self.client, self.nodes)) is None:
            assert time.monotonic() < ends_at, "no node leads"
            await asyncio.sleep(0.02)
        return leader

    async def follower(self) -> str:
        leader = await self.leader()
        return next(node for node in self.nodes.places if node != leader)

    async def recover(self) -> None:
        """Start and resume what is down, and return when all are ready."""
        for node_id in self.nodes.places:
            if not self.nodes.start(node_id) and self.nodes.is_paused(node_id):
                self.nodes.resume(node_id)
        await self.nodes.wait_until_ready()


@asynccontextmanager
async def running(
    data_dir: Path, environment: Mapping[str, Mapping[str, str]] | None = None, **settings: str
) -> AsyncIterator[RunningCluster]:
    """Give a fresh cluster of three. `settings` are environment variables of every node."""
    base_port = free_base_port()
    per_node = {
        f"n{number}": {**settings, **(environment or {}).get(f"n{number}", {})}
        for number in (1, 2, 3)
    }
    nodes = LocalCluster(data_dir, nodes=3, base_port=base_port, environment=per_node)
    try:
        await bring_up(nodes, Terminal(io.StringIO()))
        async with ClusterClient(nodes.addresses) as client:
            yield RunningCluster(nodes, client)
    finally:
        nodes.stop()
        nodes.remove()
