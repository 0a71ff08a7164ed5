"""Vector clocks: who caused what, and what is concurrent."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

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
from api.errors import Problem, refuse_field, refuse_size
from api.replies import Reply
from api.service import Service, applied
from api.settings import GREATEST_NAME_LENGTH, GREATEST_VALUE_BYTES
from api.shapes import Answer, Body, Name, Page
from api.vectors import Comparison, Vector, VectorAnswer, answer_not_kept, entries
from statemachine.commands import AnyCommand, ReceiveMessage, SendMessage, TickVector
from statemachine.event_ids import parse_event_id
from statemachine.outcomes import AnyResult, RequestOutcome, VectorAdvanced
from statemachine.store import Reader
from statemachine.stored_events import VectorReceived, VectorSent
from statemachine.vectors import StoredVectorEvent, get_event, list_events, vector_clock
from tidelock.clocks import Relation, compare

RESERVED: Final = ("compare", "events", "receive", "send", "tick")
"""Participants that can have no vector clock here: a path ends in each of them."""

Participant = Annotated[Name, msgspec.Meta(extra_json_schema={"not": {"enum": list(RESERVED)}})]

NO_MESSAGE: Final = Raw(b"null")

Message = Annotated[
    Raw,
    msgspec.Meta(
        description=f"Any JSON, at most {GREATEST_VALUE_BYTES} bytes as sent. Numbers have 64 "
        f"bits, nesting ends at {json_text.GREATEST_DEPTH}."
    ),
]


VectorEventType = Literal["TICK", "SEND", "RECEIVE"]


class TickBody(Body, frozen=True, kw_only=True):
    """An event of a participant."""

    node_id: Participant


class SendBody(Body, frozen=True, kw_only=True):
    """A message that a participant sends."""

    node_id: Participant
    message: Message | UnsetType = UNSET


class ReceiveBody(Body, frozen=True, kw_only=True):
    """A message that a participant receives."""

    node_id: Participant
    vector_clock: Vector
    """The sender's clock, as it came with the message."""
    message_id: Name | None = None
    """Under it a receipt is recorded once, however often it is told. Remembered for 24 hours."""
    message: Message | UnsetType = UNSET


class CompareClocksBody(Body, frozen=True, kw_only=True):
    """Two vector clocks."""

    clock1: Vector
    clock2: Vector


class TickedClock(Answer, frozen=True, kw_only=True):
    """A participant's vector clock."""

    node_id: str
    vector_clock: VectorAnswer


class SentMessage(Answer, frozen=True, kw_only=True):
    """A message, and what goes with it."""

    node_id: str
    message_id: str
    """Unique. It is the id of the event, too."""
    vector_clock: VectorAnswer


class ReceivedMessage(Answer, frozen=True, kw_only=True):
    """A participant's clock after a receipt."""

    node_id: str
    vector_clock: VectorAnswer
    relation: Relation
    """Of the participant's clock to the received one, before."""


class ParticipantClock(Answer, frozen=True, kw_only=True):
    """A participant's vector clock."""

    node_id: str
    vector_clock: VectorAnswer
    """Empty for one that was never seen."""


class VectorEvent(Answer, frozen=True, kw_only=True):
    """A stored vector event."""

    event_id: str
    type: VectorEventType
    node_id: str
    vector_clock: VectorAnswer
    """The participant's clock right after it."""
    message_id: str | None
    """Of a SEND the event's own id; of a RECEIVE what the client named."""
    message: Raw
    relation: Relation | None
    """Of a RECEIVE: of the participant's clock to the received one, before."""
    created_at: int
    """Milliseconds since the epoch."""


TickedT = TypeVar("TickedT", bound=TickedClock)
SentT = TypeVar("SentT", bound=SentMessage)
ReceivedT = TypeVar("ReceivedT", bound=ReceivedMessage)


def tick_command(body: TickBody) -> TickVector:
    """Raises: Problem"""
    return TickVector(node_id=participant(body.node_id))


def send_command(body: SendBody) -> SendMessage:
    """Raises: Problem"""
    return SendMessage(node_id=participant(body.node_id), message=message(body.message))


