"""Version vectors: which writes the current version of a key consists of."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

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
from api.errors import Problem, refuse_field
from api.replies import Reply
from api.service import Service, applied
from api.settings import GREATEST_NAME_LENGTH
from api.shapes import Answer, Body, Name, Page
from api.vectors import Comparison, Vector, VectorAnswer, answer_not_kept, entries
from statemachine.commands import IncrementVersion, MergeVersion
from statemachine.event_ids import parse_event_id
from statemachine.outcomes import AnyResult, VersionAdvanced
from statemachine.store import Reader
from statemachine.stored_events import ObjectWritten, VersionMerged
from statemachine.versions import StoredVersionEvent, get_event, list_events, version_vector
from tidelock.clocks import Relation, compare

RESERVED: Final = ("compare", "events", "increment", "merge")
"""Keys that no version vector can have: a path ends in each of them."""

Key = Annotated[Name, msgspec.Meta(extra_json_schema={"not": {"enum": list(RESERVED)}})]

VERSION_ANSWER_ERRORS: Final = ("VECTOR_TOO_LARGE", "ANSWER_NOT_KEPT", "STATE_DAMAGED")
"""What any request can be answered that advances a vector."""


class IncrementBody(Body, frozen=True, kw_only=True):
    """A write to count."""

    key: Key | None = None
    """The versioned object; the serving node when it is left out."""
    node_id: Name
    """The participant that writes."""


class MergeBody(Body, frozen=True, kw_only=True):
    """A version vector that came from elsewhere."""

    key: Key | None = None
    """The versioned object; the serving node when it is left out."""
    node_id: Name | None = None
    """The participant that merges; the serving node when it is left out. Merging counts nothing."""
    version_vector: Vector


class CompareVersionsBody(Body, frozen=True, kw_only=True):
    """Two version vectors."""

    vector1: Vector
    vector2: Vector


class IncrementedVersion(Answer, frozen=True, kw_only=True):
    """A key's version vector after a write."""

    key: str
    version_vector: VectorAnswer
    event_id: str


class MergedVersion(Answer, frozen=True, kw_only=True):
    """A key's version vector after a merge."""

    key: str
    relation: Relation
    """Of the stored vector to the received one, before the merge."""
    version_vector: VectorAnswer


class KeyVersion(Answer, frozen=True, kw_only=True):
    """A key's version vector."""

    key: str
    version_vector: VectorAnswer
    """Empty for a key that was never seen."""


