"""Lamport timestamps: events, synchronisation, clocks."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw, UnsetType

from api import json_text, requests
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    PAGE,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.errors import Problem, refuse_size
from api.hybrid_clock import Hlc, hlc
from api.replies import Reply
from api.service import Service, applied
from api.settings import GREATEST_EVENT_DATA_BYTES, GREATEST_NAME_LENGTH
from api.shapes import Answer, Body, Name, Page, Timestamp
from statemachine.commands import RecordEvent, SyncClock
from statemachine.event_ids import format_event_id
from statemachine.outcomes import EventRecorded
from statemachine.timestamps import (
    GREATEST_TIMESTAMP,
    StoredEvent,
    clock,
    get_event,
    list_events,
)

SYNC_EVENT_TYPE: Final = "sync"
"""The type of an event that stores a received timestamp, when the client names none."""

NO_DATA: Final = Raw(b"null")

EventData = Annotated[
    Raw,
    msgspec.Meta(
        description=f"Any JSON, at most {GREATEST_EVENT_DATA_BYTES} bytes as sent. Numbers have "
        f"64 bits, nesting ends at {json_text.GREATEST_DEPTH}."
    ),
]


class EventBody(Body, frozen=True, kw_only=True):
    """An event to record."""

    node_id: Name | None = None
    """The participant whose clock ticks; the serving node when it is left out."""
    event_type: Name
    event_data: EventData | UnsetType = UNSET


class SyncBody(Body, frozen=True, kw_only=True):
    """A received timestamp."""

    node_id: Name | None = None
    """The participant that received it; the serving node when it is left out."""
    source_node_id: Name
    source_event_id: Name | None = None
    timestamp: Timestamp
    event_type: Name | None = None
    event_data: EventData | UnsetType = UNSET


class Event(Answer, frozen=True, kw_only=True):
    """A recorded event."""

    event_id: str
    """Unique; ids sort as texts in the order of commit."""
    node_id: str
    event_type: str
    event_data: Raw
    lamport_timestamp: int
    hlc: Hlc
    created_at: int
    """Milliseconds since the epoch."""


class EventWithSource(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A stored event. Those that synchronised a clock name their source."""

    source_node_id: str | UnsetType = UNSET
    source_event_id: str | UnsetType = UNSET
    source_timestamp: int | UnsetType = UNSET


class Synced(Answer, frozen=True, kw_only=True):
    """A synchronised clock, and the event that says so."""

    synced_event_id: str
    node_id: str
    lamport_timestamp: int


EventT = TypeVar("EventT", bound=Event)
SyncedT = TypeVar("SyncedT", bound=Synced)


class Clock(Answer, frozen=True, kw_only=True):
    node_id: str
    lamport_timestamp: int
    """0 for a participant that was never seen."""


def event_command(body: EventBody, default_node_id: str) -> RecordEvent:
    """Raises: Problem"""
    node_id = body.node_id
    return RecordEvent(
        node_id=default_node_id if node_id is None else requests.name("nodeId", node_id),
        event_type=requests.name("eventType", body.event_type),
        event_data=event_data(body.event_data),
    )


def sync_command(body: SyncBody, default_node_id: str) -> SyncClock:
    """Raises: Problem"""
    node_id, source_event_id, event_type = body.node_id, body.source_event_id, body.event_type
    return SyncClock(
        node_id=default_node_id if node_id is None else requests.name("nodeId", node_id),
        source_node_id=requests.name("sourceNodeId", body.source_node_id),
        source_event_id=""
        if source_event_id is None
        else requests.name("sourceEventId", source_event_id),
        timestamp=body.timestamp,
        event_type=SYNC_EVENT_TYPE
        if event_type is None
        else requests.name("eventType", event_type),
        event_data=event_data(body.event_data),
    )


def event_data(raw: Raw | UnsetType) -> bytes:
    """Return the client's text, empty when there is none."""
    if raw is UNSET:
        return b""
    data = bytes(raw)
    if len(data) > GREATEST_EVENT_DATA_BYTES:
        refuse_size("eventData", len(data), GREATEST_EVENT_DATA_BYTES)
    return data


def event_answer(
    command: RecordEvent,
    recorded: EventRecorded,
    event_id: str,
    shape: type[EventT],
) -> EventT:
    """Return the answer of a RecordEvent.

    What was recorded wins over what was asked now: a retry that reached another node has another
    default for `nodeId`.
    """
    data = command.event_data
    return shape(
        event_id=event_id,
        node_id=recorded.node_id,
        event_type=command.event_type,
        event_data=Raw(data) if data else NO_DATA,
        lamport_timestamp=recorded.lamport_timestamp,
        hlc=hlc(recorded.hlc),
        created_at=recorded.created_at_ms,
    )


def sync_answer(recorded: EventRecorded, event_id: str, shape: type[SyncedT]) -> SyncedT:
    return shape(
        synced_event_id=event_id,
        node_id=recorded.node_id,
        lamport_timestamp=recorded.lamport_timestamp,
    )


