"""Three node processes for a whole module of tests, each asked by itself and exactly once.

`running_cluster` is for tests whose clients go on at another node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession, ClientTimeout

from scripts.tidelock_scripts.local_cluster import LocalCluster, free_base_port

WITHIN_S = 30.0


class Response(msgspec.Struct, frozen=True):
    status: int
    body: Any
    """Whatever JSON the node sent."""


class Nodes:
    """A client of each node, and the hand that pauses and kills them."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.names = list(cluster.places)

    async def call(
        self,
        node_id: str,
        method: str,
        path: str,
        send: object = None,
        *,
        timeout_ms: int = 10_000,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        url = f"{self.cluster.place(node_id).url}{path}"
        sent = {"Tidelock-Timeout-Ms": str(timeout_ms), **(headers or {})}
        patience = ClientTimeout(total=timeout_ms / 1000 + 5)
        async with (
            ClientSession(timeout=patience) as session,
            session.request(method, url, json=send, headers=sent) as response,
        ):
            content = await response.read()
        return Response(response.status, msgspec.json.decode(content))

    async def get(self, node_id: str, path: str) -> Any:
        """Return the body of a successful answer."""
        response = await self.call(node_id, "GET", path)
        assert response.status == 200, response
        return response.body

    async def post(self, node_id: str, path: str, send: object) -> Any:
        """Return the body of a successful answer."""
        response = await self.call(node_id, "POST", path, send)
        assert response.status in (200, 201, 202), response
        return response.body

    async def leader(self) -> str:
        """Wait for a leader that all nodes know."""

        async def known() -> str | None:
            found = [
                (await self.get(node_id, "/api/v1/cluster"))["leader"] for node_id in self.names
            ]
            return found[0] if found[0] and len(set(found)) == 1 else None

        return str(await self.eventually(known))

    async def eventually(self, ask: Callable[[], Any]) -> Any:
        """Await `ask()` again and again until it returns something true; return that."""
        ends_at = time.monotonic() + WITHIN_S
        while True:
            found = await ask()
            if found:
                return found
            assert time.monotonic() < ends_at, "it did not come to hold in time"
            await asyncio.sleep(0.02)

    async def put_right(self) -> None:
        """Let every node run again, and wait until it serves."""
        for node_id in self.names:
            self.cluster.resume(node_id)
            self.cluster.start(node_id)
        await self.cluster.wait_until_ready()
        await self.leader()


@contextmanager
def running_nodes(data_dir: Path, environment: Mapping[str, str] | None = None) -> Iterator[Nodes]:
    """Start three nodes, with further variables in their environment; end them afterwards."""
    names = ("n1", "n2", "n3")
    cluster = LocalCluster(
        data_dir,
        base_port=free_base_port(),
        environment=dict.fromkeys(names, environment or {}),
    )
    try:
        for node_id in names:
            cluster.start(node_id)
        asyncio.run(cluster.wait_until_ready())
        yield Nodes(cluster)
    finally:
        cluster.stop()
