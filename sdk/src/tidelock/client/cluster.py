"""The nodes: who they are, how they are, and what operators do with them."""

from __future__ import annotations

from typing import Final, Unpack

from tidelock.client.answers import (
    Admitted,
    Health,
    Rejoined,
    Removed,
    Routes,
    Topology,
    Transferred,
)
from tidelock.client.attempts import JsonOf, call
from tidelock.client.resource import Asking, Resource, Writing, part
from tidelock.client.transport import Call

_CLUSTER: Final = "/api/v1/cluster"


class Cluster(Resource):
    """The nodes."""

    async def topology(self, **options: Unpack[Asking]) -> Topology:
        """Return the cluster as one node knows it."""
        return await self._get(_CLUSTER, Topology, **options)

    async def routing(self, **options: Unpack[Asking]) -> Routes:
        """Return the nodes in and out of rotation."""
        return await self._get(f"{_CLUSTER}/routing", Routes, **options)

    async def transfer_leadership(
        self, target: str | None = None, **options: Unpack[Writing]
    ) -> Transferred:
        """Hand leadership to another voter."""
        path = f"{_CLUSTER}/leader/transfer"
        return await self._operate("POST", path, {"target": target}, Transferred, **options)

    async def add_member(
        self, node_id: str, peer_address: str, api_address: str, **options: Unpack[Writing]
    ) -> Admitted:
        """Admit a node with an empty disk; addresses are `host:port`."""
        body = {"nodeId": node_id, "peerAddress": peer_address, "apiAddress": api_address}
        return await self._operate("POST", f"{_CLUSTER}/members", body, Admitted, **options)

    async def remove_member(self, node_id: str, **options: Unpack[Writing]) -> Removed:
        """Remove a node from the cluster."""
        path = f"{_CLUSTER}/members/{part(node_id)}"
        return await self._operate("DELETE", path, None, Removed, **options)

    async def rejoin(self, node_id: str, **options: Unpack[Writing]) -> Rejoined:
        """Bring a node that failed back into rotation."""
        body = {"nodeId": node_id}
        return await self._operate("POST", f"{_CLUSTER}/rejoin", body, Rejoined, **options)


class NodeHealth(Resource):
    """How one node is: `at` says which; without it, whether any node says yes.

    A node that says no raises `UnavailableError`, whose `detail` is the reason.
    """

    async def live(self, **options: Unpack[Asking]) -> Health:
        """Return whether the process answers."""
        return await self._is("live", **options)

    async def ready(self, **options: Unpack[Asking]) -> Health:
        """Return whether it can serve."""
        return await self._is("ready", **options)

    async def leader(self, **options: Unpack[Asking]) -> Health:
        """Return whether it leads, and a quorum confirmed it lately."""
        return await self._is("leader", **options)

    async def _is(self, question: str, **options: Unpack[Asking]) -> Health:
        wanted = Call(method="GET", path=f"/health/{question}", asks_once=True)
        return await call(self._transport, wanted, JsonOf(Health), **options)
