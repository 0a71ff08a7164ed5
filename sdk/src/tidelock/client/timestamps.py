"""Clocks of integers: Lamport timestamps, the hybrid clock, sequences."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Unpack

from tidelock.client.answers import (
    Event,
    Hlc,
    HybridTime,
    LamportTime,
    Membership,
    Page,
    Participant,
    SequenceState,
    Synced,
    Taken,
)
from tidelock.client.resource import Asking, Listing, Reading, Resource, Writing, part


class Events(Resource):
    """Lamport clocks and the events that they stamp."""

    async def record(
        self,
        event_type: str,
        event_data: Any = None,
        *,
        node_id: str | None = None,
        **options: Unpack[Writing],
    ) -> Event:
        """Tick a participant's clock and store an event; `event_data` is any JSON up to 64 KiB."""
        body = {"nodeId": node_id, "eventType": event_type, "eventData": event_data}
        return await self._post("/api/v1/timestamp/event", body, Event, **options)

    async def sync(
        self,
        source_node_id: str,
        timestamp: int,
        *,
        node_id: str | None = None,
        source_event_id: str | None = None,
        event_type: str | None = None,
        event_data: Any = None,
        **options: Unpack[Writing],
    ) -> Synced:
        """Take a timestamp that came from elsewhere: max(local, received) + 1."""
        body = {
            "nodeId": node_id,
            "sourceNodeId": source_node_id,
            "sourceEventId": source_event_id,
            "timestamp": timestamp,
            "eventType": event_type,
            "eventData": event_data,
        }
        return await self._post("/api/v1/timestamp/sync", body, Synced, **options)

    async def clock(self, node_id: str, **options: Unpack[Reading]) -> LamportTime:
        """Return a participant's clock."""
        return await self._get(f"/api/v1/timestamp/clock/{part(node_id)}", LamportTime, **options)

    async def get(self, event_id: str, **options: Unpack[Reading]) -> Event:
        """Return a stored event. Raises `NotFoundError`."""
        return await self._get(f"/api/v1/timestamp/events/{part(event_id)}", Event, **options)

    def list(
        self,
        *,
        node_id: str | None = None,
        event_type: str | None = None,
        after_lamport: int | None = None,
        **options: Unpack[Listing],
    ) -> AsyncIterator[Event]:
        """Iterate over stored events in Lamport order."""
        query = {"nodeId": node_id, "eventType": event_type, "afterLamport": after_lamport}
        return self._all("/api/v1/timestamp/events", Page[Event], query, **options)


class Participants(Resource):
    """Who takes part."""

    async def join(self, node_id: str, **options: Unpack[Writing]) -> Membership:
        """Let a participant take part."""
        return await self._post("/api/v1/participants", {"nodeId": node_id}, Membership, **options)

    async def leave(self, node_id: str, **options: Unpack[Writing]) -> Membership:
        """Let a participant leave."""
        path = f"/api/v1/participants/{part(node_id)}"
        return await self._write("DELETE", path, None, Membership, **options)

    def list(self, **options: Unpack[Listing]) -> AsyncIterator[Participant]:
        """Iterate over all."""
        return self._all("/api/v1/participants", Page[Participant], {}, **options)


class HybridClocks(Resource):
    """The cluster's hybrid logical clock."""

    async def now(self, **options: Unpack[Asking]) -> HybridTime:
        """Return a time that is greater than all before it."""
        return await self._ask("/api/v1/hlc/now", {}, HybridTime, **options)

    async def observe(self, received: Hlc, **options: Unpack[Writing]) -> HybridTime:
        """Merge a time from outside. Raises `ClockSkewTooLargeError`."""
        return await self._post("/api/v1/hlc/observe", {"hlc": received}, HybridTime, **options)


class Sequences(Resource):
    """Whole numbers from 1, each given once and none left out."""

    async def next(self, name: str, count: int = 1, **options: Unpack[Writing]) -> Taken:
        """Take the next numbers."""

        def are_as_many(taken: Taken) -> bool:
            return taken.last - taken.first + 1 == count

        path = f"/api/v1/sequences/{part(name)}/next"
        return await self._post(path, {"count": count}, Taken, are_as_many, **options)

    async def get(self, name: str, **options: Unpack[Reading]) -> SequenceState:
        """Return how far it has got."""
        return await self._get(f"/api/v1/sequences/{part(name)}", SequenceState, **options)
