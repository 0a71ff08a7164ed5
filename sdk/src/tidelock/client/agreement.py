"""What nodes and participants agree on: proposals, and rounds of synchronisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from tidelock.client.answers import (
    ClockReport,
    CommittedData,
    Proposal,
    SyncAcknowledgement,
    SyncRound,
    SyncStatus,
)
from tidelock.client.resource import Reading, Resource, Writing, part


class Proposals(Resource):
    """Data that each node votes on."""

    async def propose(
        self,
        data: Any,
        timestamp: int,
        *,
        id: int | str | None = None,
        key: str | None = None,
        **options: Unpack[Writing],
    ) -> Proposal:
        """Have it committed by a majority. Raises `ProposalRejectedError`."""
        body: dict[str, Any] = {"data": data, "timestamp": timestamp}
        body |= {name: value for name, value in (("id", id), ("key", key)) if value is not None}
        return await self._post_all("/api/v1/consensus/proposals", body, Proposal, **options)

    async def get(self, id: int | str, **options: Unpack[Reading]) -> Proposal:
        """Return a proposal with its votes."""
        return await self._get(f"/api/v1/consensus/proposals/{part(str(id))}", Proposal, **options)

    async def committed(self, key: str, **options: Unpack[Reading]) -> CommittedData:
        """Return what is committed under a key. Raises `NotFoundError`."""
        return await self._get(f"/api/v1/consensus/data/{part(key)}", CommittedData, **options)


class Synchronisation(Resource):
    """Rounds in which participants report their clocks, and take the maximum of all."""

    async def report(
        self,
        node_id: str,
        *,
        lamport: int = 0,
        vector: Mapping[str, int] | None = None,
        **options: Unpack[Writing],
    ) -> ClockReport:
        """Report the clocks that a participant keeps itself; return the target so far."""
        body = {"nodeId": node_id, "lamport": lamport, "vector": vector}
        return await self._post("/api/v1/sync/report", body, ClockReport, **options)

    async def run(self, **options: Unpack[Writing]) -> SyncRound:
        """Close the open round now; the maximum of what was reported is its target."""
        return await self._post("/api/v1/sync/run", {}, SyncRound, **options)

    async def acknowledge(
        self, round: int, node_id: str, **options: Unpack[Writing]
    ) -> SyncAcknowledgement:
        """Say that a participant has taken the target of a closed round."""
        body = {"round": round, "nodeId": node_id}
        return await self._post("/api/v1/sync/ack", body, SyncAcknowledgement, **options)

    async def status(self, *, rounds: int | None = None, **options: Unpack[Reading]) -> SyncStatus:
        """Return the open round and the last closed ones, 10 unless given."""
        return await self._get("/api/v1/sync/status", SyncStatus, {"limit": rounds}, **options)