def receive_command(body: ReceiveBody) -> ReceiveMessage:
    """Raises: Problem"""
    message_id = body.message_id
    return ReceiveMessage(
        node_id=participant(body.node_id),
        vector=entries("vectorClock", body.vector_clock),
        message_id="" if message_id is None else requests.name("messageId", message_id),
        message=message(body.message),
    )


def participant(node_id: str) -> str:
    """Raises: Problem: no participant of this API has such a name."""
    if node_id in RESERVED:
        refuse_field("nodeId", f"must not be {node_id!r}: a path of its own ends so")
    return requests.name("nodeId", node_id)


def message(raw: Raw | UnsetType) -> bytes:
    """Return the client's text, empty when there is none."""
    if raw is UNSET:
        return b""
    data = bytes(raw)
    if len(data) > GREATEST_VALUE_BYTES:
        refuse_size("message", len(data), GREATEST_VALUE_BYTES)
    return data


def vector_event(reader: Reader, result: AnyResult) -> StoredVectorEvent:
    """Return the event that a command stored, or that had stored the message before.

    Raises:
        Problem: it has been trimmed.
        DamagedStateError
    """
    assert isinstance(result, VectorAdvanced)
    event = get_event(reader, result.event)
    if event is None:
        raise answer_not_kept()
    return event


def tick_answer(event: StoredVectorEvent, shape: type[TickedT]) -> TickedT:
    return shape(node_id=event.row.node_id, vector_clock=event.vector)


def send_answer(event: StoredVectorEvent, shape: type[SentT]) -> SentT:
    return shape(node_id=event.row.node_id, message_id=event.event_id, vector_clock=event.vector)


def receive_answer(event: StoredVectorEvent, shape: type[ReceivedT]) -> ReceivedT:
    assert isinstance(event.row, VectorReceived)
    return shape(node_id=event.row.node_id, vector_clock=event.vector, relation=event.row.relation)


def stored_answer(event: StoredVectorEvent) -> VectorEvent:
    row = event.row
    kind: VectorEventType = "TICK"
    message_id, data, relation = "", b"", None
    if isinstance(row, VectorSent):
        kind, message_id, data = "SEND", event.event_id, row.message
    elif isinstance(row, VectorReceived):
        kind, message_id, data, relation = "RECEIVE", row.message_id, row.message, row.relation
    return VectorEvent(
        event_id=event.event_id,
        type=kind,
        node_id=row.node_id,
        vector_clock=event.vector,
        message_id=message_id or None,
        message=Raw(data) if data else NO_MESSAGE,
        relation=relation,
        created_at=row.created_at_ms,
    )