class VersionEvent(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """A stored version event."""

    event_id: str
    type: Literal["INCREMENT", "MERGE", "WRITE"]
    """A WRITE is one of an object."""
    key: str
    node_id: str
    version_vector: VectorAnswer | UnsetType = UNSET
    """The key's version vector right after it. Not of a WRITE."""
    relation: Relation | UnsetType = UNSET
    """Of a MERGE: of the stored vector to the received one, before."""
    context: VectorAnswer | UnsetType = UNSET
    """Of a WRITE: what its writer had read."""
    count: int | UnsetType = UNSET
    """Of a WRITE: how many writes of the object the participant has made, this one included."""
    siblings: int | UnsetType = UNSET
    """Of a WRITE: how many values are current after it."""
    created_at: int
    """Milliseconds since the epoch."""


IncrementedT = TypeVar("IncrementedT", bound=IncrementedVersion)
MergedT = TypeVar("MergedT", bound=MergedVersion)


def increment_command(body: IncrementBody, default_key: str) -> IncrementVersion:
    """Raises: Problem"""
    return IncrementVersion(
        key=_key(body.key, default_key), node_id=requests.name("nodeId", body.node_id)
    )


def merge_command(body: MergeBody, default_node_id: str) -> MergeVersion:
    """Raises: Problem"""
    node_id = body.node_id
    return MergeVersion(
        key=_key(body.key, default_node_id),
        node_id=default_node_id if node_id is None else requests.name("nodeId", node_id),
        vector=entries("versionVector", body.version_vector),
    )


def _key(key: str | None, default: str) -> str:
    wanted = default if key is None else requests.name("key", key)
    if wanted in RESERVED:
        refuse_field("key", f"must not be {wanted!r}: a path of its own ends so")
    return wanted


def version_event(reader: Reader, result: AnyResult) -> StoredVersionEvent:
    """Return the event that a command stored.

    Raises:
        Problem: it has been trimmed.
        DamagedStateError
    """
    assert isinstance(result, VersionAdvanced)
    event = get_event(reader, result.event)
    if event is None:
        raise answer_not_kept()
    return event


def increment_answer(event: StoredVersionEvent, shape: type[IncrementedT]) -> IncrementedT:
    return shape(key=event.row.key, version_vector=event.vector, event_id=event.event_id)


def merge_answer(event: StoredVersionEvent, shape: type[MergedT]) -> MergedT:
    assert isinstance(event.row, VersionMerged)
    return shape(key=event.row.key, relation=event.row.relation, version_vector=event.vector)


def stored_answer(event: StoredVersionEvent) -> VersionEvent:
    row = event.row
    if isinstance(row, ObjectWritten):
        return VersionEvent(
            event_id=event.event_id,
            type="WRITE",
            key=row.key,
            node_id=row.node_id,
            context=event.vector,
            count=row.count,
            siblings=row.siblings,
            created_at=row.created_at_ms,
        )
    return VersionEvent(
        event_id=event.event_id,
        type="MERGE" if isinstance(row, VersionMerged) else "INCREMENT",
        key=row.key,
        node_id=row.node_id,
        version_vector=event.vector,
        relation=row.relation if isinstance(row, VersionMerged) else UNSET,
        created_at=row.created_at_ms,
    )


class Versions:
    """The handlers of version vectors below `/api/v1/version`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._increments = msgspec.json.Decoder(IncrementBody)
        self._merges = msgspec.json.Decoder(MergeBody)
        self._comparisons = msgspec.json.Decoder(CompareVersionsBody)

    async def increment(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._increments)
        command = increment_command(asked, service.cluster.node_id)
        outcome = await service.propose(request, body, (command,))
        event = version_event((await service.own_view()).reader, applied(outcome))
        answer = increment_answer(event, IncrementedVersion)
        return service.written(200, answer, outcome, outcome.position)

    async def merge(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._merges)
        command = merge_command(asked, service.cluster.node_id)
        outcome = await service.propose(request, body, (command,))
        event = version_event((await service.own_view()).reader, applied(outcome))
        answer = merge_answer(event, MergedVersion)
        return service.written(200, answer, outcome, outcome.position)

    async def compare(self, request: web.Request) -> Reply:
        body = await requests.read_json(request, self._service.settings)
        asked = json_text.decode(body, self._comparisons)
        first, second = entries("vector1", asked.vector1), entries("vector2", asked.vector2)
        return self._service.replies.success(200, Comparison(relation=compare(first, second)))

    async def get(self, request: web.Request) -> Reply:
        key = requests.path_name(request, "key")
        view = await self._service.view(request)
        answer = KeyVersion(key=key, version_vector=version_vector(view.reader, key))
        return self._service.replies.success(200, answer, view.position)

    async def get_event(self, request: web.Request) -> Reply:
        event_id = request.match_info["eventId"]
        position = parse_event_id(event_id)
        view = await self._service.view(request)
        event = None if position is None else get_event(view.reader, position)
        if event is None:
            raise Problem(
                "EVENT_NOT_FOUND",
                f"No version event {event_id[:GREATEST_NAME_LENGTH]!r} is stored: there never was "
                "one, or its retention has ended.",
            )
        return self._service.replies.success(200, stored_answer(event), view.position)

    async def list_events(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        key = requests.query_name(request, "key")
        node_id = requests.query_name(request, "nodeId")
        view = await self._service.view(request)
        events, next_cursor = list_events(
            view.reader, key=key, node_id=node_id, cursor=cursor, limit=limit
        )
        page = Page(items=[stored_answer(event) for event in events], next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)


def endpoints(service: Service) -> list[Endpoint]:
    versions = Versions(service)
    path = "/api/v1/version"
    tag = "version vectors"
    return [
        Endpoint(
            method="POST",
            path=f"{path}/increment",
            operation="incrementVersion",
            summary="Count a participant's write in the version vector of a key",
            tag=tag,
            handler=versions.increment,
            body=IncrementBody,
            answer=IncrementedVersion,
            errors=(*BODY_ERRORS, *WRITE_ERRORS, *VERSION_ANSWER_ERRORS, "CLOCK_OVERFLOW"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/merge",
            operation="mergeVersion",
            summary="Raise the version vector of a key to the maximum of each entry",
            tag=tag,
            handler=versions.merge,
            body=MergeBody,
            answer=MergedVersion,
            errors=(*BODY_ERRORS, *WRITE_ERRORS, *VERSION_ANSWER_ERRORS),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/compare",
            operation="compareVersions",
            summary="The relation of two version vectors",
            tag=tag,
            handler=versions.compare,
            body=CompareVersionsBody,
            answer=Comparison,
            errors=BODY_ERRORS,
            keyed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/events",
            operation="listVersionEvents",
            summary="Stored version events in the order of the log",
            tag=tag,
            handler=versions.list_events,
            answer=Page[VersionEvent],
            parameters=(
                Parameter(name="key", type=Name, description="Only of this key."),
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
            operation="getVersionEvent",
            summary="A stored version event",
            tag=tag,
            handler=versions.get_event,
            answer=VersionEvent,
            parameters=(
                Parameter(name="eventId", type=str, description="The event."),
                CONSISTENCY,
            ),
            errors=(*READ_ERRORS, "EVENT_NOT_FOUND"),
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/{{key}}",
            operation="getVersion",
            summary="The version vector of a key",
            tag=tag,
            handler=versions.get,
            answer=KeyVersion,
            parameters=(
                # Of type Name: whoever asks for a reserved one asks for another path.
                Parameter(name="key", type=Name, description="The versioned object."),
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
