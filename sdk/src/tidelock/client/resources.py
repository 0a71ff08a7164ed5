"""The HTTP contract, a class for each kind of thing in the cluster.

Every write takes `idempotency_key`, to be repeated by somebody who learnt `OutcomeUnknownError`,
and everything takes `timeout_ms`, the deadline of the call with all its attempts. `node_id` is a
participant, whose clock it is; the node that serves unless it is given. What is raised is drawn in
`tidelock.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlencode

from tidelock.client.answers import (
    BatchResults,
    CommittedData,
    Comparison,
    Event,
    Hlc,
    HybridTime,
    IncrementedVersion,
    KeyVersion,
    LamportTime,
    Membership,
    MergedVersion,
    Page,
    Participant,
    ParticipantClock,
    Proposal,
    ReceivedMessage,
    Routes,
    SentMessage,
    SequenceState,
    Synced,
    Taken,
    Topology,
    Transferred,
    VectorEvent,
    VersionedObject,
    VersionEvent,
)
from tidelock.client.transport import Call, Transport, encode

T = TypeVar("T")


class Reading(TypedDict, total=False):
    """What every call takes."""

    timeout_ms: int


class Writing(Reading, total=False):
    """What every write takes."""

    idempotency_key: str


class Resource:
    """What all kinds have in common."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def _get(
        self,
        path: str,
        answer: type[T],
        query: Mapping[str, object] | None = None,
        **options: Unpack[Reading],
    ) -> T:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        text = f"?{urlencode(given)}" if given else ""
        call = Call(method="GET", path=f"{path}{text}")
        return await self._transport.call(call, answer, **options)

    async def _post(
        self, path: str, body: Mapping[str, Any], answer: type[T], **options: Unpack[Writing]
    ) -> T:
        call = Call(method="POST", path=path, body=encode(body), writes=True)
        return await self._transport.call(call, answer, **options)

    async def _ask(
        self, path: str, body: Mapping[str, Any], answer: type[T], **options: Unpack[Reading]
    ) -> T:
        """POST what changes nothing."""
        call = Call(method="POST", path=path, body=encode(body))
        return await self._transport.call(call, answer, **options)

    async def _delete(self, path: str, answer: type[T], **options: Unpack[Writing]) -> T:
        call = Call(method="DELETE", path=path, writes=True)
        return await self._transport.call(call, answer, **options)

    async def _all(
        self,
        path: str,
        page: type[Page[T]],
        query: Mapping[str, object],
        **options: Unpack[Reading],
    ) -> AsyncIterator[T]:
        """Yield the items of a list, part by part."""
        cursor: str | None = None
        while True:
            part = await self._get(path, page, {**query, "cursor": cursor}, **options)
            for item in part.items:
                yield item
            cursor = part.next_cursor
            if cursor is None:
                return


def part(name: str) -> str:
    """Return a name as one part of a path."""
    return quote(name, safe="")


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
        **options: Unpack[Reading],
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
        return await self._delete(f"/api/v1/participants/{part(node_id)}", Membership, **options)

    def list(self, **options: Unpack[Reading]) -> AsyncIterator[Participant]:
        """Iterate over all."""
        return self._all("/api/v1/participants", Page[Participant], {}, **options)


class HybridClocks(Resource):
    """The cluster's hybrid logical clock."""

    async def now(self, **options: Unpack[Reading]) -> HybridTime:
        """Return a time that is greater than all before it."""
        return await self._ask("/api/v1/hlc/now", {}, HybridTime, **options)

    async def observe(self, received: Hlc, **options: Unpack[Writing]) -> HybridTime:
        """Merge a time from outside. Raises `ClockSkewTooLargeError`."""
        return await self._post("/api/v1/hlc/observe", {"hlc": received}, HybridTime, **options)