class VectorClocks:
    """The handlers of `/api/v1/vector-clock`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ticks = msgspec.json.Decoder(TickBody)
        self._sends = msgspec.json.Decoder(SendBody)
        self._receipts = msgspec.json.Decoder(ReceiveBody)
        self._comparisons = msgspec.json.Decoder(CompareClocksBody)

    async def tick(self, request: web.Request) -> Reply:
        body = await requests.read_json(request, self._service.settings)
        command = tick_command(json_text.decode(body, self._ticks))
        event, outcome = await self._advance(request, body, command)
        answer = tick_answer(event, TickedClock)
        return self._service.written(200, answer, outcome, outcome.position)

    async def send(self, request: web.Request) -> Reply:
        body = await requests.read_json(request, self._service.settings)
        command = send_command(json_text.decode(body, self._sends))
        event, outcome = await self._advance(request, body, command)
        answer = send_answer(event, SentMessage)
        return self._service.written(200, answer, outcome, outcome.position)

    async def receive(self, request: web.Request) -> Reply:
        body = await requests.read_json(request, self._service.settings)
        command = receive_command(json_text.decode(body, self._receipts))
        event, outcome = await self._advance(request, body, command)
        answer = receive_answer(event, ReceivedMessage)
        return self._service.written(200, answer, outcome, outcome.position)

    async def _advance(
        self, request: web.Request, body: bytes, command: AnyCommand
    ) -> tuple[StoredVectorEvent, RequestOutcome]:
        service = self._service
        outcome = await service.propose(request, body, (command,))
        return vector_event((await service.own_view()).reader, applied(outcome)), outcome

    async def compare(self, request: web.Request) -> Reply:
        body = await requests.read_json(request, self._service.settings)
        asked = json_text.decode(body, self._comparisons)
        first, second = entries("clock1", asked.clock1), entries("clock2", asked.clock2)
        return self._service.replies.success(200, Comparison(relation=compare(first, second)))

    async def get(self, request: web.Request) -> Reply:
        node_id = requests.path_name(request, "nodeId")
        view = await self._service.view(request)
        clock = vector_clock(view.reader, node_id)
        answer = ParticipantClock(node_id=node_id, vector_clock=clock)
        return self._service.replies.success(200, answer, view.position)

    async def get_event(self, request: web.Request) -> Reply:
        event_id = request.match_info["eventId"]
        position = parse_event_id(event_id)
        view = await self._service.view(request)
        event = None if position is None else get_event(view.reader, position)
        if event is None:
            raise Problem(
                "EVENT_NOT_FOUND",
                f"No vector event {event_id[:GREATEST_NAME_LENGTH]!r} is stored: there never was "
                "one, or its retention has ended.",
            )
        return self._service.replies.success(200, stored_answer(event), view.position)

    async def list_events(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        node_id = requests.query_name(request, "nodeId")
        view = await self._service.view(request)
        events, next_cursor = list_events(view.reader, node_id=node_id, cursor=cursor, limit=limit)
        page = Page(items=[stored_answer(event) for event in events], next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)


ADVANCE_ERRORS: Final = (
    *BODY_ERRORS,
    *WRITE_ERRORS,
    "CLOCK_OVERFLOW",
    "VECTOR_TOO_LARGE",
    "ANSWER_NOT_KEPT",
    "STATE_DAMAGED",
)


def endpoints(service: Service) -> list[Endpoint]:
    clocks = VectorClocks(service)
    path = "/api/v1/vector-clock"
    tag = "vector clocks"
    return [
        Endpoint(
            method="POST",
            path=f"{path}/compare",
            operation="compareVectorClocks",
            summary="The relation of two vector clocks",
            tag=tag,
            handler=clocks.compare,
            body=CompareClocksBody,
            answer=Comparison,
            errors=BODY_ERRORS,
            keyed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/tick",
            operation="tickVectorClock",
            summary="Record an event on a participant's vector clock",
            tag=tag,
            handler=clocks.tick,
            body=TickBody,
            answer=TickedClock,
            errors=ADVANCE_ERRORS,
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/send",
            operation="sendMessage",
            summary="Record that a participant sends a message",
            tag=tag,
            handler=clocks.send,
            body=SendBody,
            answer=SentMessage,
            errors=ADVANCE_ERRORS,
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/receive",
            operation="receiveMessage",
            summary="Record that a participant receives a message; once for each message id",
            tag=tag,
            handler=clocks.receive,
            body=ReceiveBody,
            answer=ReceivedMessage,
            errors=ADVANCE_ERRORS,
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/events",
            operation="listVectorEvents",
            summary="Stored ticks, sends and receipts in the order of the log",
            tag=tag,
            handler=clocks.list_events,
            answer=Page[VectorEvent],
            parameters=(
                Parameter(name="nodeId", type=Name, description="Only this participant's."),
                *PAGE,
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/events/{{eventId}}",
            operation="getVectorEvent",
            summary="A stored vector event",
            tag=tag,
            handler=clocks.get_event,
            answer=VectorEvent,
            parameters=(
                Parameter(name="eventId", type=str, description="The event."),
                CONSISTENCY,
            ),
            errors=(*READ_ERRORS, "EVENT_NOT_FOUND"),
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/{{nodeId}}",
            operation="getVectorClock",
            summary="The vector clock of a participant",
            tag=tag,
            handler=clocks.get,
            answer=ParticipantClock,
            parameters=(
                # Of type Name: whoever asks for a reserved one asks for another path.
                Parameter(name="nodeId", type=Name, description="The participant."),
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