def stored_answer(event: StoredEvent) -> EventWithSource:
    source_node_id, source_event_id = event.source_node_id, event.source_event_id
    source_timestamp = event.source_timestamp
    return EventWithSource(
        event_id=event.event_id,
        node_id=event.node_id,
        event_type=event.event_type,
        event_data=Raw(event.event_data) if event.event_data else NO_DATA,
        lamport_timestamp=event.lamport_timestamp,
        hlc=hlc(event.hlc),
        created_at=event.created_at_ms,
        source_node_id=UNSET if source_node_id is None else source_node_id,
        source_event_id=UNSET if source_event_id is None else source_event_id,
        source_timestamp=UNSET if source_timestamp is None else source_timestamp,
    )


class Timestamps:
    """The handlers of `/api/v1/timestamp`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._events = msgspec.json.Decoder(EventBody)
        self._syncs = msgspec.json.Decoder(SyncBody)

    async def record_event(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._events)
        command = event_command(asked, service.cluster.node_id)
        outcome = await service.propose(request, body, (command,))
        recorded = applied(outcome)
        assert isinstance(recorded, EventRecorded)
        position = outcome.position
        return service.written(
            200,
            event_answer(command, recorded, format_event_id(position.entry, position.place), Event),
            outcome,
            position,
        )

    async def sync_clock(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._syncs)
        command = sync_command(asked, service.cluster.node_id)
        outcome = await service.propose(request, body, (command,))
        recorded = applied(outcome)
        assert isinstance(recorded, EventRecorded)
        position = outcome.position
        return service.written(
            200,
            sync_answer(recorded, format_event_id(position.entry, position.place), Synced),
            outcome,
            position,
        )

    async def get_clock(self, request: web.Request) -> Reply:
        node_id = requests.path_name(request, "nodeId")
        view = await self._service.view(request)
        answer = Clock(node_id=node_id, lamport_timestamp=clock(view.reader, node_id))
        return self._service.replies.success(200, answer, view.position)

    async def get_event(self, request: web.Request) -> Reply:
        event_id = request.match_info["eventId"]
        view = await self._service.view(request)
        event = get_event(view.reader, event_id)
        if event is None:
            raise Problem(
                "EVENT_NOT_FOUND",
                f"No event {event_id[:GREATEST_NAME_LENGTH]!r} is stored: there never was one, or "
                "its retention has ended.",
            )
        return self._service.replies.success(200, stored_answer(event), view.position)

    async def list_events(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        node_id = requests.query_name(request, "nodeId")
        event_type = requests.query_name(request, "eventType")
        after_lamport = requests.integer(
            request, "afterLamport", 0, least=0, greatest=GREATEST_TIMESTAMP
        )
        view = await self._service.view(request)
        events, next_cursor = list_events(
            view.reader,
            node_id=node_id,
            event_type=event_type,
            after_lamport=after_lamport,
            cursor=cursor,
            limit=limit,
        )
        page = Page(items=[stored_answer(event) for event in events], next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)


def endpoints(service: Service) -> list[Endpoint]:
    timestamps = Timestamps(service)
    path = "/api/v1/timestamp"
    tag = "timestamps"
    return [
        Endpoint(
            method="POST",
            path=f"{path}/event",
            operation="recordEvent",
            summary="Tick a participant's clock and store the event",
            tag=tag,
            handler=timestamps.record_event,
            body=EventBody,
            answer=Event,
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "CLOCK_OVERFLOW"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/sync",
            operation="syncClock",
            summary="Raise a participant's clock above a received timestamp",
            tag=tag,
            handler=timestamps.sync_clock,
            body=SyncBody,
            answer=Synced,
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "CLOCK_OVERFLOW"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/clock/{{nodeId}}",
            operation="getClock",
            summary="The Lamport clock of a participant",
            tag=tag,
            handler=timestamps.get_clock,
            answer=Clock,
            parameters=(
                Parameter(name="nodeId", type=Name, description="The participant."),
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/events/{{eventId}}",
            operation="getEvent",
            summary="A stored event",
            tag=tag,
            handler=timestamps.get_event,
            answer=EventWithSource,
            parameters=(
                Parameter(name="eventId", type=str, description="The event."),
                CONSISTENCY,
            ),
            errors=(*READ_ERRORS, "EVENT_NOT_FOUND"),
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/events",
            operation="listEvents",
            summary="Stored events in Lamport order, ties by node id",
            tag=tag,
            handler=timestamps.list_events,
            answer=Page[EventWithSource],
            parameters=(
                Parameter(name="nodeId", type=Name, description="Only this participant's."),
                Parameter(name="eventType", type=Name, description="Only of this type."),
                Parameter(
                    name="afterLamport",
                    type=Timestamp,
                    description="Only with a greater Lamport timestamp.",
                ),
                *PAGE,
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