class Sequences(Resource):
    """Whole numbers from 1, each given once and none left out."""

    async def next(self, name: str, count: int = 1, **options: Unpack[Writing]) -> Taken:
        """Take the next numbers."""
        path = f"/api/v1/sequences/{part(name)}/next"
        return await self._post(path, {"count": count}, Taken, **options)

    async def get(self, name: str, **options: Unpack[Reading]) -> SequenceState:
        """Return how far it has got."""
        return await self._get(f"/api/v1/sequences/{part(name)}", SequenceState, **options)


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
        **options: Unpack[Writing],
    ) -> MergedVersion:
        """Take the maximum of each entry."""
        body = {"key": key, "versionVector": version_vector}
        return await self._post("/api/v1/version/merge", body, MergedVersion, **options)

    async def compare(
        self, first: Mapping[str, int], second: Mapping[str, int], **options: Unpack[Reading]
    ) -> Comparison:
        """Return the relation of the first to the second."""
        body = {"vector1": first, "vector2": second}
        return await self._ask("/api/v1/version/compare", body, Comparison, **options)

    async def get(self, key: str, **options: Unpack[Reading]) -> KeyVersion:
        """Return the vector of a key."""
        return await self._get(f"/api/v1/version/{part(key)}", KeyVersion, **options)

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
        body = {"nodeId": node_id, "value": value}
        if context is not None:
            body["context"] = context
        call = Call(
            method="POST",
            path=f"/api/v1/version/objects/{part(key)}",
            body=encode(body, leave_out_none=False),
            writes=True,
        )
        return await self._transport.call(call, VersionedObject, **options)

    async def read_object(self, key: str, **options: Unpack[Reading]) -> VersionedObject:
        """Return the concurrent values of an object."""
        return await self._get(f"/api/v1/version/objects/{part(key)}", VersionedObject, **options)

    def events(
        self, *, key: str | None = None, node_id: str | None = None, **options: Unpack[Reading]
    ) -> AsyncIterator[VersionEvent]:
        """Iterate over the stored changes."""
        query = {"key": key, "nodeId": node_id}
        return self._all("/api/v1/version/events", Page[VersionEvent], query, **options)


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
        self, first: Mapping[str, int], second: Mapping[str, int], **options: Unpack[Reading]
    ) -> Comparison:
        """Return the relation of the first to the second."""
        body = {"clock1": first, "clock2": second}
        return await self._ask("/api/v1/vector-clock/compare", body, Comparison, **options)

    async def get(self, node_id: str, **options: Unpack[Reading]) -> ParticipantClock:
        """Return a participant's clock."""
        path = f"/api/v1/vector-clock/{part(node_id)}"
        return await self._get(path, ParticipantClock, **options)

    def events(
        self, *, node_id: str | None = None, **options: Unpack[Reading]
    ) -> AsyncIterator[VectorEvent]:
        """Iterate over stored ticks, sends and receives."""
        path = "/api/v1/vector-clock/events"
        return self._all(path, Page[VectorEvent], {"nodeId": node_id}, **options)


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
        body = {"data": data, "timestamp": timestamp}
        body |= {name: value for name, value in (("id", id), ("key", key)) if value is not None}
        call = Call(
            method="POST",
            path="/api/v1/consensus/proposals",
            body=encode(body, leave_out_none=False),
            writes=True,
        )
        return await self._transport.call(call, Proposal, **options)

    async def get(self, id: int | str, **options: Unpack[Reading]) -> Proposal:
        """Return a proposal with its votes."""
        return await self._get(f"/api/v1/consensus/proposals/{part(str(id))}", Proposal, **options)

    async def committed(self, key: str, **options: Unpack[Reading]) -> CommittedData:
        """Return what is committed under a key. Raises `NotFoundError`."""
        return await self._get(f"/api/v1/consensus/data/{part(key)}", CommittedData, **options)


class Cluster(Resource):
    """The nodes."""

    async def topology(self, **options: Unpack[Reading]) -> Topology:
        """Return the cluster as one node knows it."""
        return await self._get("/api/v1/cluster", Topology, **options)

    async def routing(self, **options: Unpack[Reading]) -> Routes:
        """Return the nodes in and out of rotation."""
        return await self._get("/api/v1/cluster/routing", Routes, **options)

    async def transfer_leadership(
        self, target: str | None = None, **options: Unpack[Writing]
    ) -> Transferred:
        """Hand leadership to another voter."""
        path = "/api/v1/cluster/leader/transfer"
        return await self._post(path, {"target": target}, Transferred, **options)


class Batches(Resource):
    """Operations that are replicated as one."""

    async def run(
        self, operations: Sequence[Mapping[str, Any]], **options: Unpack[Writing]
    ) -> BatchResults:
        """Do up to 1,000 operations, each a body with its `op`, as `timestamp.event`."""
        return await self._post(
            "/api/v1/batch", {"operations": operations}, BatchResults, **options
        )
