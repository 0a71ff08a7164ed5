"""Version vectors, versioned objects and vector clocks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Unpack

from tidelock.client.answers import (
    Comparison,
    IncrementedVersion,
    KeyVersion,
    MergedVersion,
    Page,
    ParticipantClock,
    ReceivedMessage,
    SentMessage,
    VectorEvent,
    VersionedObject,
    VersionEvent,
)
from tidelock.client.resource import Asking, Listing, Reading, Resource, Writing, part


class Versions(Resource):
    """Version vectors of keys, and objects whose concurrent writes stay siblings."""

    async def increment(
        self, node_id: str, *, key: str | None = None, **options: Unpack[Writing]
    ) -> IncrementedVersion:
        """Count a change of the key by the participant."""
        body = {"key": key, "nodeId": node_id}
        return await self._post("/api/v1/version/increment", body, IncrementedVersion, **options)

    async def merge(
        self,
        version_vector: Mapping[str, int],
        *,
        key: str | None = None,
        node_id: str | None = None,
        **options: Unpack[Writing],
    ) -> MergedVersion:
        """Take the maximum of each entry. `node_id` is who merges, and is only written down."""
        body = {"key": key, "nodeId": node_id, "versionVector": version_vector}
        return await self._post("/api/v1/version/merge", body, MergedVersion, **options)

    async def compare(
        self, first: Mapping[str, int], second: Mapping[str, int], **options: Unpack[Asking]
    ) -> Comparison:
        """Return the relation of the first to the second."""
        body = {"vector1": first, "vector2": second}
        return await self._ask("/api/v1/version/compare", body, Comparison, **options)

    async def get(self, key: str, **options: Unpack[Reading]) -> KeyVersion:
        """Return the vector of a key."""
        return await self._get(f"/api/v1/version/{_own(key)}", KeyVersion, **options)

    async def write_object(
        self,
        key: str,
        node_id: str,
        value: Any,
        *,
        context: Mapping[str, int] | None = None,
        **options: Unpack[Writing],
    ) -> VersionedObject:
        """Write a value over those that `context` covers."""
        # None is a value too; only a context may be left out.
        body: dict[str, Any] = {"nodeId": node_id, "value": value}
        if context is not None:
            body["context"] = context
        path = f"/api/v1/version/objects/{part(key)}"
        return await self._post_all(path, body, VersionedObject, **options)

    async def read_object(self, key: str, **options: Unpack[Reading]) -> VersionedObject:
        """Return the concurrent values of an object."""
        return await self._get(f"/api/v1/version/objects/{part(key)}", VersionedObject, **options)

    def events(
        self, *, key: str | None = None, node_id: str | None = None, **options: Unpack[Listing]
    ) -> AsyncIterator[VersionEvent]:
        """Iterate over the stored changes."""
        query = {"key": key, "nodeId": node_id}
        return self._all("/api/v1/version/events", Page[VersionEvent], query, **options)

    async def event(self, event_id: str, **options: Unpack[Reading]) -> VersionEvent:
        """Return a stored change. Raises `NotFoundError`."""
        return await self._get(f"/api/v1/version/events/{part(event_id)}", VersionEvent, **options)


class VectorClocks(Resource):
    """The vector clocks of participants."""

    async def tick(self, node_id: str, **options: Unpack[Writing]) -> ParticipantClock:
        """Count a local event."""
        path = "/api/v1/vector-clock/tick"
        return await self._post(path, {"nodeId": node_id}, ParticipantClock, **options)

    async def send(
        self, node_id: str, message: Any = None, **options: Unpack[Writing]
    ) -> SentMessage:
        """Tick; return the clock and the id to send along."""
        body = {"nodeId": node_id, "message": message}
        return await self._post("/api/v1/vector-clock/send", body, SentMessage, **options)

    async def receive(
        self,
        node_id: str,
        vector_clock: Mapping[str, int],
        *,
        message_id: str | None = None,
        message: Any = None,
        **options: Unpack[Writing],
    ) -> ReceivedMessage:
        """Merge, then tick. A message id that comes again changes nothing."""
        body = {
            "nodeId": node_id,
            "vectorClock": vector_clock,
            "messageId": message_id,
            "message": message,
        }
        return await self._post("/api/v1/vector-clock/receive", body, ReceivedMessage, **options)

    async def compare(
        self, first: Mapping[str, int], second: Mapping[str, int], **options: Unpack[Asking]
    ) -> Comparison:
        """Return the relation of the first to the second."""
        body = {"clock1": first, "clock2": second}
        return await self._ask("/api/v1/vector-clock/compare", body, Comparison, **options)

    async def get(self, node_id: str, **options: Unpack[Reading]) -> ParticipantClock:
        """Return a participant's clock."""
        path = f"/api/v1/vector-clock/{_own(node_id)}"
        return await self._get(path, ParticipantClock, **options)

    def events(
        self, *, node_id: str | None = None, **options: Unpack[Listing]
    ) -> AsyncIterator[VectorEvent]:
        """Iterate over stored ticks, sends and receives."""
        path = "/api/v1/vector-clock/events"
        return self._all(path, Page[VectorEvent], {"nodeId": node_id}, **options)

    async def event(self, event_id: str, **options: Unpack[Reading]) -> VectorEvent:
        """Return a stored tick, send or receive. Raises `NotFoundError`."""
        path = f"/api/v1/vector-clock/events/{part(event_id)}"
        return await self._get(path, VectorEvent, **options)


def _own(name: str) -> str:
    """Return a name as the part of a path that names nothing else.

    Raises: ValueError: the path is that of the events; no vector can have this name.
    """
    if name == "events":
        raise ValueError("nothing that has a vector can be called 'events'")
    return part(name)
